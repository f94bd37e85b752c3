//! A disk in memory.
//!
//! Requests complete at once. The bytes belong to the disk and are never written back anywhere.

use alloc::collections::VecDeque;
use core::cell::RefCell;
use core::task::{Context, Poll, Waker};

use trunnion_protocol::address::Gfn;

use crate::device::{
    BlockDevice, BlockError, BlockOperation, BlockRequest, BlockShape, Completion, Full, GuestPage,
    SECTOR_SIZE, Ticket,
};

/// Requests that wait for their owner at most, so that one who does not poll holds no memory without end.
const QUEUE: usize = 1024;
/// Most segments of a request; no need of the disk, just a bound.
const MAX_SEGMENTS: usize = 256;

/// A disk whose sectors are the bytes of `S`. An odd tail that fills no sector is out of reach.
pub struct RamDisk<S, P> {
    shape: BlockShape,
    first: Option<Gfn>,
    state: RefCell<State<S, P>>,
}

struct State<S, P> {
    bytes: S,
    next: u64,
    completed: VecDeque<Completion<P>>,
    waker: Option<Waker>,
}

impl<S: AsMut<[u8]>, P> RamDisk<S, P> {
    /// A disk of these bytes.
    pub fn new(mut bytes: S, read_only: bool) -> Self {
        let sectors = bytes.as_mut().len() as u64 / SECTOR_SIZE;
        Self {
            shape: BlockShape {
                sectors,
                sector_size: SECTOR_SIZE as u32,
                physical_sector_size: SECTOR_SIZE as u32,
                read_only,
                flush: true,
                // Nothing would be given back to anybody, and zeroing a range of a guest's choice takes its time.
                discard: None,
                max_segments: MAX_SEGMENTS,
            },
            first: None,
            state: RefCell::new(State { bytes, next: 0, completed: VecDeque::new(), waker: None }),
        }
    }

    /// Says that the bytes are the pages of this kernel's from `first` on, in a row, and that nobody keeps a reference to them.
    #[must_use]
    pub fn placed(self, first: Gfn) -> Self {
        Self { first: Some(first), ..self }
    }

    /// Gives the bytes back.
    pub fn into_bytes(self) -> S {
        self.state.into_inner().bytes
    }

    /// Looks at the bytes.
    pub fn with_bytes<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R
    where
        S: AsRef<[u8]>,
    {
        look(self.state.borrow().bytes.as_ref())
    }
}

impl<S: AsMut<[u8]>, P: GuestPage> State<S, P> {
    fn carry_out(&mut self, request: &BlockRequest<P>) -> Result<(), BlockError> {
        let bytes = self.bytes.as_mut();
        let start = usize::try_from(request.sector)
            .ok()
            .and_then(|sector| sector.checked_mul(SECTOR_SIZE as usize))
            .ok_or(BlockError::OutOfRange)?;
        match request.operation {
            BlockOperation::Flush => Ok(()),
            BlockOperation::Discard { .. } => Err(BlockError::Unsupported),
            BlockOperation::Read | BlockOperation::Write => {
                let mut rest = bytes.get_mut(start..).ok_or(BlockError::OutOfRange)?;
                for segment in &request.segments {
                    let (piece, next) =
                        rest.split_at_mut_checked(segment.length()).ok_or(BlockError::OutOfRange)?;
                    let page = segment.page().shared();
                    let copied = if request.operation == BlockOperation::Read {
                        page.copy_in(segment.offset(), piece)
                    } else {
                        page.copy_out(segment.offset(), piece)
                    };
                    copied.map_err(|_| BlockError::Malformed)?;
                    rest = next;
                }
                Ok(())
            }
        }
    }
}

impl<S: AsMut<[u8]>, P: GuestPage> BlockDevice<P> for RamDisk<S, P> {
    fn shape(&self) -> BlockShape {
        self.shape
    }

    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        let mut state = self.state.borrow_mut();
        if state.completed.len() >= QUEUE {
            return Err(Full(request));
        }
        let ticket = Ticket(state.next);
        state.next = state.next.wrapping_add(1);
        let result = self.shape.check(&request).and_then(|()| state.carry_out(&request));
        state.completed.push_back(Completion { ticket, request, result });
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Ok(ticket)
    }

    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        let mut state = self.state.borrow_mut();
        if let Some(completion) = state.completed.pop_front() {
            return Poll::Ready(completion);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn memory(&self) -> Option<Gfn> {
        self.first
    }
}
