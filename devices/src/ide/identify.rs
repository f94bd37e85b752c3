//! What IDENTIFY DEVICE and IDENTIFY PACKET DEVICE answer (ATA-6, 8.15 and 8.16).

use alloc::vec;
use alloc::vec::Vec;

use trunnion_backends::device::BlockShape;

use super::drive::{DriveState, Kind};

/// Sectors that a command with a 28-bit address reaches.
const LBA28: u64 = 0x0fff_ffff;

/// Text as the words of the answer have it: two characters a word, the first in the high byte.
fn text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().chain(core::iter::repeat(b' '));
    for word in words {
        let high = bytes.next().unwrap_or(b' ');
        let low = bytes.next().unwrap_or(b' ');
        *word = u16::from_be_bytes([high, low]);
    }
}

/// Cylinders of the geometry that everybody assumes: 16 heads, 63 sectors.
fn cylinders(sectors: u64) -> u16 {
    (sectors / (16 * 63)).min(16_383) as u16
}

/// The 512 bytes.
pub(super) fn identify(drive: &DriveState, shape: Option<BlockShape>) -> Vec<u8> {
    let mut words = vec![0u16; 256];
    let mut set = |index: usize, value: u16| {
        if let Some(word) = words.get_mut(index) {
            *word = value;
        }
    };
    let disk = drive.kind == Kind::Disk;
    let sectors = shape.map_or(0, |shape| shape.sectors);
    let multiword =
        if drive.mode & 0xf8 == 0x20 { 0x100u16.wrapping_shl(u32::from(drive.mode & 7)) } else { 0 };
    let ultra = if drive.mode & 0xf8 == 0x40 { 0x100u16.wrapping_shl(u32::from(drive.mode & 7)) } else { 0 };
    // DMA and LBA.
    set(49, 0x0300);
    set(53, 7);
    set(63, 7 | multiword);
    set(64, 3);
    for index in 65..=68 {
        set(index, 120);
    }
    set(80, 0x7e);
    set(88, 0x3f | ultra);
    set(93, 0x6001);
    if disk {
        set(0, 0x0040);
        set(1, cylinders(sectors));
        set(3, 16);
        set(6, 63);
        set(47, 0x8010);
        set(54, cylinders(sectors));
        set(55, u16::from(drive.heads));
        set(56, u16::from(drive.track));
        let current = u32::from(cylinders(sectors)) * 16 * 63;
        set(57, current as u16);
        set(58, (current >> 16) as u16);
        set(59, 0x100 | u16::from(drive.multiple));
        let short = sectors.min(LBA28);
        set(60, short as u16);
        set(61, (short >> 16) as u16);
        // Write cache, flush cache, 48-bit addresses, flush cache extended.
        set(82, 0x4020);
        set(83, 0x7400);
        set(84, 0x4000);
        set(85, 0x0020);
        set(86, 0x3400);
        set(87, 0x4000);
        for (index, shift) in [(100, 0), (101, 16), (102, 32), (103, 48)] {
            set(index, (sectors >> shift) as u16);
        }
    } else {
        // Removable CD drive, 12-byte packets.
        set(0, 0x85c0);
        set(82, 0x4010);
        set(83, 0x4000);
        set(84, 0x4000);
        set(85, 0x0010);
        set(87, 0x4000);
    }
    let model = if disk { "TRUNNION DISK" } else { "TRUNNION CD-ROM" };
    for (range, value) in [(10..20, drive.serial.as_str()), (23..27, "1.0"), (27..47, model)] {
        if let Some(place) = words.get_mut(range) {
            text(place, value);
        }
    }
    words.into_iter().flat_map(u16::to_le_bytes).collect()
}
