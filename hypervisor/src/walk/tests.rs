use core::cell::Cell;

use proptest::prelude::*;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::grant;
use trunnion_protocol::id::{DomainId, GrantRef};

use super::*;
use crate::pages::Pages;
use crate::pages::fake::FakeMemory;

/// Guest frame n is host frame n, of 64; those from 60 on are read-only.
struct Flat {
    memory: FakeMemory,
    epoch: Cell<u64>,
}

impl Flat {
    fn new() -> Self {
        Self { memory: FakeMemory::new(64), epoch: Cell::new(1) }
    }

    fn set64(&self, frame: u64, index: usize, entry: u64) {
        let page = self.memory.page(Mfn(frame)).unwrap();
        page.store(index * 8, &entry).unwrap();
    }

    fn set32(&self, frame: u64, index: usize, entry: u32) {
        self.memory.page(Mfn(frame)).unwrap().store(index * 4, &entry).unwrap();
    }
}

impl Space for Flat {
    fn frame(&self, gfn: Gfn) -> Option<(Mfn, bool)> {
        (gfn.0 < 64).then_some((Mfn(gfn.0), gfn.0 < 60))
    }
    fn page(&self, mfn: Mfn) -> Option<&SharedPage> {
        self.memory.page(mfn)
    }
    fn epoch(&self) -> u64 {
        self.epoch.get()
    }
}

const PG: u64 = 1 << 31 | 1 << 16 | 1;
const LONG: Paging = Paging::new(PG, 0x1000, 0x20, 0x500);

fn gfn(space: &Flat, paging: Paging, gva: u64, write: bool) -> Result<u64, FaultReason> {
    let mut last = Remembered::new();
    let found = Memory::new(space, paging, &mut last).translate(Gva(gva), write);
    found.map(|found| found.gfn.0).map_err(|fault| fault.reason)
}

/// Frame 1 is the root; 2, 3, 4 the tables below it for the addresses around `0xffff_8000_0000_0000`.
fn long_tables(space: &Flat) {
    space.set64(1, 256, 0x2003);
    space.set64(2, 0, 0x3003);
    space.set64(3, 0, 0x4003);
    space.set64(4, 0, 0x5003);
    space.set64(4, 1, 0x6001);
    space.set64(4, 2, 0x7002);
    space.set64(4, 3, 0x3d003);
    space.set64(4, 4, 0xffff_f003);
}

const BASE: u64 = 0xffff_8000_0000_0000;

#[test]
fn four_levels() {
    let space = Flat::new();
    long_tables(&space);
    assert_eq!(gfn(&space, LONG, BASE + 0x123, true), Ok(5));
    assert_eq!(gfn(&space, LONG, BASE + 0x1000, false), Ok(6));
    assert_eq!(gfn(&space, LONG, BASE + 0x1000, true), Err(FaultReason::ReadOnly));
    let no_wp = Paging::new(PG & !(1 << 16), 0x1000, 0x20, 0x500);
    assert_eq!(gfn(&space, no_wp, BASE + 0x1000, true), Ok(6));
    assert_eq!(gfn(&space, LONG, BASE + 0x2000, false), Err(FaultReason::NotPresent));
    assert_eq!(gfn(&space, LONG, BASE + 0x3000, false), Ok(61));
    assert_eq!(gfn(&space, LONG, BASE + 0x3000, true), Err(FaultReason::ReadOnly));
    assert_eq!(gfn(&space, no_wp, BASE + 0x3000, true), Err(FaultReason::ReadOnly), "second level");
    assert_eq!(gfn(&space, LONG, BASE + 0x4000, false), Err(FaultReason::NoMemory));
    assert_eq!(gfn(&space, LONG, 1 << 47, false), Err(FaultReason::NotCanonical));
    assert_eq!(
        gfn(&space, Paging::new(PG, 0x1000, 0x1020, 0x500), BASE, false),
        Err(FaultReason::Unsupported)
    );
    // A 2 MiB and a 1 GiB page that begin at 0.
    space.set64(3, 1, 0x83);
    assert_eq!(gfn(&space, LONG, BASE + (2 << 20) + 0x9123, true), Ok(9));
    space.set64(2, 1, 0x81);
    assert_eq!(gfn(&space, LONG, BASE + (1 << 30) + 0xa123, false), Ok(10));
    assert_eq!(gfn(&space, LONG, BASE + (1 << 30) + 0x20_0000, false), Err(FaultReason::NoMemory));
}

