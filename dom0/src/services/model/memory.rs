//! A guest's RAM in dom0: mapped in pieces when a device or an instruction reaches it, and kept, but not all of it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::RefCell;
use core::ops::Range;

use trunnion_devices::memory::GuestMemory;
use trunnion_guest::memory::{Pages, pages};
use trunnion_protocol::address::{Gfn, PAGE_SHIFT};
use trunnion_protocol::id::DomainId;

use super::super::foreign::Foreign;
use super::super::grants::Held;

/// Pages of a piece: the holes of a PC's RAM begin and end at such borders.
const PIECE: u64 = 32;
/// Pieces that are kept: 128 MiB of a guest.
const KEPT: usize = 1024;

/// Pieces that were used last, found by their number's low bits without a search.
const RECENT: usize = 16;

/// Pages for what passes through that are kept: a packet of 64 KiB.
const SCRATCH: usize = 17;

/// A guest's RAM.
pub(super) struct Ram {
    domain: DomainId,
    ranges: [Range<u64>; 4],
    pieces: RefCell<Pieces>,
    /// Whole pieces, with their first frames.
    recent: RefCell<Recent>,
    /// Pages for what passes through; those that only this holds are free.
    scratch: RefCell<VecDeque<Rc<Pages>>>,
}

type Recent = [Option<(u64, Rc<Foreign>)>; RECENT];

#[derive(Default)]
struct Pieces {
    /// By first frame: whole pieces, and single pages of pieces that are not there as a whole.
    mapped: BTreeMap<u64, Rc<Foreign>>,
    /// In the order in which they came.
    order: VecDeque<u64>,
}

impl Ram {
    pub(super) fn new(domain: DomainId, ranges: [Range<u64>; 4]) -> Self {
        Self {
            domain,
            ranges,
            pieces: RefCell::default(),
            recent: RefCell::default(),
            scratch: RefCell::default(),
        }
    }

    fn is_ram(&self, gfn: Gfn) -> bool {
        gfn.checked_address().is_some_and(|at| self.ranges.iter().any(|range| range.contains(&at.0)))
    }
}

impl Pieces {
    fn get(&mut self, domain: DomainId, first: u64, count: u32) -> Option<Rc<Foreign>> {
        if let Some(piece) = self.mapped.get(&first)
            && (count == 1 || piece.pages().len() as u32 == count)
        {
            return Some(Rc::clone(piece));
        }
        let piece = Rc::new(Foreign::map(domain, Gfn(first), count).ok()?);
        while self.order.len() >= KEPT {
            let Some(oldest) = self.order.pop_front() else { break };
            self.mapped.remove(&oldest);
        }
        if self.mapped.insert(first, Rc::clone(&piece)).is_none() {
            self.order.push_back(first);
        }
        Some(piece)
    }
}

impl GuestMemory for Ram {
    type Page = Held;

    fn page(&self, gfn: Gfn) -> Option<Held> {
        let (first, index) = (gfn.0 - gfn.0 % PIECE, (gfn.0 % PIECE) as usize);
        let mut recent = self.recent.borrow_mut();
        let place = recent.get_mut((gfn.0 / PIECE) as usize % RECENT)?;
        if let Some((known, piece)) = place
            && *known == first
        {
            return Held::foreign(Rc::clone(piece), index);
        }
        if !self.is_ram(gfn) {
            return None;
        }
        let mut pieces = self.pieces.borrow_mut();
        if let Some(piece) = pieces.get(self.domain, first, PIECE as u32) {
            *place = Some((first, Rc::clone(&piece)));
            return Held::foreign(piece, index);
        }
        // The guest has given a page of the piece back.
        let piece = pieces.get(self.domain, gfn.0, 1)?;
        Held::foreign(piece, 0)
    }

    fn own(&self) -> Option<Held> {
        Some(Held::own(Rc::new(pages(1)?)))
    }

    fn scratch(&self) -> Option<Held> {
        let mut all = self.scratch.borrow_mut();
        // The one that was taken longest ago.
        let free = all.front().is_some_and(|page| Rc::strong_count(page) == 1);
        let page = match all.pop_front() {
            Some(page) if free => page,
            other => {
                all.extend(other);
                Rc::new(pages(1)?)
            }
        };
        if all.len() < SCRATCH {
            all.push_back(Rc::clone(&page));
        }
        Some(Held::own(page))
    }
}

const _: () = assert!(PIECE << PAGE_SHIFT == 0x2_0000);
