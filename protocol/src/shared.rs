//! Memory that somebody else may write at any moment.
//!
//! A page that another domain can reach is never a Rust reference to plain data: it is a [`SharedPage`], an array of
//! atomic words. Small values are loaded and stored as owned copies; bulk data is copied in and out. Nothing read twice
//! is assumed to be the same twice, so callers load once and keep the copy.
//!
//! Words are 32 bits wide because that is enough for every word of the ABI that two sides change at once: event bitmaps
//! and selectors, grant flags with their domain, ring indices, version counters.
//!
//! Ordering: bulk copies and [`SharedPage::load`]/[`SharedPage::store`] order nothing. Whoever publishes data does so by
//! a release store (or a full barrier) of the index word, and whoever consumes it loads that word with acquire.
#![expect(unsafe_code, reason = "the bulk copies in and out of shared pages, and nothing else")]

use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};
/// A word that two sides change, and the barrier between two such words. They have one name, so that the test of all
/// interleavings can put its own in their place.
pub(crate) use core::sync::atomic::{AtomicU32 as Word, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::address::PAGE_SIZE;

const WORDS: usize = PAGE_SIZE / size_of::<u32>();
const ENTRIES: usize = PAGE_SIZE / size_of::<u64>();
/// A cache line, in bytes.
const LINE: usize = 64;
/// Up to this many bytes, aligned copies go word by word: starting a string instruction costs more.
const SMALL: usize = 64;

/// A byte offset inside a page that is a multiple of four and below the page's size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WordOffset(u16);

impl WordOffset {
    /// Checks an offset in bytes: `None` unless it is a multiple of four inside the page.
    pub const fn new(offset: usize) -> Option<Self> {
        if offset < PAGE_SIZE && offset.is_multiple_of(4) { Some(Self(offset as u16)) } else { None }
    }

    /// An offset known when the program is written; a wrong one does not compile.
    pub const fn at<const OFFSET: usize>() -> Self {
        const { assert!(OFFSET < PAGE_SIZE && OFFSET.is_multiple_of(4), "not a word of a page") };
        Self(OFFSET as u16)
    }

    /// The offset in bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// An access that would leave the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfPage;

impl core::fmt::Display for OutOfPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("access crosses the end of a page")
    }
}

impl core::error::Error for OutOfPage {}

/// One 4 KiB page that another domain may read or write at any moment.
#[derive(FromBytes, IntoBytes)]
#[repr(C, align(4096))]
pub struct SharedPage([AtomicU32; WORDS]);

impl SharedPage {
    /// A page of zeroes.
    pub const fn zeroed() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    /// One atomic word.
    #[inline]
    pub const fn word(&self, offset: WordOffset) -> &AtomicU32 {
        // The mask repeats what `WordOffset` promises, so that no bounds check is left.
        &self.0[(offset.0 as usize / 4) & (WORDS - 1)]
    }

    /// One atomic word at a byte offset that is not known in advance; `None` when it is no word of the page.
    #[inline]
    pub const fn word_at(&self, offset: usize) -> Option<&AtomicU32> {
        match WordOffset::new(offset) {
            Some(offset) => Some(self.word(offset)),
            None => None,
        }
    }

    /// The page's 64-bit entry `index`, as page tables are made of, read as a whole. Only the low nine bits of the index
    /// count.
    #[inline]
    pub fn entry(&self, index: usize) -> u64 {
        bulk::entry(&self.0, index & (ENTRIES - 1))
    }

    /// Replaces an entry as a whole, after everything that was written before.
    #[inline]
    pub fn set_entry(&self, index: usize, value: u64) {
        bulk::set_entry(&self.0, index & (ENTRIES - 1), value);
    }

    /// Four bytes at any offset: one that is no multiple of four may show parts of two writes.
    #[inline]
    pub fn four(&self, offset: usize) -> Result<[u8; 4], OutOfPage> {
        check(offset, 4)?;
        // SAFETY: just checked to be inside the page.
        Ok(unsafe { bulk::four(&self.0, offset) })
    }