#[test]
fn paging_off_and_32_bits() {
    let space = Flat::new();
    assert_eq!(gfn(&space, Paging::new(0x11, 0, 0, 0), 0x7_0000_3abc, true), Ok(3));
    let two = Paging::new(PG, 0x1000, 0, 0);
    space.set32(1, 0x300, 0x2003);
    space.set32(2, 7, 0x5001);
    space.set32(1, 1, 0x0000_0083);
    assert_eq!(gfn(&space, two, 0xc000_7004, false), Ok(5));
    assert_eq!(gfn(&space, two, 0xc000_7004, true), Err(FaultReason::ReadOnly));
    let pse = Paging::new(PG, 0x1000, 0x10, 0);
    assert_eq!(gfn(&space, pse, 0x40_b000, true), Ok(11));
    assert_eq!(gfn(&space, two, 0x40_b000, true), Err(FaultReason::NotPresent), "bit 7 means nothing");
    space.set32(1, 1, 0x0000_2083);
    assert_eq!(gfn(&space, pse, 0x40_b000, true), Err(FaultReason::NoMemory), "bit 32 of the address");
}

#[test]
fn pae_with_an_accessed_pointer() {
    let space = Flat::new();
    let pae = Paging::new(PG, 0x1020, 0x20, 0);
    // Third pointer at 0x1020 + 16, present and accessed, without a write bit: it has none.
    space.set64(1, 4 + 2, 0x2021);
    space.set64(2, 1, 0x83);
    space.set64(2, 2, 0x3003);
    space.set64(3, 0, 0x8000_0000_0000_7003);
    assert_eq!(gfn(&space, pae, 0x8020_5000, true), Ok(5));
    assert_eq!(gfn(&space, pae, 0x8040_0000, true), Ok(7));
    assert_eq!(gfn(&space, pae, 0xf_8040_0000, true), Ok(7), "32-bit addresses");
    assert_eq!(gfn(&space, pae, 0, true), Err(FaultReason::NotPresent));
}

#[test]
fn a_remapped_page_is_found_without_a_flush() {
    let space = Flat::new();
    long_tables(&space);
    let mut last = Remembered::new();
    let mut memory = Memory::new(&space, LONG, &mut last);
    assert_eq!(memory.translate(Gva(BASE), true).unwrap().gfn, Gfn(5));
    space.set64(4, 0, 0x9023);
    assert_eq!(memory.translate(Gva(BASE), true).unwrap().gfn, Gfn(9));
    space.set64(4, 0, 0x9063);
    assert_eq!(memory.translate(Gva(BASE), true).unwrap().gfn, Gfn(9));
    space.set64(2, 0, 0);
    assert_eq!(
        memory.translate(Gva(BASE), true),
        Err(Fault { gva: Gva(BASE), reason: FaultReason::NotPresent })
    );
    // Another table root, and another epoch, each end the memory.
    space.set64(2, 0, 0x3003);
    assert!(memory.translate(Gva(BASE), true).is_ok());
    let other = Paging::new(PG, 0x2000, 0x20, 0x500);
    assert!(Memory::new(&space, other, &mut last).translate(Gva(BASE), true).is_err());
}

