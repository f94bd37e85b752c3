//! A block back end with a disk in memory, and faults on request.

use std::cell::RefCell;
use std::rc::Rc;

use trunnion_protocol::blkif::request::{Request, Segment};
use trunnion_protocol::blkif::{Block, Operation, Response, SECTOR_SIZE, SEGMENT_SIZE, Status};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::ring::{BackRing, Claimed};
use trunnion_protocol::xenbus::{BackStep, State, back_step};

use super::{Fake, FakePages, FakeStore, Peer};

const FRONT: &str = "device/vbd/51712";
const BACK: &str = "/local/domain/0/backend/vbd/5/51712";

pub(crate) struct FakeDisk {
    store: Rc<RefCell<FakeStore>>,
    ring: Option<(BackRing<Block, FakePages>, GrantRef, Port)>,
    waiting: Vec<Claimed<Request>>,
    pub(crate) sectors: Vec<[u8; SECTOR_SIZE]>,
    pub(crate) seen: Vec<u8>,
    /// Requests are taken, and answered only when this is false.
    pub(crate) holding: bool,
    /// Answers come in the opposite order.
    pub(crate) reversed: bool,
    /// The next answers, instead of the truth.
    pub(crate) lies: Vec<Response>,
    /// The status of each answer.
    pub(crate) status: Status,
    /// Grants stay mapped after the answer.
    pub(crate) keep_mapped: bool,
    pub(crate) mapped: Vec<GrantRef>,
}

impl FakeDisk {
    pub(crate) fn new(store: Rc<RefCell<FakeStore>>, indirect: u32) -> Self {
        {
            let mut store = store.borrow_mut();
            store.set(&format!("{FRONT}/backend"), BACK);
            store.set(&format!("{FRONT}/backend-id"), "0");
            store.set(&format!("{FRONT}/state"), "1");
            store.set(&format!("{BACK}/feature-max-indirect-segments"), &indirect.to_string());
            store.set(&format!("{BACK}/feature-flush-cache"), "1");
            store.set(&format!("{BACK}/state"), "2");
        }
        Self {
            store,
            ring: None,
            waiting: Vec::new(),
            sectors: vec![[0; SECTOR_SIZE]; 2048],
            seen: Vec::new(),
            holding: false,
            reversed: false,
            lies: Vec::new(),
            status: Status::Okay,
            keep_mapped: false,
            mapped: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        State::parse(self.store.borrow().get(&format!("{BACK}/state")).unwrap_or_default().as_bytes())
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.store.borrow_mut().set(&format!("{BACK}/state"), state.text());
    }

    fn number(&self, key: &str) -> u32 {
        self.store.borrow().get(&format!("{FRONT}/{key}")).unwrap().parse().unwrap()
    }

    fn connect(&mut self, fake: &Fake) {
        let reference = GrantRef(self.number("ring-ref"));
        let port = Port(self.number("event-channel"));
        let page = fake.pin(DomainId::DOM0, reference, Access::ReadWrite).unwrap();
        self.ring = Some((BackRing::new(page, Width::W64).unwrap(), reference, port));
        let sectors = self.sectors.len().to_string();
        for (key, value) in [("sectors", sectors.as_str()), ("sector-size", "512"), ("info", "0")] {
            self.store.borrow_mut().set(&format!("{BACK}/{key}"), value);
        }
    }

    fn release(&mut self, fake: &Fake) {
        if let Some((_, reference, _)) = self.ring.take() {
            fake.unpin(reference);
        }
        self.waiting.clear();
        for reference in std::mem::take(&mut self.mapped) {
            fake.unpin(reference);
        }
    }

    /// Lets go of pages that were kept mapped.
    pub(crate) fn let_go(&mut self, fake: &Fake) {
        for reference in std::mem::take(&mut self.mapped) {
            fake.unpin(reference);
        }
    }

    fn work(&mut self, fake: &Fake, request: &Request) -> Status {
        let (operation, sector, segments) = match request {
            Request::Transfer(transfer) => {
                (transfer.operation, transfer.sector, transfer.segments().unwrap().to_vec())
            }
            Request::Indirect(indirect) => {
                let page = fake.pin(DomainId::DOM0, indirect.pages[0], Access::ReadOnly).unwrap();
                let segments = (0..usize::from(indirect.count)).map(|index| {
                    let mut bytes = [0; SEGMENT_SIZE];
                    page.as_ref()[0].copy_out(index * SEGMENT_SIZE, &mut bytes).unwrap();
                    Segment::decode(Width::W64, &bytes).unwrap()
                });
                let segments: Vec<_> = segments.collect();
                fake.unpin(indirect.pages[0]);
                (Operation::from_number(indirect.inner).unwrap(), indirect.sector, segments)
            }
            Request::Flush { .. } => return self.status,
            _ => return Status::Unsupported,
        };
        let access = if operation == Operation::Write { Access::ReadOnly } else { Access::ReadWrite };
        let mut at = sector as usize;
        for segment in segments {
            let page = fake.pin(DomainId::DOM0, segment.reference, access).unwrap();
            for index in segment.first..=segment.last {
                let place = &mut self.sectors[at];
                let offset = usize::from(index) * SECTOR_SIZE;
                match operation {
                    Operation::Write => page.as_ref()[0].copy_out(offset, place).unwrap(),
                    _ => page.as_ref()[0].copy_in(offset, place).unwrap(),
                }
                at += 1;
            }
            if self.keep_mapped {
                self.mapped.push(segment.reference);
            } else {
                fake.unpin(segment.reference);
            }
        }
        self.status
    }

    fn serve(&mut self, fake: &Fake) -> bool {
        let Some((mut ring, reference, port)) = self.ring.take() else { return false };
        let mut did = false;
        while fake.kicked(port) {
            loop {
                while let Some(claimed) = ring.take().unwrap() {
                    self.seen.push(claimed.request.operation());
                    self.waiting.push(claimed);
                    did = true;
                }
                if !ring.arm().unwrap() {
                    break;
                }
            }
        }
        if !self.holding && !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            if self.reversed {
                waiting.reverse();
            }
            for claimed in waiting {
                let status = self.work(fake, &claimed.request);
                let (id, operation) = (claimed.request.id(), claimed.request.operation());
                let truth = Response { id, operation, status: status.number() };
                let response = self.lies.pop().unwrap_or(truth);
                ring.answer(claimed, &response).unwrap();
            }
            if ring.publish().is_due() {
                fake.notify(port);
            }
            did = true;
        }
        self.ring = Some((ring, reference, port));
        did
    }
}

impl Peer for FakeDisk {
    fn step(&mut self, fake: &Fake) -> bool {
        let front = self
            .store
            .borrow()
            .get(&format!("{FRONT}/state"))
            .map_or(State::Unknown, |value| State::parse(value.as_bytes()));
        let next = match back_step(self.state(), front) {
            BackStep::Stay | BackStep::Remove => None,
            BackStep::Offer => Some(State::InitWait),
            BackStep::Connect => {
                self.connect(fake);
                Some(State::Connected)
            }
            BackStep::Close => Some(State::Closing),
            BackStep::Release => {
                self.release(fake);
                Some(State::Closed)
            }
        };
        if let Some(state) = next {
            self.set_state(state);
        }
        self.serve(fake) || next.is_some()
    }
}
