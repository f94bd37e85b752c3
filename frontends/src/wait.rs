//! Tasks that wait for the same event channel.
//!
//! The kernel wakes one waker for each port. Whoever waits last is that one, looks at the ring for everybody, and wakes
//! the others when something has happened; whoever stops waiting wakes the others too, so that one of them takes over.

use core::cell::{Cell, RefCell};
use core::task::{Context, Waker};

use trunnion_protocol::id::Port;
use trunnion_protocol::planted::{self, Bug};

use crate::platform::Platform;

/// Wakers of waiting tasks. Tasks beyond `N` are woken again at once, and so poll in turns.
#[derive(Debug)]
pub struct Waiters<const N: usize> {
    tasks: RefCell<[Option<Waker>; N]>,
    seen: Cell<u64>,
}

impl<const N: usize> Waiters<N> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { tasks: RefCell::new([const { None }; N]), seen: Cell::new(0) }
    }

    /// Makes this task wait for events on `port`. What it waits for is to be looked at once more after this.
    pub fn wait<P: Platform>(&self, platform: &P, port: Port, context: &Context<'_>) {
        platform.on_event(port, context.waker());
        self.join(context);
    }

    /// Makes this task wait for others that wait for the port.
    pub fn join(&self, context: &Context<'_>) {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.iter().flatten().any(|task| task.will_wake(context.waker())) {
            return;
        }
        match tasks.iter_mut().find(|task| task.is_none()) {
            Some(place) => *place = Some(context.waker().clone()),
            None => context.waker().wake_by_ref(),
        }
    }

    /// Wakes everybody if the peer's part of the ring is not what it was last time: the event may be for another task.
    pub fn notice(&self, state: u64) {
        if self.seen.replace(state) != state {
            self.wake();
        }
    }

    /// Wakes everybody.
    pub fn wake(&self) {
        // Wakers run foreign code: the table is empty and free while they do.
        let tasks = self.tasks.replace([const { None }; N]);
        tasks.into_iter().flatten().for_each(Waker::wake);
    }
}

impl<const N: usize> Default for Waiters<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A task's wait: when it ends, also by being dropped, the others look for themselves.
#[derive(Debug)]
pub struct Turn<'w, const N: usize>(&'w Waiters<N>);

impl<'w, const N: usize> Turn<'w, N> {
    /// Begins a wait.
    pub const fn new(waiters: &'w Waiters<N>) -> Self {
        Self(waiters)
    }
}

impl<const N: usize> Drop for Turn<'_, N> {
    fn drop(&mut self) {
        if !planted!(ForgottenHandOver) && !planted::is(Bug::LostTurn) {
            self.0.wake();
        }
    }
}
