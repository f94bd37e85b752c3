//! Pages that hardware reads by address: control blocks, bitmaps, save areas.

use crate::prelude::*;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

/// A piece of zeroed heap with an alignment, given back when dropped. Its address is its machine address: the heap is mapped
/// one to one.
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block is memory that its owner alone reaches.
unsafe impl Send for Block {}

impl Block {
    /// Allocates `size` bytes aligned to `align`, a power of two.
    pub fn new(size: usize, align: usize) -> Result<Self, OutOfHeap> {
        let layout = Layout::from_size_align(size.max(1), align).map_err(|_| OutOfHeap)?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfHeap)?;
        Ok(Self { start, layout })
    }

    /// Pages of 4 KiB.
    pub fn pages(count: usize) -> Result<Self, OutOfHeap> {
        Self::new(count * 4096, 4096)
    }

    /// The machine address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The first byte.
    pub fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes, for filling them in before hardware is given the address.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block owns this initialised memory, and `&mut` makes the borrow the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }

    /// Never gives it back, for what lives as long as the machine.
    pub fn leak(self) -> u64 {
        let address = self.address();
        core::mem::forget(self);
        address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and given back once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
