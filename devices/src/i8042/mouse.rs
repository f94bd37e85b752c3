//! A mouse of three buttons (PS/2 Technical Reference, *Mouse*).

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

const QUEUE: usize = 32;
const ACKNOWLEDGE: u8 = 0xfa;

/// A movement.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Motion {
    /// To the right, in counts.
    pub x: i16,
    /// Upwards, in counts.
    pub y: i16,
    /// Buttons that are down: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// A mouse.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mouse {
    queue: VecDeque<u8>,
    reporting: bool,
    /// Reports only when asked.
    remote: bool,
    wrap: bool,
    doubled: bool,
    resolution: u8,
    rate: u8,
    expects: Option<u8>,
    x: i16,
    y: i16,
    buttons: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            reporting: false,
            remote: false,
            wrap: false,
            doubled: false,
            resolution: 2,
            rate: 100,
            expects: None,
            x: 0,
            y: 0,
            buttons: 0,
        }
    }
}

impl Mouse {
    /// It is moved. What does not fit into a report stays for the next.
    pub fn move_by(&mut self, motion: Motion) {
        self.x = self.x.saturating_add(motion.x);
        self.y = self.y.saturating_add(motion.y);
        self.buttons = motion.buttons & 7;
        if self.reporting && !self.remote {
            self.report();
        }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn report(&mut self) {
        if self.queue.len() + 3 > QUEUE {
            return;
        }
        let x = self.x.clamp(-255, 255);
        let y = self.y.clamp(-255, 255);
        self.x = self.x.saturating_sub(x);
        self.y = self.y.saturating_sub(y);
        let head = self.buttons | 8 | u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        self.queue.extend([head, x as u8, y as u8]);
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        self.queue.pop_front()
    }

    fn say(&mut self, bytes: &[u8]) {
        if self.queue.len().saturating_add(bytes.len()) <= QUEUE {
            self.queue.extend(bytes);
        }
    }

    /// A byte from the controller.
    pub(super) fn command(&mut self, value: u8) {
        if self.wrap && value != 0xec && value != 0xff {
            return self.say(&[value]);
        }
        match self.expects.take() {
            Some(0xe8) => {
                self.resolution = value & 3;
                return self.say(&[ACKNOWLEDGE]);
            }
            Some(0xf3) => {
                self.rate = value;
                return self.say(&[ACKNOWLEDGE]);
            }
            _ => {}
        }
        match value {
            0xff => {
                *self = Self::default();
                return self.say(&[ACKNOWLEDGE, 0xaa, 0]);
            }
            0xe6 | 0xe7 => self.doubled = value == 0xe7,
            0xe8 | 0xf3 => self.expects = Some(value),
            0xe9 => {
                let status = u8::from(self.remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.doubled) << 4
                    | self.buttons & 7;
                let (resolution, rate) = (self.resolution, self.rate);
                return self.say(&[ACKNOWLEDGE, status, resolution, rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                self.say(&[ACKNOWLEDGE]);
                return self.report();
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.say(&[ACKNOWLEDGE, 0]),
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => *self = Self::default(),
            _ => return self.say(&[0xfe]),
        }
        self.say(&[ACKNOWLEDGE]);
    }
}
