//! The host's page tables: all RAM one to one, the image with separate rights for code, constants and data, the interrupt
//! controllers uncached. Built once at boot and never changed.

use super::cpu;
use crate::machine::prelude::*;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const UNCACHED: u64 = 0x18;
const LARGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

unsafe extern "C" {
    static image_begin: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// The image in memory, as byte addresses.
pub fn image() -> (u64, u64) {
    (&raw const image_begin as u64, &raw const image_end as u64)
}

/// Tables that the map needs, at most: bytes.
pub fn table_bytes(ram: &Ranges) -> u64 {
    // One page directory for each GiB, two tables at the ends of each range, and the upper levels.
    let gigabytes = (ram.end() >> 30) + 1;
    (gigabytes + 2 * ram.as_slice().len() as u64 + gigabytes / 512 + 24) * 4096
}

/// Builds page tables from a piece of zeroed memory.
struct Builder {
    next: u64,
    end: u64,
    root: u64,
    gigabyte_pages: bool,
}

impl Builder {
    fn table(&mut self) -> u64 {
        let page = self.next;
        self.next += 4096;
        assert!(self.next <= self.end, "host page tables do not fit");
        page
    }

    fn entry(table: u64, index: u64) -> *mut u64 {
        (table + (index & 511) * 8) as *mut u64
    }

    /// Maps one page of level 1, 2 or 3 one to one.
    fn map(&mut self, address: u64, level: u32, flags: u64) {
        let mut table = self.root;
        for l in (level + 1..=4).rev() {
            let entry = Self::entry(table, address >> (3 + 9 * l));
            // SAFETY: `table` is one of our pages, mapped by the boot tables, and the index is inside it.
            unsafe {
                if *entry & PRESENT == 0 {
                    *entry = self.table() | PRESENT | WRITE;
                }
                table = *entry & ADDRESS;
            }
        }
        let large = if level > 1 { LARGE } else { 0 };
        // SAFETY: as above.
        unsafe { *Self::entry(table, address >> (3 + 9 * level)) = address | flags | large };
    }

    /// Maps a range with the largest pages that fit.
    fn range(&mut self, mut from: u64, to: u64, flags: u64) {
        while from < to {
            let fits = |level: u32| {
                let size = 1u64 << (3 + 9 * level);
                from.is_multiple_of(size) && to - from >= size
            };
            let level = if self.gigabyte_pages && fits(3) { 3 } else { 1 + u32::from(fits(2)) };
            self.map(from, level, flags);
            from += 1 << (3 + 9 * level);
        }
    }
}

/// Builds the map in `memory` (page aligned, `table_bytes` long) and switches to it.
///
/// # Safety
/// The memory is RAM below 4 GiB that nobody else uses; `ram` is page aligned and holds everything the host touches but
/// `devices`; the boot tables are in force.
pub unsafe fn switch(memory: u64, ram: &Ranges, devices: &[u64]) {
    let size = table_bytes(ram);
    // SAFETY: the memory is ours and mapped by the boot tables.
    unsafe { core::ptr::write_bytes(memory as *mut u8, 0, size as usize) };
    let gigabyte_pages = cpu::cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
    let mut builder = Builder { next: memory + 4096, end: memory + size, root: memory, gigabyte_pages };
    let (begin, end) = image();
    let (text, rodata) = (&raw const text_end as u64, &raw const rodata_end as u64);
    let data = PRESENT | WRITE | NO_EXECUTE;
    let mut rest = ram.clone();
    // Page 0 stays unmapped, so that a null pointer is a fault.
    rest.remove(0, 4096);
    rest.remove(begin, end);
    for &(from, to) in rest.as_slice() {
        builder.range(from, to, data);
    }
    builder.range(begin, text, PRESENT);
    builder.range(text, rodata, PRESENT | NO_EXECUTE);
    builder.range(rodata, end, data);
    for &page in devices {
        builder.range(page, page + 4096, data | UNCACHED);
    }
    // SAFETY: every processor with VMX or SVM has no-execute; the new map holds the running code, the stack and the data where
    // they are.
    unsafe { cpu::msr::write(cpu::msr::EFER, cpu::msr::read(cpu::msr::EFER) | cpu::msr::EFER_NXE) };
    // SAFETY: as above.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) builder.root, options(nostack, preserves_flags)) };
}
