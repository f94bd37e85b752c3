//! The serial port (National PC16550D data sheet). Bytes leave at once: a baud rate is kept and never waited for.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Bytes of the receive queue (16 on the chip).
const QUEUE: usize = 16;

/// One port with its eight registers.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Uart {
    enable: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    fifo: bool,
    received: VecDeque<u8>,
    overrun: bool,
    /// The transmitter has become empty since the interrupt was last read.
    emptied: bool,
    modem_changed: u8,
    sent: Vec<u8>,
}

impl Uart {
    /// Room for received bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        let most = if self.fifo { QUEUE } else { 1 };
        most.saturating_sub(self.received.len())
    }

    /// A byte arrives. Without room it is lost, and the line status says so.
    pub fn receive(&mut self, byte: u8) {
        if self.modem_control & 0x10 != 0 {
            return;
        }
        self.take(byte);
    }

    fn take(&mut self, byte: u8) {
        if self.room() == 0 {
            self.overrun = true;
        } else {
            self.received.push_back(byte);
        }
    }

    /// The bytes that were sent since this was last asked.
    pub fn take_sent(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.sent)
    }

    fn latch(&self) -> bool {
        self.line_control & 0x80 != 0
    }

    fn modem_status(&self) -> u8 {
        if self.modem_control & 0x10 != 0 {
            // In loop-back DTR, RTS, OUT1 and OUT2 come back as DSR, CTS, RI and DCD.
            let control = self.modem_control;
            (control & 1) << 5 | (control & 2) << 3 | (control & 4) << 4 | (control & 8) << 4
        } else {
            0xb0
        }
    }

    /// The interrupt identification, without the FIFO bits.
    fn identify(&self) -> u8 {
        if self.enable & 4 != 0 && self.overrun {
            6
        } else if self.enable & 1 != 0 && !self.received.is_empty() {
            4
        } else if self.enable & 2 != 0 && self.emptied {
            2
        } else {
            u8::from(self.enable & 8 == 0 || self.modem_changed == 0)
        }
    }

    /// Whether its interrupt line is high. OUT2 is the PC's gate for it.
    #[must_use]
    pub fn line(&self) -> bool {
        self.modem_control & 0x18 == 8 && self.identify() != 1
    }

    /// Reads register 0 to 7.
    pub fn read(&mut self, register: u16) -> u8 {
        match register & 7 {
            0 if self.latch() => self.divisor as u8,
            0 => self.received.pop_front().unwrap_or(0),
            1 if self.latch() => (self.divisor >> 8) as u8,
            1 => self.enable,
            2 => {
                let id = self.identify();
                if id == 2 {
                    self.emptied = false;
                }
                id | (u8::from(self.fifo) * 0xc0)
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let value = 0x60 | u8::from(!self.received.is_empty()) | u8::from(self.overrun) << 1;
                self.overrun = false;
                value
            }
            6 => self.modem_status() | core::mem::take(&mut self.modem_changed),
            _ => self.scratch,
        }
    }

    /// Writes register 0 to 7.
    pub fn write(&mut self, register: u16, value: u8) {
        match register & 7 {
            0 if self.latch() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            0 => {
                if self.modem_control & 0x10 != 0 {
                    self.take(value);
                } else {
                    self.sent.push(value);
                }
                self.emptied = true;
            }
            1 if self.latch() => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            1 => {
                if value & 2 != 0 && self.enable & 2 == 0 {
                    self.emptied = true;
                }
                self.enable = value & 0xf;
            }
            2 => {
                self.fifo = value & 1 != 0;
                if value & 2 != 0 || !self.fifo {
                    self.received.clear();
                }
            }
            3 => self.line_control = value,
            4 => {
                let before = self.modem_status();
                self.modem_control = value & 0x1f;
                let changed = (before ^ self.modem_status()) >> 4;
                self.modem_changed |= changed & 0xf;
            }
            7 => self.scratch = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_both_ways_with_interrupts() {
        let mut uart = Uart::default();
        uart.write(2, 1);
        uart.write(4, 0xb);
        uart.write(1, 3);
        assert!(uart.line(), "the transmitter is empty");
        assert_eq!(uart.read(2), 0xc2);
        assert!(!uart.line());
        uart.write(0, b'a');
        assert_eq!(uart.take_sent(), b"a");
        uart.read(2);
        uart.receive(b'b');
        assert_eq!(uart.read(2), 0xc4);
        assert_eq!((uart.read(5), uart.read(0)), (0x61, b'b'));
        assert!(!uart.line());
    }

    #[test]
    fn what_does_not_fit_is_an_overrun() {
        let mut uart = Uart::default();
        uart.receive(1);
        uart.receive(2);
        assert_eq!(uart.read(5), 0x63);
        assert_eq!(uart.read(5), 0x61);
        uart.write(4, 0x1f);
        assert_eq!(uart.read(6) & 0xf0, 0xf0);
    }
}
