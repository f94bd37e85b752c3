//! The interval timer (Intel 8254 data sheet) with the speaker's gate at port 0x61 (82371SB, 2.5.2).

use serde::{Deserialize, Serialize};

use crate::time::{Time, duration, ticks};

/// Ticks a second.
pub const HERTZ: u64 = 1_193_182;

/// How much of a counter a read or a write moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    Both,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    decimal: bool,
    bytes: Bytes,
    /// What was written, 1 to 65536 (or 10000).
    count: u32,
    /// Counting began then; `None`: it waits for a count or for the gate.
    started: Option<Time>,
    gate: bool,
    /// The low byte of a count whose high byte is still to come.
    half: Option<u8>,
    second_read: bool,
    latched: Option<u16>,
    status: Option<u8>,
    /// Output edges that have been told.
    told: u64,
}

impl Channel {
    const fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            decimal: false,
            bytes: Bytes::Both,
            count: 0x1_0000,
            started: None,
            gate,
            half: None,
            second_read: false,
            latched: None,
            status: None,
            told: 0,
        }
    }

    const fn periodic(&self) -> bool {
        self.mode == 2 || self.mode == 3
    }

    fn elapsed(&self, now: Time) -> Option<u64> {
        self.started.map(|start| ticks(now.since(start), HERTZ))
    }

    /// The counter's present value.
    fn value(&self, now: Time) -> u16 {
        let count = u64::from(self.count);
        let Some(elapsed) = self.elapsed(now) else { return self.encode(self.count) };
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => {
                // Counts down by two, twice a period.
                let doubled = elapsed.wrapping_mul(2) % count;
                (count - doubled) & !1
            }
            _ => count.wrapping_sub(elapsed) & if self.decimal { u64::MAX } else { 0xffff },
        };
        self.encode(value as u32)
    }

    fn encode(&self, value: u32) -> u16 {
        if !self.decimal {
            return value as u16;
        }
        let mut rest = value % 10_000;
        let mut digits = 0u16;
        for shift in [0, 4, 8, 12] {
            digits |= ((rest % 10) as u16) << shift;
            rest /= 10;
        }
        digits
    }

    fn output(&self, now: Time) -> bool {
        let count = u64::from(self.count);
        let Some(elapsed) = self.elapsed(now) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => !self.gate || elapsed % count != count - 1,
            3 => !self.gate || elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// Rising edges of the output since counting began.
    fn edges(&self, now: Time) -> u64 {
        let Some(elapsed) = self.elapsed(now) else { return 0 };
        let count = u64::from(self.count);
        if self.periodic() {
            elapsed / count
        } else if self.mode < 2 {
            u64::from(elapsed >= count)
        } else {
            u64::from(elapsed > count)
        }
    }

    fn next_edge(&self) -> Option<Time> {
        let start = self.started?;
        let count = u64::from(self.count);
        let at = if self.periodic() {
            count.saturating_mul(self.told.saturating_add(1))
        } else if self.told == 0 {
            count + u64::from(self.mode >= 2)
        } else {
            return None;
        };
        Some(start.after(duration(at, HERTZ)))
    }

    fn load(&mut self, raw: u16, now: Time) {
        let value = if self.decimal {
            [0, 4, 8, 12]
                .into_iter()
                .rev()
                .fold(0, |sum, shift| sum * 10 + u32::from(raw >> shift & 0xf).min(9))
        } else {
            u32::from(raw)
        };
        self.count = match value {
            0 if self.decimal => 10_000,
            0 => 0x1_0000,
            // A square wave and a rate need a period of two at least.
            1 if self.periodic() => 2,
            value => value,
        };
        // Modes 1 and 5 wait for the gate to rise.
        if self.mode != 1 && self.mode != 5 {
            self.started = self.gate.then_some(now);
            self.told = 0;
        }
    }

    fn write(&mut self, value: u8, now: Time) {
        match self.bytes {
            Bytes::Low => self.load(u16::from(value), now),
            Bytes::High => self.load(u16::from(value) << 8, now),
            Bytes::Both => match self.half.take() {
                None => {
                    self.half = Some(value);
                    if self.mode == 0 {
                        // The first byte stops the count (8254, mode 0).
                        self.started = None;
                    }
                }
                Some(low) => self.load(u16::from_le_bytes([low, value]), now),
            },
        }
    }

    fn read(&mut self, now: Time) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.value(now)).to_le_bytes();
        match self.bytes {
            Bytes::Low => {
                self.latched = None;
                low
            }
            Bytes::High => {
                self.latched = None;
                high
            }
            Bytes::Both if self.second_read => {
                self.second_read = false;
                self.latched = None;
                high
            }
            Bytes::Both => {
                self.second_read = true;
                low
            }
        }
    }

    fn set_gate(&mut self, gate: bool, now: Time) {
        let rises = gate && !self.gate;
        self.gate = gate;
        match self.mode {
            1 | 5 if rises => {
                self.started = Some(now);
                self.told = 0;
            }
            2 | 3 if rises => {
                self.started = Some(now);
                self.told = 0;
            }
            2 | 3 if !gate => self.started = None,
            0 | 4 if rises && self.started.is_none() => {
                self.started = Some(now);
                self.told = 0;
            }
            _ => {}
        }
    }
}

