//! Requests as claims: what a guest asks for becomes an operation of a device, or a refusal.
//!
//! The handle is not looked at: a ring belongs to one device, so the handle names nothing, and Linux leaves it unset in
//! discards.

use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::blkif::{Operation, SECTOR_SIZE, SECTORS_PER_PAGE, SEGMENT_SIZE, Status};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::{Layout, Width};

use super::keys;
use crate::device::{BlockOperation, BlockShape};

/// A request whose numbers are possible.
#[derive(Debug)]
pub(super) enum Checked<'a> {
    /// Moves data; the segments are still to be checked.
    Move { operation: BlockOperation, sector: u64, segments: &'a [Segment] },
    /// Moves data; the segments are still to be fetched, from one page.
    Fetch { operation: BlockOperation, sector: u64, count: usize, page: GrantRef },
    /// Moves nothing.
    Order { operation: BlockOperation, sector: u64 },
}

/// Checks what can be checked without looking at a page.
pub(super) fn request<'a>(request: &'a Request, shape: &BlockShape) -> Result<Checked<'a>, Status> {
    match request {
        Request::Transfer(transfer) => {
            let operation = direction(transfer.operation, shape)?;
            let segments = Transfer::segments(transfer).filter(|segments| !segments.is_empty());
            let segments = segments.ok_or(Status::Error)?;
            Ok(Checked::Move { operation, sector: transfer.sector, segments })
        }
        Request::Indirect(indirect) => fetch(indirect, shape),
        Request::Flush { .. } if !shape.flush => Err(Status::Unsupported),
        Request::Flush { .. } => Ok(Checked::Order { operation: BlockOperation::Flush, sector: 0 }),
        Request::Discard { sector, sectors, secure, .. } => {
            if shape.discard.is_none() || *secure {
                return Err(Status::Unsupported);
            }
            if shape.read_only {
                return Err(Status::Error);
            }
            shape.check_range(*sector, *sectors).map_err(|_| Status::Error)?;
            Ok(Checked::Order { operation: BlockOperation::Discard { sectors: *sectors }, sector: *sector })
        }
        Request::Unknown { .. } => Err(Status::Unsupported),
    }
}

fn direction(operation: Operation, shape: &BlockShape) -> Result<BlockOperation, Status> {
    match operation {
        Operation::Read => Ok(BlockOperation::Read),
        Operation::Write if shape.read_only => Err(Status::Error),
        Operation::Write => Ok(BlockOperation::Write),
        _ => Err(Status::Unsupported),
    }
}

fn fetch<'a>(indirect: &Indirect, shape: &BlockShape) -> Result<Checked<'a>, Status> {
    let inner = Operation::from_number(indirect.inner).ok_or(Status::Unsupported)?;
    let operation = direction(inner, shape)?;
    let count = usize::from(indirect.count);
    if count == 0 || count > keys::indirect_segments(shape) {
        return Err(Status::Error);
    }
    // That many are in the first page.
    let [page, ..] = indirect.pages;
    Ok(Checked::Fetch { operation, sector: indirect.sector, count, page })
}

/// Reads one segment out of the copied bytes of an indirect page.
pub(super) fn segment(bytes: [u8; SEGMENT_SIZE]) -> Segment {
    // The form is the same in both widths, and the bytes are exactly one.
    Segment::decode(Width::W64, &bytes).unwrap_or_default()
}

/// Checks the place of one segment in its page; gives offset and length in bytes.
pub(super) fn place(segment: Segment) -> Result<(usize, usize), Status> {
    if segment.first > segment.last || segment.last >= SECTORS_PER_PAGE {
        return Err(Status::Error);
    }
    let sectors = usize::from(segment.last - segment.first) + 1;
    Ok((usize::from(segment.first) * SECTOR_SIZE, sectors * SECTOR_SIZE))
}

/// Checks that so many bytes from a sector on are on the disk and fit its own sectors.
pub(super) fn range(sector: u64, bytes: u64, shape: &BlockShape) -> Result<(), Status> {
    if !bytes.is_multiple_of(u64::from(shape.sector_size).max(1)) {
        return Err(Status::Error);
    }
    shape.check_range(sector, bytes / SECTOR_SIZE as u64).map_err(|_| Status::Error)
}

/// What pages are mapped for: a device writes what a guest reads.
pub(super) const fn access(operation: BlockOperation) -> Access {
    match operation {
        BlockOperation::Read => Access::ReadWrite,
        _ => Access::ReadOnly,
    }
}
