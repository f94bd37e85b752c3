//! The real-time clock with its memory (Motorola MC146818A data sheet), at ports 0x70 and 0x71.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::time::{SECOND, Time, earlier};

/// Bytes of memory, the clock's registers among them.
const BYTES: usize = 128;
/// The century's place, as the ACPI tables say.
const CENTURY: u8 = 0x32;

const SET: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATED: u8 = 0x10;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;

/// A date and time of day, in UTC, of the proleptic Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Date {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u16,
    /// 1 is Sunday.
    weekday: u8,
}

/// The date of so many seconds after 1 January 1970 (by counting from 1 March of a leap cycle of 400 years).
fn date(seconds: u64) -> Date {
    let days = seconds / 86_400;
    let clock = seconds % 86_400;
    let shifted = days.saturating_add(719_468);
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let moved = (5 * day_of_year + 2) / 153;
    let month = if moved < 10 { moved + 3 } else { moved - 9 };
    let year = year_of_era.saturating_add(era.saturating_mul(400)).saturating_add(u64::from(month <= 2));
    Date {
        second: (clock % 60) as u8,
        minute: (clock / 60 % 60) as u8,
        hour: (clock / 3600) as u8,
        day: (day_of_year - (153 * moved + 2) / 5 + 1) as u8,
        month: month as u8,
        year: year.min(9_999) as u16,
        weekday: (days.wrapping_add(4) % 7 + 1) as u8,
    }
}

/// Seconds from 1970 to a date; fields out of their range count on into the next.
fn seconds(date: &Date) -> u64 {
    let month = u64::from(date.month.clamp(1, 12));
    let year = u64::from(date.year.max(1970)) - u64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let moved = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * moved + 2) / 5 + u64::from(date.day.max(1)) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).saturating_sub(719_468);
    days * 86_400 + u64::from(date.hour) * 3600 + u64::from(date.minute) * 60 + u64::from(date.second)
}

/// The clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rtc {
    index: u8,
    memory: Vec<u8>,
    /// Seconds since 1970 when the guest's clock showed zero.
    epoch: i64,
    /// Up to when interrupts have been worked out.
    seen: Time,
}

