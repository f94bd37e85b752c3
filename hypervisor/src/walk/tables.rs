//! The walk through a guest's page tables, and the memory of the last ones.

use core::sync::atomic::Ordering;

use trunnion_protocol::address::{Gfn, Gva, Mfn};
use trunnion_protocol::shared::SharedPage;

use super::{FaultReason, Found, Space};
use crate::seam::Context;

/// CR0.WP: a supervisor may not write read-only pages.
const CR0_WP: u64 = 1 << 16;
/// CR0.PG: paging is on.
const CR0_PG: u64 = 1 << 31;
/// CR4.PSE: 4 MiB pages in two-level tables.
const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE: entries of 64 bits.
const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57: five levels.
const CR4_LA57: u64 = 1 << 12;
/// EFER.LMA: long mode.
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
/// Accessed and dirty, which the processor sets when it likes.
const FLAGS: u64 = 1 << 5 | 1 << 6;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The registers that decide how addresses are translated, in one word: the root table's address, whose low bits are
/// free, `PROTECT` and the mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging(u64);

/// A supervisor may not write read-only pages.
const PROTECT: u64 = 1 << 3;
const ROOT: u64 = !0x1f;
const MODE: u64 = 7;
const OFF: u64 = 0;
const TWO_LEVEL: u64 = 1;
const TWO_LEVEL_LARGE: u64 = 2;
const PAE: u64 = 3;
const FOUR_LEVEL: u64 = 4;
const FIVE_LEVEL: u64 = 5;

impl Paging {
    /// From register values.
    #[inline]
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        let protect = if cr0 & CR0_WP != 0 { PROTECT } else { 0 };
        let (mode, root) = if cr0 & CR0_PG == 0 {
            (OFF, 0)
        } else if efer & EFER_LMA != 0 {
            (if cr4 & CR4_LA57 == 0 { FOUR_LEVEL } else { FIVE_LEVEL }, cr3 & ADDRESS)
        } else if cr4 & CR4_PAE != 0 {
            (PAE, cr3 & 0xffff_ffe0)
        } else {
            (if cr4 & CR4_PSE != 0 { TWO_LEVEL_LARGE } else { TWO_LEVEL }, cr3 & 0xffff_f000)
        };
        Self(root | protect | mode)
    }

    const fn root(self) -> u64 {
        self.0 & ROOT
    }

    const fn mode(self) -> u64 {
        self.0 & MODE
    }

    /// Entries are 32 bits wide.
    #[inline]
    const fn is_narrow(self) -> bool {
        matches!(self.mode(), TWO_LEVEL | TWO_LEVEL_LARGE)
    }

    /// From a vCPU.
    #[inline]
    pub fn of(context: &impl Context) -> Self {
        Self::new(context.cr0(), context.cr3(), context.cr4(), context.efer())
    }
}

/// One table entry that a walk used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    table: Mfn,
    offset: u16,
    value: u64,
}

/// Pages that are remembered: the code that makes a call, its structure, and what that points to.
const PAGES: usize = 3;

/// The last walks of a vCPU, one for each of a few pages.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    walks: [Walk; PAGES],
    /// The one that is given up next.
    next: u8,
}

/// One walk, for one page.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// The address without its offset; all ones never matches.
    page: u64,
    epoch: u64,
    paging: Paging,
    steps: [Step; 4],
    used: u8,
    found: Found,
    writable: bool,
}

impl Default for Remembered {
    fn default() -> Self {
        Self::new()
    }
}

impl Remembered {
    /// Nothing remembered.
    pub const fn new() -> Self {
        Self { walks: [Walk::NONE; PAGES], next: 0 }
    }

    /// Forgets.
    pub const fn forget(&mut self) {
        *self = Self::new();
    }

    #[inline]
    pub(super) fn translate(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        gva: Gva,
        write: bool,
    ) -> Result<Found, FaultReason> {
        let page = gva.0 >> 12;
        let walk = if let Some(at) = self.walks.iter().position(|walk| walk.page == page) {
            let walk = &mut self.walks[at];
            if !walk.hit(space, paging) {
                walk.walk(space, paging, gva)?;
            }
            walk
        } else {
            let at = usize::from(self.next) % PAGES;
            self.next = (at as u8 + 1) % PAGES as u8;
            let walk = &mut self.walks[at];
            walk.walk(space, paging, gva)?;
            walk
        };
        if write && !walk.writable { Err(FaultReason::ReadOnly) } else { Ok(walk.found) }
    }
}

impl Walk {
    const NONE: Self = Self {
        page: u64::MAX,
        epoch: 0,
        paging: Paging(OFF),
        steps: [Step { table: Mfn(0), offset: 0, value: 0 }; 4],
        used: 0,
        found: Found { gfn: Gfn(0), mfn: Mfn(0) },
        writable: false,
    };

