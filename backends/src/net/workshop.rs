//! Pages and lists that all ports share, since only one of them is at work at a time.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::shared::SharedPage;

use super::send::Run;
use crate::frame::{Frame, MAX_FRAME, Place};
use crate::host::{CopyPage, GrantCopier, GrantCopy};

/// Pages that hold any one frame.
const FRAME_PAGES: usize = MAX_FRAME.div_ceil(PAGE_SIZE);
/// Pages for frames made here: so many small ones are copied to a guest at once.
const STAGE_PAGES: usize = 48;

/// Bytes of frames that wait for guests' buffers, at most, of all ports together: guests choose how many wait.
const KEPT: usize = 4 << 20;
/// What such a frame takes beside its bytes.
const EACH: usize = 64;

/// What the ports of one kernel share.
pub struct Shared<H: GrantCopier> {
    pub(super) run: RefCell<Run<H::Local>>,
    pub(super) gather: RefCell<Gather<H::Local>>,
    pub(super) stage: RefCell<Stage<H::Local>>,
    /// A frame that is being worked on, and one made of it.
    pub(super) bytes: RefCell<(Vec<u8>, Vec<u8>)>,
    /// Memory that kept frames have.
    pub(super) kept: Rc<Cell<usize>>,
}

/// Memory of a kept frame, given back when this is dropped.
pub(super) struct Room {
    kept: Rc<Cell<usize>>,
    bytes: usize,
}

impl Room {
    pub(super) fn take(kept: &Rc<Cell<usize>>, bytes: usize) -> Option<Self> {
        let bytes = bytes.saturating_add(EACH);
        kept.set(kept.get().checked_add(bytes).filter(|all| *all <= KEPT)?);
        Some(Self { kept: Rc::clone(kept), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.kept.set(self.kept.get().saturating_sub(self.bytes));
    }
}

impl<H: GrantCopier> Shared<H> {
    /// `None` when there is not enough memory: about 600 KiB.
    pub fn new(host: &H) -> Option<Self> {
        Some(Self {
            run: RefCell::new(Run::new(host)?),
            gather: RefCell::new(Gather::new(host)?),
            stage: RefCell::new(Stage::new(host)?),
            bytes: RefCell::default(),
            kept: Rc::default(),
        })
    }
}

/// Gets the bytes of frames, wherever they lie.
pub struct Gather<L> {
    pages: L,
    first: Gfn,
    copies: Vec<GrantCopy>,
    results: Vec<Result<(), GrantStatus>>,
}

impl<L: AsRef<[SharedPage]>> Gather<L> {
    /// `None` when there is not enough memory.
    pub fn new<H: GrantCopier<Local = L>>(host: &H) -> Option<Self> {
        let (pages, first) = host.local(FRAME_PAGES)?;
        Some(Self { pages, first, copies: Vec::new(), results: Vec::new() })
    }

    /// A page with nothing in it between two calls.
    pub(super) const fn scratch(&self) -> Gfn {
        self.first
    }

    /// The frame's bytes, at the beginning of `buffer`. It grows where it is too short and is never cut: what is used again
    /// and again is not filled with zeroes each time. `None` when some of the bytes cannot be had.
    pub fn pull<'b, H: GrantCopier<Local = L>>(
        &mut self,
        host: &H,
        frame: &Frame<'_>,
        buffer: &'b mut Vec<u8>,
    ) -> Option<&'b mut [u8]> {
        if frame.length > MAX_FRAME {
            return None;
        }
        if buffer.len() < frame.length {
            buffer.resize(frame.length, 0);
        }
        let bytes = buffer.get_mut(..frame.length)?;
        if frame.is_local() {
            return frame.copy_to(bytes).then_some(bytes);
        }
        self.copies.clear();
        self.results.clear();
        let mut at = 0;
        for piece in frame.pieces {
            let (from, offset) = source(&piece.place);
            at = scatter(from, offset, piece.length, self.first, at, &mut self.copies);
        }
        host.copy(&self.copies, &mut self.results);
        if self.results.len() != self.copies.len() || self.results.iter().any(Result::is_err) {
            return None;
        }
        let mut pages = bytes.chunks_mut(PAGE_SIZE).zip(self.pages.as_ref());
        pages.all(|(into, page)| page.copy_out(0, into).is_ok()).then_some(bytes)
    }
}

/// A place, as the hypervisor's copies name it.
pub(super) const fn source(place: &Place<'_>) -> (CopyPage, u16) {
    match *place {
        Place::Granted { domain, reference, offset } => (CopyPage::Granted(domain, reference), offset),
        Place::Local { gfn, offset, .. } => (CopyPage::Local(gfn), offset),
    }
}

/// Copies that put a piece at byte `at` of a run of local pages; returns where it ends.
pub(super) fn scatter(
    from: CopyPage,
    offset: u16,
    length: u16,
    first: Gfn,
    at: usize,
    copies: &mut Vec<GrantCopy>,
) -> usize {
    let (mut offset, mut rest, mut at) = (usize::from(offset), usize::from(length), at);
    while rest > 0 {
        let count = rest.min(PAGE_SIZE - at % PAGE_SIZE);
        copies.push(GrantCopy {
            from,
            from_offset: offset as u16,
            to: CopyPage::Local(Gfn(first.0.wrapping_add((at / PAGE_SIZE) as u64))),
            to_offset: (at % PAGE_SIZE) as u16,
            length: count as u16,
        });
        offset += count;
        at += count;
        rest -= count;
    }
    at
}

/// Puts a frame's bytes at byte `at` of a run of this kernel's own pages, which begins with the frame `first`: what lies in local
/// pages at once, the rest by copies that are noted. False when there is no room.
pub fn bring(
    frame: &Frame<'_>,
    bytes: &mut [u8],
    first: Gfn,
    mut at: usize,
    copies: &mut Vec<GrantCopy>,
) -> bool {
    for piece in frame.pieces {
        let end = at + usize::from(piece.length);
        let Some(into) = bytes.get_mut(at..end) else { return false };
        match piece.place {
            Place::Local { page, offset, .. } => {
                if page.copy_out(usize::from(offset), into).is_err() {
                    return false;
                }
            }
            Place::Granted { .. } => {
                let (from, offset) = source(&piece.place);
                scatter(from, offset, piece.length, first, at, copies);
            }
        }
        at = end;
    }
    true
}

/// Puts bytes into pages from which the hypervisor copies them.
pub(super) struct Stage<L> {
    pages: L,
    first: Gfn,
    used: usize,
}

impl<L: AsRef<[SharedPage]>> Stage<L> {
    fn new<H: GrantCopier<Local = L>>(host: &H) -> Option<Self> {
        let (pages, first) = host.local(STAGE_PAGES)?;
        Some(Self { pages, first, used: 0 })
    }

    /// Forgets what was put.
    pub(super) const fn clear(&mut self) {
        self.used = 0;
    }

    /// Puts bytes into pages of their own and calls `each` for every one; false when there is no room for all.
    pub(super) fn put(&mut self, bytes: &[u8], mut each: impl FnMut(CopyPage, u16)) -> bool {
        let Some(pages) = self.pages.as_ref().get(self.used..) else { return false };
        if bytes.len().div_ceil(PAGE_SIZE) > pages.len() {
            return false;
        }
        for (piece, page) in bytes.chunks(PAGE_SIZE).zip(pages) {
            if page.copy_in(0, piece).is_err() {
                return false;
            }
            each(CopyPage::Local(Gfn(self.first.0.wrapping_add(self.used as u64))), piece.len() as u16);
            self.used += 1;
        }
        true
    }
}
