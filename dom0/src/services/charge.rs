//! What dom0 works for a guest counts as the guest's own time: otherwise a guest could have dom0 computing for it at dom0's
//! weight, and its neighbours would pay.
//!
//! A task that serves one guest is wrapped in [`charged`], or has its work done inside [`Meter::measure`]. The hypervisor is
//! told when enough has come together to be worth a hypercall.

use alloc::rc::Rc;
use core::cell::Cell;
use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_guest::hypercall;
use trunnion_protocol::control::{Charge, Operation};
use trunnion_protocol::id::DomainId;

/// Nanoseconds that are charged at once at least.
const WORTH: u64 = 100_000;
/// Most of what led to a piece of work that is charged with it: events looked through, others woken, the store's news told.
const LED: Duration = Duration::from_micros(10);

/// When the last piece of work that was charged ended, in nanoseconds.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Time that dom0 worked for one domain.
pub struct Meter {
    domain: DomainId,
    /// Nanoseconds that are not charged yet.
    owed: Cell<u64>,
}

impl Meter {
    /// Nothing is owed yet.
    pub fn new(domain: DomainId) -> Rc<Self> {
        Rc::new(Self { domain, owed: Cell::new(0) })
    }

    /// Does something for the domain.
    pub fn measure<R>(&self, work: impl FnOnce() -> R) -> R {
        let begin = clock::now();
        let before = clock::awake_since().max(Duration::from_nanos(LAST.load(Ordering::Relaxed)));
        let led = begin.saturating_sub(before).min(LED);
        let result = work();
        let end = clock::now();
        LAST.store(end.as_nanos() as u64, Ordering::Relaxed);
        let took = (end.saturating_sub(begin) + led).as_nanos();
        let owed = self.owed.get().saturating_add(u64::try_from(took).unwrap_or(u64::MAX));
        self.owed.set(owed);
        if owed >= WORTH {
            self.owed.set(0);
            let mut call = Charge { domain: self.domain.0, ns: owed, ..Charge::default() };
            // A domain that is gone owes nothing.
            let _ = hypercall::control(Operation::Charge, &mut call);
        }
        result
    }
}

/// Work that is charged to a domain.
pub async fn charged<F: Future>(meter: Rc<Meter>, work: F) -> F::Output {
    let mut work = pin!(work);
    core::future::poll_fn(|context| meter.measure(|| work.as_mut().poll(context))).await
}
