//! A keyboard of 102 keys that speaks scan code set 2 (PS/2 Technical Reference, *Keyboards*).

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that wait to be read; further keys are lost, as a keyboard loses them.
const QUEUE: usize = 32;
const ACKNOWLEDGE: u8 = 0xfa;

/// Scan codes of set 2, from 0, as the controller translates them to set 1 (PS/2 Technical Reference, *Keyboard
/// Controller*, translation table).
const SET_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65,
    0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e,
    0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30,
    0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17,
    0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a,
    0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a,
    0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01,
    0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// A keyboard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keyboard {
    queue: VecDeque<u8>,
    scanning: bool,
    expects: Option<u8>,
    set: u8,
    leds: u8,
    /// The controller's translation has seen the byte that announces a release.
    releasing: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: VecDeque::new(), scanning: true, expects: None, set: 2, leds: 0, releasing: false }
    }
}

impl Keyboard {
    /// Scan codes of set 2 from a key, all or none.
    pub fn press(&mut self, codes: &[u8]) {
        if self.scanning && self.queue.len().saturating_add(codes.len()) <= QUEUE {
            self.queue.extend(codes);
        }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Lamps: bit 0 scroll, 1 number, 2 capitals.
    #[must_use]
    pub const fn leds(&self) -> u8 {
        self.leds
    }

    /// The next byte for the output buffer, as set 1 where the controller translates.
    pub(super) fn next(&mut self, translate: bool) -> Option<u8> {
        loop {
            let byte = self.queue.pop_front()?;
            if !translate {
                return Some(byte);
            }
            if byte == 0xf0 {
                self.releasing = true;
                continue;
            }
            let release = if core::mem::take(&mut self.releasing) { 0x80 } else { 0 };
            return Some(match byte {
                // F7 and Alt-PrintScreen.
                0x83 => 0x41 | release,
                0x84 => 0x54 | release,
                _ => SET_1.get(usize::from(byte)).map_or(byte, |&code| code | release),
            });
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if self.queue.len().saturating_add(bytes.len()) <= QUEUE {
            self.queue.extend(bytes);
        }
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, value: u8) {
        match self.expects.take() {
            Some(0xed) if value < 0x80 => {
                self.leds = value & 7;
                return self.say(&[ACKNOWLEDGE]);
            }
            Some(0xf0) if value < 4 => {
                self.say(&[ACKNOWLEDGE]);
                if value == 0 {
                    let set = self.set;
                    self.say(&[set]);
                } else {
                    self.set = value;
                }
                return;
            }
            Some(0xf3) if value < 0x80 => return self.say(&[ACKNOWLEDGE]),
            _ => {}
        }
        match value {
            0xed | 0xf0 | 0xf3 => {
                self.expects = Some(value);
                self.say(&[ACKNOWLEDGE]);
            }
            0xee => self.say(&[0xee]),
            0xf2 => self.say(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4 => {
                self.queue.clear();
                self.scanning = true;
                self.say(&[ACKNOWLEDGE]);
            }
            0xf5 | 0xf6 => {
                self.queue.clear();
                self.scanning = value == 0xf6;
                self.set = 2;
                self.say(&[ACKNOWLEDGE]);
            }
            0xf7..=0xfd => self.say(&[ACKNOWLEDGE]),
            0xff => {
                *self = Self::default();
                self.say(&[ACKNOWLEDGE, 0xaa]);
            }
            _ => self.say(&[0xfe]),
        }
    }
}
