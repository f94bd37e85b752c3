//! Disks: the block front end.
//!
//! [`Disk::connect`] goes through the handshake; after that [`Disk::read`], [`Disk::write`] and [`Disk::flush`] put one
//! request each into the ring and wait for its answer. As many requests as there are slots may be in flight. A request
//! owns the pages it moves: they come back with the answer, also to nobody when the future is dropped before.
//!
//! Requests in flight are in no order; a flush covers the writes that were answered before it was made.
//!
//! # A device is connected before it is used
//!
//! ```
//! # use trunnion_frontends::{block::Disk, error::Error, grant::GrantTable, page::Buffer, platform::Platform, xenbus::Device};
//! async fn right<'t, 'p, P: Platform>(
//!     grants: &'t GrantTable<'p, P>,
//!     device: Device<'t, 'p, P>,
//!     buffer: Buffer<P>,
//! ) -> Result<(), Error> {
//!     let disk = Disk::connect(grants, device).await?;
//!     let (_buffer, _result) = disk.read(0, buffer).await;
//!     disk.close().await.map(drop)
//! }
//! ```
//!
//! ```compile_fail,E0599
//! # use trunnion_frontends::{page::Buffer, platform::Platform, xenbus::Device};
//! async fn wrong<P: Platform>(device: Device<'_, '_, P>, buffer: Buffer<P>) {
//!     device.read(0, buffer).await; // a device is no disk yet
//! }
//! ```
//!
//! Nor is it connected twice, or used after it was closed:
//!
//! ```compile_fail,E0382
//! # use trunnion_frontends::{block::Disk, error::Error, grant::GrantTable, platform::Platform, xenbus::Device};
//! async fn wrong<'t, 'p, P: Platform>(
//!     grants: &'t GrantTable<'p, P>,
//!     device: Device<'t, 'p, P>,
//! ) -> Result<(), Error> {
//!     let one = Disk::connect(grants, device).await?;
//!     let two = Disk::connect(grants, device).await?; // would tear the first one's ring away
//!     Ok(())
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use trunnion_frontends::{block::{BlockError, Disk}, platform::Platform};
//! async fn wrong<P: Platform>(disk: Disk<'_, '_, P>) -> Result<(), BlockError> {
//!     let _ = disk.close().await;
//!     disk.flush().await
//! }
//! ```
//!
//! # Pages in flight belong to the disk
//!
//! ```compile_fail,E0382
//! # use trunnion_frontends::{block::Disk, page::Buffer, platform::Platform};
//! async fn wrong<P: Platform>(disk: &Disk<'_, '_, P>, buffer: Buffer<P>) {
//!     let request = disk.write(0, buffer);
//!     let _ = buffer.write(0, b"changed on its way"); // the device may be reading it
//!     request.await;
//! }
//! ```
//!
//! A disk that a request still waits on cannot be closed:
//!
//! ```compile_fail,E0505
//! # use trunnion_frontends::{block::Disk, page::Buffer, platform::Platform};
//! async fn wrong<P: Platform>(disk: Disk<'_, '_, P>, buffer: Buffer<P>) {
//!     let request = disk.read(0, buffer);
//!     let _ = disk.close().await;
//!     request.await;
//! }
//! ```

mod flight;
mod setup;

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use trunnion_protocol::blkif::{Block, Operation, SECTOR_SIZE, SEGMENTS};
use trunnion_protocol::ring::FrontRing;
use trunnion_protocol::xenbus::State;

pub use setup::Shape;

use crate::error::Error;
use crate::event::Channel;
use crate::grant::{GrantTable, References};
use crate::page::Buffer;
use crate::platform::Platform;
use crate::wait::{Turn, Waiters};
use crate::xenbus::{Device, Farewell};
pub use flight::Fault;
use flight::{Flights, Ticket};

