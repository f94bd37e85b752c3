//! The I/O APIC (Intel 82093AA data sheet, 3.0): 24 inputs, memory-mapped at 0xfec00000.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Inputs.
pub const INPUTS: usize = 24;
/// Guest-physical address of its page.
pub const BASE: u64 = 0xfec0_0000;
/// Its number at power-on: odd, for those of local APICs are even.
pub const ID: u8 = 1;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
/// Bits that a program may change.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// A message to local APICs (SDM 3, 10.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The vector.
    pub vector: u8,
    /// Delivery mode: 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 external.
    pub mode: u8,
    /// The destination is logical.
    pub logical: bool,
    /// The destination.
    pub destination: u8,
    /// Level-triggered: an end of interrupt comes back.
    pub level: bool,
}

/// The controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [u64; INPUTS],
    /// Levels of the inputs.
    lines: u32,
    /// Edges that wait for their entry to be unmasked are lost, as on the chip; what waits here are messages not taken yet.
    pending: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: ID, entries: [MASKED; INPUTS], lines: 0, pending: 0 }
    }
}

impl IoApic {
    /// Puts an input to a level. `active` is what the device means: whether that is a high or a low voltage is a matter of the wire, and a
    /// program's polarity bit is kept and means nothing, as in Xen's own model.
    pub fn set_line(&mut self, input: u8, active: bool) {
        let Some(entry) = self.entries.get(usize::from(input)) else { return };
        let bit = 1u32.wrapping_shl(u32::from(input));
        let was = self.lines & bit != 0;
        if active {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if active && !was && entry & (LEVEL | MASKED) == 0 {
            self.pending |= bit;
        }
    }

    /// The messages that are to be sent now.
    pub fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut inputs = self.lines | self.pending;
        while inputs != 0 {
            let bit = inputs & inputs.wrapping_neg();
            inputs &= !bit;
            let Some(entry) = self.entries.get_mut(bit.trailing_zeros() as usize) else { break };
            let level = *entry & LEVEL != 0;
            let fires = *entry & MASKED == 0
                && if level {
                    self.lines & bit != 0 && *entry & REMOTE_IRR == 0
                } else {
                    self.pending & bit != 0
                };
            if !fires {
                continue;
            }
            self.pending &= !bit;
            if level {
                *entry |= REMOTE_IRR;
            }
            messages.push(Message {
                vector: *entry as u8,
                mode: (*entry >> 8 & 7) as u8,
                logical: *entry >> 11 & 1 != 0,
                destination: (*entry >> 56) as u8,
                level,
            });
        }
        messages
    }

    /// A local APIC has ended a level-triggered interrupt.
    pub fn end(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if *entry as u8 == vector && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// Reads a register; only aligned double words mean something.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset & 0xff {
            0 => u32::from(self.select),
            0x10 => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                // Version 0x11 and the number of the last entry.
                1 => 0x0017_0011,
                index => {
                    let Some(entry) = self.entry_index(index) else { return 0 };
                    let entry = self.entries.get(entry).copied().unwrap_or(0);
                    (if index & 1 == 0 { entry } else { entry >> 32 }) as u32
                }
            },
            _ => 0,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset & 0xff {
            0 => self.select = value as u8,
            0x10 if self.select == 0 => self.id = (value >> 24) as u8 & 0xf,
            0x10 => {
                let select = self.select;
                let Some(index) = self.entry_index(select) else { return };
                let Some(entry) = self.entries.get_mut(index) else { return };
                let (keep, new) = if select & 1 == 0 {
                    (0xffff_ffff_0000_0000, u64::from(value))
                } else {
                    (0xffff_ffff, u64::from(value) << 32)
                };
                *entry = *entry & (keep | !WRITABLE) | new & WRITABLE & !keep;
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
            }
            // The EOI register of later chips.
            0x40 => self.end(value as u8),
            _ => {}
        }
    }

    fn entry_index(&self, select: u8) -> Option<usize> {
        let index = usize::from(select.checked_sub(0x10)?) / 2;
        (index < INPUTS).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(apic: &mut IoApic, input: u8, low: u32, high: u32) {
        apic.write(0, u32::from(0x11 + input * 2));
        apic.write(0x10, high);
        apic.write(0, u32::from(0x10 + input * 2));
        apic.write(0x10, low);
    }

    #[test]
    fn a_level_waits_for_its_end() {
        let mut apic = IoApic::default();
        set(&mut apic, 11, 0x8000 | 0x51, 2 << 24);
        apic.set_line(11, true);
        let wanted = Message { vector: 0x51, mode: 0, logical: false, destination: 2, level: true };
        assert_eq!(apic.take_messages(), [wanted]);
        assert_eq!(apic.take_messages(), []);
        apic.end(0x51);
        assert_eq!(apic.take_messages(), [wanted], "the line is still high");
        apic.set_line(11, false);
        apic.end(0x51);
        assert_eq!(apic.take_messages(), []);
    }

    #[test]
    fn the_polarity_of_the_wire_means_nothing() {
        let mut apic = IoApic::default();
        set(&mut apic, 19, 0xa000 | 0x51, 0);
        assert_eq!(apic.take_messages(), [], "nobody wants anything");
        apic.set_line(19, true);
        assert_eq!(apic.take_messages().len(), 1);
        assert_eq!(apic.read(0x10), 0xe051, "delivered, level, low");
    }

    #[test]
    fn an_edge_counts_once() {
        let mut apic = IoApic::default();
        set(&mut apic, 4, 0x34, 0);
        apic.set_line(4, true);
        apic.set_line(4, true);
        assert_eq!(apic.take_messages().len(), 1);
        assert_eq!(apic.take_messages(), []);
        apic.set_line(4, false);
        apic.set_line(4, true);
        assert_eq!(apic.take_messages().len(), 1);
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x0017_0011);
    }
}
