//! Requests in flight: from the ring's slot to the answer.

use core::fmt;

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::blkif::{
    INDIRECT_PAGES, Operation, Response, SECTOR_SIZE, SECTORS_PER_PAGE, SEGMENT_SIZE, SEGMENTS, Status,
};
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::ring::Overrun;

use super::{BlockError, Disk, SLOTS};
use crate::error::complain;
use crate::grant::{Access, GrantTable, References};
use crate::page::Buffer;
use crate::platform::Platform;

/// What a back end did that no back end may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It answered a request that is not in flight.
    Unasked {
        /// The identity in the answer.
        id: u64,
    },
    /// It answered a request twice.
    Twice {
        /// The request.
        id: u64,
    },
    /// It answered a request as if it had been another.
    Operation {
        /// The request.
        id: u64,
        /// What was asked for.
        asked: Operation,
        /// The operation's number in the answer.
        answered: u8,
    },
    /// It wrote an impossible index.
    Index(Overrun),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked { id } => write!(f, "the back end answers request {id:#x}, which was not asked"),
            Self::Twice { id } => write!(f, "the back end answers request {id:#x} twice"),
            Self::Operation { id, asked, answered } => {
                write!(f, "the back end answers request {id:#x} ({asked:?}) as operation {answered}")
            }
            Self::Index(overrun) => write!(f, "{overrun}"),
        }
    }
}

/// The outcome of putting a request into the ring. With an error the buffer comes back; without a cause there is no room
/// now.
type Submission<P> = Result<Ticket, (Option<BlockError>, Buffer<P>)>;

/// A request's end: the buffer, if it had one, and what became of it.
type Landing<P> = (Option<Buffer<P>>, Result<(), BlockError>);

/// Names a request in flight; of no use for a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    index: usize,
    uses: u32,
}

impl Ticket {
    /// The identity that travels with the request.
    const fn id(self) -> u64 {
        (self.uses as u64) << 32 | self.index as u64
    }

    const fn from_id(id: u64) -> Self {
        Self { index: id as u32 as usize, uses: (id >> 32) as u32 }
    }
}

/// One request in flight.
pub(super) struct Flight<P: Platform> {
    buffer: Option<Buffer<P>>,
    references: References,
    operation: Operation,
    /// What the back end answered.
    outcome: Option<Result<(), BlockError>>,
    /// Nobody waits any more.
    abandoned: bool,
}

impl<P: Platform> Flight<P> {
    pub(super) const fn new(buffer: Option<Buffer<P>>, references: References, operation: Operation) -> Self {
        Self { buffer, references, operation, outcome: None, abandoned: false }
    }
}

struct Place<P: Platform> {
    uses: u32,
    flight: Option<Flight<P>>,
}

/// All requests in flight.
pub(super) struct Flights<P: Platform>([Place<P>; SLOTS]);

impl<P: Platform> Flights<P> {
    pub(super) const fn new() -> Self {
        Self([const { Place { uses: 0, flight: None } }; SLOTS])
    }

    /// The ticket that the next flight gets, if there is a place.
    fn vacancy(&self) -> Option<Ticket> {
        let index = self.0.iter().position(|place| place.flight.is_none())?;
        Some(Ticket { index, uses: self.0.get(index)?.uses.wrapping_add(1) })
    }

    fn insert(&mut self, ticket: Ticket, flight: Flight<P>) {
        if let Some(place) = self.0.get_mut(ticket.index) {
            *place = Place { uses: ticket.uses, flight: Some(flight) };
        }
    }

    fn place(&mut self, ticket: Ticket) -> Option<&mut Option<Flight<P>>> {
        let place = self.0.get_mut(ticket.index)?;
        let current = place.uses == ticket.uses || planted!(BelievedIdentity);
        (current && place.flight.is_some()).then_some(&mut place.flight)
    }

