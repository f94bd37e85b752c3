//! What the firmware is told: the order of booting, the memory map, and the tables that it hands on.

use alloc::vec::Vec;

use trunnion_devices::board::Board;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::tables::{self, Description};

use crate::plan::{Pc, SPECIAL};

/// Types of entries of the memory map.
mod kind {
    pub(super) const RAM: u32 = 1;
    pub(super) const RESERVED: u32 = 2;
}

/// Sets the firmware interface up of a board of so many processors with this number.
pub fn furnish<M: GuestMemory>(board: &mut Board<M>, pc: &Pc, cpus: u32, uuid: [u8; 16]) {
    let [first, second, third] = boot_order(&pc.boot);
    // Where SeaBIOS looks for the order on emulated machines: the first two in one byte, the third in another.
    board.rtc.set_byte(0x3d, first | second << 4);
    board.rtc.set_byte(0x38, third << 4);
    board.fwcfg.add("etc/e820", map(pc));
    // The timer is input 2 of the I/O APIC, for the tables of the MultiProcessor specification, which SeaBIOS makes itself.
    board.fwcfg.add("etc/irq0-override", [1].into());
    let [_, low, _, high] = pc.memory();
    let description = Description {
        cpus: cpus as u8,
        low: low.end,
        high: high.end - high.start,
        hpet: pc.hpet,
        vga: board.vga.is_some(),
        floppy: pc.floppy.is_some(),
        uuid,
    };
    for (name, content) in tables::files(&description) {
        board.fwcfg.add(name, content);
    }
}

/// The first three devices to boot from, as numbers of SeaBIOS's settings; 0 is none.
fn boot_order(letters: &str) -> [u8; 3] {
    let mut numbers = letters.bytes().map(|letter| match letter {
        b'a' => 1,
        b'c' => 2,
        b'd' => 3,
        _ => 4,
    });
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// The memory map as QEMU's `etc/e820` has it: address, length and type of each range.
fn map(pc: &Pc) -> Vec<u8> {
    let [_, low, _, high] = pc.memory();
    let mut bytes = Vec::new();
    for (range, kind) in [(0..low.end, kind::RAM), (SPECIAL, kind::RESERVED), (high, kind::RAM)] {
        if !range.is_empty() {
            bytes.extend_from_slice(&range.start.to_le_bytes());
            bytes.extend_from_slice(&(range.end - range.start).to_le_bytes());
            bytes.extend_from_slice(&kind.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_booting_is_in_the_settings() {
        assert_eq!(boot_order("cda"), [2, 3, 1]);
        assert_eq!(boot_order("d"), [3, 0, 0]);
        assert_eq!(boot_order("acdn"), [1, 2, 3]);
    }
}
