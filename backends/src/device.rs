//! What devices look like from above: storage and byte streams. Network ports are in [`crate::frame`].
//!
//! A request *owns* the guest pages that it moves. Submitting takes them, completion gives them back; whoever waits may
//! go away in between and nothing is pulled from under a device's DMA. The same traits serve paravirtual back ends and
//! emulated controllers, so that the two can be compared fairly.

use alloc::vec::Vec;
use core::fmt;
use core::task::{Context, Poll};

use trunnion_protocol::address::{Gfn, MachineAddress, PAGE_SIZE};
use trunnion_protocol::shared::SharedPage;

/// Bytes of a sector in every number of this module.
pub const SECTOR_SIZE: u64 = 512;

/// A page of a guest's memory that stays where it is for as long as this value lives.
pub trait GuestPage {
    /// The page's bytes, which the guest may change at any moment.
    fn shared(&self) -> &SharedPage;
    /// Where this kernel sees the page: its own guest-physical frame.
    fn gfn(&self) -> Gfn;
    /// Where a device finds the page. It need not equal the frame's address.
    fn bus_address(&self) -> MachineAddress;
}

/// A piece of one page.
#[derive(Debug)]
pub struct Segment<P> {
    page: P,
    offset: u16,
    length: u16,
}

impl<P> Segment<P> {
    /// `length` bytes of a page from `offset`; the page comes back if that leaves the page.
    pub fn new(page: P, offset: usize, length: usize) -> Result<Self, P> {
        match offset.checked_add(length) {
            Some(end) if end <= PAGE_SIZE => Ok(Self { page, offset: offset as u16, length: length as u16 }),
            _ => Err(page),
        }
    }

    /// The page.
    pub const fn page(&self) -> &P {
        &self.page
    }

    /// First byte in the page.
    pub const fn offset(&self) -> usize {
        self.offset as usize
    }

    /// Bytes.
    pub const fn length(&self) -> usize {
        self.length as usize
    }

    /// Gives the page back.
    pub fn into_page(self) -> P {
        self.page
    }
}

impl<P: GuestPage> Segment<P> {
    /// Where a device finds the first byte.
    pub fn bus_address(&self) -> MachineAddress {
        MachineAddress(self.page.bus_address().0.wrapping_add(u64::from(self.offset)))
    }
}

/// What a request does. Sectors are of [`SECTOR_SIZE`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockOperation {
    /// From the device to the segments.
    Read,
    /// From the segments to the device.
    Write,
    /// Everything that completed before is made durable. No segments.
    Flush,
    /// So many sectors are no longer needed. No segments.
    Discard {
        /// How many.
        sectors: u64,
    },
}

/// A request that owns the pages it moves.
#[derive(Debug)]
pub struct BlockRequest<P> {
    /// What to do.
    pub operation: BlockOperation,
    /// First sector on the device.
    pub sector: u64,
    /// Where the data is, in order. Their lengths sum to whole sectors.
    pub segments: Vec<Segment<P>>,
}

impl<P> BlockRequest<P> {
    /// Bytes that the segments hold.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length() as u64).sum()
    }

    /// Sectors that it touches.
    pub fn sectors(&self) -> u64 {
        match self.operation {
            BlockOperation::Read | BlockOperation::Write => self.bytes() / SECTOR_SIZE,
            BlockOperation::Flush => 0,
            BlockOperation::Discard { sectors } => sectors,
        }
    }
}

/// What discards are rounded to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscardShape {
    /// Bytes of a granule.
    pub granularity: u32,
    /// Bytes by which the granules are shifted.
    pub alignment: u32,
}

/// What a block device can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockShape {
    /// Size in sectors of [`SECTOR_SIZE`] bytes.
    pub sectors: u64,
    /// Bytes that requests are aligned to: a power of two, at least 512.
    pub sector_size: u32,
    /// Bytes that the medium is written in, at least `sector_size`.
    pub physical_sector_size: u32,
    /// Writes fail.
    pub read_only: bool,
    /// It has a cache that [`BlockOperation::Flush`] empties. Without it every completed write is durable.
    pub flush: bool,
    /// Discards, if it has them.
    pub discard: Option<DiscardShape>,
    /// Most segments of a request.
    pub max_segments: usize,
}

