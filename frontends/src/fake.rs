//! A kernel, a hypervisor and the other halves, in one process: what the tests of this crate run on.
//!
//! [`Fake`] is a platform whose memory is a map of pages. Its peers run when a task rests, or when a test says so, and
//! they reach this guest's pages only as a real peer could: by grants, and by the pages that the toolstack placed.

mod disk;
mod store;
mod terminal;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::{self, Access};
use trunnion_protocol::hypercall::{Hypercall, event, grant as grant_call, hvm, memory};
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;

use crate::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};

pub(crate) use disk::FakeDisk;
pub(crate) use store::FakeStore;
pub(crate) use terminal::FakeTerminal;

type Memory = Rc<RefCell<BTreeMap<u64, FakePages>>>;

/// A run of pages in the fake's memory.
#[derive(Clone)]
pub(crate) struct FakePages {
    pages: Arc<[SharedPage]>,
    first: usize,
    count: usize,
    /// RAM that leaves the memory when its owner drops it.
    owned: Option<(Memory, u64)>,
}

impl AsRef<[SharedPage]> for FakePages {
    fn as_ref(&self) -> &[SharedPage] {
        &self.pages[self.first..self.first + self.count]
    }
}

impl trunnion_protocol::ring::Pages for FakePages {
    fn count(&self) -> usize {
        self.count
    }

    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.as_ref().get(index)
    }
}

impl Drop for FakePages {
    fn drop(&mut self) {
        if let Some((memory, gfn)) = self.owned.take() {
            for index in 0..self.count as u64 {
                memory.borrow_mut().remove(&(gfn + index));
            }
        }
    }
}

/// The other half of something.
pub(crate) trait Peer {
    /// Does what there is to do. True if anything was.
    fn step(&mut self, fake: &Fake) -> bool;
}

/// The platform.
#[derive(Default)]
pub(crate) struct Fake {
    memory: Memory,
    next_frame: Cell<u64>,
    wakers: RefCell<BTreeMap<u32, Waker>>,
    params: RefCell<BTreeMap<u32, u64>>,
    ports: RefCell<BTreeMap<u32, DomainId>>,
    kicks: RefCell<BTreeMap<u32, u32>>,
    table: RefCell<BTreeMap<u64, u64>>,
    peers: RefCell<Vec<Rc<RefCell<dyn Peer>>>>,
    rests: Cell<u32>,
    hasty: Cell<bool>,
    /// Frames that the kernel still has.
    pub(crate) frames_left: Cell<Option<usize>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.next_frame.set(0x100);
        fake
    }

    /// Adds a peer, which stays reachable for the test.
    pub(crate) fn add<T: Peer + 'static>(&self, peer: T) -> Rc<RefCell<T>> {
        let peer = Rc::new(RefCell::new(peer));
        self.peers.borrow_mut().push(peer.clone());
        peer
    }

    /// A page that the toolstack places, and a port beside it; both are parameters of the domain.
    pub(crate) fn place(&self, frame: hvm::Param, channel: hvm::Param) -> (FakePages, Port) {
        let gfn = self.frames(1);
        let page = FakePages { pages: Arc::new([SharedPage::zeroed()]), first: 0, count: 1, owned: None };
        self.memory.borrow_mut().insert(gfn, page.clone());
        let port = self.open(DomainId::DOM0);
        self.params.borrow_mut().extend([(frame.number(), gfn), (channel.number(), u64::from(port.0))]);
        (page, port)
    }

    fn frames(&self, count: usize) -> u64 {
        self.next_frame.replace(self.next_frame.get() + count as u64)
    }

    fn open(&self, remote: DomainId) -> Port {
        let mut ports = self.ports.borrow_mut();
        let port = ports.keys().last().map_or(1, |last| last + 1);
        ports.insert(port, remote);
        Port(port)
    }

    /// Frames of RAM that somebody holds.
    pub(crate) fn frames_held(&self) -> usize {
        self.memory.borrow().len()
    }

    /// Ports that are open.
    pub(crate) fn ports_open(&self) -> usize {
        self.ports.borrow().len()
    }

    /// True if the guest has notified this port since the last call.
    pub(crate) fn kicked(&self, port: Port) -> bool {
        self.kicks.borrow_mut().remove(&port.0).is_some()
    }

    /// An event of a peer's.
    pub(crate) fn notify(&self, port: Port) {
        let waker = self.wakers.borrow().get(&port.0).cloned();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets the peers work until none has anything to do.
    pub(crate) fn run(&self) {
        for _ in 0..10_000 {
            let peers = self.peers.borrow().clone();
            if !peers.iter().map(|peer| peer.borrow_mut().step(self)).fold(false, |any, did| any | did) {
                return;
            }
        }
        panic!("the peers do not come to rest");
    }

    /// Maps a granted page for a peer.
    pub(crate) fn pin(
        &self,
        by: DomainId,
        reference: GrantRef,
        access: Access,
    ) -> Result<FakePages, GrantStatus> {
        let (word, frame) = self.entry(reference).ok_or(GrantStatus::BadGntref)?;
        let (page, offset) = word;
        let word = page.as_ref()[0].word_at(offset).unwrap();
        let now = word.load(Ordering::SeqCst);
        word.store(grant::pin(now, by, access)?, Ordering::SeqCst);
        let memory = self.memory.borrow();
        let mut page = memory.get(&u64::from(frame)).ok_or(GrantStatus::GeneralError)?.clone();
        page.owned = None;
        Ok(page)
    }

    /// Ends a mapping.
    pub(crate) fn unpin(&self, reference: GrantRef) {
        let ((page, offset), _) = self.entry(reference).unwrap();
        let word = page.as_ref()[0].word_at(offset).unwrap();
        word.store(grant::unpin(word.load(Ordering::SeqCst), 0, 0), Ordering::SeqCst);
    }

    fn entry(&self, reference: GrantRef) -> Option<((FakePages, usize), u32)> {
        let (index, offset) = grant::place(reference);
        let gfn = *self.table.borrow().get(&u64::from(index))?;
        let page = self.memory.borrow().get(&gfn)?.clone();
        let frame = page.as_ref()[0].word_at(offset + 4)?.load(Ordering::SeqCst);
        Some(((page, offset), frame))
    }

    fn call(&self, hypercall: Hypercall, operation: u64, bytes: &mut [u8]) -> Result<u64, Errno> {
        fn decoded<T: Layout>(bytes: &[u8]) -> T {
            T::decode(Width::W64, bytes).expect("a whole structure")
        }
        match (hypercall, operation as u32) {
            (Hypercall::EventChannelOp, 4) => {
                let argument: event::PortArgument = decoded(bytes);
                *self.kicks.borrow_mut().entry(argument.port.0).or_default() += 1;
                Ok(0)
            }
            (Hypercall::EventChannelOp, 6) => {
                let mut argument: event::AllocUnbound = decoded(bytes);
                argument.port = self.open(argument.remote);
                argument.encode(Width::W64, bytes).unwrap();
                Ok(0)
            }
            (Hypercall::EventChannelOp, 3) => {
                let argument: event::PortArgument = decoded(bytes);
                self.ports.borrow_mut().remove(&argument.port.0).map(|_| 0).ok_or(Errno::Inval)
            }
            (Hypercall::HvmOp, 1) => {
                let mut argument: hvm::ParamArgument = decoded(bytes);
                argument.value = self.params.borrow().get(&argument.index).copied().unwrap_or(0);
                argument.encode(Width::W64, bytes).unwrap();
                Ok(0)
            }
            (Hypercall::GrantTableOp, 6) => {
                let mut argument: grant_call::QuerySize = decoded(bytes);
                (argument.frames, argument.limit) = (1, 64);
                argument.encode(Width::W64, bytes).unwrap();
                Ok(0)
            }
            (Hypercall::MemoryOp, 7) => {
                let argument: memory::AddToPhysmap = decoded(bytes);
                assert_eq!(argument.space, memory::Space::GrantTable.number());
                let page =
                    FakePages { pages: Arc::new([SharedPage::zeroed()]), first: 0, count: 1, owned: None };
                self.memory.borrow_mut().insert(argument.gfn.0, page);
                self.table.borrow_mut().insert(argument.index, argument.gfn.0);
                Ok(0)
            }
            _ => Err(Errno::NoSys),
        }
    }
}

