//! The high precision event timer (*IA-PC HPET Specification*, 1.0a): a 64-bit counter and three comparators, at 0xfed00000.

use serde::{Deserialize, Serialize};

use crate::time::{Time, duration, ticks};

/// Guest-physical address of its registers.
pub const BASE: u64 = 0xfed0_0000;
/// Bytes of them.
pub const SIZE: u64 = 0x400;
/// The lower half of its capabilities: vendor, what it can take the place of, width of the counter, comparators, revision.
pub const ID: u32 = 0x8086 << 16 | 1 << 15 | 1 << 13 | 2 << 8 | 1;
/// Ticks a second, which make a period of 10 ns.
const HERTZ: u64 = 100_000_000;
const FEMTOSECONDS: u64 = 10_000_000;
/// Interrupt inputs that a comparator can use: I/O APIC inputs 20 to 23.
const ROUTES: u64 = 0x00f0_0000;

const LEVEL: u64 = 1 << 1;
const ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const NARROW: u64 = 1 << 8;
/// Bits of a comparator's configuration that a program may change.
const WRITABLE: u64 = 0x3f4e;

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    /// The counter passed the comparator, and this is still to be told.
    fired: bool,
    /// The comparator was passed and is not set again: a one-shot is over.
    over: bool,
}

/// The timer.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// The counter's value at `since`.
    counter: u64,
    since: Time,
    timers: [Timer; 3],
}

/// An interrupt of a comparator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// I/O APIC input; with legacy routing also ISA line 0 (input 2) or 8.
    pub input: u8,
    /// Its level; `None` for an edge.
    pub level: Option<bool>,
}

impl Hpet {
    /// Whether comparators 0 and 1 take the place of timer and clock interrupts.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        self.config & 3 == 3
    }

    fn count(&self, now: Time) -> u64 {
        if self.config & 1 == 0 {
            return self.counter;
        }
        self.counter.wrapping_add(ticks(now.since(self.since), HERTZ))
    }

    /// Sets what time has brought.
    pub fn advance(&mut self, now: Time) {
        if self.config & 1 == 0 {
            return;
        }
        let from = self.counter;
        let to = self.count(now);
        // Keep the fraction of a tick.
        let passed = to.wrapping_sub(from);
        self.since = self.since.after(duration(passed, HERTZ));
        self.counter = to;
        for (index, timer) in self.timers.iter_mut().enumerate() {
            let mask = if timer.config & NARROW != 0 { 0xffff_ffff } else { u64::MAX };
            let distance = timer.comparator.wrapping_sub(from) & mask;
            // A comparator at the counter itself has been told of already.
            if timer.over || distance > passed || distance == 0 {
                continue;
            }
            if timer.config & PERIODIC != 0 && timer.period != 0 {
                let periods = passed.wrapping_sub(distance) / timer.period + 1;
                timer.comparator = timer.comparator.wrapping_add(periods.wrapping_mul(timer.period)) & mask;
            } else {
                timer.over = mask == u64::MAX;
            }
            if timer.config & LEVEL != 0 {
                self.status |= 1 << index;
            } else {
                timer.fired = true;
            }
        }
    }

    /// When a comparator that interrupts is passed next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.config & 1 == 0 {
            return None;
        }
        self.timers
            .iter()
            .filter(|timer| timer.config & ENABLE != 0 && !timer.over)
            .map(|timer| {
                let mask = if timer.config & NARROW != 0 { 0xffff_ffff } else { u64::MAX };
                let distance = timer.comparator.wrapping_sub(self.counter) & mask;
                self.since.after(duration(distance.max(1), HERTZ))
            })
            .min()
    }

    /// Interrupts of the three comparators: levels as they are, edges once.
    pub fn take_interrupts(&mut self) -> [Option<Interrupt>; 3] {
        let legacy = self.is_legacy();
        let mut result = [None; 3];
        for (index, (timer, place)) in self.timers.iter_mut().zip(&mut result).enumerate() {
            let fired = core::mem::take(&mut timer.fired);
            let input = match (legacy, index) {
                (true, 0) => 2,
                (true, 1) => 8,
                _ => (timer.config >> 9 & 31) as u8,
            };
            let enabled = timer.config & ENABLE != 0;
            *place = if timer.config & LEVEL != 0 {
                Some(Interrupt { input, level: Some(enabled && self.status >> index & 1 != 0) })
            } else {
                (fired && enabled).then_some(Interrupt { input, level: None })
            };
        }
        result
    }

    fn register(&self, offset: u64, now: Time) -> u64 {
        match offset {
            0 => FEMTOSECONDS << 32 | u64::from(ID),
            0x10 => self.config,
            0x20 => self.status,
            0xf0 => self.count(now),
            _ => {
                let index = offset.wrapping_sub(0x100) / 0x20;
                let Some(timer) = usize::try_from(index).ok().and_then(|index| self.timers.get(index)) else {
                    return 0;
                };
                match offset & 0x1f {
                    // Periodic and 64 bits wide.
                    0 => timer.config | 0x30 | ROUTES << 32,
                    8 => timer.comparator,
                    _ => 0,
                }
            }
        }
    }

    /// Reads up to eight bytes.
    #[must_use]
    pub fn read(&self, offset: u64, now: Time) -> u64 {
        self.register(offset & !7, now) >> (8 * (offset & 7))
    }

    /// Writes four or eight bytes at a multiple of four; other writes are dropped.
    pub fn write(&mut self, offset: u64, bytes: usize, value: u64, now: Time) {
        if !matches!(bytes, 4 | 8) || !offset.is_multiple_of(4) {
            return;
        }
        self.advance(now);
        let at = offset & !7;
        let shift = 8 * (offset & 7) as u32;
        let written = if bytes == 8 && shift == 0 { u64::MAX } else { 0xffff_ffff << shift };
        let old = self.register(at, now);
        let new = old & !written | value << shift & written;
        match at {
            0x10 => {
                let was = self.config;
                self.config = new & 3;
                if was & 1 == 0 && self.config & 1 != 0 {
                    self.since = now;
                }
            }
            0x20 => self.status &= !(value << shift & written),
            0xf0 if self.config & 1 == 0 => self.counter = new,
            _ => {
                let index = at.wrapping_sub(0x100) / 0x20;
                let Some(timer) = usize::try_from(index).ok().and_then(|index| self.timers.get_mut(index))
                else {
                    return;
                };
                match at & 0x1f {
                    0 => timer.config = new & WRITABLE,
                    8 => {
                        let value = if timer.config & NARROW != 0 { new & 0xffff_ffff } else { new };
                        if timer.config & PERIODIC == 0 || timer.config & SET_VALUE != 0 {
                            timer.comparator = value;
                        }
                        timer.period = value;
                        timer.config &= !SET_VALUE;
                        timer.over = false;
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_comes_again() {
        let mut hpet = Hpet::default();
        assert_eq!(hpet.read(4, Time(0)) as u32, 10_000_000);
        hpet.write(0x100, 4, ENABLE | PERIODIC | SET_VALUE, Time(0));
        hpet.write(0x108, 4, 100_000, Time(0));
        hpet.write(0x10, 4, 3, Time(0));
        let mut now = Time(0);
        for n in 1..=3 {
            now = hpet.deadline().unwrap();
            assert_eq!(now, Time(n * 1_000_000));
            hpet.advance(now);
            assert_eq!(hpet.take_interrupts(), [Some(Interrupt { input: 2, level: None }), None, None]);
            assert_eq!(hpet.take_interrupts(), [None; 3]);
        }
        assert_eq!(hpet.read(0xf0, now), 300_000);
    }
}