    /// An owned copy of a value at a byte offset; each byte is read exactly once.
    #[inline]
    pub fn load<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, OutOfPage> {
        let mut value = T::new_zeroed();
        self.copy_out(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value at a byte offset; each byte is written exactly once.
    #[inline]
    pub fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Result<(), OutOfPage> {
        self.copy_in(offset, value.as_bytes())
    }

    /// Copies bytes out of the page.
    #[inline]
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfPage> {
        check(offset, into.len())?;
        if let (Ok(bytes), Some(word)) = (<&mut [u8; 4]>::try_from(&mut *into), self.word_at(offset)) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        } else if into.len() <= SMALL && (offset | into.len()).is_multiple_of(8) {
            for (index, bytes) in into.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *bytes = self.entry(offset / 8 + index).to_ne_bytes();
            }
        } else if into.len() <= SMALL && (offset | into.len()).is_multiple_of(4) {
            for (bytes, word) in into.as_chunks_mut::<4>().0.iter_mut().zip(self.words(offset)) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        } else {
            // SAFETY: `check` keeps the source inside this page, `into` is exclusive, and a page that is shared is never
            // lent out as a slice, so the two cannot overlap.
            unsafe { bulk::copy_out(&self.0, offset, into) };
        }
        Ok(())
    }

    /// Copies bytes into the page.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfPage> {
        check(offset, from.len())?;
        if from.len() <= SMALL && (offset | from.len()).is_multiple_of(8) {
            for (index, bytes) in from.as_chunks::<8>().0.iter().enumerate() {
                self.set_entry(offset / 8 + index, u64::from_ne_bytes(*bytes));
            }
        } else if from.len() <= SMALL && (offset | from.len()).is_multiple_of(4) {
            for (bytes, word) in from.as_chunks::<4>().0.iter().zip(self.words(offset)) {
                word.store(u32::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        } else {
            // SAFETY: `check` keeps the destination inside this page, and a page that is shared is never lent out as a
            // slice, so it cannot overlap `from`.
            unsafe { bulk::copy_in(&self.0, offset, from) };
        }
        Ok(())
    }

    /// Copies bytes from another page (or another place of this one, when the two places do not overlap; overlapping ones
    /// leave bytes of either in the destination).
    pub fn copy_between(
        &self,
        offset: usize,
        from: &Self,
        from_offset: usize,
        length: usize,
    ) -> Result<(), OutOfPage> {
        check(offset, length)?;
        check(from_offset, length)?;
        // SAFETY: both ranges were just checked to be inside their pages.
        unsafe { bulk::copy_between(&self.0, offset, &from.0, from_offset, length) };
        Ok(())
    }

    /// Copies the whole of another page.
    pub fn copy_page_from(&self, from: &Self) {
        // SAFETY: both ranges are exactly the pages.
        unsafe { bulk::copy_between(&self.0, 0, &from.0, 0, PAGE_SIZE) };
    }

    /// Fills the page with zeroes.
    pub fn fill_zero(&self) {
        bulk::zero(&self.0);
    }

    /// Whether the page holds nothing but zeroes, as far as one look tells.
    pub fn is_zero(&self) -> bool {
        (0..PAGE_SIZE / LINE).all(|line| bulk::line(&self.0, line) == 0)
    }

    fn words(&self, offset: usize) -> impl Iterator<Item = &AtomicU32> {
        self.0.iter().skip(offset / 4)
    }
}

impl Default for SharedPage {
    fn default() -> Self {
        Self::zeroed()
    }
}

const fn check(offset: usize, length: usize) -> Result<(), OutOfPage> {
    if offset <= PAGE_SIZE && length <= PAGE_SIZE - offset { Ok(()) } else { Err(OutOfPage) }
}

/// String instructions: the compiler can neither split, merge nor repeat their accesses, and what another CPU does to the
/// page at the same time changes which bytes are copied, never what else happens.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod bulk {
    use super::{AtomicU32, LINE, PAGE_SIZE, WORDS};
    use core::arch::asm;

    /// An aligned load of eight bytes is one access (SDM 3, 8.1.1).
    #[inline]
    pub(super) fn entry(page: &[AtomicU32; WORDS], index: usize) -> u64 {
        let value;
        // SAFETY: the caller has cut the index to those of a page, which is readable memory.
        unsafe {
            asm!("mov {}, [{} + 8*{}]", out(reg) value, in(reg) page.as_ptr(), in(reg) index,
                options(nostack, preserves_flags, readonly));
        }
        value
    }

