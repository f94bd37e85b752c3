//! The heap: all memory that the start info calls free, as up to four arenas.
//!
//! Small pieces come in sizes that are powers of two, and some that are given back are kept for the next who asks: most of what a
//! kernel allocates while it works lives briefly, and an arena looks through its holes each time.
#![expect(unsafe_code, reason = "the global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use spin::Mutex;

use crate::start::Range;

/// Most pieces of memory that the heap takes.
pub(crate) const ARENAS: usize = 4;

/// The smallest size, and the alignment of all.
const LEAST: usize = 16;
/// Sizes: 16 bytes to 2 KiB.
const SIZES: usize = 8;
/// Bytes of one size that are kept at most.
const KEPT: usize = 64 << 10;

/// A piece that is free; it lies in the piece itself.
struct Free {
    next: Option<NonNull<Self>>,
}

/// Free pieces of one size.
#[derive(Clone, Copy)]
struct Spare {
    first: Option<NonNull<Free>>,
    bytes: usize,
}

struct State {
    arenas: [(Range, Heap); ARENAS],
    spare: [Spare; SIZES],
}

// SAFETY: the pointers lead to memory that belongs to the state alone.
unsafe impl Send for State {}

struct Arenas(Mutex<State>);

#[global_allocator]
static HEAP: Arenas = Arenas(Mutex::new(State {
    arenas: [const { (Range { start: 0, end: 0 }, Heap::empty()) }; ARENAS],
    spare: [Spare { first: None, bytes: 0 }; SIZES],
}));

/// Gives the heap its memory, once, before the first allocation.
///
/// # Safety
/// Nothing else uses the pieces, now or later, and they are mapped for writing at addresses equal to their numbers.
pub(crate) unsafe fn init(pieces: &[Range]) {
    let mut state = HEAP.0.lock();
    for (arena, piece) in state.arenas.iter_mut().zip(pieces) {
        arena.0 = *piece;
        // SAFETY: the caller gives these pieces away, and each is used for one arena.
        unsafe { arena.1.init(piece.start as *mut u8, piece.size() as usize) };
    }
}

/// Bytes in use and bytes free.
pub(crate) fn usage() -> (u64, u64) {
    let state = HEAP.0.lock();
    let spare: usize = state.spare.iter().map(|spare| spare.bytes).sum();
    let all = state.arenas.iter();
    let (used, free) = all.fold((0, 0), |(used, free), (_, heap)| (used + heap.used(), free + heap.free()));
    (used.saturating_sub(spare) as u64, (free + spare) as u64)
}

/// Which of the sizes a layout gets, if it is small, and what its piece is in the arena.
fn size(layout: Layout) -> (Option<usize>, Layout) {
    let bytes = layout.size().max(LEAST).next_power_of_two();
    let place = (bytes / LEAST).trailing_zeros() as usize;
    match Layout::from_size_align(bytes, LEAST) {
        Ok(piece) if place < SIZES && layout.align() <= LEAST => (Some(place), piece),
        _ => (None, layout),
    }
}

// SAFETY: a piece is either in use, or in one list of free pieces, or part of one arena, whose allocator keeps pieces apart. It
// goes back by the layout that it came with, since `size` depends on nothing else, to the arena that its address is in.
unsafe impl GlobalAlloc for Arenas {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (place, layout) = size(layout);
        let mut state = self.0.lock();
        if let Some(spare) = place.and_then(|place| state.spare.get_mut(place))
            && let Some(free) = spare.first
        {
            // SAFETY: what is in the list is free, and was written when it was put there.
            spare.first = unsafe { free.as_ref() }.next;
            spare.bytes -= layout.size();
            return free.as_ptr().cast();
        }
        let mut arenas = state.arenas.iter_mut();
        arenas
            .find_map(|(_, heap)| heap.allocate_first_fit(layout).ok())
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let (place, layout) = size(layout);
        let Some(pointer) = NonNull::new(pointer) else { return };
        let mut state = self.0.lock();
        if let Some(spare) = place.and_then(|place| state.spare.get_mut(place))
            && spare.bytes < KEPT
        {
            let free = pointer.cast::<Free>();
            // SAFETY: nobody uses the piece any more, and every size has room for this and its alignment.
            unsafe { free.write(Free { next: spare.first }) };
            spare.first = Some(free);
            spare.bytes += layout.size();
            return;
        }
        let address = pointer.as_ptr() as u64;
        let mut arenas = state.arenas.iter_mut();
        if let Some((_, heap)) = arenas.find(|(range, _)| range.start <= address && address < range.end) {
            // SAFETY: the caller got `pointer` from `alloc` with this layout, and this arena is the one that holds it.
            unsafe { heap.deallocate(pointer, layout) };
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(bytes, layout.align()) else { return core::ptr::null_mut() };
        if size(wanted) == size(layout) {
            return pointer;
        }
        // SAFETY: by the caller's promise `pointer` came with `layout`; the new piece is another one.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(pointer, layout.size().min(bytes));
                self.dealloc(pointer, layout);
            }
            moved
        }
    }
}
