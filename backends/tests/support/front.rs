//! A front end that plays by the rules, over the ring of the protocol crate.

use std::collections::BTreeMap;
use std::rc::Rc;

use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::blkif::{Block, Operation, Response};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::ring::{FrontRing, Pages};
use trunnion_protocol::shared::SharedPage;

use trunnion_backends::block::keys::RingPlan;

use super::{Channel, World};

pub struct RingMemory(pub Vec<Rc<SharedPage>>);

impl Pages for RingMemory {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.0.get(index).map(|page| &**page)
    }
}

/// A buffer of whole pages with its grants.
pub struct Buffer {
    pub pages: Vec<Rc<SharedPage>>,
    pub references: Vec<GrantRef>,
    /// Grants of pages with segments.
    pub indirect: Vec<GrantRef>,
}

pub struct Front {
    pub world: Rc<World>,
    pub ring: FrontRing<Block, RingMemory>,
    pub memory: Vec<Rc<SharedPage>>,
    pub plan: RingPlan,
    pub channel: Rc<Channel>,
    pub in_flight: BTreeMap<u64, Buffer>,
    next: u64,
}

impl Front {
    pub fn new(world: &Rc<World>, width: Width, order: u32, port: u32) -> Self {
        let memory: Vec<_> = (0..1 << order).map(|_| Rc::new(SharedPage::zeroed())).collect();
        let ring = FrontRing::new(RingMemory(memory.clone()), width).expect("a page has room");
        let references = memory.iter().map(|page| world.grant(page, true)).collect();
        Self {
            world: Rc::clone(world),
            ring,
            memory,
            plan: RingPlan { references, port: Port(port), width, persistent: false },
            channel: world.open(port),
            in_flight: BTreeMap::new(),
            next: 1 << 40,
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Puts a request as it is.
    pub fn raw(&mut self, request: &Request) {
        self.ring.put(request).expect("the test leaves room");
    }

    pub fn flush(&mut self) -> u64 {
        let id = self.id();
        self.raw(&Request::Flush { handle: 0, id });
        self.in_flight.insert(id, Buffer { pages: Vec::new(), references: Vec::new(), indirect: Vec::new() });
        id
    }

    /// Reads into or writes from fresh pages, given by content; `first` and `last` are the sectors of every page.
    pub fn transfer(
        &mut self,
        write: bool,
        sector: u64,
        contents: &[[u8; 4096]],
        first: u8,
        last: u8,
    ) -> u64 {
        let id = self.id();
        let pages: Vec<_> = contents
            .iter()
            .map(|content| {
                let page = SharedPage::zeroed();
                page.copy_in(0, content).expect("a page is a page");
                Rc::new(page)
            })
            .collect();
        let references: Vec<_> = pages.iter().map(|page| self.world.grant(page, !write)).collect();
        let segments: Vec<_> =
            references.iter().map(|&reference| Segment { reference, first, last }).collect();
        let operation = if write { Operation::Write } else { Operation::Read };
        let mut indirect = Vec::new();
        let request = if segments.len() <= 11 {
            let mut fixed = [Segment::default(); 11];
            fixed[..segments.len()].copy_from_slice(&segments);
            let count = segments.len() as u8;
            Request::Transfer(Transfer { operation, handle: 9, id, sector, count, segments: fixed })
        } else {
            let mut list = [GrantRef(0); 8];
            for (piece, reference) in segments.chunks(512).zip(&mut list) {
                let page = SharedPage::zeroed();
                for (index, segment) in piece.iter().enumerate() {
                    let mut bytes = [0; 8];
                    segment.encode(Width::W64, &mut bytes).expect("eight bytes");
                    page.copy_in(index * 8, &bytes).expect("512 segments fit");
                }
                *reference = self.world.grant(&Rc::new(page), false);
                indirect.push(*reference);
            }
            let count = segments.len() as u16;
            Request::Indirect(Indirect {
                operation: 6,
                inner: operation.number(),
                count,
                id,
                sector,
                handle: 9,
                pages: list,
            })
        };
        self.raw(&request);
        self.in_flight.insert(id, Buffer { pages, references, indirect });
        id
    }

    /// A read of two pages of which only one is granted.
    pub fn half_granted(&mut self, sector: u64) -> u64 {
        let id = self.id();
        let page = Rc::new(SharedPage::zeroed());
        let references = vec![self.world.grant(&page, true)];
        let mut segments = [Segment { reference: references[0], first: 0, last: 7 }; 11];
        segments[1].reference = GrantRef(u32::MAX);
        let request = Transfer { operation: Operation::Read, handle: 9, id, sector, count: 2, segments };
        self.raw(&Request::Transfer(request));
        self.in_flight.insert(id, Buffer { pages: vec![page], references, indirect: Vec::new() });
        id
    }

    pub fn kick(&mut self) {
        if self.ring.publish().is_due() {
            self.channel.kick();
        }
    }

    /// Takes the responses that are there; each must be of a request in flight, whose grants are free again.
    pub fn responses(&mut self) -> Vec<(Response, Buffer)> {
        let mut all = Vec::new();
        loop {
            while let Some(response) = self.ring.take().expect("the back end is honest") {
                let buffer = self.in_flight.remove(&response.id).expect("each request is answered once");
                for &reference in buffer.references.iter().chain(&buffer.indirect) {
                    self.world.revoke(reference);
                }
                all.push((response, buffer));
            }
            if !self.ring.arm().expect("the back end is honest") {
                return all;
            }
        }
    }
}

pub fn content(buffer: &Buffer, page: usize) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    buffer.pages[page].copy_out(0, &mut bytes).expect("a page is a page");
    bytes
}