/// Requests in flight at once: the slots of a ring of one page.
pub const SLOTS: usize = 32;
/// Most pages of one request, with a back end that takes indirect requests; 11 otherwise.
pub const SEGMENTS_MAX: usize = 32;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// The device reported an error.
    Failed,
    /// The back end does not know this operation.
    Unsupported,
    /// The request goes beyond the end of the disk.
    OutOfRange,
    /// The disk cannot be written.
    ReadOnly,
    /// The length is not a whole number of sectors, or zero.
    Misaligned,
    /// The buffer has more pages than one request can carry: see [`Disk::most_bytes`].
    TooLarge,
    /// The grant table is full.
    NoGrants,
    /// The disk is closed, or the back end broke the rules of the ring.
    Closed,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the device reported an error",
            Self::Unsupported => "the back end cannot do that",
            Self::OutOfRange => "beyond the end of the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::Misaligned => "not a whole number of sectors",
            Self::TooLarge => "too large for one request",
            Self::NoGrants => "the grant table is full",
            Self::Closed => "the disk is closed",
        })
    }
}

impl core::error::Error for BlockError {}

/// A connected disk. Several tasks may use it.
pub struct Disk<'t, 'p, P: Platform> {
    grants: &'t GrantTable<'p, P>,
    /// There until the disk is closed.
    device: Option<Device<'t, 'p, P>>,
    shape: Shape,
    channel: Channel<'p, P>,
    ring: RefCell<Option<FrontRing<Block, Buffer<P>>>>,
    ring_references: Cell<References>,
    indirect: Option<(References, Buffer<P>)>,
    flights: RefCell<Flights<P>>,
    waiters: Waiters<SLOTS>,
    closed: Cell<bool>,
    fault: Cell<Option<Fault>>,
    farewell: Farewell,
}

impl<'t, 'p, P: Platform> Disk<'t, 'p, P> {
    /// What the disk is.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Most bytes of one request.
    pub const fn most_bytes(&self) -> usize {
        self.most_segments() * trunnion_protocol::address::PAGE_SIZE
    }

    const fn most_segments(&self) -> usize {
        if self.indirect.is_some() { self.shape.segments } else { SEGMENTS }
    }

    /// Reads from a sector into the buffer, as many bytes as its length says. Sectors are of 512 bytes.
    pub async fn read(&self, sector: u64, buffer: Buffer<P>) -> (Buffer<P>, Result<(), BlockError>) {
        self.transfer(Operation::Read, sector, buffer).await
    }

    /// Writes the buffer to the disk from a sector on. The data is durable after a [`flush`](Self::flush).
    pub async fn write(&self, sector: u64, buffer: Buffer<P>) -> (Buffer<P>, Result<(), BlockError>) {
        if self.shape.read_only {
            return (buffer, Err(BlockError::ReadOnly));
        }
        self.transfer(Operation::Write, sector, buffer).await
    }

    /// Makes the writes durable that were answered before.
    pub async fn flush(&self) -> Result<(), BlockError> {
        if !self.shape.flush {
            return Err(BlockError::Unsupported);
        }
        if planted!(DroppedFlush) {
            return Ok(());
        }
        let turn = Turn::new(&self.waiters);
        let ticket = poll_fn(|context| self.poll(context, || self.submit_flush())).await?;
        let waiting = Waiting { disk: self, ticket };
        let (_, result) = poll_fn(|context| self.poll(context, || self.take(ticket))).await;
        drop(waiting);
        drop(turn);
        result
    }

