//! A guest's RAM in dom0: mapped in pieces when a device or an instruction reaches it, and kept, but not all of it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::RefCell;
use core::ops::Range;

use trunnion_devices::memory::GuestMemory;
use trunnion_guest::memory::pages;
use trunnion_protocol::address::{Gfn, PAGE_SHIFT};
use trunnion_protocol::id::DomainId;

use super::super::foreign::Foreign;
use super::super::grants::Held;

/// Pages of a piece: the holes of a PC's RAM begin and end at such borders.
const PIECE: u64 = 32;
/// Pieces that are kept: 128 MiB of a guest.
const KEPT: usize = 1024;

/// A guest's RAM.
pub(super) struct Ram {
    domain: DomainId,
    ranges: [Range<u64>; 4],
    pieces: RefCell<Pieces>,
}

#[derive(Default)]
struct Pieces {
    /// By first frame: whole pieces, and single pages of pieces that are not there as a whole.
    mapped: BTreeMap<u64, Rc<Foreign>>,
    /// In the order in which they came.
    order: VecDeque<u64>,
}

impl Ram {
    pub(super) fn new(domain: DomainId, ranges: [Range<u64>; 4]) -> Self {
        Self { domain, ranges, pieces: RefCell::default() }
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
        if !self.is_ram(gfn) {
            return None;
        }
        let mut pieces = self.pieces.borrow_mut();
        let first = gfn.0 - gfn.0 % PIECE;
        if let Some(piece) = pieces.get(self.domain, first, PIECE as u32) {
            return Held::foreign(piece, (gfn.0 - first) as usize);
        }
        // The guest has given a page of the piece back.
        let piece = pieces.get(self.domain, gfn.0, 1)?;
        Held::foreign(piece, 0)
    }

    fn own(&self) -> Option<Held> {
        Some(Held::own(Rc::new(pages(1)?)))
    }
}

const _: () = assert!(PIECE << PAGE_SHIFT == 0x2_0000);
