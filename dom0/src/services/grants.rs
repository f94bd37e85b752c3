//! What back ends ask of this kernel: grants mapped and copied in batches, event channels, time.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_backends::device::GuestPage;
use trunnion_backends::host::{
    Clock, CopyPage, EventPort, Events, GrantCopier, GrantCopy, GrantMapper, Wanted,
};
use trunnion_guest::clock;
use trunnion_guest::events::{self, Listener};
use trunnion_guest::hypercall;
use trunnion_guest::memory::{self, Pages};
use trunnion_protocol::address::{Gfn, Gpa, MachineAddress, PAGE_SHIFT};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::hypercall::grant::{
    COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy, MAP_HOST, MAP_READONLY, Map, Op, Unmap,
};
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::shared::SharedPage;
use zerocopy::IntoBytes;

use super::foreign::Foreign;

/// Operations in one hypercall.
const BATCH: usize = 64;

/// A page that stays where it is while it is held. dom0 is mapped one to one, so pages of others lie at the guest-physical address
/// equal to their machine address.
pub struct Held(Place);

enum Place {
    /// A granted page, with its handle.
    Granted { page: &'static SharedPage, address: MachineAddress, handle: u32 },
    /// A page of a guest whose device model dom0 is.
    Foreign { page: &'static SharedPage, _piece: Rc<Foreign> },
    /// A page of dom0's own.
    Own(Rc<Pages>),
}

impl Held {
    /// A page of a piece of another domain.
    pub fn foreign(piece: Rc<Foreign>, index: usize) -> Option<Self> {
        let page = piece.pages().get(index).copied()?;
        Some(Self(Place::Foreign { page, _piece: piece }))
    }

    /// A page of dom0's own, the first of some.
    pub fn own(pages: Rc<Pages>) -> Self {
        Self(Place::Own(pages))
    }

    fn handle(&self) -> Option<u32> {
        match &self.0 {
            Place::Granted { handle, .. } => Some(*handle),
            _ => None,
        }
    }
}

/// What an empty run of pages would be; nobody holds one.
static NOTHING: SharedPage = SharedPage::zeroed();

impl GuestPage for Held {
    fn shared(&self) -> &SharedPage {
        match &self.0 {
            Place::Granted { page, .. } | Place::Foreign { page, .. } => page,
            Place::Own(pages) => (**pages).as_ref().first().unwrap_or(&NOTHING),
        }
    }

    fn gfn(&self) -> Gfn {
        Gfn(self.bus_address().0 >> PAGE_SHIFT)
    }

    fn bus_address(&self) -> MachineAddress {
        match &self.0 {
            Place::Granted { address, .. } => *address,
            Place::Foreign { .. } | Place::Own(_) => {
                MachineAddress(core::ptr::from_ref(self.shared()) as u64)
            }
        }
    }
}

/// The kernel under the back ends. Each back end has its own, with room for one batch.
#[derive(Default)]
pub struct Kernel {
    /// Structures of a batch, as 64-bit words for their alignment.
    words: RefCell<Vec<u64>>,
}

/// A structure that goes in batches.
trait Batched: Layout {
    const OPERATION: Op;
    const WORDS: usize = Self::SIZE64 / 8;
}

impl Batched for Map {
    const OPERATION: Op = Op::Map;
}

impl Batched for Unmap {
    const OPERATION: Op = Op::Unmap;
}

impl Batched for Copy {
    const OPERATION: Op = Op::Copy;
}

impl Kernel {
    /// Carries out a batch, and calls `done` for each structure as the hypervisor left it.
    fn batch<T: Batched>(
        &self,
        operations: impl ExactSizeIterator<Item = T>,
        mut done: impl FnMut(T),
    ) -> Result<(), Errno> {
        let count = operations.len();
        let mut words = self.words.borrow_mut();
        words.clear();
        words.resize(count * T::WORDS, 0);
        for (words, operation) in words.chunks_exact_mut(T::WORDS).zip(operations) {
            operation.encode(Width::W64, words.as_mut_bytes()).ok_or(Errno::Inval)?;
        }
        hypercall::grant_batch(T::OPERATION, &mut words, count)?;
        for words in words.chunks_exact(T::WORDS) {
            done(T::decode(Width::W64, words.as_bytes()).ok_or(Errno::Inval)?);
        }
        Ok(())
    }
}

/// The status that an operation ended with; anything that is not in the list is a general failure.
fn status(number: i16) -> Result<(), GrantStatus> {
    GrantStatus::from_number(number).unwrap_or(GrantStatus::GeneralError).result()
}

impl GrantMapper for Kernel {
    type Page = Held;

    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Held, GrantStatus>>) {
        for wanted in wanted.chunks(BATCH) {
            let before = results.len();
            let operations = wanted.iter().map(|wanted| Map {
                // dom0 has no choice of address: a direct-mapped domain finds the page at its machine address.
                address: Gpa(0),
                flags: if wanted.access == Access::ReadOnly { MAP_HOST | MAP_READONLY } else { MAP_HOST },
                reference: wanted.reference,
                domain,
                ..Map::default()
            });
            let outcome = self.batch(operations, |map| {
                results.push(status(map.status).and_then(|()| {
                    let gfn = Gfn(map.bus_address.0 >> PAGE_SHIFT);
                    let page = memory::placed(gfn, 1).and_then(|pages| pages.first());
                    let page = page.ok_or(GrantStatus::GeneralError)?;
                    Ok(Held(Place::Granted { page, address: map.bus_address, handle: map.handle }))
                }));
            });
            if let Err(error) = outcome {
                log::error!("grants cannot be mapped: {error} domain={domain}");
                results.resize_with(before + wanted.len(), || Err(GrantStatus::GeneralError));
            }
        }
    }

    fn unmap(&self, pages: &mut Vec<Held>) {
        if planted::is(Bug::LeakedMapping) {
            // The first one of all.
            pages.retain(|page| page.handle() != Some(0));
        }
        for pages in pages.chunks(BATCH) {
            let operations = pages.iter().map(|page| Unmap {
                address: Gpa(page.bus_address().0),
                // Only granted pages come here; nobody has this handle.
                handle: page.handle().unwrap_or(u32::MAX),
                ..Unmap::default()
            });
            let outcome = self.batch(operations, |unmap| {
                if let Err(error) = status(unmap.status) {
                    log::error!("a grant cannot be unmapped: {error} handle={}", unmap.handle);
                }
            });
            if let Err(error) = outcome {
                log::error!("grants cannot be unmapped: {error}");
            }
        }
        pages.clear();
    }
}

impl GrantCopier for Kernel {
    type Local = Pages;

