//! SMBIOS structures, version 2.8, with the 32-bit entry point. What the BIOS is (type 0) the firmware adds itself, for it knows.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::Description;

/// Handles of structures that others name, or that are like them.
mod handle {
    pub(super) const SYSTEM: u16 = 0x100;
    pub(super) const CHASSIS: u16 = 0x300;
    pub(super) const PROCESSOR: u16 = 0x400;
    pub(super) const ARRAY: u16 = 0x1000;
    pub(super) const MEMORY: u16 = 0x1100;
    pub(super) const MAPPED: u16 = 0x1300;
    pub(super) const BOOT: u16 = 0x2000;
    pub(super) const END: u16 = 0x7f00;
    /// None.
    pub(super) const NONE: u16 = 0xfffe;
}

/// Values that several structures have.
const UNKNOWN: u8 = 2;
const SAFE: u8 = 3;

/// The structures.
pub(super) struct Structures {
    /// One behind the other.
    pub(super) bytes: Vec<u8>,
    /// The entry point, without where they are.
    pub(super) anchor: Vec<u8>,
}

/// The structures of a PC.
pub(super) fn structures(pc: &Description) -> Structures {
    let mut all = Table::default();
    system(&mut all, pc);
    chassis(&mut all);
    processor(&mut all, pc.cpus);
    memory(&mut all, pc);
    // No error was found at the start.
    all.add(32, handle::BOOT, &[&[0; 6], &[0]], &[]);
    all.add(127, handle::END, &[], &[]);
    let anchor = all.anchor();
    Structures { bytes: all.bytes, anchor }
}

#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: u16,
    largest: usize,
}

impl Table {
    /// Adds a structure: the fields behind its header, and its strings.
    fn add(&mut self, kind: u8, handle: u16, fields: &[&[u8]], strings: &[&str]) {
        let start = self.bytes.len();
        let length: usize = 4 + fields.iter().map(|field| field.len()).sum::<usize>();
        self.bytes.extend_from_slice(&[kind, length as u8]);
        self.bytes.extend_from_slice(&handle.to_le_bytes());
        fields.iter().for_each(|field| self.bytes.extend_from_slice(field));
        for string in strings {
            self.bytes.extend_from_slice(string.as_bytes());
            self.bytes.push(0);
        }
        // Two zeroes end a structure, of which the first is the last string's own.
        self.bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        self.count += 1;
        self.largest = self.largest.max(self.bytes.len() - start);
    }

    /// The entry point (5.2.1). The sums are made again by whoever puts the address in.
    fn anchor(&self) -> Vec<u8> {
        let mut anchor = b"_SM_\0\x1f\x02\x08".to_vec();
        anchor.extend_from_slice(&(self.largest as u16).to_le_bytes());
        anchor.extend_from_slice(&[0; 6]);
        anchor.extend_from_slice(b"_DMI_\0");
        anchor.extend_from_slice(&(self.bytes.len() as u16).to_le_bytes());
        anchor.extend_from_slice(&[0; 4]);
        anchor.extend_from_slice(&self.count.to_le_bytes());
        anchor.push(0x28);
        for (at, from) in [(0x15, 0x10), (4, 0)] {
            let sum = anchor.iter().skip(from).fold(0u8, |sum, &byte| sum.wrapping_add(byte));
            if let Some(place) = anchor.get_mut(at) {
                *place = sum.wrapping_neg();
            }
        }
        anchor
    }
}

/// Type 1. Maker and product are those by which programs know a guest of this kind.
fn system(all: &mut Table, pc: &Description) {
    const POWER_SWITCH: u8 = 6;
    let uuid = uuid(&pc.uuid);
    // The first three fields are numbers (7.2.1).
    let [a, b, c, d, e, f, g, h, rest @ ..] = pc.uuid;
    let number = [d, c, b, a, f, e, h, g];
    all.add(
        1,
        handle::SYSTEM,
        &[&[1, 2, 3, 4], &number, &rest, &[POWER_SWITCH, 0, 0]],
        &["Xen", "HVM domU", "4.17", &uuid],
    );
}

