//! Pages that are shared with others, and guest-physical space without RAM.
//!
//! Guest-physical space is mapped one to one, so a page's frame number is its address divided by the page size.

use alloc::vec::Vec;

use spin::Mutex;
use trunnion_protocol::address::{Gfn, PAGE_SHIFT, PAGE_SIZE};
use trunnion_protocol::shared::SharedPage;
use zerocopy::IntoBytes;

use crate::start::Range;

/// What belongs to this kernel alone: its image and its heap. Pages placed by others are never inside.
static OWN: Mutex<Vec<Range>> = Mutex::new(Vec::new());
/// Unused guest-physical space.
static HOLES: Mutex<Range> = Mutex::new(Range { start: 0, end: 0 });

#[cfg(any(target_os = "none", test))]
/// Names the kernel's own memory and the space that has no RAM, once, at the start.
pub(crate) fn init(own: &[Range], holes: Range) {
    OWN.lock().extend_from_slice(own);
    *HOLES.lock() = holes;
}

/// Pages that this kernel shares with somebody.
pub enum Pages {
    /// From the heap; they go back to it.
    Own(Vec<SharedPage>),
    /// Placed by others; nothing happens when this is dropped.
    Placed(&'static [SharedPage]),
}

impl AsRef<[SharedPage]> for Pages {
    fn as_ref(&self) -> &[SharedPage] {
        match self {
            Self::Own(pages) => pages,
            Self::Placed(pages) => pages,
        }
    }
}

impl Pages {
    /// Frame number of the first page.
    pub fn first(&self) -> Gfn {
        frame(self.as_ref())
    }

    /// The bytes of pages from the heap, for as long as nobody else reaches them; none of pages that others placed. It is for pages
    /// that are never granted: all that others do to them is what the hypervisor copies in a call of this kernel's, which is over
    /// when it returns.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Own(pages) => pages.as_mut_slice().as_mut_bytes(),
            Self::Placed(_) => &mut [],
        }
    }
}

/// The frame number at which a page (the first of several) lies.
pub fn frame(pages: &[SharedPage]) -> Gfn {
    Gfn(pages.as_ptr() as u64 >> PAGE_SHIFT)
}

/// `count` zeroed pages from the heap, contiguous; `None` when it has not so many.
pub fn pages(count: usize) -> Option<Pages> {
    let mut pages = Vec::new();
    pages.try_reserve_exact(count).ok()?;
    pages.resize_with(count, SharedPage::zeroed);
    Some(Pages::Own(pages))
}

/// Frames that somebody else placed in this domain's space: the hypervisor, the toolstack, a grant or foreign mapping.
/// `None` for frame 0 and for frames that are this kernel's own.
///
/// Where nothing is placed, reads give all ones and writes are dropped, as everywhere in a guest's empty space.
pub fn placed(first: Gfn, count: usize) -> Option<&'static [SharedPage]> {
    let start = first.checked_address()?.0;
    let size = (count as u64).checked_mul(PAGE_SIZE as u64)?;
    let range = Range { start, end: start.checked_add(size)? };
    let foreign = start != 0 && range.end <= 1 << 47 && !OWN.lock().iter().any(|own| own.overlaps(&range));
    if !foreign {
        return None;
    }
    reach(range, count)
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "guest-physical space is reached by its addresses")]
#[expect(clippy::unnecessary_wraps, reason = "on the host there is no such space")]
fn reach(range: Range, count: usize) -> Option<&'static [SharedPage]> {
    crate::paging::reach(range);
    // SAFETY: the identity map covers the range, it is no memory of this kernel's own (checked by the caller), shared pages
    // are atomics, and no other kind of reference is made to space outside the kernel's own.
    Some(unsafe { core::slice::from_raw_parts(range.start as *const SharedPage, count) })
}

#[cfg(not(target_os = "none"))]
fn reach(_: Range, _: usize) -> Option<&'static [SharedPage]> {
    None
}

/// `count` frames of space without RAM, for what the hypervisor shows there; never given out twice.
pub fn holes(count: usize) -> Option<Gfn> {
    let size = (count as u64).checked_mul(PAGE_SIZE as u64)?;
    let mut holes = HOLES.lock();
    let start = holes.start;
    let end = start.checked_add(size)?;
    if start == 0 || end > holes.end {
        return None;
    }
    holes.start = end;
    Some(Gfn(start >> PAGE_SHIFT))
}

/// Bytes of the heap in use, and free.
#[cfg(target_os = "none")]
pub fn heap_usage() -> (u64, u64) {
    crate::heap::usage()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeroed_and_aligned() {
        let pages = pages(3).unwrap();
        assert_eq!(pages.as_ref().len(), 3);
        assert_eq!(pages.first().address().0, pages.as_ref().as_ptr() as u64);
        assert_eq!(pages.as_ref()[2].load::<u64>(4088), Ok(0));
        assert!(super::pages(usize::MAX / 8192).is_none());
        let mut pages = pages;
        pages.bytes()[4095..4099].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!((pages.bytes().len(), pages.as_ref()[1].four(0)), (3 * PAGE_SIZE, Ok([2, 3, 4, 0])));
    }

    #[test]
    fn holes_run_out() {
        assert_eq!(holes(1), None);
        init(&[Range { start: 0x20_0000, end: 0x30_0000 }], Range { start: 0x1000, end: 0x4000 });
        assert_eq!((holes(1), holes(2), holes(1)), (Some(Gfn(1)), Some(Gfn(2)), None));
        assert!(placed(Gfn(0x2ff), 1).is_none() && placed(Gfn(0), 1).is_none());
        assert!(placed(Gfn(u64::MAX), 1).is_none() && placed(Gfn(1), usize::MAX).is_none());
    }
}
