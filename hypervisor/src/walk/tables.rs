//! The walk through a guest's page tables, and the memory of the last ones.

use super::{FaultReason, Found, Space};
use crate::prelude::*;

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

/// The registers that decide how addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

/// How many levels there are, and how wide their entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Off,
    TwoLevel,
    Pae,
    FourLevel,
    FiveLevel,
}

impl Paging {
    /// From register values.
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        Self { cr0, cr3, cr4, efer }
    }

    /// From a vCPU.
    pub fn of(context: &impl Context) -> Self {
        Self::new(context.cr0(), context.cr3(), context.cr4(), context.efer())
    }

    const fn mode(self) -> Mode {
        if self.cr0 & CR0_PG == 0 {
            Mode::Off
        } else if self.efer & EFER_LMA != 0 {
            if self.cr4 & CR4_LA57 == 0 { Mode::FourLevel } else { Mode::FiveLevel }
        } else if self.cr4 & CR4_PAE != 0 {
            Mode::Pae
        } else {
            Mode::TwoLevel
        }
    }
}

/// One table entry that a walk used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    table: Mfn,
    index: usize,
    value: u64,
}

/// The last walks of a vCPU to pages of data, mostly those of a stack with the structures of calls and what these point to;
/// and the pages where it was seen to execute code, as a kernel has its hypercalls in many. Both are found by the low bits of the
/// page number.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    data: [Walk; 8],
    code: [Seen; 64],
}

/// A page of code that was found by a walk.
#[derive(Clone, Copy, Debug)]
struct Seen {
    page: u64,
    cr3: u64,
    epoch: u64,
    mfn: Mfn,
}

