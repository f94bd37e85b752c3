//! The serial memory with the card's address (317453, 5.3 and 5.6; Microwire: 93C46 data sheet).

use serde::{Deserialize, Serialize};

const CLOCK: u32 = 1;
const SELECT: u32 = 2;
const IN: u32 = 4;
const OUT: u32 = 8;
const REQUEST: u32 = 0x40;
const GRANT: u32 = 0x80;
const PRESENT: u32 = 0x100;
/// A start bit, two bits of operation, six of address.
const COMMAND: u8 = 9;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Eeprom {
    address: [u8; 6],
    control: u32,
    shifted: u16,
    count: u8,
    /// Bits that are still to come out.
    out: u32,
    reading: bool,
}

impl Eeprom {
    pub(super) const fn new(address: [u8; 6]) -> Self {
        Self { address, control: 0, shifted: 0, count: 0, out: 0, reading: false }
    }

    fn content(&self, index: u32) -> u16 {
        let [a, b, c, d, e, f] = self.address;
        match index {
            0 => u16::from_le_bytes([a, b]),
            1 => u16::from_le_bytes([c, d]),
            2 => u16::from_le_bytes([e, f]),
            0x0a => 0x4408,
            0x0b => 0x1100,
            0x0c => 0x1af4,
            0x0d => 0x100e,
            0x0e => 0x8086,
            _ => 0,
        }
    }

    /// A word; the last one makes the sum 0xbaba.
    pub(super) fn word(&self, index: u32) -> u16 {
        if index == 0x3f {
            return (0..0x3f).fold(0xbabau16, |rest, index| rest.wrapping_sub(self.content(index)));
        }
        self.content(index)
    }

    /// What the control register reads.
    pub(super) const fn control(&self) -> u32 {
        let grant = if self.control & REQUEST != 0 { GRANT } else { 0 };
        let bit = if self.reading && self.out >> 16 & 1 == 0 { 0 } else { OUT };
        self.control | grant | PRESENT | bit
    }

    /// The control register is written: its bits are the memory's pins.
    pub(super) fn write(&mut self, value: u32) {
        let was = self.control;
        self.control = value & (CLOCK | SELECT | IN | REQUEST);
        if value & SELECT == 0 {
            self.count = 0;
            self.shifted = 0;
            self.reading = false;
            return;
        }
        // Bits move at the rising clock.
        if value & CLOCK == 0 || was & CLOCK != 0 {
            return;
        }
        if self.reading {
            self.out <<= 1;
            return;
        }
        let bit = u16::from(value & IN != 0);
        if self.count == 0 && bit == 0 {
            return;
        }
        self.shifted = self.shifted << 1 | bit;
        self.count += 1;
        if self.count == COMMAND {
            self.count = 0;
            if self.shifted >> 6 & 7 == 6 {
                self.reading = true;
                // A zero comes before the data.
                self.out = u32::from(self.word(u32::from(self.shifted & 0x3f)));
            }
            self.shifted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_bit_by_bit() {
        let mut eeprom = Eeprom::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let sum = (0..0x40).fold(0u16, |sum, index| sum.wrapping_add(eeprom.word(index)));
        assert_eq!(sum, 0xbaba);
        for index in [0, 1, 2, 0x3f] {
            eeprom.write(REQUEST);
            for bit in (0..9).rev() {
                let data = if (0x180 | index) >> bit & 1 != 0 { IN } else { 0 };
                eeprom.write(REQUEST | SELECT | data);
                eeprom.write(REQUEST | SELECT | data | CLOCK);
            }
            let mut word = 0;
            for _ in 0..16 {
                eeprom.write(REQUEST | SELECT);
                eeprom.write(REQUEST | SELECT | CLOCK);
                word = word << 1 | u16::from(eeprom.control() & OUT != 0);
            }
            assert_eq!(word, eeprom.word(index));
        }
    }
}
