//! What a guest prints through the hypervisor (port 0xE9, `console_io`): gathered to lines, and limited in rate, so that a
//! guest cannot flood the log or the wire.

use crate::seam::HostTime;

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

/// A whole line.
pub struct Line {
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    /// The text; what is no UTF-8 is left out.
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or(&[]);
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|bytes| core::str::from_utf8(bytes).ok())
                .unwrap_or(""),
        }
    }
}

impl DebugLine {
    /// Nothing printed yet.
    pub const fn new() -> Self {
        Self { bytes: [0; LINE], length: 0, tokens: BURST, refilled: 0 }
    }

    /// Adds a byte; gives the line that it ends, unless there were too many.
    pub fn push(&mut self, byte: u8, now: HostTime) -> Option<Line> {
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
        let earned = now.0.saturating_sub(self.refilled) / LINE_NS;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned.min(u64::from(BURST)) as u32).min(BURST);
            self.refilled = now.0;
        }
        let length = core::mem::take(&mut self.length);
        self.tokens = self.tokens.checked_sub(1)?;
        Some(Line { bytes: self.bytes, length })
    }
}

impl Default for DebugLine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_their_limit() {
        let mut line = DebugLine::new();
        let mut say =
            |text: &str, now| text.bytes().filter_map(|byte| line.push(byte, HostTime(now))).count();
        assert_eq!(say("hello\r\nwor", 0), 1);
        assert_eq!(say("ld\n", 0), 1);
        assert_eq!(say(&"x\n".repeat(1000), 0), 98);
        assert_eq!(say("more\n", LINE_NS), 1);
        assert_eq!(say(&"y".repeat(121), 100 * LINE_NS), 1);
    }
}
