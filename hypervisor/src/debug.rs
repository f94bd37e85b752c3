//! What a guest prints through the hypervisor (port 0xE9, `console_io`): gathered to lines, and limited in rate together with
//! what the hypervisor says of it, so that a guest cannot flood the log or the wire.

use crate::prelude::*;

/// Longest line; longer ones are broken.
const LINE: usize = 120;
/// Lines that may come at once.
const BURST: u32 = 100;
/// Nanoseconds for one line more.
const LINE_NS: u64 = 20_000_000;

/// A line under way, and the right to print.
pub struct DebugLine {
    bytes: [u8; LINE],
    length: usize,
    tokens: u32,
    refilled: u64,
}

impl DebugLine {
    /// Nothing printed yet.
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; LINE], length: 0, tokens: BURST, refilled: 0 }
    }

    /// Adds a byte; gives the text of the line that it ends, unless there were too many. What is no UTF-8 is left out.
    pub fn push(&mut self, byte: u8, now: HostTime) -> Option<&str> {
        if byte == b'\r' {
            return None;
        }
        if byte != b'\n' {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                // Control bytes would let a guest draw on the reader's terminal.
                *slot = if byte.is_ascii_control() && byte != b'\t' { b'?' } else { byte };
                self.length += 1;
            }
            if self.length < LINE {
                return None;
            }
        }
        let length = core::mem::take(&mut self.length);
        self.allows(now).then_some(())?;
        Some(self.bytes.get(..length)?.utf8_chunks().next().map_or("", |text| text.valid()))
    }

    /// Whether one line more may come.
    pub fn allows(&mut self, now: HostTime) -> bool {
        let earned = now.0.saturating_sub(self.refilled) / LINE_NS;
        self.refilled += earned * LINE_NS;
        let tokens = (u64::from(self.tokens) + earned).min(u64::from(BURST)) as u32;
        self.tokens = tokens.saturating_sub(1);
        tokens > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_their_limit() {
        let mut line = DebugLine::new();
        let mut say =
            |text: &str, now| text.bytes().filter(|&byte| line.push(byte, HostTime(now)).is_some()).count();
        assert_eq!(say("hello\r\nwor", 0), 1);
        assert_eq!(say("ld\n", 0), 1);
        assert_eq!(say(&"x\n".repeat(1000), 0), 98);
        assert_eq!(say("more\n", LINE_NS), 1);
        assert_eq!(say(&"y".repeat(121), 100 * LINE_NS), 1);
        let said = (0..1000).filter(|_| line.allows(HostTime(100 * LINE_NS))).count();
        assert_eq!(said, 98, "what is said of a guest counts too");
        assert!(!line.allows(HostTime(101 * LINE_NS - 1)) && line.allows(HostTime(101 * LINE_NS)));
    }
}
