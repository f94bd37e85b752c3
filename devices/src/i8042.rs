//! The keyboard controller with a keyboard and a mouse (Intel 8042, as IBM's PS/2 Technical Reference, *Keyboard and
//! Auxiliary Device Controller*, describes it), ports 0x60 and 0x64.

mod keyboard;
mod mouse;

use serde::{Deserialize, Serialize};

pub use keyboard::Keyboard;
pub use mouse::{Motion, Mouse};

/// What the output buffer holds comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum From {
    Controller,
    Keyboard,
    Mouse,
}

/// Lines that the controller's output port drives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lines {
    /// Interrupt line 1.
    pub keyboard: bool,
    /// Interrupt line 12.
    pub mouse: bool,
}

const INTERRUPT: u8 = 1;
const MOUSE_INTERRUPT: u8 = 2;
const SYSTEM: u8 = 4;
const KEYBOARD_OFF: u8 = 0x10;
const MOUSE_OFF: u8 = 0x20;
const TRANSLATE: u8 = 0x40;

/// The controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Controller {
    command: u8,
    output_port: u8,
    /// A command that waits for its byte.
    expects: Option<u8>,
    buffer: Option<(u8, From)>,
    last: u8,
    last_was_command: bool,
    memory: [u8; 32],
    reset: bool,
    /// A byte was read since this was last asked.
    fell: bool,
    /// The keyboard.
    pub keyboard: Keyboard,
    /// The mouse.
    pub mouse: Mouse,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            command: KEYBOARD_OFF | MOUSE_OFF | TRANSLATE,
            output_port: 3,
            expects: None,
            buffer: None,
            last: 0,
            last_was_command: false,
            memory: [0; 32],
            reset: false,
            fell: false,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl Controller {
    /// Interrupt lines.
    #[must_use]
    pub fn lines(&self) -> Lines {
        let (keyboard, mouse) = match self.buffer {
            Some((_, From::Mouse)) => (false, true),
            Some(_) => (true, false),
            None => (false, false),
        };
        Lines {
            keyboard: keyboard && self.command & INTERRUPT != 0,
            mouse: mouse && self.command & MOUSE_INTERRUPT != 0,
        }
    }

    /// Whether address line 20 is let through.
    #[must_use]
    pub const fn a20(&self) -> bool {
        self.output_port & 2 != 0
    }

    /// Lets address line 20 through, or not: port 0x92 drives the same gate.
    pub const fn set_a20(&mut self, open: bool) {
        self.output_port = self.output_port & !2 | (open as u8) << 1;
    }

    /// Whether a reset was asked for since this was last asked.
    pub fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.reset)
    }

    /// Whether the lines fell since this was last asked: each byte that is read lowers them, though the next one may stand there already.
    pub fn take_fall(&mut self) -> bool {
        core::mem::take(&mut self.fell)
    }

    /// Fills the output buffer from whatever has something to say.
    pub fn refill(&mut self) {
        if self.buffer.is_some() {
            return;
        }
        if self.command & KEYBOARD_OFF == 0
            && let Some(byte) = self.keyboard.next(self.command & TRANSLATE != 0)
        {
            self.buffer = Some((byte, From::Keyboard));
        } else if self.command & MOUSE_OFF == 0
            && let Some(byte) = self.mouse.next()
        {
            self.buffer = Some((byte, From::Mouse));
        }
    }

    fn answer(&mut self, value: u8) {
        self.buffer = Some((value, From::Controller));
    }

    /// Reads port 0x60 or 0x64.
    pub fn read(&mut self, port: u16) -> u8 {
        if port & 4 != 0 {
            let full = u8::from(self.buffer.is_some());
            let mouse = u8::from(matches!(self.buffer, Some((_, From::Mouse)))) << 5;
            return full | self.command & SYSTEM | u8::from(self.last_was_command) << 3 | 0x10 | mouse;
        }
        if let Some((value, _)) = self.buffer.take() {
            self.last = value;
            self.fell = true;
        }
        self.refill();
        self.last
    }

    /// Writes port 0x60 or 0x64.
    pub fn write(&mut self, port: u16, value: u8) {
        self.last_was_command = port & 4 != 0;
        if port & 4 != 0 {
            self.run(value);
        } else {
            self.data(value);
        }
        self.refill();
    }

    fn run(&mut self, command: u8) {
        self.expects = None;
        match command {
            0x20 => self.answer(self.command),
            0x21..=0x3f => self.answer(self.memory.get(usize::from(command & 0x1f)).copied().unwrap_or(0)),
            0x60..=0x7f | 0xd1..=0xd4 => self.expects = Some(command),
            0xa7 => self.command |= MOUSE_OFF,
            0xa8 => self.command &= !MOUSE_OFF,
            0xa9 | 0xab => self.answer(0),
            0xaa => {
                self.command |= SYSTEM;
                self.answer(0x55);
            }
            0xad => self.command |= KEYBOARD_OFF,
            0xae => self.command &= !KEYBOARD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port),
            0xdd => self.set_a20(false),
            0xdf => self.set_a20(true),
            // Pulses of the output port's low bits; bit 0, low, is the processor's reset.
            0xf0..=0xff if command & 1 == 0 => self.reset = true,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.expects.take() {
            Some(0x60) => self.command = value,
            Some(command @ 0x61..=0x7f) => {
                if let Some(byte) = self.memory.get_mut(usize::from(command & 0x1f)) {
                    *byte = value;
                }
            }
            Some(0xd1) => {
                self.output_port = value;
                if value & 1 == 0 {
                    self.reset = true;
                    self.output_port |= 1;
                }
            }
            Some(0xd2) => self.buffer = Some((value, From::Keyboard)),
            Some(0xd3) => self.buffer = Some((value, From::Mouse)),
            Some(0xd4) => {
                self.command &= !MOUSE_OFF;
                self.mouse.command(value);
            }
            _ => {
                // Data for the keyboard switches it on (PS/2 Technical Reference, command 0xad).
                self.command &= !KEYBOARD_OFF;
                self.keyboard.command(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_finds_controller_and_keyboard() {
        let mut c = Controller::default();
        c.write(0x64, 0xaa);
        assert_eq!((c.read(0x64) & 1, c.read(0x60)), (1, 0x55));
        c.write(0x64, 0xab);
        assert_eq!(c.read(0x60), 0);
        c.write(0x60, 0xff);
        assert_eq!((c.read(0x60), c.read(0x60)), (0xfa, 0xaa));
        c.write(0x60, 0xf4);
        assert_eq!(c.read(0x60), 0xfa);
        c.write(0x64, 0x60);
        c.write(0x60, 0x61);
        c.keyboard.press(&[0x1c]);
        c.refill();
        assert!(c.lines().keyboard);
        assert_eq!(c.read(0x60), 0x1e, "translated to set 1");
        c.keyboard.press(&[0xf0, 0x1c]);
        c.refill();
        assert_eq!(c.read(0x60), 0x9e);
        assert!(!c.lines().keyboard);
        c.take_fall();
        c.keyboard.press(&[0x1c, 0xf0, 0x1c]);
        c.refill();
        assert!(c.lines().keyboard && !c.take_fall());
        assert_eq!(c.read(0x60), 0x1e);
        assert!(c.lines().keyboard && c.take_fall(), "an edge for each byte");
    }

    #[test]
    fn the_mouse_answers_beside_it() {
        let mut c = Controller::default();
        c.write(0x64, 0x60);
        c.write(0x60, 0x43);
        c.write(0x64, 0xd4);
        c.write(0x60, 0xff);
        assert_eq!(c.read(0x64) & 0x21, 0x21);
        assert!(c.lines().mouse);
        assert_eq!([c.read(0x60), c.read(0x60), c.read(0x60)], [0xfa, 0xaa, 0]);
        c.write(0x64, 0xd4);
        c.write(0x60, 0xf4);
        assert_eq!(c.read(0x60), 0xfa);
        c.mouse.move_by(Motion { x: 3, y: -2, buttons: 1 });
        c.refill();
        assert_eq!([c.read(0x60), c.read(0x60), c.read(0x60)], [0x29, 3, 0xfe]);
    }
}