#[test]
fn copies_cross_pages() {
    let space = Flat::new();
    long_tables(&space);
    // Pages 5 and 9 in a row, then nothing.
    space.set64(4, 1, 0x9003);
    space.set64(4, 2, 0);
    let mut last = Remembered::new();
    let mut memory = Memory::new(&space, LONG, &mut last);
    let data: Vec<u8> = (0..100).collect();
    let at = Gva(BASE + 0xfd0);
    memory.write(at, &data).unwrap();
    let mut out = [0; 100];
    memory.read(at, &mut out).unwrap();
    assert_eq!(out[..], data);
    let mut tail = [0; 52];
    space.page(Mfn(9)).unwrap().copy_out(0, &mut tail).unwrap();
    assert_eq!(tail, data[48..]);
    let end = Gva(BASE + 0x1ffd);
    assert_eq!(memory.read(end, &mut [0; 8]).unwrap_err().gva, Gva(BASE + 0x2000));
    assert_eq!(memory.fetch(end, &mut [0; 15]).len(), 3);
    assert_eq!(memory.fetch(Gva(BASE + 0xffe), &mut [0; 15]).len(), 15);
    assert!(memory.fetch(Gva(BASE + 0x5000), &mut [0; 15]).is_empty());
    assert_eq!(Errno::from(memory.get_word(Width::W32, Gva(BASE + 0x8000)).unwrap_err()), Errno::Fault);
    let map = grant::Map { reference: GrantRef(7), domain: DomainId(3), ..grant::Map::default() };
    for width in [Width::W64, Width::W32] {
        memory.put(width, at, &map).unwrap();
        assert_eq!(memory.get::<grant::Map>(width, at), Ok(map));
        memory.put_word(width, at, 0x1_2345_6789).unwrap();
    }
    assert_eq!(memory.get_word(Width::W32, at), Ok(0x2345_6789));
    assert_eq!(memory.gpa(at, true), Ok(Gpa(0x5fd0)));
}

proptest! {
    /// Whatever the tables hold and however they change, the memory of the last walk answers as a new walk does.
    #[test]
    fn remembered_walks_agree_with_new_ones(
        mode in 0..5usize,
        changes in proptest::collection::vec((0..8u64, 0..4usize, any::<u16>(), 0..64u64, any::<u8>()), 1..60),
        high: bool,
    ) {
        let space = Flat::new();
        let paging = [
            Paging::new(1, 0, 0, 0), Paging::new(PG, 0, 0, 0), Paging::new(PG, 0, 0x10, 0),
            Paging::new(PG, 0, 0x20, 0), Paging::new(PG, 0, 0x20, 0x500),
        ][mode];
        let mut last = Remembered::new();
        for (frame, index, flags, target, page) in changes {
            // Entries that mostly lead on into the first few tables, sometimes astray.
            let entry = u64::from(flags & 0xfff) | 1 | target << 12;
            if mode < 3 { space.set32(frame, index, entry as u32) } else { space.set64(frame, index, entry) }
            if page & 0x30 == 0 { space.epoch.set(space.epoch.get() + 1); }
            let gva = u64::from(page & 3) << 12 | if high { 0xffff_8000_0000_0000 } else { 0 };
            for write in [false, true] {
                let remembered = Memory::new(&space, paging, &mut last).translate(Gva(gva), write);
                let fresh = Memory::new(&space, paging, &mut Remembered::new()).translate(Gva(gva), write);
                prop_assert_eq!(remembered, fresh);
            }
        }
    }

    /// No table contents and no address make it panic.
    #[test]
    fn any_tables(words in proptest::collection::vec(any::<u64>(), 64), gva: u64, cr0: u64, cr3: u64, cr4: u64, efer: u64) {
        let space = Flat::new();
        for (index, &word) in words.iter().enumerate() {
            space.set64(index as u64 % 4, (word >> 55) as usize, word);
        }
        let paging = Paging::new(cr0, cr3 & 0x3fff, cr4, efer);
        let mut last = Remembered::new();
        let mut memory = Memory::new(&space, paging, &mut last);
        let _ = memory.read(Gva(gva), &mut [0; 5000]);
        let _ = memory.write(Gva(gva), &[0; 5000]);
        let _ = memory.fetch(Gva(gva), &mut [0; 15]);
    }
}