impl Rtc {
    /// A clock that shows `epoch` seconds after 1970 at time zero, as the PC has it at power-on: BCD, 24 hours.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        let mut memory = vec![0; BYTES];
        for (place, value) in memory.iter_mut().skip(10).zip([0x26, HOURS_24, 0, 0x80]) {
            *place = value;
        }
        Self { index: 0, memory, epoch: epoch as i64, seen: Time(0) }
    }

    /// Looks at a byte of its memory, as set-up programs do.
    #[must_use]
    pub fn byte(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index & 0x7f)).copied().unwrap_or(0)
    }

    /// Sets a byte of its memory.
    pub fn set_byte(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index & 0x7f)) {
            *byte = value;
        }
    }

    fn seconds(&self, now: Time) -> u64 {
        self.epoch.saturating_add_unsigned(now.0 / SECOND).max(0) as u64
    }

    fn encode(&self, value: u8) -> u8 {
        if self.byte(11) & BINARY != 0 { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.byte(11) & BINARY != 0 {
            value
        } else {
            (value >> 4).wrapping_mul(10).wrapping_add(value & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.byte(11) & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.byte(11) & HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    /// The clock's registers from the time.
    fn show(&mut self, now: Time) {
        if self.byte(11) & SET != 0 {
            return;
        }
        let date = date(self.seconds(now));
        let fields = [
            (0, self.encode(date.second)),
            (2, self.encode(date.minute)),
            (4, self.encode_hour(date.hour)),
            (6, self.encode(date.weekday)),
            (7, self.encode(date.day)),
            (8, self.encode(date.month)),
            (9, self.encode((date.year % 100) as u8)),
            (CENTURY, self.encode((date.year / 100) as u8)),
        ];
        for (index, value) in fields {
            self.set_byte(index, value);
        }
    }

    /// The time from the clock's registers.
    fn take(&mut self, now: Time) {
        let century = match self.decode(self.byte(CENTURY)) {
            century @ 19..=99 => century,
            _ => 20,
        };
        let date = Date {
            second: self.decode(self.byte(0)),
            minute: self.decode(self.byte(2)),
            hour: self.decode_hour(self.byte(4)),
            day: self.decode(self.byte(7)),
            month: self.decode(self.byte(8)),
            year: u16::from(century) * 100 + u16::from(self.decode(self.byte(9))),
            weekday: 1,
        };
        self.epoch = (seconds(&date) as i64).saturating_sub_unsigned(now.0 / SECOND);
    }

    /// Reads port 0x70 or 0x71.
    pub fn read(&mut self, port: u16, now: Time) -> u8 {
        if port & 1 == 0 {
            return 0xff;
        }
        self.advance(now);
        match self.index {
            0..=9 | CENTURY => {
                self.show(now);
                self.byte(self.index)
            }
            // An update is announced 244 us ahead.
            10 => self.byte(10) & 0x7f | if self.updating(now) { 0x80 } else { 0 },
            12 => {
                let value = self.byte(12);
                self.set_byte(12, 0);
                value
            }
            13 => 0x80,
            index => self.byte(index),
        }
    }

    fn updating(&self, now: Time) -> bool {
        self.byte(11) & SET == 0 && now.0 % SECOND >= SECOND - 244_000
    }

    /// Writes port 0x70 or 0x71.
    pub fn write(&mut self, port: u16, value: u8, now: Time) {
        if port & 1 == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.advance(now);
        match self.index {
            0 | 2 | 4 | 6..=9 | CENTURY => {
                self.show(now);
                self.set_byte(self.index, value);
                if self.byte(11) & SET == 0 {
                    self.take(now);
                }
            }
            10 => self.set_byte(10, value & 0x7f),
            11 => {
                let was = self.byte(11);
                self.show(now);
                self.set_byte(11, if value & SET != 0 { value & !UPDATED } else { value });
                if was & SET != 0 && value & SET == 0 {
                    self.take(now);
                }
                self.refresh();
            }
            12 | 13 => {}
            index => self.set_byte(index, value),
        }
    }

    /// IRQF from the flags and their enables.
    fn refresh(&mut self) {
        let flags = self.byte(12) & 0x70;
        let request = flags & self.byte(11) & 0x70 != 0;
        self.set_byte(12, flags | if request { 0x80 } else { 0 });
    }

    /// Nanoseconds of the periodic interrupt, if one is chosen.
    fn period(&self) -> Option<u64> {
        match self.byte(10) & 0xf {
            0 => None,
            // 1 and 2 are what 8 and 9 are.
            rate @ (1 | 2) => Some(SECOND >> (16 - u32::from(rate + 7))),
            rate => Some(SECOND >> (16 - u32::from(rate))),
        }
    }

    /// Sets the flags that time has brought.
    pub fn advance(&mut self, now: Time) {
        if now <= self.seen {
            return;
        }
        let seen = core::mem::replace(&mut self.seen, now);
        let mut flags = self.byte(12);
        if let Some(period) = self.period()
            && now.0.checked_div(period) != seen.0.checked_div(period)
        {
            flags |= PERIODIC;
        }
        if self.byte(11) & SET == 0 && now.0 / SECOND != seen.0 / SECOND {
            flags |= UPDATED;
            if self.alarm_between(seen, now) {
                flags |= ALARM;
            }
        }
        self.set_byte(12, flags);
        self.refresh();
    }

    /// Whether the alarm's time lies in a stretch; of a long one, the last day is looked at.
    fn alarm_between(&self, seen: Time, now: Time) -> bool {
        let matches = |index: u8, wanted: u8| {
            let set = self.byte(index);
            // The two highest bits mean any.
            set >= 0xc0 || set == wanted
        };
        let last = self.seconds(now);
        let first = self.seconds(seen).saturating_add(1).max(last.saturating_sub(86_399));
        let quick = |second: u64| {
            let date = date(second);
            matches(1, self.encode(date.second))
                && matches(3, self.encode(date.minute))
                && matches(5, self.encode_hour(date.hour))
        };
        (first..=last).any(quick)
    }

    /// Whether interrupt line 8 is high.
    #[must_use]
    pub fn line(&self) -> bool {
        self.byte(12) & 0x80 != 0
    }

    /// When a flag with its interrupt enabled may be set next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let enabled = self.byte(11) & !self.byte(12);
        let next = |period: u64| {
            Time(self.seen.0.checked_div(period).map_or(0, |n| n.saturating_add(1)).saturating_mul(period))
        };
        let periodic = self.period().filter(|_| enabled & PERIODIC != 0).map(next);
        let second = (enabled & (ALARM | UPDATED) != 0).then(|| next(SECOND));
        earlier(periodic, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(rtc: &mut Rtc, index: u8, now: Time) -> u8 {
        rtc.write(0x70, index, now);
        rtc.read(0x71, now)
    }

    #[test]
    fn it_shows_the_date() {
        // 2026-11-21 19:20:05 UTC, a Saturday.
        let mut rtc = Rtc::new(1_795_288_805);
        let got: Vec<u8> =
            [0, 2, 4, 6, 7, 8, 9, CENTURY].map(|index| read(&mut rtc, index, Time(0))).to_vec();
        assert_eq!(got, [0x05, 0x20, 0x19, 0x07, 0x21, 0x11, 0x26, 0x20]);
        rtc.write(0x70, 4, Time(0));
        rtc.write(0x71, 0x23, Time(0));
        assert_eq!(read(&mut rtc, 4, Time(3_600 * SECOND)), 0x00);
        assert_eq!(read(&mut rtc, 7, Time(3_600 * SECOND)), 0x22);
    }

    proptest! {
        #[test]
        fn dates_and_seconds_agree(moment in 0u64..200_000_000_000) {
            prop_assert_eq!(seconds(&date(moment)), moment);
        }
    }

    #[test]
    fn the_periodic_interrupt_comes() {
        let mut rtc = Rtc::new(0);
        rtc.write(0x70, 11, Time(0));
        rtc.write(0x71, PERIODIC | HOURS_24, Time(0));
        let deadline = rtc.deadline().unwrap();
        assert_eq!(deadline, Time(SECOND / 1024));
        rtc.advance(deadline);
        assert!(rtc.line());
        assert_eq!(read(&mut rtc, 12, deadline), 0xc0);
        assert!(!rtc.line());
    }
}
