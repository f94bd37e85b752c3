//! Memory reservations, the physical map, and the page-table walk of hypercall arguments.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    use crate::runtime::{call, check, check_eq, hypercall, page};
    use core::arch::asm;
    use core::sync::atomic::Ordering;
    use trunnion_protocol::address::{Gfn, Gva};
    use trunnion_protocol::hypercall::memory;
    use trunnion_protocol::id::DomainId;
    use trunnion_protocol::shared::WordOffset;

    unsafe extern "C" {
        static tiny_pml4: [u64; 512];
    }

    const FIRST: WordOffset = WordOffset::at::<0>();
    const MEMORY_OP: u32 = 12;

    fn reservation(operation: u64, gfns: &[u64], order: u32) -> i64 {
        let mut argument = memory::Reservation {
            extents: Gva(gfns.as_ptr() as u64),
            count: gfns.len() as u64,
            order,
            flags: 0,
            domain: DomainId::SELF,
        };
        call(MEMORY_OP, operation, &mut argument)
    }

    pub(crate) fn run(_start_info: u32) {
        let domain = [DomainId::SELF.0];
        let before = hypercall(MEMORY_OP, 3, domain.as_ptr() as u64, 0);
        check("current reservation", before > 0);
        let maximum = hypercall(MEMORY_OP, 4, domain.as_ptr() as u64, 0);
        check("maximum reservation", maximum >= before);

        let gfn = 0x40u64;
        page(gfn).word(FIRST).store(0x1234_5678, Ordering::SeqCst);
        check_eq("decrease", reservation(1, &[gfn], 0) as u64, 1);
        check_eq("the page is gone", u64::from(page(gfn).word(FIRST).load(Ordering::SeqCst)), 0xffff_ffff);
        check_eq(
            "one page less",
            hypercall(MEMORY_OP, 3, domain.as_ptr() as u64, 0) as u64,
            before as u64 - 1,
        );
        check_eq("decrease what is not there", reservation(1, &[gfn], 0) as u64, 0);
        check_eq("populate", reservation(6, &[gfn], 0) as u64, 1);
        check_eq("the new page is clean", u64::from(page(gfn).word(FIRST).load(Ordering::SeqCst)), 0);
        check_eq(
            "as many pages as before",
            hypercall(MEMORY_OP, 3, domain.as_ptr() as u64, 0) as u64,
            before as u64,
        );
        check_eq("populate over the limit", reservation(6, &[0x000f_0000; 1], 9) as u64, 0);
        let many: [u64; 300] = core::array::from_fn(|index| 0x60 + index as u64 % 0x60);
        let gone = reservation(1, &many[..0x60], 0);
        check_eq("decrease many", gone as u64, 0x60);
        check_eq("populate many", reservation(6, &many[..0x60], 0) as u64, 0x60);
        check_eq("decrease a frame far out", reservation(1, &[u64::MAX], 0) as u64, 0);
        check_eq("populate a frame far out", reservation(6, &[1 << 50], 0) as u64, 0);

        let mut other =
            memory::AddToPhysmap { domain: DomainId(5), space: 0, gfn: Gfn(0x50), ..Default::default() };
        check("another domain's map is closed", call(MEMORY_OP, 7, &mut other) < 0);
        let mut bad = memory::AddToPhysmap {
            domain: DomainId::SELF,
            space: 0,
            gfn: Gfn(u64::MAX),
            ..Default::default()
        };
        check_eq("an invalid frame", call(MEMORY_OP, 7, &mut bad) as u64, -22i64 as u64);
        let mut bad =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 9, gfn: Gfn(0x50), ..Default::default() };
        check("an unknown space", call(MEMORY_OP, 7, &mut bad) < 0);
        let mut info =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 0, gfn: Gfn(0x51), ..Default::default() };
        check_eq("shared info", call(MEMORY_OP, 7, &mut info) as u64, 0);
        check("shared info has a clock", page(0x51).load::<[u32; 8]>(32).unwrap_or_default()[6] != 0);
        let mut info =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 0, gfn: Gfn(0x52), ..Default::default() };
        check_eq("shared info moves", call(MEMORY_OP, 7, &mut info) as u64, 0);
        check("the new place has a clock", page(0x52).load::<[u32; 8]>(32).unwrap_or_default()[6] != 0);
        check_eq(
            "the old place is a hole",
            u64::from(page(0x51).word(FIRST).load(Ordering::SeqCst)),
            0xffff_ffff,
        );

        remap();

        let mut list = [0u8; 20 * 16];
        let mut map = memory::MemoryMap { count: 16, buffer: Gva(list.as_mut_ptr() as u64) };
        check_eq("memory map", call(MEMORY_OP, 9, &mut map) as u64, 0);
        check("memory map has entries", map.count > 0 && map.count <= 16);
    }

    /// A hypercall reads the page that the guest's tables name *now*: map one virtual address to two pages in turn.
    fn remap() {
        const VIRTUAL: u64 = 1 << 39;
        let (tables, first, second) = (0x70u64, 0x78u64, 0x79u64);
        for index in 0..3 {
            page(tables + index).fill_zero();
        }
        let entry = |table: u64, value: u64| {
            page(table).word(FIRST).store(value as u32, Ordering::SeqCst);
        };
        entry(tables, (tables + 1) << 12 | 3);
        entry(tables + 1, (tables + 2) << 12 | 3);
        entry(tables + 2, first << 12 | 3);
        // SAFETY: adds the entry for a virtual range that nothing uses.
        unsafe { (&raw const tiny_pml4).cast_mut().cast::<u64>().add(1).write_volatile(tables << 12 | 3) };
        // The argument of get_features: an unknown submap is an error, submap 0 is not.
        page(first).word(FIRST).store(0, Ordering::SeqCst);
        page(second).word(FIRST).store(7, Ordering::SeqCst);
        check_eq("a call on the first page", hypercall(17, 6, VIRTUAL, 0) as u64, 0);
        entry(tables + 2, second << 12 | 3);
        // SAFETY: forgets one translation.
        unsafe { asm!("invlpg [{}]", in(reg) VIRTUAL, options(nostack)) };
        check_eq("the same call on the second page", hypercall(17, 6, VIRTUAL, 0) as u64, -22i64 as u64);
        entry(tables + 2, 0);
        // SAFETY: as above.
        unsafe { asm!("invlpg [{}]", in(reg) VIRTUAL, options(nostack)) };
        check_eq("the same call on no page", hypercall(17, 6, VIRTUAL, 0) as u64, -14i64 as u64);
        entry(tables + 2, first << 12 | 1);
        check_eq("a read-only page takes no result", hypercall(17, 6, VIRTUAL, 0) as u64, -14i64 as u64);
    }
}

#[cfg(target_os = "none")]
use guest::run;
