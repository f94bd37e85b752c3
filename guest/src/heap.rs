//! The heap: all memory that the start info calls free, as up to four arenas.
#![expect(unsafe_code, reason = "the global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use spin::Mutex;

use crate::start::Range;

/// Most pieces of memory that the heap takes.
pub(crate) const ARENAS: usize = 4;

struct Arenas(Mutex<[(Range, Heap); ARENAS]>);

#[global_allocator]
static HEAP: Arenas = Arenas(Mutex::new([const { (Range { start: 0, end: 0 }, Heap::empty()) }; ARENAS]));

/// Gives the heap its memory, once, before the first allocation.
///
/// # Safety
/// Nothing else uses the pieces, now or later, and they are mapped for writing at addresses equal to their numbers.
pub(crate) unsafe fn init(pieces: &[Range]) {
    let mut arenas = HEAP.0.lock();
    for (arena, piece) in arenas.iter_mut().zip(pieces) {
        arena.0 = *piece;
        // SAFETY: the caller gives these pieces away, and each is used for one arena.
        unsafe { arena.1.init(piece.start as *mut u8, piece.size() as usize) };
    }
}

/// Bytes in use and bytes free.
pub(crate) fn usage() -> (u64, u64) {
    let arenas = HEAP.0.lock();
    arenas
        .iter()
        .fold((0, 0), |(used, free), (_, heap)| (used + heap.used() as u64, free + heap.free() as u64))
}

// SAFETY: each allocation comes from one arena, whose allocator keeps allocations apart, and goes back to the same one,
// found by its address.
unsafe impl GlobalAlloc for Arenas {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut arenas = self.0.lock();
        arenas
            .iter_mut()
            .find_map(|(_, heap)| heap.allocate_first_fit(layout).ok())
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let address = pointer as u64;
        let mut arenas = self.0.lock();
        let home = arenas.iter_mut().find(|(range, _)| range.start <= address && address < range.end);
        if let (Some((_, heap)), Some(pointer)) = (home, NonNull::new(pointer)) {
            // SAFETY: the caller got `pointer` from `alloc` with this layout, and this arena is the one that holds it.
            unsafe { heap.deallocate(pointer, layout) };
        }
    }
}