/// A number as people write it.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Type 3.
fn chassis(all: &mut Table) {
    const OTHER: u8 = 1;
    all.add(
        3,
        handle::CHASSIS,
        // Maker, kind, no strings more; boot-up, power and thermal states, security; neither height nor parts.
        &[&[1, OTHER, 0, 0, 0, SAFE, SAFE, SAFE, UNKNOWN], &[0; 4], &[0, 0, 0, 0, 0]],
        &["Xen"],
    );
}

/// Type 4: one package with all processors, as CPUID has it.
fn processor(all: &mut Table, cpus: u8) {
    const CENTRAL: u8 = 3;
    /// There is one, and it is enabled.
    const POPULATED: u8 = 0x41;
    const OTHER: u8 = 1;
    /// 64 bits, several cores.
    const FEATURES: u16 = 1 << 2 | 1 << 3;
    all.add(
        4,
        handle::PROCESSOR,
        &[
            &[1, CENTRAL, OTHER, 2],
            // What it is says CPUID. Voltage, clocks and speeds are not known.
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 0, 0],
            &[POPULATED, OTHER],
            // Caches are not told of; no strings more.
            &[0xff; 6],
            &[0; 3],
            &[cpus, cpus, cpus],
            &FEATURES.to_le_bytes(),
            &u16::from(OTHER).to_le_bytes(),
        ],
        &["CPU 0", "Xen"],
    );
}

/// Types 16, 17 and 19: one module with all memory, and where it is.
fn memory(all: &mut Table, pc: &Description) {
    const SYSTEM_BOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_CORRECTION: u8 = 3;
    const RAM: u8 = 7;
    const DIMM: u8 = 9;
    const OTHER: u16 = 1 << 1;
    /// A size that stands in the wider field, in KiB and in MiB.
    const WIDE: u32 = 0x8000_0000;
    const LARGE: u16 = 0x7fff;
    let bytes = pc.low.saturating_add(pc.high);
    let kib = bytes >> 10;
    let (narrow, wide) =
        u32::try_from(kib).ok().filter(|&kib| kib < WIDE).map_or((WIDE, bytes), |kib| (kib, 0));
    all.add(
        16,
        handle::ARRAY,
        &[
            &[SYSTEM_BOARD, SYSTEM_MEMORY, NO_CORRECTION],
            &narrow.to_le_bytes(),
            &handle::NONE.to_le_bytes(),
            &1u16.to_le_bytes(),
            &wide.to_le_bytes(),
        ],
        &[],
    );
    let mib = bytes >> 20;
    let (narrow, wide) =
        u16::try_from(mib).ok().filter(|&mib| mib < LARGE).map_or((LARGE, mib as u32), |mib| (mib, 0));
    all.add(
        17,
        handle::MEMORY,
        &[
            &handle::ARRAY.to_le_bytes(),
            &handle::NONE.to_le_bytes(),
            // Widths are not known.
            &[0xff; 4],
            &narrow.to_le_bytes(),
            // No set; one string for where it is, none for the bank.
            &[DIMM, 0, 1, 0, RAM],
            &OTHER.to_le_bytes(),
            // Speed, maker, number, tag, part, rank.
            &[0, 0, 2, 0, 0, 0, 0],
            &wide.to_le_bytes(),
            // Speed and voltages.
            &[0; 8],
        ],
        &["DIMM 0", "Xen"],
    );
    for (index, (start, length)) in (0..).zip([(0, pc.low), (1 << 32, pc.high)]) {
        if length == 0 {
            continue;
        }
        let last = start + (length - 1);
        let place = |address: u64| u32::try_from(address >> 10).ok().filter(|&kib| kib < u32::MAX);
        let (narrow, wide) = match (place(start), place(last)) {
            (Some(start), Some(last)) => ([start, last], [0, 0]),
            _ => ([u32::MAX; 2], [start, last]),
        };
        all.add(
            19,
            handle::MAPPED + index,
            &[
                &narrow[0].to_le_bytes(),
                &narrow[1].to_le_bytes(),
                &handle::ARRAY.to_le_bytes(),
                &[1],
                &wide[0].to_le_bytes(),
                &wide[1].to_le_bytes(),
            ],
            &[],
        );
    }
}
