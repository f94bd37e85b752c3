//! The data path: ring to device and back, with many requests in flight.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::task::{Context, Poll};

use trunnion_protocol::address::Gfn;
use trunnion_protocol::blkif::{Block, Response, Status};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::ring::{BackRing, Interface, Overrun, Owed};

use super::intake::{Draft, Intake, TABLE_PAGES};
use super::kept::Kept;
use super::keys::RingPlan;
use super::statistics::Statistics;
use crate::device::{
    BlockDevice, BlockError, BlockOperation, BlockRequest, BlockShape, Completion, Full, Segment, Ticket,
};
use crate::handshake::map_rings;
use crate::host::{BlockHost, EventPort, GrantCopier};
use crate::pages::RingPages;

/// Completions that one call handles.
const COMPLETIONS: usize = 64;
/// Errors of the device that are logged for one guest; all are counted.
const LOGGED_ERRORS: u32 = 16;

/// How much one guest may have in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Requests with the device or waiting for it.
    pub requests: usize,
    /// Pages mapped for them. One request may go over it.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 128, pages: 2048 }
    }
}

/// What a back end is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The guest.
    pub domain: DomainId,
    /// Writes fail, even if the device takes them.
    pub read_only: bool,
    /// Told to the guest.
    pub removable: bool,
    /// Told to the guest.
    pub cdrom: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Why a connection failed. The device is closed; a new handshake may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The guest wrote an impossible index.
    Ring(Overrun),
    /// A page of the ring cannot be mapped.
    RingPage(GrantStatus),
    /// The pages have no room for a ring.
    NoSlots,
    /// There is no memory for the connection.
    NoMemory,
    /// The port cannot be joined.
    Port(Errno),
    /// So many requests were taken and will never be answered: a mistake of this back end's.
    Lost(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(overrun) => fmt::Display::fmt(overrun, f),
            Self::RingPage(status) => write!(f, "the ring cannot be mapped: {status}"),
            Self::NoSlots => f.write_str("the ring has no room for a request"),
            Self::NoMemory => f.write_str("there is not enough memory"),
            Self::Port(errno) => write!(f, "the event channel cannot be joined: {errno}"),
            Self::Lost(count) => write!(f, "{count} requests were taken and lost"),
        }
    }
}

impl core::error::Error for Fault {}

/// A joined ring with its port.
pub(super) struct Connection<H: BlockHost> {
    pub(super) ring: BackRing<Block, RingPages<H::Page>>,
    port: H::Port,
}

/// What is left to do for a request that left the ring.
pub(super) struct Duty {
    /// To be answered; `None` when the connection that it came from is gone.
    pub(super) owed: Option<Owed>,
    pub(super) id: u64,
    pub(super) operation: u8,
    /// The grants of its pages, where these may stay mapped.
    pub(super) references: Vec<GrantRef>,
}

/// One disk for one guest. It belongs to one task, which polls it.
pub struct Backend<H: BlockHost, D: BlockDevice<H::Page>> {
    pub(super) host: H,
    device: D,
    pub(super) config: Config,
    pub(super) shape: BlockShape,
    connection: Option<Connection<H>>,
    /// Mapped and checked, but the device was full.
    waiting: VecDeque<(BlockRequest<H::Page>, Duty)>,
    in_flight: VecDeque<(Ticket, Duty)>,
    /// Pages of what waits and is in flight.
    pages: usize,
    /// To be unmapped before the answers are given.
    pub(super) unmap: Vec<H::Page>,
    pub(super) answers: Vec<(Duty, Status)>,
    intake: Intake<H::Page>,
    /// Where the disk lies, if that is in this kernel's memory.
    pub(super) memory: Option<Gfn>,
    /// Pages that the segments of indirect requests are copied to.
    pub(super) tables: Option<(<H as GrantCopier>::Local, Gfn)>,
    /// Pages that stay mapped, if the front end agrees.
    pub(super) kept: Option<Kept<H::Page>>,
    /// Empty vectors to be used again, so that a request costs no allocation.
    spare: Vec<Vec<Segment<H::Page>>>,
    spare_references: Vec<Vec<GrantRef>>,
    statistics: Arc<Statistics>,
    logged: u32,
    #[cfg(feature = "planted")]
    planted: Option<crate::planted::Bug>,
}

