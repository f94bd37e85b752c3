//! Allocations of frames that fail when a test wants it. A machine's work runs on one thread, and so do its faults.

use core::cell::Cell;

std::thread_local! {
    /// The allocation that fails, counted down; 0 is none.
    static FAILS: Cell<u32> = const { Cell::new(0) };
}

/// Makes the allocation that is the `count`th from now fail; 0 makes none fail.
pub fn fail_after(count: u32) {
    FAILS.set(count);
}

/// Whether this allocation is the one.
pub(crate) fn is_to_fail() -> bool {
    let left = FAILS.get();
    FAILS.set(left.saturating_sub(1));
    left == 1
}