    /// So is a store; stores are not reordered with earlier ones (SDM 3, 8.2.2).
    #[inline]
    pub(super) fn set_entry(page: &[AtomicU32; WORDS], index: usize, value: u64) {
        // SAFETY: as in `entry`; atomics may be written through a shared reference.
        unsafe {
            asm!("mov [{} + 8*{}], {}", in(reg) page.as_ptr(), in(reg) index, in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    /// All bits of a cache line's eight words together.
    #[inline]
    pub(super) fn line(page: &[AtomicU32; WORDS], line: usize) -> u64 {
        let bits;
        // SAFETY: the caller has cut the line to those of a page, which is readable memory.
        unsafe {
            asm!("mov {bits}, [{at}]", "or {bits}, [{at} + 8]", "or {bits}, [{at} + 16]", "or {bits}, [{at} + 24]",
                "or {bits}, [{at} + 32]", "or {bits}, [{at} + 40]", "or {bits}, [{at} + 48]", "or {bits}, [{at} + 56]",
                bits = out(reg) bits, at = in(reg) page.as_ptr().byte_add(line * LINE),
                options(nostack, readonly));
        }
        bits
    }

    /// # Safety
    /// `offset + 4` is at most a page.
    #[inline]
    pub(super) unsafe fn four(page: &[AtomicU32; WORDS], offset: usize) -> [u8; 4] {
        let value: u32;
        // SAFETY: inside the page by the caller's promise.
        unsafe {
            asm!("mov {:e}, [{} + {}]", out(reg) value, in(reg) page.as_ptr(), in(reg) offset,
                options(nostack, preserves_flags, readonly));
        }
        value.to_ne_bytes()
    }

    /// # Safety
    /// `length` bytes can be read at `from` and written at `to`.
    #[inline]
    unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
        // SAFETY: the caller vouches for both ranges; the direction flag is clear by the calling convention.
        unsafe {
            asm!(
                "rep movsq",
                "mov ecx, {rest:e}",
                "rep movsb",
                rest = in(reg) length % 8,
                inout("rcx") length / 8 => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// # Safety
    /// `offset + into.len()` is at most a page.
    pub(super) unsafe fn copy_out(page: &[AtomicU32; WORDS], offset: usize, into: &mut [u8]) {
        // SAFETY: inside the page by the caller's promise; `into` is exclusive and as long as said.
        unsafe { copy(into.as_mut_ptr(), page.as_ptr().cast::<u8>().add(offset), into.len()) };
    }

    /// # Safety
    /// `offset + from.len()` is at most a page.
    pub(super) unsafe fn copy_in(page: &[AtomicU32; WORDS], offset: usize, from: &[u8]) {
        // SAFETY: inside the page by the caller's promise; atomics may be written through a shared reference.
        unsafe { copy(page.as_ptr().cast::<u8>().cast_mut().add(offset), from.as_ptr(), from.len()) };
    }

    /// # Safety
    /// Both offsets plus `length` are at most a page.
    pub(super) unsafe fn copy_between(
        to: &[AtomicU32; WORDS],
        to_offset: usize,
        from: &[AtomicU32; WORDS],
        from_offset: usize,
        length: usize,
    ) {
        // SAFETY: inside both pages by the caller's promise; atomics may be written through a shared reference.
        unsafe {
            copy(
                to.as_ptr().cast::<u8>().cast_mut().add(to_offset),
                from.as_ptr().cast::<u8>().add(from_offset),
                length,
            );
        }
    }

    pub(super) fn zero(page: &[AtomicU32; WORDS]) {
        // SAFETY: exactly the page is written, which consists of atomics.
        unsafe {
            asm!(
                "rep stosq",
                inout("rcx") PAGE_SIZE / 8 => _,
                inout("rdi") page.as_ptr() => _,
                in("rax") 0u64,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// The same by atomic words, for the interpreter and for other processors.
#[cfg(any(not(target_arch = "x86_64"), miri))]
mod bulk {
    use super::{AtomicU32, LINE, Ordering, WORDS};

    fn get(page: &[AtomicU32; WORDS], offset: usize) -> u8 {
        page[offset / 4].load(Ordering::Relaxed).to_ne_bytes()[offset % 4]
    }

    fn put(page: &[AtomicU32; WORDS], offset: usize, byte: u8) {
        let _ = page[offset / 4].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut bytes = word.to_ne_bytes();
            bytes[offset % 4] = byte;
            Some(u32::from_ne_bytes(bytes))
        });
    }

    pub(super) fn entry(page: &[AtomicU32; WORDS], index: usize) -> u64 {
        let [low, high] = [0, 1].map(|half| u64::from(page[index * 2 + half].load(Ordering::Acquire)));
        high << 32 | low
    }

    pub(super) fn set_entry(page: &[AtomicU32; WORDS], index: usize, value: u64) {
        page[index * 2 + 1].store((value >> 32) as u32, Ordering::Release);
        page[index * 2].store(value as u32, Ordering::Release);
    }

    pub(super) fn line(page: &[AtomicU32; WORDS], line: usize) -> u64 {
        let words = page.iter().skip(line * LINE / 4).take(LINE / 4);
        words.fold(0, |bits, word| bits | u64::from(word.load(Ordering::Relaxed)))
    }

    pub(super) unsafe fn four(page: &[AtomicU32; WORDS], offset: usize) -> [u8; 4] {
        [0, 1, 2, 3].map(|index| get(page, offset + index))
    }

    pub(super) unsafe fn copy_out(page: &[AtomicU32; WORDS], offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = get(page, offset + index);
        }
    }

    pub(super) unsafe fn copy_in(page: &[AtomicU32; WORDS], offset: usize, from: &[u8]) {
        for (index, &byte) in from.iter().enumerate() {
            put(page, offset + index, byte);
        }
    }

    pub(super) unsafe fn copy_between(
        to: &[AtomicU32; WORDS],
        to_offset: usize,
        from: &[AtomicU32; WORDS],
        from_offset: usize,
        length: usize,
    ) {
        for index in 0..length {
            put(to, to_offset + index, get(from, from_offset + index));
        }
    }

    pub(super) fn zero(page: &[AtomicU32; WORDS]) {
        for word in page {
            word.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_alignment_match_a_plain_array() {
        let page = SharedPage::zeroed();
        let mut model = [0u8; PAGE_SIZE];
        let pattern: Vec<u8> = (0..300).map(|i| (i * 7 + 3) as u8).collect();
        for offset in [0, 1, 2, 3, 4, 5, 64, 1000, 1001, 3800, 4096 - 300] {
            for length in [0, 1, 3, 4, 7, 8, 9, 16, 63, 64, 65, 112, 299, 300] {
                if offset + length > PAGE_SIZE {
                    continue;
                }
                page.copy_in(offset, &pattern[..length]).unwrap();
                model[offset..offset + length].copy_from_slice(&pattern[..length]);
                let mut out = vec![0; length];
                page.copy_out(offset, &mut out).unwrap();
                assert_eq!(out, &pattern[..length]);
            }
        }
        let mut all = [0; PAGE_SIZE];
        page.copy_out(0, &mut all).unwrap();
        assert_eq!(all, model);
        let other = SharedPage::zeroed();
        other.copy_page_from(&page);
        other.copy_out(0, &mut all).unwrap();
        assert_eq!(all, model);
        assert!(!other.is_zero());
        other.fill_zero();
        assert!(other.is_zero());
        other.copy_out(0, &mut all).unwrap();
        assert_eq!(all, [0; PAGE_SIZE]);
        other.copy_between(5, &page, 1001, 77).unwrap();
        other.copy_out(0, &mut all).unwrap();
        assert_eq!(all[5..82], model[1001..1078]);
        assert_eq!(all[82], 0);
    }

    #[test]
    fn one_byte_makes_a_page_not_zero() {
        let page = SharedPage::zeroed();
        for offset in 0..PAGE_SIZE {
            page.store(offset, &1u8).unwrap();
            assert!(!page.is_zero(), "{offset}");
            page.store(offset, &0u8).unwrap();
            assert!(page.is_zero(), "{offset}");
        }
    }

    #[test]
    fn nothing_leaves_the_page() {
        let page = SharedPage::zeroed();
        assert_eq!(page.load::<u32>(4093), Err(OutOfPage));
        assert_eq!(page.load::<u32>(usize::MAX), Err(OutOfPage));
        assert_eq!(page.store(4096, &0u8), Err(OutOfPage));
        assert_eq!(page.copy_in(4096, &[]), Ok(()));
        assert_eq!(page.copy_in(1, &[0; 4096]), Err(OutOfPage));
        assert_eq!(page.copy_between(0, &page, 4090, 7), Err(OutOfPage));
        assert!(page.word_at(4096).is_none());
        assert!(page.word_at(2).is_none());
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let page = SharedPage::zeroed();
        page.word(WordOffset::at::<8>()).store(0x1122_3344, Ordering::Relaxed);
        assert_eq!(page.load::<u16>(8), Ok(0x3344));
        page.store(11, &0xaau8).unwrap();
        assert_eq!(page.word_at(8).map(|word| word.load(Ordering::Relaxed)), Some(0xaa22_3344));
        page.set_entry(512 + 2, 0x0102_0304_0506_0708);
        assert_eq!((page.entry(2), page.load::<u32>(20)), (0x0102_0304_0506_0708, Ok(0x0102_0304)));
        assert_eq!((page.four(17), page.four(4093)), (Ok([7, 6, 5, 4]), Err(OutOfPage)));
    }
}