/// One walk, for one page.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// The address without its offset; all ones never matches.
    page: u64,
    epoch: u64,
    paging: Paging,
    steps: [Step; 4],
    used: usize,
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
        let nowhere = Seen { page: u64::MAX, cr3: 0, epoch: 0, mfn: Mfn(0) };
        Self { data: [Walk::NONE; 8], code: [nowhere; 64] }
    }

    /// Forgets.
    pub const fn forget(&mut self) {
        *self = Self::new();
    }

    /// The four bytes of code at an address, when they lie in one page where [`Remembered::see`] has seen code, under the
    /// same CR3. Whether the guest's tables still lead there is not looked at: what is read is memory of the domain, which
    /// the epoch vouches for, but perhaps not what the processor executed. It serves for telling an instruction's length,
    /// where a guest that remaps its code between two exits misleads itself alone.
    pub fn code(&self, space: &impl Space, cr3: u64, gva: Gva) -> Option<[u8; 4]> {
        let page = gva.0 >> 12;
        let seen = self.code.get(page as usize % self.code.len())?;
        if seen.page != page || seen.cr3 != cr3 || seen.epoch != space.epoch() {
            return None;
        }
        space.page(seen.mfn)?.four(gva.page_offset()).ok()
    }

    /// Remembers that code at an address is executed.
    pub fn see(&mut self, space: &impl Space, paging: &Paging, gva: Gva) {
        let page = gva.0 >> 12;
        // The epoch before the walk: what is taken away during it ends the memory.
        let epoch = space.epoch();
        let place = page as usize % self.code.len();
        if let (Ok(Found { mfn, .. }), Some(seen)) =
            (self.translate(space, paging, gva, false), self.code.get_mut(place))
        {
            *seen = Seen { page, cr3: paging.cr3, epoch, mfn };
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs as much as what it does")]
    pub(super) fn translate(
        &mut self,
        space: &impl Space,
        paging: &Paging,
        gva: Gva,
        write: bool,
    ) -> Result<Found, FaultReason> {
        let places = self.data.len();
        let walk = self.data.get_mut((gva.0 >> 12) as usize % places).ok_or(FaultReason::NoMemory)?;
        walk.find(space, paging, gva)?;
        if write && !walk.writable { Err(FaultReason::ReadOnly) } else { Ok(walk.found) }
    }
}

impl Walk {
    const NONE: Self = Self {
        page: u64::MAX,
        epoch: 0,
        paging: Paging::new(0, 0, 0, 0),
        steps: [Step { table: Mfn(0), index: 0, value: 0 }; 4],
        used: 0,
        found: Found { gfn: Gfn(0), mfn: Mfn(0) },
        writable: false,
    };

    /// Whether it leads to the page of an address.
    const fn is_of(&self, gva: Gva) -> bool {
        self.page == gva.0 >> 12
    }

    /// Makes this the walk to an address.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs as much as what it does")]
    fn find(&mut self, space: &impl Space, paging: &Paging, gva: Gva) -> Result<(), FaultReason> {
        if self.is_of(gva) && self.hit(space, paging) { Ok(()) } else { self.walk(space, *paging, gva) }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs as much as what it does")]
    fn hit(&self, space: &impl Space, paging: &Paging) -> bool {
        if self.epoch != space.epoch() || self.paging != *paging {
            return false;
        }
        for step in self.steps.iter().take(self.used) {
            let Some(table) = space.page(step.table) else { return false };
            if (table.entry(step.index) ^ step.value) & !FLAGS != 0 {
                return false;
            }
        }
        true
    }

    #[cold]
    fn walk(&mut self, space: &impl Space, paging: Paging, gva: Gva) -> Result<(), FaultReason> {
        self.page = u64::MAX;
        // The epoch before the walk: what is taken away during it makes the next use walk again.
        self.epoch = space.epoch();
        self.paging = paging;
        self.used = 0;
        let mode = paging.mode();
        let (gfn, allowed) = match mode {
            Mode::Off => (Gfn(u64::from(gva.0 as u32) >> 12), true),
            Mode::TwoLevel => two_levels(space, paging, gva.0 as u32)?,
            Mode::Pae => self.three_levels(space, paging.cr3 & 0xffff_ffe0, gva.0 as u32)?,
            Mode::FourLevel => {
                if (gva.0 as i64) << 16 >> 16 != gva.0 as i64 {
                    return Err(FaultReason::NotCanonical);
                }
                self.levels(space, paging.cr3 & ADDRESS, gva.0, 4)?
            }
            Mode::FiveLevel => return Err(FaultReason::Unsupported),
        };
        let (mfn, writable) = space.frame(gfn).ok_or(FaultReason::NoMemory)?;
        self.found = Found { gfn, mfn };
        self.writable = writable && (allowed || paging.cr0 & CR0_WP == 0);
        // Steps are of 64-bit entries; the old form of 32-bit paging is not worth its own.
        if mode != Mode::TwoLevel {
            self.page = gva.0 >> 12;
        }
        Ok(())
    }

    /// Reads entry `index` of the table at `table`, which must be present, and notes it.
    fn step(&mut self, space: &impl Space, table: u64, index: u64) -> Result<u64, FaultReason> {
        let address = table + index * 8;
        let (mfn, page) = table_page(space, address)?;
        let index = (address & 0xfff) as usize / 8;
        let value = page.entry(index);
        if value & PRESENT == 0 {
            return Err(FaultReason::NotPresent);
        }
        if let Some(step) = self.steps.get_mut(self.used) {
            *step = Step { table: mfn, index, value };
            self.used += 1;
        }
        Ok(value)
    }

    /// Levels of 64-bit entries, 512 in a table, from `level` down.
    fn levels(
        &mut self,
        space: &impl Space,
        root: u64,
        gva: u64,
        level: u32,
    ) -> Result<(Gfn, bool), FaultReason> {
        let (mut table, mut writable) = (root, true);
        for level in (1..=level).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.step(space, table, gva >> shift & 511)?;
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
    fn three_levels(&mut self, space: &impl Space, root: u64, gva: u32) -> Result<(Gfn, bool), FaultReason> {
        let pointer = self.step(space, root, u64::from(gva >> 30))?;
        self.levels(space, pointer & ADDRESS, u64::from(gva), 2)
    }
}

/// 32-bit paging (SDM 4.3), with 4 MiB pages of up to 40 bits.
fn two_levels(space: &impl Space, paging: Paging, gva: u32) -> Result<(Gfn, bool), FaultReason> {
    let gva = u64::from(gva);
    let entry = |address: u64| {
        let word = table_page(space, address)?.1.word_at(address as usize & 0xffc);
        let value = word.map_or(0, |word| u64::from(word.load(Ordering::Relaxed)));
        if value & PRESENT == 0 { Err(FaultReason::NotPresent) } else { Ok(value) }
    };
    let directory = entry((paging.cr3 & 0xffff_f000) + (gva >> 22) * 4)?;
    if paging.cr4 & CR4_PSE != 0 && directory & LARGE != 0 {
        let address = directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32;
        return Ok((Gfn((address | gva & 0x3f_ffff) >> 12), directory & WRITE != 0));
    }
    let entry = entry((directory & 0xffff_f000) + (gva >> 12 & 1023) * 4)?;
    Ok((Gfn((entry & 0xffff_f000) >> 12), directory & entry & WRITE != 0))
}

/// The guest's page with a table.
fn table_page(space: &impl Space, address: u64) -> Result<(Mfn, &SharedPage), FaultReason> {
    let (mfn, _) = space.frame(Gfn(address >> 12)).ok_or(FaultReason::NoMemory)?;
    Ok((mfn, space.page(mfn).ok_or(FaultReason::NoMemory)?))
}