impl Platform for Fake {
    type Pages = FakePages;

    fn pages(&self, count: usize) -> Result<(FakePages, Gfns), OutOfMemory> {
        if let Some(left) = self.frames_left.get() {
            self.frames_left.set(Some(left.checked_sub(count).ok_or(OutOfMemory)?));
        }
        let gfn = self.frames(count);
        let pages: Arc<[SharedPage]> = (0..count).map(|_| SharedPage::zeroed()).collect();
        for index in 0..count {
            let page = FakePages { pages: pages.clone(), first: index, count: 1, owned: None };
            self.memory.borrow_mut().insert(gfn + index as u64, page);
        }
        let owned = Some((self.memory.clone(), gfn));
        Ok((FakePages { pages, first: 0, count, owned }, Gfns::new(Gfn(gfn), count)))
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        let Some(hypercall) = Hypercall::from_number(call.number) else { return Errno::NoSys.into() };
        let result = match call.arguments {
            [Argument::Value(operation), Argument::Memory(bytes), ..] => {
                self.call(hypercall, *operation, bytes)
            }
            _ => Err(Errno::NoSys),
        };
        result.map_or_else(i64::from, |value| value as i64)
    }

    fn map(&self, gfn: Gfn) -> Result<FakePages, NotMapped> {
        let mut page = self.memory.borrow().get(&gfn.0).cloned().ok_or(NotMapped)?;
        page.owned = None;
        Ok(page)
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        Ok(Gfns::new(Gfn(self.frames(count)), count))
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        // Every other time the peers are quicker than the task: their events come before anybody is to be woken.
        self.hasty.set(!self.hasty.get());
        if self.hasty.get() {
            self.wakers.borrow_mut().remove(&port.0);
            self.run();
        }
        self.wakers.borrow_mut().insert(port.0, waker.clone());
    }

    fn relax(&self) {
        self.rests.set(self.rests.get() + 1);
        assert!(self.rests.get() < 100_000, "a task waits for ever");
        self.run();
    }
}