    /// Notes an answer. A fault if it belongs to no request: the back end is not to be trusted any more.
    fn answer(&mut self, response: &Response) -> Result<(), Fault> {
        let id = response.id;
        let Some(Some(flight)) = self.place(Ticket::from_id(id)) else { return Err(Fault::Unasked { id }) };
        if flight.outcome.is_some() {
            return Err(Fault::Twice { id });
        }
        if response.operation != flight.operation.number() {
            return Err(Fault::Operation { id, asked: flight.operation, answered: response.operation });
        }
        flight.outcome = Some(match Status::from_number(response.status) {
            Some(Status::Okay) => Ok(()),
            Some(Status::Unsupported) => Err(BlockError::Unsupported),
            Some(Status::Error) | None => Err(BlockError::Failed),
        });
        Ok(())
    }

    /// Forgets the answered requests that nobody waits for, once their pages are private again.
    fn sweep(&mut self, grants: &GrantTable<'_, P>) {
        for place in &mut self.0 {
            if let Some(flight) = &mut place.flight
                && flight.outcome.is_some()
                && flight.abandoned
                && !planted!(KeptFlight)
                && flight.references.end(grants)
            {
                place.flight = None;
            }
        }
    }

    /// Buffer and outcome of a request, once it is answered and the peer has let go of the pages.
    fn take(&mut self, ticket: Ticket, grants: &GrantTable<'_, P>) -> Option<Landing<P>> {
        let place = self.place(ticket)?;
        let flight = place.as_mut()?;
        let outcome = flight.outcome?;
        let forgotten = planted::is(Bug::LeakedGrant);
        if !forgotten && !flight.references.end(grants) && !planted!(EarlyReturn) {
            return None;
        }
        let buffer = flight.buffer.take();
        *place = None;
        Some((buffer, outcome))
    }

    pub(super) fn abandon(&mut self, ticket: Ticket) {
        if let Some(Some(flight)) = self.place(ticket) {
            flight.abandoned = true;
        }
    }

    /// Fails what was not answered: the back end is gone.
    pub(super) fn fail(&mut self, grants: &GrantTable<'_, P>) {
        for flight in self.0.iter_mut().filter_map(|place| place.flight.as_mut()) {
            flight.outcome.get_or_insert(Err(BlockError::Closed));
        }
        self.sweep(grants);
    }

    /// Leaves what is left to the reaper.
    pub(super) fn bury(&mut self, grants: &GrantTable<'_, P>) {
        for place in &mut self.0 {
            if let Some(Flight { buffer: Some(buffer), references, .. }) = place.flight.take() {
                grants.bury(references, buffer);
            }
        }
    }
}

impl<P: Platform> Disk<'_, '_, P> {
    /// Puts a request into the ring. An error without a cause: there is no room now.
    pub(super) fn submit(&self, operation: Operation, sector: u64, buffer: Buffer<P>) -> Submission<P> {
        if self.closed.get() {
            return Err((Some(BlockError::Closed), buffer));
        }
        let vacancy = self.flights.borrow().vacancy().filter(|_| self.has_room());
        let Some(ticket) = vacancy else { return Err((None, buffer)) };
        // A back end that only reads the pages gets no right to write them.
        let access = if operation == Operation::Write { Access::ReadOnly } else { Access::ReadWrite };
        let mut references = References::new();
        for index in 0..buffer.pages_used() {
            let permitted = buffer
                .gfn(index)
                .and_then(|gfn| self.grants.permit(gfn, self.shape.backend, access).ok())
                .and_then(|reference| references.push(reference).ok());
            if permitted.is_none() {
                return self.withdraw(ticket, references, buffer, operation, BlockError::NoGrants);
            }
        }
        let id = ticket.id();
        let request = if references.as_slice().len() <= SEGMENTS {
            let mut segments = [Segment::default(); SEGMENTS];
            for (place, segment) in segments.iter_mut().zip(pieces(&references, buffer.len())) {
                *place = segment;
            }
            let count = references.as_slice().len() as u8;
            Request::Transfer(Transfer { operation, handle: self.shape.handle, id, sector, count, segments })
        } else {
            let Some(page) = self.indirect_request(ticket, &references, buffer.len()) else {
                return self.withdraw(ticket, references, buffer, operation, BlockError::TooLarge);
            };
            let mut pages = [GrantRef(0); INDIRECT_PAGES];
            pages[0] = page;
            let count = references.as_slice().len() as u16;
            let (inner, handle) = (operation.number(), self.shape.handle);
            let operation = Operation::Indirect.number();
            Request::Indirect(Indirect { operation, inner, count, id, sector, handle, pages })
        };
        self.flights.borrow_mut().insert(ticket, Flight::new(Some(buffer), references, operation));
        self.put(&request);
        Ok(ticket)
    }

