//! Locks that check their order: a bit for each rank that this thread holds.

use crate::prelude::*;
use core::cell::Cell;
use core::ops::{Deref, DerefMut};

std::thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// A lock that is held.
pub struct Guard<'a, T> {
    rank: Rank,
    inner: spin::MutexGuard<'a, T>,
}

/// Takes a lock; panics when this thread holds one of that rank or above.
pub(crate) fn lock<T>(rank: Rank, inner: &spin::Mutex<T>) -> Guard<'_, T> {
    let held = HELD.get();
    assert!(held >> (rank as u32) == 0, "lock {rank:?} taken out of order: held {held:#x}");
    HELD.set(held | 1 << (rank as u32));
    Guard { rank, inner: inner.lock() }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        HELD.set(HELD.get() & !(1 << (self.rank as u32)));
    }
}
