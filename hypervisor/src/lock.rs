//! Spin locks with a documented order.
//!
//! Each lock has a [`Rank`]. A CPU takes locks only in ascending rank, so no two can wait for each other; debug builds for
//! the host check it. The hypervisor runs with interrupts off, so a holder is never preempted. No lock is held while a
//! guest runs.

#[cfg(any(test, feature = "sim"))]
use crate::fake::order;

pub use order::Guard;

/// Order of the locks, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// The list of domains.
    Domains = 1,
    /// A domain's life: pause, shutdown, destroy.
    Life = 2,
    /// A domain's mappings of others' grants.
    Mappings = 3,
    /// A domain's grant table.
    Grants = 4,
    /// A domain's second-level tables and physical map.
    Memory = 5,
    /// A domain's port allocation.
    Ports = 6,
    /// The global virtual and physical interrupts.
    Interrupts = 7,
    /// A vCPU's context, while no CPU runs it.
    Vcpu = 8,
    /// A vCPU's local interrupt controller and memory areas.
    Local = 9,
    /// A vCPU's timers.
    Timers = 10,
    /// A CPU's queue of deadlines.
    Deadlines = 11,
    /// A CPU's run queue.
    Queue = 12,
    /// The frame allocator.
    Frames = 13,
    /// The log and crash reports.
    Log = 14,
}

/// Data behind a spin lock of a fixed rank.
pub struct Lock<T> {
    rank: Rank,
    inner: spin::Mutex<T>,
}

impl<T> Lock<T> {
    /// A lock that is free.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: spin::Mutex::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        order::lock(self.rank, &self.inner)
    }
}

/// Bare metal: no thread to remember the order in, and nothing to pay.
#[cfg(not(any(test, feature = "sim")))]
mod order {
    pub use spin::MutexGuard as Guard;

    pub(super) fn lock<T>(_: super::Rank, inner: &spin::Mutex<T>) -> Guard<'_, T> {
        inner.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_order_is_allowed() {
        let (outer, inner) = (Lock::new(Rank::Domains, 1), Lock::new(Rank::Frames, 2));
        let sum = *outer.lock() + *inner.lock();
        let held = outer.lock();
        assert_eq!(*held + *inner.lock(), sum);
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn descending_order_is_found() {
        let (outer, inner) = (Lock::new(Rank::Domains, ()), Lock::new(Rank::Frames, ()));
        let _held = inner.lock();
        let _too_late = outer.lock();
    }
}
