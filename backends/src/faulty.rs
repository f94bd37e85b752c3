//! A device that misbehaves on request, around one that does not: for tests and the simulation.

use alloc::collections::VecDeque;
use core::cell::RefCell;
use core::task::{Context, Poll, Waker};

use crate::device::{BlockDevice, BlockError, BlockRequest, BlockShape, Completion, Full, Ticket};

/// What happens to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is carried out.
    Pass,
    /// It fails without being carried out.
    Fail(BlockError),
    /// It stays in flight, with its pages, until [`Faulty::release`].
    Hold,
    /// The device says that it is full.
    Refuse,
}

/// A device whose requests meet the fates that `F` chooses.
pub struct Faulty<D, F, P> {
    device: D,
    state: RefCell<State<F, P>>,
}

struct State<F, P> {
    choose: F,
    held: VecDeque<(Ticket, BlockRequest<P>)>,
    /// Completed here, without the device.
    failed: VecDeque<Completion<P>>,
    /// Outer and inner ticket of what the device has.
    passed: VecDeque<(Ticket, Ticket)>,
    next: u64,
    waker: Option<Waker>,
}

impl<D: BlockDevice<P>, F: FnMut(&BlockRequest<P>) -> Fate, P> Faulty<D, F, P> {
    /// Wraps a device.
    pub fn new(device: D, choose: F) -> Self {
        let state = State {
            choose,
            held: VecDeque::new(),
            failed: VecDeque::new(),
            passed: VecDeque::new(),
            next: 0,
            waker: None,
        };
        Self { device, state: RefCell::new(state) }
    }

    /// Requests that are held.
    pub fn held(&self) -> usize {
        self.state.borrow().held.len()
    }

    /// Lets the held request at this place go to the device. False if there is none, or the device is full.
    pub fn release(&self, index: usize) -> bool {
        let mut state = self.state.borrow_mut();
        let Some((outer, request)) = state.held.remove(index) else { return false };
        match self.device.submit(request) {
            Ok(inner) => {
                state.passed.push_back((outer, inner));
                state.wake();
                true
            }
            Err(Full(request)) => {
                state.held.push_back((outer, request));
                false
            }
        }
    }

    /// The device inside.
    pub const fn inner(&self) -> &D {
        &self.device
    }
}

impl<F, P> State<F, P> {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<D: BlockDevice<P>, F: FnMut(&BlockRequest<P>) -> Fate, P> BlockDevice<P> for Faulty<D, F, P> {
    fn shape(&self) -> BlockShape {
        self.device.shape()
    }

    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        let mut state = self.state.borrow_mut();
        let outer = Ticket(state.next);
        match (state.choose)(&request) {
            Fate::Refuse => return Err(Full(request)),
            Fate::Hold => state.held.push_back((outer, request)),
            Fate::Fail(error) => {
                state.failed.push_back(Completion { ticket: outer, request, result: Err(error) });
                state.wake();
            }
            Fate::Pass => {
                let inner = self.device.submit(request)?;
                state.passed.push_back((outer, inner));
            }
        }
        state.next = state.next.wrapping_add(1);
        Ok(outer)
    }

    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        let mut state = self.state.borrow_mut();
        state.waker = Some(context.waker().clone());
        if let Some(completion) = state.failed.pop_front() {
            return Poll::Ready(completion);
        }
        match self.device.poll_completed(context) {
            Poll::Ready(mut completion) => {
                let place = state.passed.iter().position(|(_, inner)| *inner == completion.ticket);
                if let Some((outer, _)) = place.and_then(|place| state.passed.remove(place)) {
                    completion.ticket = outer;
                }
                Poll::Ready(completion)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
