//! The pages of a ring, seen as one run of bytes.

use core::sync::atomic::Ordering;

use super::HEADER_SIZE;
use crate::address::PAGE_SIZE;
use crate::layout::Layout;
use crate::layout::Width;
use crate::planted::{self, Bug};
use crate::shared::{SharedPage, Word};

/// Pages in the order of their index, however their owner keeps them.
pub trait Pages {
    /// How many there are; the same number at every call.
    fn count(&self) -> usize;
    /// One of them; `None` only from `count` on.
    fn page(&self, index: usize) -> Option<&SharedPage>;
}

impl Pages for &SharedPage {
    fn count(&self) -> usize {
        1
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        (index == 0).then_some(*self)
    }
}

impl Pages for &[SharedPage] {
    fn count(&self) -> usize {
        self.len()
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.get(index)
    }
}

impl<const N: usize> Pages for [&SharedPage; N] {
    fn count(&self) -> usize {
        N
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.get(index).copied()
    }
}

/// A word of the header, or nothing if there is no page.
pub(super) fn word<P: Pages>(pages: &P, offset: usize) -> Option<&Word> {
    pages.page(0)?.word_at(offset)
}

pub(super) fn load<P: Pages>(pages: &P, offset: usize) -> u32 {
    word(pages, offset).map_or(0, |word| word.load(Ordering::Acquire))
}

pub(super) fn store<P: Pages>(pages: &P, offset: usize, value: u32) {
    if let Some(word) = word(pages, offset) {
        word.store(value, Ordering::Release);
    }
}

/// Offset of a slot from the ring's first byte. `slots` is a power of two.
fn place(index: u32, slots: u32, stride: usize) -> usize {
    if planted::is(Bug::UnmaskedIndex) {
        return HEADER_SIZE + index as usize * stride;
    }
    HEADER_SIZE + (index & slots.wrapping_sub(1)) as usize * stride
}

/// Copies a slot's value out. `None` cannot happen in a ring that was made with enough pages.
pub(super) fn read<P: Pages, T: Layout>(
    pages: &P,
    width: Width,
    index: u32,
    slots: u32,
    stride: usize,
) -> Option<T> {
    let mut bytes = T::ZEROED;
    let bytes = bytes.as_mut().get_mut(..T::size(width))?;
    let mut at = place(index, slots, stride);
    let mut rest = &mut *bytes;
    while !rest.is_empty() {
        let (page, offset) = (at / PAGE_SIZE, at % PAGE_SIZE);
        let (piece, next) = rest.split_at_mut(rest.len().min(PAGE_SIZE - offset));
        pages.page(page)?.copy_out(offset, piece).ok()?;
        at += piece.len();
        rest = next;
    }
    T::decode(width, bytes)
}

/// Copies a value into a slot; bytes of padding are zero, so that nothing of ours leaks.
pub(super) fn write<P: Pages, T: Layout>(
    pages: &P,
    width: Width,
    index: u32,
    slots: u32,
    stride: usize,
    value: &T,
) -> Option<()> {
    let mut bytes = T::ZEROED;
    let bytes = bytes.as_mut().get_mut(..T::size(width))?;
    value.encode(width, bytes)?;
    let mut at = place(index, slots, stride);
    let mut rest = &*bytes;
    while !rest.is_empty() {
        let (page, offset) = (at / PAGE_SIZE, at % PAGE_SIZE);
        let (piece, next) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
        pages.page(page)?.copy_in(offset, piece).ok()?;
        at += piece.len();
        rest = next;
    }
    Some(())
}
