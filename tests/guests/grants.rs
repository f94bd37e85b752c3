//! Grant tables, with the domain as its own peer.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    use crate::runtime::{call, check, check_eq, page};
    use core::sync::atomic::Ordering;
    use trunnion_protocol::address::{Gfn, Gpa, MachineAddress};
    use trunnion_protocol::hypercall::{grant, memory};
    use trunnion_protocol::id::{DomainId, GrantRef};
    use trunnion_protocol::shared::WordOffset;

    const GRANT_OP: u32 = 20;
    const TABLE: u64 = 0x30;
    const PAGE: u64 = 0x31;
    const HOLE: u64 = 0x32;
    const FIRST: WordOffset = WordOffset::at::<0>();

    fn entry(reference: u32, flags: u16, domain: u16, frame: u32) {
        let at = reference as usize * 8;
        if let (Some(word), Some(place)) = (page(TABLE).word_at(at), page(TABLE).word_at(at + 4)) {
            place.store(frame, Ordering::SeqCst);
            word.store(u32::from(flags) | u32::from(domain) << 16, Ordering::SeqCst);
        }
    }

    fn flags(reference: u32) -> u32 {
        page(TABLE).word_at(reference as usize * 8).map_or(0, |word| word.load(Ordering::SeqCst) & 0xffff)
    }

    fn map(reference: u32, domain: DomainId, readonly: bool) -> grant::Map {
        let mut argument = grant::Map {
            address: Gpa(HOLE << 12),
            flags: 2 | if readonly { 4 } else { 0 },
            reference: GrantRef(reference),
            domain,
            ..Default::default()
        };
        if call(GRANT_OP, 0, &mut argument) != 0 {
            argument.status = -99;
        }
        argument
    }

    fn unmap(handle: u32) -> i16 {
        let mut argument =
            grant::Unmap { address: Gpa(HOLE << 12), bus_address: MachineAddress(0), handle, status: 0 };
        if call(GRANT_OP, 1, &mut argument) != 0 { -99 } else { argument.status }
    }

    pub(crate) fn run(_start_info: u32) {
        let mut size = grant::QuerySize { domain: DomainId::SELF, ..Default::default() };
        check_eq("query_size", call(GRANT_OP, 6, &mut size) as u64, 0);
        check("at least 4 frames allowed", size.status == 0 && size.limit >= 4 && size.frames >= 1);
        let mut version = grant::Version { version: 1 };
        check_eq("version 1", call(GRANT_OP, 8, &mut version) as u64, 0);
        let mut version = grant::Version { version: 3 };
        check_eq("version 3", call(GRANT_OP, 8, &mut version) as u64, -22i64 as u64);
        let mut place =
            memory::AddToPhysmap { domain: DomainId::SELF, space: 1, gfn: Gfn(TABLE), ..Default::default() };
        check_eq("the table is mapped", call(12, 7, &mut place) as u64, 0);
        check("the console is granted to dom0", flags(0) & 3 == 1);

        // Make a hole.
        let gfns = [HOLE];
        let mut argument = memory::Reservation {
            extents: trunnion_protocol::address::Gva(gfns.as_ptr() as u64),
            count: 1,
            order: 0,
            flags: 0,
            domain: DomainId::SELF,
        };
        check_eq("a hole", call(12, 1, &mut argument) as u64, 1);

        let myself = own_domain();
        page(PAGE).word(FIRST).store(0xfeed, Ordering::SeqCst);
        entry(100, 1, myself.0, PAGE as u32);
        let first = map(100, myself, false);
        check_eq("map", first.status as u64, 0);
        check_eq("the page is seen", u64::from(page(HOLE).word(FIRST).load(Ordering::SeqCst)), 0xfeed);
        page(HOLE).word(FIRST).store(0xbeef, Ordering::SeqCst);
        check_eq("writes go through", u64::from(page(PAGE).word(FIRST).load(Ordering::SeqCst)), 0xbeef);
        check("reading and writing are marked", flags(100) & 0x18 == 0x18);
        check_eq("unmap", unmap(first.handle) as u64, 0);
        check("the marks are gone", flags(100) & 0x18 == 0);
        check_eq("it is a hole again", u64::from(page(HOLE).word(FIRST).load(Ordering::SeqCst)), 0xffff_ffff);
        check("unmap twice", unmap(first.handle) < 0);
        check("a handle far out", unmap(u32::MAX) < 0);

        entry(101, 1 | 4, myself.0, PAGE as u32);
        check("read-only is not mapped for writing", map(101, myself, false).status < 0);
        let readonly = map(101, myself, true);
        check_eq("read-only map", readonly.status as u64, 0);
        check("only reading is marked", flags(101) & 0x18 == 8);
        check_eq("unmap read-only", unmap(readonly.handle) as u64, 0);
        check("a reference with no entry", map(102, myself, false).status < 0);
        check("a reference far out", map(u32::MAX, myself, false).status < 0);
        entry(103, 1, 0x1234, PAGE as u32);
        check("someone else's", map(103, myself, false).status < 0);
        entry(104, 1, myself.0, 0x0fff_ffff);
        check("a frame that is not there", map(104, myself, false).status < 0);
        check("SELF is no domain to map from", map(100, DomainId::SELF, false).status < 0);
        check("a domain that is not there", map(100, DomainId(0x7000), false).status < 0);

        copy(myself);
    }

    fn own_domain() -> DomainId {
        DomainId(crate::runtime::cpuid(0x4000_0004, 0)[2] as u16)
    }

    fn copy(myself: DomainId) {
        page(PAGE).word(FIRST).store(0xcafe, Ordering::SeqCst);
        entry(110, 1 | 4, myself.0, PAGE as u32);
        let template = grant::Copy {
            source: 110,
            source_domain: DomainId::SELF,
            destination: 0x33,
            destination_domain: DomainId::SELF,
            length: 64,
            flags: 1,
            ..Default::default()
        };
        let mut one = template;
        check_eq("copy", call(GRANT_OP, 5, &mut one) as u64, 0);
        check_eq("copy's status", one.status as u64, 0);
        check_eq("the bytes came", u64::from(page(0x33).word(FIRST).load(Ordering::SeqCst)), 0xcafe);
        check("copy leaves no marks", flags(110) & 0x18 == 0);
        let mut over = grant::Copy { source_offset: 4090, ..template };
        call(GRANT_OP, 5, &mut over);
        check("copy over the page's end", over.status < 0);
        let mut over = grant::Copy { destination_offset: 65535, length: 65535, ..template };
        call(GRANT_OP, 5, &mut over);
        check("copy far over the page's end", over.status < 0);
        let mut into = grant::Copy { source: 0x33, destination: 110, flags: 2, ..template };
        call(GRANT_OP, 5, &mut into);
        check("copy into a read-only grant", into.status < 0);
    }
}

#[cfg(target_os = "none")]
use guest::run;
