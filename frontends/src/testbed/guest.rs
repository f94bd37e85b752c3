//! One guest: the platform of the front ends and back ends in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::ring;
use trunnion_protocol::shared::SharedPage;

use super::hypervisor::{self, Domain};
use super::{Inner, relax};
use crate::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};

/// One page of some guest's memory.
#[derive(Clone)]
pub(super) struct Page(pub(super) Arc<[SharedPage]>, pub(super) usize);

impl Page {
    pub(super) fn zeroed() -> Self {
        Self(Arc::new([SharedPage::zeroed()]), 0)
    }

    pub(super) fn get(&self) -> Option<&SharedPage> {
        self.0.get(self.1)
    }
}

pub(super) type Memory = Rc<RefCell<BTreeMap<u64, Page>>>;

/// A run of pages that a guest reaches.
pub struct GuestPages {
    pages: Arc<[SharedPage]>,
    first: usize,
    count: usize,
    /// RAM that goes back when its owner drops it.
    owned: Option<(Memory, u64)>,
}

impl AsRef<[SharedPage]> for GuestPages {
    fn as_ref(&self) -> &[SharedPage] {
        self.pages.get(self.first..self.first + self.count).unwrap_or_default()
    }
}

impl ring::Pages for GuestPages {
    fn count(&self) -> usize {
        self.count
    }

    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.as_ref().get(index)
    }
}

impl Drop for GuestPages {
    fn drop(&mut self) {
        if let Some((memory, gfn)) = self.owned.take() {
            for index in 0..self.count as u64 {
                memory.borrow_mut().remove(&(gfn + index));
            }
        }
    }
}

impl fmt::Debug for GuestPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestPages").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A guest of a [`World`](super::World). Copies are the same guest.
#[derive(Clone)]
pub struct Guest {
    pub(super) world: Rc<Inner>,
    id: DomainId,
}

impl Guest {
    pub(super) fn new(world: &Rc<Inner>, id: DomainId) -> Self {
        world.domains.borrow_mut().insert(id.0, Domain::new());
        super::store::connect(world, id);
        Self { world: Rc::clone(world), id }
    }

    /// Its number.
    pub const fn id(&self) -> DomainId {
        self.id
    }

    /// Lets the guest's memory run out after so many pages; `None` for never.
    pub fn limit_pages(&self, pages: Option<usize>) {
        self.with(|domain| domain.pages_left = pages);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Domain) -> T) -> Option<T> {
        self.world.domains.borrow_mut().get_mut(&self.id.0).filter(|domain| !domain.dead).map(act)
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.id).finish()
    }
}

impl Platform for Guest {
    type Pages = GuestPages;

    fn pages(&self, count: usize) -> Result<(GuestPages, Gfns), OutOfMemory> {
        self.with(|domain| {
            if let Some(left) = &mut domain.pages_left {
                *left = left.checked_sub(count).ok_or(OutOfMemory)?;
            }
            let first = domain.space(count);
            let pages: Arc<[SharedPage]> = (0..count).map(|_| SharedPage::zeroed()).collect();
            let mut memory = domain.memory.borrow_mut();
            memory.extend((0..count).map(|index| (first + index as u64, Page(Arc::clone(&pages), index))));
            let owned = Some((Rc::clone(&domain.memory), first));
            Ok((GuestPages { pages, first: 0, count, owned }, Gfns::new(Gfn(first), count)))
        })
        .unwrap_or(Err(OutOfMemory))
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        let Some(hypercall) = Hypercall::from_number(call.number) else { return Errno::NoSys.into() };
        let result = match call.arguments {
            [Argument::Value(operation), Argument::Memory(bytes), ..] => {
                hypervisor::call(&self.world, self.id, hypercall, *operation, bytes)
            }
            _ => Err(Errno::NoSys),
        };
        result.map_or_else(i64::from, |value| value as i64)
    }

    fn map(&self, gfn: Gfn) -> Result<GuestPages, NotMapped> {
        let page = self.with(|domain| domain.page(gfn)).flatten().ok_or(NotMapped)?;
        Ok(GuestPages { pages: page.0, first: page.1, count: 1, owned: None })
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        self.with(|domain| Gfns::new(Gfn(domain.space(count)), count)).ok_or(OutOfMemory)
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        self.with(|domain| domain.wakers.insert(port.0, waker.clone()));
    }

    fn relax(&self) {
        relax(&self.world);
    }
}
