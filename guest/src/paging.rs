//! Identity page tables: an address is a guest-physical address.
//!
//! The entry code maps 4 GiB with 2 MiB pages. Here the image gets W^X protection, page 0 and the page below the stack
//! go away, everything that is not code becomes non-executable, and space above 4 GiB is added when it is needed. Frames
//! come and go under this map without it noticing: whether there is memory behind an address is the second level's
//! business.
#![expect(unsafe_code, reason = "page tables are reached by their physical addresses")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;

use crate::start::Range;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const UNCACHED: u64 = 1 << 4 | 1 << 3; // PCD, PWT
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 1 << 12;
const LARGE_PAGE: u64 = 1 << 21;

/// How a page may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Nothing is there.
    Absent,
    /// Code.
    Execute,
    /// Constants.
    Read,
    /// Data.
    Write,
    /// Device registers.
    Device,
}

impl Use {
    const fn bits(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Execute => PRESENT,
            Self::Read => PRESENT | NO_EXECUTE,
            Self::Write => PRESENT | WRITABLE | NO_EXECUTE,
            Self::Device => PRESENT | WRITABLE | NO_EXECUTE | UNCACHED,
        }
    }
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    fn entry(&self, index: u64) -> &AtomicU64 {
        &self.0[index as usize % 512]
    }

    /// The table at a physical address.
    fn at(address: u64) -> &'static Self {
        // SAFETY: callers take the address from a present entry or from CR3; tables are never freed, are only reached
        // through atomics, and lie where the identity map shows them.
        unsafe { &*((address & FRAME) as *const Self) }
    }

    /// A new table with the entries of `fill`; its address.
    fn create(fill: impl Fn(u64) -> u64) -> u64 {
        let table = Box::leak(Box::new(Self([const { AtomicU64::new(0) }; 512])));
        for (index, entry) in table.0.iter().enumerate() {
            entry.store(fill(index as u64), Ordering::Relaxed);
        }
        core::ptr::from_ref(table) as u64
    }
}

/// The directory of the GiB that holds `address`; made, with `Write` pages, when there is none.
fn directory(address: u64) -> &'static Table {
    let root = Table::at(Cr3::read().0.start_address().as_u64());
    let pointers = descend(root.entry(address >> 39), |_| 0);
    let base = address & !((1 << 30) - 1);
    descend(pointers.entry(address >> 30), |index| (base + index * LARGE_PAGE) | LARGE | Use::Write.bits())
}

fn descend(entry: &AtomicU64, fill: impl Fn(u64) -> u64) -> &'static Table {
    if entry.load(Ordering::Relaxed) & PRESENT == 0 {
        entry.store(Table::create(fill) | PRESENT | WRITABLE, Ordering::Release);
    }
    Table::at(entry.load(Ordering::Relaxed))
}

/// Makes every address of the range reachable, as data where nothing else is known of it.
pub(crate) fn reach(range: Range) {
    let mut at = range.start & !((1 << 30) - 1);
    while at < range.end {
        directory(at);
        at += 1 << 30;
    }
}

/// Gives the pages of a range their use. Borders are rounded outward.
pub(crate) fn set(range: Range, usage: Use) {
    let mut at = range.start & !(PAGE - 1);
    while at < range.end {
        let entry = directory(at).entry(at >> 21);
        let value = entry.load(Ordering::Relaxed);
        if at.is_multiple_of(LARGE_PAGE) && range.end - at >= LARGE_PAGE {
            entry.store(at | LARGE | usage.bits(), Ordering::Release);
            at += LARGE_PAGE;
            continue;
        }
        if value & LARGE != 0 || value & PRESENT == 0 {
            let base = at & !(LARGE_PAGE - 1);
            let bits = value & !FRAME & !LARGE;
            entry.store(
                Table::create(|index| (base + index * PAGE) | bits) | PRESENT | WRITABLE,
                Ordering::Release,
            );
        }
        let page = Table::at(entry.load(Ordering::Relaxed)).entry(at >> 12);
        page.store(at | usage.bits(), Ordering::Release);
        at += PAGE;
    }
    tlb::flush_all();
}

/// Final protection of the first 4 GiB.
pub(crate) fn init(image: &crate::entry::Image) {
    // Everything is data, by large pages, except the image.
    let whole = Range { start: image.start & !(LARGE_PAGE - 1), end: image.end.next_multiple_of(LARGE_PAGE) };
    set(Range { start: whole.end, end: 1 << 32 }, Use::Write);
    set(Range { start: 0, end: whole.start }, Use::Write);
    set(Range { start: image.end, end: whole.end }, Use::Write);
    set(Range { start: image.read_only_end, end: image.end }, Use::Write);
    set(Range { start: image.text_end, end: image.read_only_end }, Use::Read);
    set(Range { start: image.start, end: image.text_end }, Use::Execute);
    set(Range::sized(0, PAGE), Use::Absent);
    set(Range::sized(image.guard, PAGE), Use::Absent);
}
