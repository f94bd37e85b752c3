//! The hypervisor's heap: one piece of boot memory.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;
use spin::Mutex;

/// Bytes for everything but the frame table.
const BASE: u64 = 4 << 20;
/// Bytes of the frame table for one page of the host.
const FRAME: u64 = 16;

/// Bytes of the heap of a host whose RAM ends at an address.
pub const fn size(ram_end: u64) -> u64 {
    BASE + ((ram_end >> 12) * FRAME).next_multiple_of(1 << 20)
}

struct Locked(Mutex<Heap>);

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::empty()));

// SAFETY: the allocator behind the lock gives out disjoint pieces of the memory that `init` was promised.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller gives back what `alloc` gave, with the same layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}

/// Starts the heap: `size` bytes at `address`.
///
/// # Safety
/// The bytes there are mapped, belong to nobody else, for ever; called once.
pub unsafe fn init(address: u64, size: u64) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(address as *mut u8, size as usize) };
}