impl BlockShape {
    /// Checks a request against the shape: direction, bounds, alignment, number of segments.
    pub fn check<P>(&self, request: &BlockRequest<P>) -> Result<(), BlockError> {
        let writes = matches!(request.operation, BlockOperation::Write | BlockOperation::Discard { .. });
        if writes && self.read_only {
            return Err(BlockError::ReadOnly);
        }
        match request.operation {
            BlockOperation::Flush if !self.flush => return Err(BlockError::Unsupported),
            BlockOperation::Discard { .. } if self.discard.is_none() => return Err(BlockError::Unsupported),
            BlockOperation::Flush | BlockOperation::Discard { .. } if !request.segments.is_empty() => {
                return Err(BlockError::Malformed);
            }
            BlockOperation::Read | BlockOperation::Write
                if request.segments.is_empty()
                    || request.segments.len() > self.max_segments
                    || !request.bytes().is_multiple_of(u64::from(self.sector_size).max(SECTOR_SIZE)) =>
            {
                return Err(BlockError::Malformed);
            }
            _ => {}
        }
        self.check_range(request.sector, request.sectors())
    }

    /// Checks that sectors exist and begin where the device's own sectors begin.
    pub fn check_range(&self, sector: u64, sectors: u64) -> Result<(), BlockError> {
        let per = u64::from(self.sector_size) / SECTOR_SIZE;
        match sector.checked_add(sectors) {
            Some(end) if end <= self.sectors => {}
            _ => return Err(BlockError::OutOfRange),
        }
        if sector.checked_rem(per).unwrap_or(0) != 0 { Err(BlockError::Malformed) } else { Ok(()) }
    }
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// The device says so.
    Device,
    /// Sectors that do not exist.
    OutOfRange,
    /// A write to a read-only device.
    ReadOnly,
    /// The device cannot do that.
    Unsupported,
    /// Wrong alignment, or a number of segments that it does not take.
    Malformed,
    /// The device was reset or is gone; the request may or may not have been carried out.
    Gone,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device error",
            Self::OutOfRange => "beyond the end of the device",
            Self::ReadOnly => "the device is read-only",
            Self::Unsupported => "not supported by the device",
            Self::Malformed => "malformed request",
            Self::Gone => "the device is gone",
        })
    }
}

impl core::error::Error for BlockError {}

/// Names a submitted request to its submitter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// There is no room; the request comes back, to be submitted after a completion.
#[derive(Debug)]
pub struct Full<R>(pub R);

/// A request that the device is done with.
#[derive(Debug)]
pub struct Completion<P> {
    /// What [`BlockDevice::submit`] returned.
    pub ticket: Ticket,
    /// The request, with its pages.
    pub request: BlockRequest<P>,
    /// What became of it.
    pub result: Result<(), BlockError>,
}

/// A disk.
///
/// The order of requests in flight is not promised. A device has one owner, who alone submits and polls; a disk that
/// several guests read is shared above the device.
pub trait BlockDevice<P> {
    /// What it can do. The same at every call.
    fn shape(&self) -> BlockShape;

    /// Takes a request and its pages. A malformed request completes with an error, like any other.
    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>>;

    /// The next completed request. When there is none, the context's waker is woken at the next completion.
    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>>;

    /// The frame where the first sector begins, of a disk that is nothing but pages of this kernel's in a row: reads and writes
    /// inside its shape may then go there without the device. The same at every call.
    fn memory(&self) -> Option<Gfn> {
        None
    }
}

impl<P, D: BlockDevice<P> + ?Sized> BlockDevice<P> for alloc::boxed::Box<D> {
    fn shape(&self) -> BlockShape {
        (**self).shape()
    }
    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        (**self).submit(request)
    }
    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        (**self).poll_completed(context)
    }
    fn memory(&self) -> Option<Gfn> {
        (**self).memory()
    }
}

impl<P, D: BlockDevice<P> + ?Sized> BlockDevice<P> for alloc::rc::Rc<D> {
    fn shape(&self) -> BlockShape {
        (**self).shape()
    }
    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        (**self).submit(request)
    }
    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        (**self).poll_completed(context)
    }
    fn memory(&self) -> Option<Gfn> {
        (**self).memory()
    }
}

/// A stream of bytes in both directions.
pub trait CharDevice {
    /// Takes bytes that have arrived; says how many.
    fn receive(&mut self, into: &mut [u8]) -> usize;
    /// Sends bytes; says how many found room.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// Ready when bytes have arrived or room was made since it was last asked.
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()>;
}
