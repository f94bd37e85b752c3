//! The pair of interrupt controllers (Intel 8259A data sheet; edge and level control registers: 82371SB, 2.4.4).

use serde::{Deserialize, Serialize};

/// One 8259A.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Chip {
    /// Requests, those in service, and the mask.
    irr: u8,
    isr: u8,
    imr: u8,
    /// Levels of the inputs.
    lines: u8,
    /// Inputs that are level-triggered.
    level: u8,
    /// Vector of input 0.
    base: u8,
    /// Input with the lowest priority.
    lowest: u8,
    /// The initialisation word that is expected next, or 0.
    expects: u8,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotates: bool,
    special_mask: bool,
    nested: bool,
    reads_isr: bool,
    poll: bool,
}

impl Chip {
    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1u8.wrapping_shl(u32::from(input));
        if self.level & bit != 0 {
            if high {
                self.irr |= bit;
            } else {
                self.irr &= !bit;
            }
        } else if high && self.lines & bit == 0 {
            self.irr |= bit;
        } else if !high {
            // A request that goes away before it is acknowledged is spurious.
            self.irr &= !bit;
        }
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// How far an input is from the highest priority: 0 is highest, 8 is none.
    fn rank(&self, inputs: u8) -> u8 {
        let first = self.lowest.wrapping_add(1) & 7;
        inputs.rotate_right(u32::from(first)).trailing_zeros() as u8
    }

    fn input_of(&self, rank: u8) -> u8 {
        rank.wrapping_add(self.lowest).wrapping_add(1) & 7
    }

    /// The input to be served now. `cascade`: the input of a second chip, which may interrupt itself in the special fully
    /// nested mode.
    fn pending(&self, cascade: u8) -> Option<u8> {
        if self.expects != 0 {
            return None;
        }
        let wanted = self.rank(self.irr & !self.imr);
        if wanted == 8 {
            return None;
        }
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        if self.nested {
            serving &= !cascade;
        }
        (wanted < self.rank(serving)).then(|| self.input_of(wanted))
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1u8.wrapping_shl(u32::from(input));
        if self.auto_eoi {
            if self.rotates {
                self.lowest = input;
            }
        } else {
            self.isr |= bit;
        }
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write(&mut self, odd: bool, value: u8) {
        match (odd, self.expects) {
            (false, _) if value & 0x10 != 0 => {
                // ICW1 clears everything but the inputs' levels.
                *self = Self {
                    lines: self.lines,
                    level: self.level,
                    base: self.base,
                    lowest: 7,
                    ..Self::default()
                };
                self.irr = self.lines & self.level;
                self.expects = 2;
                self.wants_icw4 = value & 1 != 0;
                self.single = value & 2 != 0;
            }
            (false, _) if value & 8 != 0 => {
                // OCW3.
                if value & 4 != 0 {
                    self.poll = true;
                }
                if value & 2 != 0 {
                    self.reads_isr = value & 1 != 0;
                }
                if value & 0x40 != 0 {
                    self.special_mask = value & 0x20 != 0;
                }
            }
            (false, _) => self.end(value),
            (true, 2) => {
                self.base = value & 0xf8;
                self.expects = if !self.single {
                    3
                } else if self.wants_icw4 {
                    4
                } else {
                    0
                };
            }
            (true, 3) => self.expects = if self.wants_icw4 { 4 } else { 0 },
            (true, 4) => {
                self.auto_eoi = value & 2 != 0;
                self.nested = value & 0x10 != 0;
                self.expects = 0;
            }
            (true, _) => self.imr = value,
        }
    }

    /// OCW2: ends of interrupts and rotations.
    fn end(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0 => self.rotates = false,
            4 => self.rotates = true,
            command @ (1 | 5) => {
                let rank = self.rank(self.isr);
                if rank < 8 {
                    let input = self.input_of(rank);
                    self.isr &= !1u8.wrapping_shl(u32::from(input));
                    if command == 5 {
                        self.lowest = input;
                    }
                }
            }
            command @ (3 | 7) => {
                self.isr &= !1u8.wrapping_shl(u32::from(named));
                if command == 7 {
                    self.lowest = named;
                }
            }
            6 => self.lowest = named,
            _ => {}
        }
    }

