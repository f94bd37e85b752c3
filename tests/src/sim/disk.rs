//! The medium: a disk with a volatile cache, whose requests complete in any order when the world lets them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use trunnion_backends::device::{
    BlockDevice, BlockError, BlockOperation, BlockRequest, BlockShape, Completion, Full, GuestPage, Ticket,
};
use trunnion_protocol::address::{Mfn, PAGE_SHIFT};
use trunnion_protocol::grant::Access;

use super::backend::{Granted, Mapped};
use super::machine::Host;
use super::shared::Shared;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Requests that the device takes at one time.
const DEPTH: usize = 24;

struct State {
    /// What a read returns.
    bytes: Vec<u8>,
    /// What survives a loss of power.
    durable: Vec<u8>,
    in_flight: Vec<(Ticket, BlockRequest<Granted>)>,
    completed: VecDeque<Completion<Granted>>,
    waker: Option<Waker>,
    next: u64,
}

/// A disk.
pub struct Disk {
    shared: Rc<Shared>,
    host: std::sync::Arc<Host>,
    mapped: Rc<Mapped>,
    state: RefCell<State>,
    /// Requests that failed, by injection.
    pub failed: Cell<u64>,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(
        shared: &Rc<Shared>,
        host: &std::sync::Arc<Host>,
        mapped: &Rc<Mapped>,
        sectors: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            host: std::sync::Arc::clone(host),
            mapped: Rc::clone(mapped),
            state: RefCell::new(State {
                bytes: vec![0; sectors * SECTOR],
                durable: vec![0; sectors * SECTOR],
                in_flight: Vec::new(),
                completed: VecDeque::new(),
                waker: None,
                next: 0,
            }),
            failed: Cell::new(0),
        })
    }

    /// Requests in the device.
    pub fn in_flight(&self) -> usize {
        self.state.borrow().in_flight.len()
    }

    /// Whether a request of a domain is in the device.
    pub fn holds_pages_of(&self, domain: trunnion_protocol::id::DomainId) -> usize {
        let state = self.state.borrow();
        let of =
            |request: &BlockRequest<Granted>| request.segments.iter().any(|s| s.page().domain() == domain);
        state.in_flight.iter().filter(|(_, request)| of(request)).count()
    }

    /// Looks at what survives.
    pub fn with_durable<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.state.borrow().durable)
    }

    /// Carries one request out, and notes that it completed. False when there is none. The driver hears of it by
    /// [`Disk::interrupt`].
    pub fn progress(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.in_flight.is_empty() {
            return false;
        }
        let index = self.shared.below(state.in_flight.len() as u64) as usize;
        let (ticket, request) = state.in_flight.swap_remove(index);
        self.check_pages(&request);
        let fails = self.shared.permille(self.shared.faults.get().device);
        let result = if fails {
            self.shared.strike(|struck| struck.device += 1);
            self.failed.set(self.failed.get() + 1);
            if self.shared.permille(500) {
                // A part of it was done.
                state.carry_out(&request, 1);
            }
            Err(BlockError::Device)
        } else {
            state.carry_out(&request, usize::MAX);
            Ok(())
        };
        let operation = match request.operation {
            BlockOperation::Read => 0,
            BlockOperation::Write => 1,
            _ => 2,
        };
        self.shared.note(
            0,
            "device done: operation, sector, failed",
            [operation, request.sector, u64::from(fails)],
        );
        // The cache writes back when it likes.
        let sector = self.shared.below((state.bytes.len() / SECTOR) as u64) as usize;
        state.write_back(sector..sector + 1);
        state.completed.push_back(Completion { ticket, request, result });
        true
    }

    /// The device's interrupt, in its driver.
    pub fn interrupt(&self) {
        let waker = self.state.borrow_mut().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A device reaches memory only by pages that are mapped for it right now.
    fn check_pages(&self, request: &BlockRequest<Granted>) {
        for page in request.segments.iter().map(trunnion_backends::device::Segment::page) {
            let frame = Mfn(page.bus_address().0 >> PAGE_SHIFT);
            let owner = self.host.frames.owner(frame);
            let mapped = self.mapped.0.borrow().iter().any(|((domain, _), _)| *domain == page.domain());
            let writes_allowed =
                request.operation != BlockOperation::Read || page.access() == Access::ReadWrite;
            if owner != Some(page.domain()) || !mapped || !writes_allowed {
                self.shared.complain(format!(
                    "a DMA goes to frame {:#x} of {owner:?}, mapped for domain {}",
                    frame.0,
                    page.domain()
                ));
            }
        }
    }
}

impl State {
    fn shape(&self) -> BlockShape {
        BlockShape {
            sectors: (self.bytes.len() / SECTOR) as u64,
            sector_size: SECTOR as u32,
            physical_sector_size: SECTOR as u32,
            read_only: false,
            flush: true,
            discard: None,
            max_segments: 64,
        }
    }

    fn carry_out(&mut self, request: &BlockRequest<Granted>, segments: usize) {
        match request.operation {
            BlockOperation::Flush => self.write_back(0..self.bytes.len() / SECTOR),
            BlockOperation::Discard { .. } => {}
            BlockOperation::Read | BlockOperation::Write => {
                let mut at = request.sector as usize * SECTOR;
                for segment in request.segments.iter().take(segments) {
                    let piece = &mut self.bytes[at..at + segment.length()];
                    let page = segment.page().shared();
                    let copied = if request.operation == BlockOperation::Read {
                        page.copy_in(segment.offset(), piece)
                    } else {
                        page.copy_out(segment.offset(), piece)
                    };
                    debug_assert!(copied.is_ok(), "segments lie in their pages");
                    at += segment.length();
                }
            }
        }
    }

    fn write_back(&mut self, sectors: std::ops::Range<usize>) {
        let bytes = sectors.start * SECTOR..sectors.end * SECTOR;
        self.durable[bytes.clone()].copy_from_slice(&self.bytes[bytes]);
    }
}

impl BlockDevice<Granted> for Disk {
    fn shape(&self) -> BlockShape {
        self.state.borrow().shape()
    }

    fn submit(&self, request: BlockRequest<Granted>) -> Result<Ticket, Full<BlockRequest<Granted>>> {
        let mut state = self.state.borrow_mut();
        if state.in_flight.len() >= DEPTH {
            return Err(Full(request));
        }
        let ticket = Ticket(state.next);
        state.next += 1;
        if let Err(error) = state.shape().check(&request) {
            state.completed.push_back(Completion { ticket, request, result: Err(error) });
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        } else {
            state.in_flight.push((ticket, request));
        }
        Ok(ticket)
    }

    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<Granted>> {
        let mut state = self.state.borrow_mut();
        if let Some(completion) = state.completed.pop_front() {
            return Poll::Ready(completion);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
