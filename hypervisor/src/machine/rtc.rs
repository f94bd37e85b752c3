//! The battery clock (MC146818), read once at boot.

use crate::machine::prelude::*;

fn register(index: u8) -> u8 {
    // Bit 7 would keep NMIs off.
    out8(0x70, index);
    in8(0x71)
}

/// Seconds since 1970 as the battery clock says, which is taken to run in UTC.
pub fn seconds() -> u64 {
    let read = || [0u8, 2, 4, 7, 8, 9].map(register);
    let mut last = read();
    // Twice the same reading, with no update under way: no digit was caught half-changed.
    for _ in 0..1000 {
        let updating = register(0x0a) & 0x80 != 0;
        let now = read();
        if !updating && now == last {
            break;
        }
        last = now;
    }
    let status = register(0x0b);
    let binary = |value: u8| if status & 4 != 0 { value } else { (value >> 4) * 10 + (value & 15) };
    let [second, minute, hour, day, month, year] = last;
    let afternoon = status & 2 == 0 && hour & 0x80 != 0;
    let mut hour = u64::from(binary(hour & 0x7f));
    if status & 2 == 0 {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    let days = days(2000 + u64::from(binary(year)), u64::from(binary(month)), u64::from(binary(day)));
    ((days * 24 + hour) * 60 + u64::from(binary(minute))) * 60 + u64::from(binary(second))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March have the leap day at their end.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    days.saturating_sub(719_469)
}
