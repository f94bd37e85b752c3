//! When interrupts go out (317453, 13.4.18 ITR, 13.4.30 RDTR, 13.4.31 RADV, 13.4.44 TIDV, 13.4.45 TADV).
//!
//! A delayed cause waits until nothing of its kind has happened for a while, at most for an absolute time; a cause that goes out for
//! another reason takes it along. Between two rises of the line lies at least ITR's interval. A guest chooses all of these times; whoever
//! runs the board bounds how often it looks.

use serde::{Deserialize, Serialize};

use super::{E1000, cause, reg};
use crate::time::{Time, earlier};

/// Nanoseconds of a unit of the delays, and of one of the interval.
const DELAY: u64 = 1024;
const INTERVAL: u64 = 256;
/// Delays and the interval have 16 bits; this bit of a delay's register ends the delay at once.
const FLUSH: u32 = 1 << 31;
const VALUE: u32 = 0xffff;

/// A delay of one kind of cause.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Delay {
    /// Something happened whose delay has not begun.
    again: bool,
    /// Its end, if nothing else happens.
    quiet: Option<Time>,
    /// Its end whatever happens.
    absolute: Option<Time>,
}

impl Delay {
    /// Begins, or begins anew, with the registers' values.
    fn start(&mut self, now: Time, relative: u32, absolute: u32) {
        if !core::mem::take(&mut self.again) {
            return;
        }
        self.quiet = Some(now.after(u64::from(relative) * DELAY));
        if absolute != 0 && self.absolute.is_none() {
            self.absolute = Some(now.after(u64::from(absolute) * DELAY));
        }
    }

    const fn is_on(&self) -> bool {
        self.again || self.quiet.is_some()
    }

    fn end(&self) -> Option<Time> {
        earlier(self.quiet, self.absolute)
    }
}

/// Delays, and the line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Moderation {
    sent: Delay,
    received: Delay,
    line: bool,
    /// The line does not rise before.
    until: Time,
}

impl E1000 {
    /// Packets were sent: `delayed` when their descriptors allow a delay.
    pub(super) fn has_sent(&mut self, delayed: bool) {
        if delayed && self.get(reg::TIDV) != 0 {
            self.state.moderation.sent.again = true;
        } else {
            self.state.moderation.sent = Delay::default();
            self.raise(cause::SENT);
        }
    }

    /// A packet was received.
    pub(super) fn has_received(&mut self) {
        if self.get(reg::RDTR) != 0 {
            self.state.moderation.received.again = true;
        } else {
            self.raise(cause::RECEIVED);
        }
    }

    /// A delay's register is written.
    pub(super) fn set_delay(&mut self, offset: u32, value: u32) {
        self.set(offset, value & VALUE);
        let moderation = &mut self.state.moderation;
        let (delay, causes) = match offset {
            reg::TIDV => (&mut moderation.sent, cause::SENT),
            _ => (&mut moderation.received, cause::RECEIVED),
        };
        if value & FLUSH != 0 && delay.is_on() {
            *delay = Delay::default();
            self.raise(causes);
        }
    }

    /// Puts the line to its level at this moment.
    pub fn settle(&mut self, now: Time) {
        let mut moderation = self.state.moderation;
        moderation.sent.start(now, self.get(reg::TIDV), self.get(reg::TADV) & VALUE);
        moderation.received.start(now, self.get(reg::RDTR), self.get(reg::RADV) & VALUE);
        for (delay, causes) in
            [(&mut moderation.sent, cause::SENT), (&mut moderation.received, cause::RECEIVED)]
        {
            if delay.end().is_some_and(|end| end <= now) {
                *delay = Delay::default();
                self.raise(causes);
            }
        }
        if self.state.cause & self.state.mask == 0 {
            moderation.line = false;
        } else if !moderation.line && now >= moderation.until {
            moderation.line = true;
            moderation.until = now.after(u64::from(self.get(reg::ITR) & VALUE) * INTERVAL);
            for (delay, causes) in
                [(&mut moderation.sent, cause::SENT), (&mut moderation.received, cause::RECEIVED)]
            {
                if core::mem::take(delay).is_on() {
                    self.raise(causes);
                }
            }
        }
        self.state.moderation = moderation;
    }

    /// Whether a write to a register, with the line settled since, has left nothing to be done and no deadline: one to the interrupt mask
    /// that lets no cause through, or one that the line shows already.
    pub(crate) fn is_quiet(&self, offset: u32) -> bool {
        matches!(offset & !3, reg::IMS | reg::IMC)
            && (self.state.cause & self.state.mask == 0 || self.state.moderation.line)
    }

    /// Whether its interrupt line is high, as of the last [`Self::settle`].
    #[must_use]
    pub const fn line(&self) -> bool {
        self.state.moderation.line
    }

    /// When the line may rise by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let moderation = &self.state.moderation;
        let held = self.state.cause & self.state.mask != 0 && !moderation.line;
        [moderation.received.end(), held.then_some(moderation.until)]
            .into_iter()
            .fold(moderation.sent.end(), earlier)
    }
}