    fn read(&mut self, odd: bool, cascade: u8) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending(cascade) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (odd, self.reads_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }
}

/// Both controllers: ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0 and 0x4d1, and sixteen inputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pic {
    first: Chip,
    second: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        let chip = Chip { lowest: 7, imr: 0xff, ..Chip::default() };
        Self { first: chip.clone(), second: chip }
    }
}

/// The first chip's input that the second one drives.
const CASCADE: u8 = 2;

impl Pic {
    /// Puts an input, 0 to 15, to a level.
    pub fn set_line(&mut self, input: u8, high: bool) {
        if input >= 8 {
            self.second.set_line(input & 7, high);
        } else if input != CASCADE {
            self.first.set_line(input, high);
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let wanted = self.second.pending(0).is_some();
        self.first.set_line(CASCADE, wanted);
    }

    /// Whether the output that leads to the processor (and to the local APIC's LINT0) is high.
    #[must_use]
    pub fn wants(&self) -> bool {
        self.first.pending(1 << CASCADE).is_some()
    }

    /// The processor acknowledges: the vector. A request that went away meanwhile gives the spurious vector, input 7.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.first.pending(1 << CASCADE) else { return self.first.base | 7 };
        self.first.acknowledge(input);
        if input != CASCADE {
            return self.first.base | input;
        }
        let vector = match self.second.pending(0) {
            Some(input) => {
                self.second.acknowledge(input);
                self.second.base | input
            }
            None => self.second.base | 7,
        };
        self.first.set_line(CASCADE, false);
        self.cascade();
        vector
    }

    /// Reads one of its ports.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.first.read(port & 1 != 0, 1 << CASCADE),
            0xa0 | 0xa1 => self.second.read(port & 1 != 0, 0),
            0x4d0 => self.first.level,
            0x4d1 => self.second.level,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes one of its ports.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 => self.first.write(port & 1 != 0, value),
            0xa0 | 0xa1 => self.second.write(port & 1 != 0, value),
            // Timer, keyboard and cascade, clock and coprocessor are always edge-triggered.
            0x4d0 => self.first.level = value & 0xf8,
            0x4d1 => self.second.level = value & 0xde,
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> Pic {
        let mut pic = Pic::default();
        for (port, value) in
            [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1)]
        {
            pic.write(port, value);
        }
        pic.write(0x21, 0);
        pic.write(0xa1, 0);
        pic
    }

    #[test]
    fn the_highest_priority_comes_first_and_waits_for_the_end() {
        let mut pic = initialised();
        pic.set_line(14, true);
        pic.set_line(1, true);
        assert!(pic.wants());
        assert_eq!(pic.acknowledge(), 9);
        assert!(!pic.wants(), "14 is below 1");
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x76);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(!pic.wants(), "edges count once");
        pic.set_line(14, false);
        pic.set_line(14, true);
        assert!(pic.wants());
    }

    #[test]
    fn levels_come_back_until_they_fall() {
        let mut pic = initialised();
        pic.write(0x4d1, 8);
        pic.set_line(11, true);
        for _ in 0..3 {
            assert_eq!(pic.acknowledge(), 0x73);
            pic.write(0xa0, 0x20);
            pic.write(0x20, 0x20);
        }
        pic.set_line(11, false);
        assert!(!pic.wants());
        assert_eq!(pic.acknowledge(), 15, "spurious");
    }

    #[test]
    fn masks_hold() {
        let mut pic = initialised();
        pic.write(0x21, 0xff);
        pic.set_line(0, true);
        assert!(!pic.wants());
        pic.write(0x21, 0xfe);
        assert!(pic.wants());
    }
}