/// True if this mistake is planted; always false, and gone, without the feature.
macro_rules! planted {
    ($backend:expr, $bug:ident) => {{
        #[cfg(feature = "planted")]
        {
            $backend.planted == Some(crate::planted::Bug::$bug)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

impl<H: BlockHost, D: BlockDevice<H::Page>> Backend<H, D> {
    /// A back end that is not connected.
    pub fn new(host: H, device: D, config: Config) -> Self {
        let mut shape = device.shape();
        shape.read_only |= config.read_only;
        let memory = device.memory();
        Self {
            host,
            device,
            config,
            shape,
            connection: None,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            pages: 0,
            unmap: Vec::new(),
            answers: Vec::new(),
            intake: Intake::default(),
            memory,
            tables: None,
            kept: None,
            spare: Vec::new(),
            spare_references: Vec::new(),
            statistics: Arc::default(),
            logged: 0,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// Makes the back end make a mistake from now on.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: crate::planted::Bug) {
        self.planted = Some(bug);
    }

    /// The counters, which stay readable while the back end works.
    pub fn statistics(&self) -> Arc<Statistics> {
        Arc::clone(&self.statistics)
    }

    /// What the guest is told of the device.
    pub const fn shape(&self) -> &BlockShape {
        &self.shape
    }

    /// What the back end was made for.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the guest's pages may stay mapped: where they are mapped at all.
    pub(super) const fn keeps(&self) -> bool {
        self.memory.is_none()
    }

    /// True while a ring is joined.
    pub const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Requests that the device has, also those of connections that are gone.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Joins a ring. On failure nothing is held.
    pub fn connect(&mut self, plan: &RingPlan) -> Result<(), Fault> {
        self.disconnect();
        if self.tables.is_none() {
            self.tables = Some(self.host.local(TABLE_PAGES).ok_or(Fault::NoMemory)?);
        }
        if Block::slots(plan.width, plan.references.len()) == 0 {
            return Err(Fault::NoSlots);
        }
        let references = plan.references.iter().copied();
        let mut pages = map_rings(&self.host, self.config.domain, references).map_err(Fault::RingPage)?;
        let port = match self.host.bind(self.config.domain, plan.port) {
            Ok(port) => port,
            Err(errno) => {
                self.host.unmap(&mut pages);
                return Err(Fault::Port(errno));
            }
        };
        let ring = BackRing::new(RingPages(pages), plan.width).ok_or(Fault::NoSlots)?;
        self.connection = Some(Connection { ring, port });
        self.kept = (plan.persistent && self.keeps()).then(Kept::default);
        Ok(())
    }

    /// Leaves the ring: its pages are unmapped, its port is closed, nothing is answered any more. What the device has stays
    /// with it, and its pages are unmapped when it completes: see [`Self::poll_idle`].
    pub fn disconnect(&mut self) {
        for (request, _) in self.waiting.drain(..) {
            self.pages = self.pages.saturating_sub(request.segments.len());
            self.unmap.extend(request.segments.into_iter().map(Segment::into_page));
        }
        for (_, duty) in &mut self.in_flight {
            duty.owed = None;
        }
        self.answers.clear();
        self.unmap.extend(self.kept.take().into_iter().flat_map(Kept::into_pages));
        if let Some(connection) = self.connection.take() {
            drop(connection.port);
            self.unmap.append(&mut connection.ring.into_pages().0);
        }
        if !self.unmap.is_empty() {
            self.host.unmap(&mut self.unmap);
        }
    }

    /// Does a bounded amount of work; pending when it is to be polled again. Ready only when the connection failed, which
    /// has then been left.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Fault> {
        match self.step(context) {
            Ok(again) => {
                if again {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(fault) => {
                self.disconnect();
                Poll::Ready(fault)
            }
        }
    }

    /// Ready when the device has nothing of this guest's. Meant for after [`Self::disconnect`].
    pub fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.in_flight.is_empty() {
            let again = self.complete(context);
            self.settle();
            if !again && !self.in_flight.is_empty() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// One round: requests in, completions out, answers published. True if there is more to do at once.
    fn step(&mut self, context: &mut Context<'_>) -> Result<bool, Fault> {
        let mut again = match &self.connection {
            Some(connection) => connection.port.poll_event(context).is_ready(),
            None => false,
        };
        self.submit_waiting();
        let taken = self.take_requests();
        again |= self.complete(context);
        self.settle();
        // An impossible index ends the connection after honest work is done.
        taken.map_err(Fault::Ring)?;
        if self.in_flight.is_empty()
            && self.waiting.is_empty()
            && let Some(lost) = self.connection.as_ref().map(|connection| connection.ring.outstanding())
            && lost != 0
        {
            return Err(Fault::Lost(lost));
        }
        // A device that is full without having anything of ours wakes nobody.
        again |= !self.waiting.is_empty() && self.in_flight.is_empty();
        if self.has_room()
            && !planted!(self, ForgottenArm)
            && let Some(connection) = &mut self.connection
        {
            again |= connection.ring.arm().map_err(Fault::Ring)?;
        }
        Ok(again)
    }

    fn has_room(&self) -> bool {
        let requests = self.in_flight.len() + self.waiting.len();
        requests == 0 || (requests < self.config.limits.requests && self.pages < self.config.limits.pages)
    }

    fn take_requests(&mut self) -> Result<(), Overrun> {
        if !self.has_room() {
            return Ok(());
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        let room =
            self.config.limits.requests.saturating_sub(self.in_flight.len() + self.waiting.len()).max(1);
        let mut intake = mem::take(&mut self.intake);
        let taken = intake.take(self, &mut connection.ring, room);
        self.connection = Some(connection);
        let mut places = intake.places.drain(..);
        let mut results = intake.results.drain(..);
        let mut references = intake.references.drain(..);
        for mut draft in intake.drafts.drain(..) {
            if self.kept.is_some() {
                draft.duty.references = self.spare_references.pop().unwrap_or_default();
                draft.duty.references.extend(references.by_ref().take(draft.pages));
            }
            self.start(draft, &mut places, &mut results);
        }
        // Results that no draft asked for do not exist; a mapper that invents some gets them back.
        self.unmap.extend(results.flatten());
        drop((places, references));
        self.intake = intake;
        taken
    }

    /// Gives a checked request its mapped pages and submits it.
    fn start(
        &mut self,
        draft: Draft,
        places: &mut impl Iterator<Item = (usize, usize)>,
        results: &mut impl Iterator<Item = Result<H::Page, GrantStatus>>,
    ) {
        let mut segments = self.spare.pop().unwrap_or_default();
        let mut failed = false;
        for (offset, length) in places.take(draft.pages) {
            match results.next() {
                Some(Ok(page)) => match Segment::new(page, offset, length) {
                    Ok(segment) => segments.push(segment),
                    Err(page) => {
                        self.unmap.push(page);
                        failed = true;
                    }
                },
                Some(Err(_)) | None => failed = true,
            }
        }
        if failed && planted!(self, LeakOnError) {
            segments.drain(..).for_each(core::mem::forget);
        }
        if failed {
            self.unmap.extend(segments.drain(..).map(Segment::into_page));
            self.spare.push(segments);
            self.answers.push((draft.duty, Status::Error));
            return;
        }
        self.pages = self.pages.saturating_add(segments.len());
        let request = BlockRequest { operation: draft.operation, sector: draft.sector, segments };
        if self.waiting.is_empty() {
            self.submit(request, draft.duty);
        } else {
            self.waiting.push_back((request, draft.duty));
        }
    }

    /// False if the device was full; the request is then the first that waits.
    fn submit(&mut self, request: BlockRequest<H::Page>, duty: Duty) -> bool {
        match self.device.submit(request) {
            Ok(ticket) => {
                self.in_flight.push_back((ticket, duty));
                true
            }
            Err(Full(request)) => {
                self.waiting.push_front((request, duty));
                false
            }
        }
    }

    fn submit_waiting(&mut self) {
        while let Some((request, duty)) = self.waiting.pop_front() {
            if !self.submit(request, duty) {
                return;
            }
        }
    }

    /// Takes completed requests back. True if there may be more.
    fn complete(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..COMPLETIONS {
            let Poll::Ready(completion) = self.device.poll_completed(context) else { return false };
            self.completed(completion);
        }
        true
    }

    fn completed(&mut self, completion: Completion<H::Page>) {
        let Completion { ticket, mut request, result } = completion;
        let bytes = request.bytes();
        self.pages = self.pages.saturating_sub(request.segments.len());
        let place = self.in_flight.iter().position(|(known, _)| *known == ticket);
        let mut duty = place.and_then(|place| self.in_flight.remove(place)).map(|(_, duty)| duty);
        self.release(duty.as_mut(), &mut request.segments);
        if self.spare.len() < self.config.limits.requests {
            self.spare.push(request.segments);
        }
        let Some(duty) = duty else {
            log::error!("block: the device completed ticket {}, which it does not have", ticket.0);
            return;
        };
        let status = match result {
            Ok(()) => {
                self.count(request.operation, bytes);
                Status::Okay
            }
            Err(BlockError::Unsupported) => Status::Unsupported,
            Err(_) if planted!(self, HiddenError) => Status::Okay,
            Err(error) => {
                self.logged = self.logged.saturating_add(1);
                if self.logged <= LOGGED_ERRORS {
                    let (domain, operation) = (self.config.domain, request.operation);
                    log::warn!("block: domain {domain}: {operation:?} at sector {}: {error}", request.sector);
                }
                Status::Error
            }
        };
        self.answers.push((duty, status));
    }

    fn count(&self, operation: BlockOperation, bytes: u64) {
        match operation {
            BlockOperation::Read => self.statistics.read(bytes),
            BlockOperation::Write => self.statistics.written(bytes),
            BlockOperation::Flush => self.statistics.flushed(),
            BlockOperation::Discard { .. } => self.statistics.discarded(),
        }
    }

    /// Notes what became of a request that was carried out by copies. It can only fail by the guest's own grants.
    pub(super) fn moved(&mut self, draft: Draft, is_done: bool) {
        if is_done {
            self.count(draft.operation, draft.bytes);
        }
        self.answers.push((draft.duty, if is_done { Status::Okay } else { Status::Error }));
    }

    /// Takes the pages of a request that is done. They are unmapped before it is answered, but for those that may stay.
    fn release(&mut self, duty: Option<&mut Duty>, segments: &mut Vec<Segment<H::Page>>) {
        let mut pages = segments.drain(..).map(Segment::into_page);
        // Pages of a connection that is gone are none of the present one's.
        if let (Some(kept), Some(duty)) = (&mut self.kept, duty.filter(|duty| duty.owed.is_some())) {
            let mut references = mem::take(&mut duty.references);
            for (reference, page) in references.drain(..).zip(&mut pages) {
                self.unmap.extend(kept.keep(reference, page));
            }
            if self.spare_references.len() < self.config.limits.requests {
                self.spare_references.push(references);
            }
        }
        self.unmap.extend(pages);
    }

    /// Unmaps, then answers, then publishes, in this order.
    fn settle(&mut self) {
        if !self.unmap.is_empty() && !planted!(self, LateUnmap) {
            self.host.unmap(&mut self.unmap);
        }
        if planted!(self, LostAnswer) {
            self.answers.truncate(1);
        }
        if planted!(self, RepeatedIdentity)
            && let Some(id) = self.answers.first().map(|(duty, _)| duty.id)
        {
            self.answers.iter_mut().for_each(|(duty, _)| duty.id = id);
        }
        for (duty, status) in self.answers.drain(..) {
            if status != Status::Okay {
                self.statistics.failed();
            }
            if let (Some(owed), Some(connection)) = (duty.owed, &mut self.connection) {
                let response = Response { id: duty.id, operation: duty.operation, status: status.number() };
                if let Err(refused) = connection.ring.answer(owed, &response) {
                    log::error!("block: domain {}: {refused}", self.config.domain);
                }
            }
        }
        if let Some(connection) = &mut self.connection
            && connection.ring.publish().is_due()
            && !planted!(self, ForgottenEvent)
        {
            connection.port.notify();
        }
    }
}

impl<H: BlockHost, D: BlockDevice<H::Page>> Drop for Backend<H, D> {
    /// Leaves the ring. Whoever drops a back end with requests in flight keeps their pages mapped, inside the device.
    fn drop(&mut self) {
        self.disconnect();
    }
}
