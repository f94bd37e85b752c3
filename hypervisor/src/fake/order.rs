//! The check of the lock order: a bit for each rank that this thread holds.

use crate::prelude::*;
use core::cell::Cell;

std::thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// A lock of a rank is about to be taken; panics when one of that rank or above is held.
pub(crate) fn enter(rank: Rank) {
    let held = HELD.get();
    assert!(held >> (rank as u32) == 0, "lock {rank:?} taken out of order: held {held:#x}");
    HELD.set(held | 1 << (rank as u32));
}

/// A lock of a rank was given back.
pub(crate) fn leave(rank: Rank) {
    HELD.set(HELD.get() & !(1 << (rank as u32)));
}