/// The timer: ports 0x40 to 0x43 and 0x61.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pit {
    channels: [Channel; 3],
    /// Bit 1 of port 0x61: what the timer plays reaches the speaker.
    speaker: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self { channels: [Channel::new(true), Channel::new(true), Channel::new(false)], speaker: false }
    }
}

impl Pit {
    /// Reads a port.
    pub fn read(&mut self, port: u16, now: Time) -> u8 {
        if port == 0x61 {
            let [_, _, channel] = &self.channels;
            // Bit 4 is the refresh clock, which programs watch to see time pass.
            return u8::from(channel.gate)
                | u8::from(self.speaker) << 1
                | (((now.0 / 15_085) & 1) as u8) << 4
                | u8::from(channel.output(now)) << 5;
        }
        self.channels.get_mut(usize::from(port & 3)).map_or(0xff, |channel| channel.read(now))
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8, now: Time) {
        if port == 0x61 {
            let [_, _, channel] = &mut self.channels;
            channel.set_gate(value & 1 != 0, now);
            self.speaker = value & 2 != 0;
        } else if port & 3 == 3 {
            self.command(value, now);
        } else if let Some(channel) = self.channels.get_mut(usize::from(port & 3)) {
            channel.write(value, now);
        }
    }

    fn command(&mut self, value: u8, now: Time) {
        if value >> 6 == 3 {
            // Read-back.
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value >> (index + 1) & 1 == 0 {
                    continue;
                }
                if value & 0x20 == 0 && channel.latched.is_none() {
                    channel.latched = Some(channel.value(now));
                }
                if value & 0x10 == 0 && channel.status.is_none() {
                    let bytes = match channel.bytes {
                        Bytes::Low => 1,
                        Bytes::High => 2,
                        Bytes::Both => 3,
                    };
                    channel.status = Some(
                        u8::from(channel.output(now)) << 7
                            | u8::from(channel.started.is_none()) << 6
                            | bytes << 4
                            | channel.mode << 1
                            | u8::from(channel.decimal),
                    );
                }
            }
            return;
        }
        let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) else { return };
        let bytes = match value >> 4 & 3 {
            0 => {
                if channel.latched.is_none() {
                    channel.latched = Some(channel.value(now));
                }
                return;
            }
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        let mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        *channel = Channel { mode, bytes, decimal: value & 1 != 0, ..Channel::new(channel.gate) };
    }

    /// Whether the output of channel 0, interrupt line 0, is high.
    #[must_use]
    pub fn line(&self, now: Time) -> bool {
        let [channel, ..] = &self.channels;
        channel.output(now)
    }

    /// Rising edges of channel 0 since this was last asked.
    pub fn take_edges(&mut self, now: Time) -> u64 {
        let [channel, ..] = &mut self.channels;
        let edges = channel.edges(now);
        let new = edges.saturating_sub(channel.told);
        channel.told = edges;
        new
    }

    /// When channel 0 rises next.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let [channel, ..] = &self.channels;
        channel.next_edge()
    }

    /// What the speaker plays, in hertz, if anything.
    #[must_use]
    pub fn tone(&self) -> Option<u32> {
        let [_, _, channel] = &self.channels;
        (self.speaker && channel.gate && channel.mode == 3 && channel.started.is_some())
            .then(|| HERTZ as u32 / channel.count.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_ticks_on_time() {
        let mut pit = Pit::default();
        pit.write(0x43, 0x34, Time(0));
        pit.write(0x40, 0x9c, Time(0));
        pit.write(0x40, 0x2e, Time(0)); // 11932: 100 Hz
        assert_eq!(pit.take_edges(Time(9_000_000)), 0);
        let deadline = pit.deadline().unwrap();
        assert!((9_999_000..10_001_000).contains(&deadline.0), "{deadline:?}");
        assert_eq!(pit.take_edges(deadline), 1);
        assert_eq!(pit.take_edges(Time(1_000_000_000)), 98);
    }

    #[test]
    fn a_latched_count_stays() {
        let mut pit = Pit::default();
        pit.write(0x43, 0x34, Time(0));
        pit.write(0x40, 0, Time(0));
        pit.write(0x40, 0, Time(0));
        pit.write(0x43, 0, Time(1_000_000));
        let first = u16::from_le_bytes([pit.read(0x40, Time(1_000_000)), pit.read(0x40, Time(9_000_000))]);
        assert_eq!(first, (65536 - 1193) as u16);
    }

    #[test]
    fn the_speaker_gate_measures_time() {
        let mut pit = Pit::default();
        pit.write(0x61, 1, Time(0));
        pit.write(0x43, 0xb0, Time(0));
        pit.write(0x42, 0xff, Time(0));
        pit.write(0x42, 0xff, Time(0));
        assert_eq!(pit.read(0x61, Time(54_000_000)) & 0x20, 0);
        assert_eq!(pit.read(0x61, Time(55_000_000)) & 0x20, 0x20);
    }
}
