//! One device for several owners.
//!
//! A [`BlockDevice`] has one owner, who alone polls it. Several guests may read the same disk: each gets a
//! [`Share`], which sorts completions by who submitted the request. A share that is full because of the others is woken at
//! the next completion of any.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::task::{Context, Poll, Waker};

use trunnion_protocol::address::Gfn;

use crate::device::{BlockDevice, BlockRequest, BlockShape, Completion, Full, Ticket};

/// Completions that one poll sorts.
const SORTED: usize = 64;

/// One owner's view of a shared device.
pub struct Share<D, P> {
    common: Rc<Common<D, P>>,
    number: u32,
}

struct Common<D, P> {
    device: D,
    next: Cell<u32>,
    owners: RefCell<BTreeMap<u32, Owner<P>>>,
    /// Who submitted what.
    submitted: RefCell<BTreeMap<Ticket, u32>>,
}

struct Owner<P> {
    completed: VecDeque<Completion<P>>,
    waker: Option<Waker>,
}

impl<D: BlockDevice<P>, P> Share<D, P> {
    /// Makes a device shareable; this is the first share.
    pub fn new(device: D) -> Self {
        let common = Common {
            device,
            next: Cell::new(0),
            owners: RefCell::new(BTreeMap::new()),
            submitted: RefCell::new(BTreeMap::new()),
        };
        Self::join(Rc::new(common))
    }

    /// Another share of the same device.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::join(Rc::clone(&self.common))
    }

    /// How many shares there are.
    pub fn shares(&self) -> usize {
        self.common.owners.borrow().len()
    }

    fn join(common: Rc<Common<D, P>>) -> Self {
        let mut number = common.next.get();
        while common.owners.borrow().contains_key(&number) {
            number = number.wrapping_add(1);
        }
        common.next.set(number.wrapping_add(1));
        common.owners.borrow_mut().insert(number, Owner { completed: VecDeque::new(), waker: None });
        Self { common, number }
    }
}

impl<D, P> Drop for Share<D, P> {
    /// Leaves the device to the others. Drop it only when it has nothing in flight: pages that complete later are dropped
    /// where they are.
    fn drop(&mut self) {
        let mut owners = self.common.owners.borrow_mut();
        owners.remove(&self.number);
        // The device may have kept this share's waker: the others poll again and leave theirs.
        for waker in owners.values_mut().filter_map(|owner| owner.waker.take()) {
            waker.wake();
        }
    }
}

impl<D: BlockDevice<P>, P> BlockDevice<P> for Share<D, P> {
    fn shape(&self) -> BlockShape {
        self.common.device.shape()
    }

    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        let ticket = self.common.device.submit(request)?;
        self.common.submitted.borrow_mut().insert(ticket, self.number);
        Ok(ticket)
    }

    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        let mut owners = self.common.owners.borrow_mut();
        for _ in 0..SORTED {
            if let Some(completion) =
                owners.get_mut(&self.number).and_then(|owner| owner.completed.pop_front())
            {
                return Poll::Ready(completion);
            }
            // The device keeps the waker of whoever polled last, and that one sorts for all.
            let Poll::Ready(completion) = self.common.device.poll_completed(context) else { break };
            let Some(number) = self.common.submitted.borrow_mut().remove(&completion.ticket) else {
                continue;
            };
            if let Some(owner) = owners.get_mut(&number) {
                owner.completed.push_back(completion);
            }
            for owner in owners.values_mut() {
                if let Some(waker) = owner.waker.take() {
                    waker.wake();
                }
            }
        }
        if let Some(owner) = owners.get_mut(&self.number) {
            if let Some(completion) = owner.completed.pop_front() {
                return Poll::Ready(completion);
            }
            owner.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn memory(&self) -> Option<Gfn> {
        self.common.device.memory()
    }
}