    fn local(&self, count: usize) -> Option<(Pages, Gfn)> {
        let pages = memory::pages(count)?;
        let first = pages.first();
        Some((pages, first))
    }

    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
        for copies in copies.chunks(BATCH) {
            let before = results.len();
            let outcome = self.batch(copies.iter().map(described), |copy| results.push(status(copy.status)));
            if let Err(error) = outcome {
                log::error!("grants cannot be copied: {error}");
                results.resize_with(before + copies.len(), || Err(GrantStatus::GeneralError));
            }
        }
    }
}

fn described(copy: &GrantCopy) -> Copy {
    let page = |page| match page {
        CopyPage::Granted(domain, reference) => (u64::from(reference.0), domain, true),
        CopyPage::Local(gfn) => (gfn.0, DomainId::SELF, false),
    };
    let (source, source_domain, from_grant) = page(copy.from);
    let (destination, destination_domain, to_grant) = page(copy.to);
    let mut flags = 0;
    if from_grant {
        flags |= COPY_SOURCE_GRANT;
    }
    if to_grant {
        flags |= COPY_DESTINATION_GRANT;
    }
    Copy {
        source,
        source_domain,
        source_offset: copy.from_offset,
        destination,
        destination_domain,
        destination_offset: copy.to_offset,
        length: copy.length,
        flags,
        status: 0,
    }
}

impl Clock for Kernel {
    fn now(&self) -> Duration {
        clock::now()
    }

    fn sleep_until(&self, moment: Duration) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(clock::sleep_until(moment))
    }
}

/// A bound port; closed when dropped.
pub struct BoundPort(Listener);

impl EventPort for BoundPort {
    fn notify(&self) {
        // A peer that is gone needs no event.
        let _ = events::send(self.0.port());
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        // A closed port says nothing any more.
        match self.0.poll_next(context) {
            Poll::Ready(true) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Drop for BoundPort {
    fn drop(&mut self) {
        if planted::is(Bug::LeakedPort) {
            return;
        }
        if let Err(error) = events::close(self.0.port()) {
            log::error!("port {} cannot be closed: {error}", self.0.port());
        }
    }
}

impl Events for Kernel {
    type Port = BoundPort;

    fn bind(&self, domain: DomainId, remote: Port) -> Result<BoundPort, Errno> {
        let port = events::bind_interdomain(domain, remote)?;
        Ok(BoundPort(Listener::new(port)))
    }
}