    #[inline]
    fn hit(&self, space: &impl Space, paging: &Paging) -> bool {
        self.epoch == space.epoch()
            && self.paging == *paging
            && self.steps.iter().take(self.used as usize).all(|step| {
                let Some(page) = space.page(step.table) else { return false };
                if paging.is_narrow() {
                    return load(page, *paging, step.offset)
                        .is_some_and(|now| (now ^ step.value) & !FLAGS == 0);
                }
                let [low, high] = page.pair(step.offset as usize / 8);
                (low.load(Ordering::Relaxed) ^ step.value as u32) & !(FLAGS as u32) == 0
                    && high.load(Ordering::Relaxed) == (step.value >> 32) as u32
            })
    }

    #[cold]
    fn walk(&mut self, space: &impl Space, paging: &Paging, gva: Gva) -> Result<(), FaultReason> {
        self.page = u64::MAX;
        // The epoch before the walk: what is taken away during it makes the next use walk again.
        self.epoch = space.epoch();
        self.paging = *paging;
        self.used = 0;
        let (gfn, allowed) = match paging.mode() {
            OFF => (Gfn(u64::from(gva.0 as u32) >> 12), true),
            TWO_LEVEL | TWO_LEVEL_LARGE => self.two_levels(space, paging, gva.0 as u32)?,
            PAE => self.three_levels(space, paging, gva.0 as u32)?,
            FOUR_LEVEL => {
                if (gva.0 as i64) << 16 >> 16 != gva.0 as i64 {
                    return Err(FaultReason::NotCanonical);
                }
                self.levels(space, paging, paging.root(), gva.0, 4, true)?
            }
            _ => return Err(FaultReason::Unsupported),
        };
        let (mfn, second_level) = space.frame(gfn).ok_or(FaultReason::NoMemory)?;
        self.found = Found { gfn, mfn };
        self.writable = second_level && (allowed || paging.0 & PROTECT == 0);
        self.page = gva.0 >> 12;
        Ok(())
    }

    /// Reads a present entry and notes it.
    fn step(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        table: u64,
        offset: u64,
    ) -> Result<u64, FaultReason> {
        let address = table | offset;
        let (mfn, _) = space.frame(Gfn(address >> 12)).ok_or(FaultReason::NoMemory)?;
        let offset = (address & 0xfff) as u16;
        let page = space.page(mfn).ok_or(FaultReason::NoMemory)?;
        let value = load(page, *paging, offset).ok_or(FaultReason::NoMemory)?;
        if value & PRESENT == 0 {
            return Err(FaultReason::NotPresent);
        }
        if let Some(step) = self.steps.get_mut(self.used as usize) {
            *step = Step { table: mfn, offset, value };
            self.used += 1;
        }
        Ok(value)
    }

    /// Levels of 64-bit entries, 512 in a table, from `level` down.
    fn levels(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        root: u64,
        gva: u64,
        level: u32,
        writable: bool,
    ) -> Result<(Gfn, bool), FaultReason> {
        let (mut table, mut writable) = (root, writable);
        for level in (1..=level).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.step(space, paging, table, (gva >> shift & 511) * 8)?;
            writable &= entry & WRITE != 0;
            table = entry & ADDRESS;
            if matches!(level, 2 | 3) && entry & LARGE != 0 || level == 1 {
                let inside = gva & ((1 << shift) - 1);
                return Ok((Gfn((table & !((1 << shift) - 1) | inside) >> 12), writable));
            }
        }
        Err(FaultReason::NotPresent)
    }

    /// PAE paging (SDM 4.4): four pointers without rights, then two levels.
    fn three_levels(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        gva: u32,
    ) -> Result<(Gfn, bool), FaultReason> {
        let pointer = self.step(space, paging, paging.root(), u64::from(gva >> 30) * 8)?;
        self.levels(space, paging, pointer & ADDRESS, u64::from(gva), 2, true)
    }

    /// 32-bit paging (SDM 4.3), with 4 MiB pages of up to 40 bits.
    fn two_levels(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        gva: u32,
    ) -> Result<(Gfn, bool), FaultReason> {
        let gva = u64::from(gva);
        let directory = self.step(space, paging, paging.root(), (gva >> 22) * 4)?;
        if paging.mode() == TWO_LEVEL_LARGE && directory & LARGE != 0 {
            let address = directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32;
            return Ok((Gfn((address | gva & 0x3f_ffff) >> 12), directory & WRITE != 0));
        }
        let entry = self.step(space, paging, directory & 0xffff_f000, (gva >> 12 & 1023) * 4)?;
        Ok((Gfn((entry & 0xffff_f000) >> 12), directory & entry & WRITE != 0))
    }
}

/// A table entry, 32 or 64 bits wide.
#[inline]
fn load(page: &SharedPage, paging: Paging, offset: u16) -> Option<u64> {
    if paging.is_narrow() {
        return page.word_at(offset as usize).map(|word| u64::from(word.load(Ordering::Relaxed)));
    }
    let [low, high] = page.pair(offset as usize / 8);
    Some(u64::from(low.load(Ordering::Relaxed)) | u64::from(high.load(Ordering::Relaxed)) << 32)
}
