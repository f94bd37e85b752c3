//! The hypervisor's heap: one piece of boot memory.

use linked_list_allocator::LockedHeap;

/// Bytes for everything but the frame table.
const BASE: u64 = 4 << 20;
/// Bytes of the frame table for one page of the host.
const FRAME: u64 = 16;

/// Bytes of the heap of a host whose RAM ends at an address.
pub const fn size(ram_end: u64) -> u64 {
    BASE + ((ram_end >> 12) * FRAME).next_multiple_of(1 << 20)
}

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Starts the heap: `size` bytes at `address`.
///
/// # Safety
/// The bytes there are mapped, belong to nobody else, for ever; called once.
pub unsafe fn init(address: u64, size: u64) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(address as *mut u8, size as usize) };
}
