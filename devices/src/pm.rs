//! Power management of the PIIX4 (Intel 82371AB data sheet, 7.2; ACPI 4.8): the PM timer, the power button, sleep states.

use serde::{Deserialize, Serialize};

use crate::time::{Time, duration, ticks};
use crate::width::Width;

/// Ticks a second of the PM timer.
pub const HERTZ: u64 = 3_579_545;
/// Bytes of its ports.
pub const PORTS: u16 = 64;

const TIMER: u16 = 1;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const SCI: u16 = 1;
const SLEEP: u16 = 1 << 13;

/// What a guest asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// S5: power off.
    Off,
    /// S3: suspend to memory.
    Suspend,
}

/// The PM1 and general-purpose event blocks.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Pm {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    /// Half turns of the timer that have been told.
    turns: u64,
    request: Option<Request>,
    /// What was last written to the SMI command port.
    pub(crate) smi_command: u8,
}

impl Pm {
    fn timer(now: Time) -> u32 {
        ticks(now.0, HERTZ) as u32 & 0xff_ffff
    }

    /// The status bit of the timer: bit 23 changes every 2.34 s.
    pub fn advance(&mut self, now: Time) {
        let turns = ticks(now.0, HERTZ) >> 23;
        if turns != self.turns {
            self.turns = turns;
            self.status |= TIMER;
        }
    }

    /// When the timer's bit changes next, if that is an interrupt.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        (self.enable & TIMER != 0 && self.status & TIMER == 0)
            .then(|| Time(duration(self.turns.saturating_add(1) << 23, HERTZ)))
    }

    /// The power button is pressed.
    pub fn press_power(&mut self) {
        self.status |= POWER_BUTTON;
    }

    /// The sleep button is pressed.
    pub fn press_sleep(&mut self) {
        self.status |= SLEEP_BUTTON;
    }

    /// A general-purpose event, 0 to 15.
    pub fn raise(&mut self, event: u8) {
        self.gpe_status |= 1u16.wrapping_shl(u32::from(event & 15));
    }

    /// Whether the system control interrupt, line 9, is high.
    #[must_use]
    pub fn line(&self) -> bool {
        self.control & SCI != 0
            && (self.status & self.enable & (TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON) != 0
                || self.gpe_status & self.gpe_enable != 0)
    }

    /// What the guest asked for since this was last asked.
    pub fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// The SMI command port 0xb2: ACPI is switched on and off (FADT, `SMI_CMD`).
    pub fn command(&mut self, value: u8) {
        self.smi_command = value;
        match value {
            0xf1 => self.control |= SCI,
            0xf0 => self.control &= !SCI,
            _ => {}
        }
    }

    fn register(&self, offset: u16, now: Time) -> u16 {
        match offset {
            0 => self.status,
            2 => self.enable,
            4 => self.control,
            8 => Self::timer(now) as u16,
            10 => (Self::timer(now) >> 16) as u16,
            12 => self.gpe_status,
            14 => self.gpe_enable,
            _ => 0,
        }
    }

    /// Reads its ports; any width at any offset, the registers are 16 bits wide.
    pub fn read(&mut self, offset: u16, width: Width, now: Time) -> u32 {
        self.advance(now);
        let even = offset & !1;
        let pair =
            u32::from(self.register(even, now)) | u32::from(self.register(even.wrapping_add(2), now)) << 16;
        pair.wrapping_shr(8 * u32::from(offset & 1)) & width.mask()
    }

    /// Writes its ports.
    pub fn write(&mut self, offset: u16, width: Width, value: u32, now: Time) {
        self.advance(now);
        for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(width.bytes()) {
            let at = offset.wrapping_add(n as u16);
            let shift = u32::from(at & 1) * 8;
            let bits = u16::from(byte) << shift;
            let keep = !(0xffu16 << shift);
            match at & !1 {
                // Status bits are cleared by ones.
                0 => self.status &= !bits,
                2 => self.enable = self.enable & keep | bits,
                4 => {
                    self.control = self.control & keep | bits & !SLEEP;
                    if bits & SLEEP != 0 {
                        // SLP_TYP: 0 is \_S5 in the board's tables, which have no \_S3; SeaBIOS's own have it as 1.
                        self.request = match self.control >> 10 & 7 {
                            0 => Some(Request::Off),
                            1 => Some(Request::Suspend),
                            _ => None,
                        };
                    }
                }
                12 => self.gpe_status &= !bits,
                14 => self.gpe_enable = self.gpe_enable & keep | bits,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_button_interrupts_and_s5_asks() {
        let mut pm = Pm::default();
        pm.command(0xf1);
        pm.write(2, Width::Word, 0x100, Time(0));
        assert!(!pm.line());
        pm.press_power();
        assert!(pm.line());
        pm.write(0, Width::Word, 0x100, Time(0));
        assert!(!pm.line());
        pm.write(4, Width::Word, 0x2001, Time(0));
        assert_eq!(pm.take_request(), Some(Request::Off));
        assert_eq!(pm.take_request(), None);
    }

    #[test]
    fn the_timer_counts_and_turns() {
        let mut pm = Pm::default();
        assert_eq!(pm.read(8, Width::Double, Time(1_000_000_000)), 3_579_545);
        pm.write(2, Width::Word, 1, Time(1_000_000_000));
        pm.command(0xf1);
        let deadline = pm.deadline().unwrap();
        pm.advance(Time(deadline.0 - 1));
        assert!(!pm.line());
        pm.advance(deadline);
        assert!(pm.line());
    }
}