    async fn transfer(
        &self,
        operation: Operation,
        sector: u64,
        buffer: Buffer<P>,
    ) -> (Buffer<P>, Result<(), BlockError>) {
        if let Err(error) = self.check(sector, &buffer) {
            return (buffer, Err(error));
        }
        let turn = Turn::new(&self.waiters);
        let mut held = Some(buffer);
        let submitted = poll_fn(|context| {
            self.poll(context, || {
                let buffer = held.take()?;
                match self.submit(operation, sector, buffer) {
                    Ok(ticket) => Some(Ok(ticket)),
                    Err((None, buffer)) => {
                        held = Some(buffer);
                        None
                    }
                    Err((Some(error), buffer)) => Some(Err((error, buffer))),
                }
            })
        })
        .await;
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err((error, buffer)) => return (buffer, Err(error)),
        };
        let waiting = Waiting { disk: self, ticket };
        let taken = poll_fn(|context| {
            self.poll(context, || match self.take(ticket) {
                Some((Some(buffer), result)) => Some((buffer, result)),
                _ => None,
            })
        })
        .await;
        drop(waiting);
        drop(turn);
        taken
    }

    fn check(&self, sector: u64, buffer: &Buffer<P>) -> Result<(), BlockError> {
        let bytes = buffer.len();
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_SIZE) {
            return Err(BlockError::Misaligned);
        }
        if buffer.pages_used() > self.most_segments() {
            return Err(BlockError::TooLarge);
        }
        let end = sector.checked_add((bytes / SECTOR_SIZE) as u64);
        if end.is_none_or(|end| end > self.shape.sectors) {
            return Err(BlockError::OutOfRange);
        }
        Ok(())
    }

    /// Takes answers, tries, and waits for an event if nothing came of it.
    fn poll<T>(&self, context: &mut Context<'_>, mut attempt: impl FnMut() -> Option<T>) -> Poll<T> {
        for again in [true, false] {
            self.take_answers();
            if let Some(value) = attempt() {
                return Poll::Ready(value);
            }
            if again {
                self.waiters.wait(self.grants.platform(), self.channel.port(), context);
            }
        }
        Poll::Pending
    }

    /// Closes the disk and gives the device back, to be connected again. The handshake goes down; requests that nobody
    /// waits for any more are finished by the back end before it answers.
    pub async fn close(mut self) -> Result<Device<'t, 'p, P>, Error> {
        let device = self.device.take().ok_or(Error::Closed)?;
        self.shut(&device).await?;
        Ok(device)
    }

    /// Waits until the back end takes the disk away (hot unplug, or its end), and lets go of everything. What is in flight
    /// then, and every request after it, fails with [`BlockError::Closed`]. A task of its own beside those that use the disk
    /// waits here; [`close`](Self::close) the disk afterwards.
    pub async fn unplugged(&self) -> Result<(), Error> {
        let Some(device) = &self.device else { return Ok(()) };
        device.wait_back(|back| matches!(back, State::Closing | State::Closed | State::Unknown)).await?;
        self.shut(device).await
    }

    /// What the back end did that no back end may, if it did: the disk is closed since.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    async fn shut(&self, device: &Device<'_, 'p, P>) -> Result<(), Error> {
        self.closed.set(true);
        device.part(&self.farewell).await?;
        self.abort();
        Ok(())
    }

    /// Ends the connection after the back end has gone: everything in flight fails, the ring is taken back.
    fn abort(&self) {
        self.closed.set(true);
        self.take_answers();
        let ring = self.ring.borrow_mut().take();
        if let Some(ring) = ring {
            self.grants.bury(self.ring_references.get(), ring.into_pages());
        }
        self.flights.borrow_mut().fail(self.grants);
        self.waiters.wake();
    }
}

impl<P: Platform> Drop for Disk<'_, '_, P> {
    fn drop(&mut self) {
        self.abort();
        self.flights.borrow_mut().bury(self.grants);
        if let Some((references, buffer)) = self.indirect.take() {
            self.grants.bury(references, buffer);
        }
    }
}

impl<P: Platform> fmt::Debug for Disk<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// A wait for an answer. Dropped before it came, it lets the disk keep the buffer until then.
struct Waiting<'d, 't, 'p, P: Platform> {
    disk: &'d Disk<'t, 'p, P>,
    ticket: Ticket,
}

impl<P: Platform> Drop for Waiting<'_, '_, '_, P> {
    fn drop(&mut self) {
        self.disk.flights.borrow_mut().abandon(self.ticket);
    }
}
