//! The hypervisor's heap: one piece of boot memory.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;
use spin::Mutex;

/// Bytes of the heap.
pub const SIZE: u64 = 4 << 20;

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

/// Starts the heap at `address`.
///
/// # Safety
/// `SIZE` bytes there are mapped, belong to nobody else, for ever; called once.
pub unsafe fn init(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(address as *mut u8, SIZE as usize) };
}

/// Bytes in use.
pub fn used() -> usize {
    HEAP.0.lock().used()
}