    /// Ends a request that was never made. Nobody has heard of its references, but who guesses one holds a page: the buffer then
    /// comes back like that of any request, when it is private again.
    fn withdraw(
        &self,
        ticket: Ticket,
        mut references: References,
        buffer: Buffer<P>,
        operation: Operation,
        error: BlockError,
    ) -> Submission<P> {
        if references.end(self.grants) {
            return Err((Some(error), buffer));
        }
        let mut flight = Flight::new(Some(buffer), references, operation);
        flight.outcome = Some(Err(error));
        self.flights.borrow_mut().insert(ticket, flight);
        Ok(ticket)
    }

    /// Puts a flush into the ring, if there is room.
    pub(super) fn submit_flush(&self) -> Option<Result<Ticket, BlockError>> {
        if self.closed.get() {
            return Some(Err(BlockError::Closed));
        }
        let ticket = self.flights.borrow().vacancy().filter(|_| self.has_room())?;
        self.flights.borrow_mut().insert(ticket, Flight::new(None, References::new(), Operation::Flush));
        self.put(&Request::Flush { handle: self.shape.handle, id: ticket.id() });
        Some(Ok(ticket))
    }

    fn has_room(&self) -> bool {
        self.ring.borrow().as_ref().is_some_and(|ring| ring.free() > 0)
    }

    /// Puts a request into a ring that has room, and notifies the back end if it wants to know.
    fn put(&self, request: &Request) {
        let mut ring = self.ring.borrow_mut();
        let Some(ring) = ring.as_mut() else { return };
        let forgotten = planted::is(Bug::ForgottenNotify) || planted!(ForgottenEvent);
        if ring.put(request).is_ok() && ring.publish().is_due() && !forgotten {
            self.channel.notify();
        }
    }

    /// Writes the segments of a long request into the page of its place, and returns the page's reference.
    fn indirect_request(&self, ticket: Ticket, references: &References, length: usize) -> Option<GrantRef> {
        let (pages, buffer) = self.indirect.as_ref()?;
        for (index, segment) in pieces(references, length).enumerate() {
            let mut bytes = [0; SEGMENT_SIZE];
            segment.encode(Width::W64, &mut bytes)?;
            buffer.write(ticket.index * PAGE_SIZE + index * SEGMENT_SIZE, &bytes).ok()?;
        }
        pages.as_slice().get(ticket.index).copied()
    }

    /// Takes the answers that have come.
    pub(super) fn take_answers(&self) {
        let mut news = false;
        let mut broken = None;
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            let mut flights = self.flights.borrow_mut();
            loop {
                match ring.take() {
                    Ok(Some(response)) => {
                        news = true;
                        broken = flights.answer(&response).err();
                    }
                    Ok(None) => match ring.arm() {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(overrun) => broken = Some(Fault::Index(overrun)),
                    },
                    Err(overrun) => broken = Some(Fault::Index(overrun)),
                }
                if broken.is_some() {
                    break;
                }
            }
            if news {
                flights.sweep(self.grants);
            }
        }
        if let Some(fault) = broken
            && !self.closed.replace(true)
        {
            complain("disk", &fault);
            self.fault.set(Some(fault));
            // A page comes back only where the back end does not map it; without a grant it cannot map it again.
            self.flights.borrow_mut().fail(self.grants);
            news = true;
        }
        if news {
            self.waiters.wake();
        }
    }

    pub(super) fn take(&self, ticket: Ticket) -> Option<Landing<P>> {
        self.flights.borrow_mut().take(ticket, self.grants)
    }
}

/// The segments of a buffer of `length` bytes: whole pages, and what is left in the last one.
fn pieces(references: &References, length: usize) -> impl Iterator<Item = Segment> {
    let sectors = length / SECTOR_SIZE;
    let per_page = usize::from(SECTORS_PER_PAGE);
    references.as_slice().iter().enumerate().map(move |(index, &reference)| {
        let rest = sectors.saturating_sub(index * per_page).clamp(1, per_page);
        Segment { reference, first: 0, last: (rest - 1) as u8 }
    })
}
