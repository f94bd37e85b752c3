//! Frames on a byte line: `magic u16, length u16, crc32 u32, payload`, little-endian.
//!
//! The checksum covers the length and the payload. A reader that meets anything else skips one byte and looks for the next magic, so
//! a line with lost or foreign bytes recovers at the next whole frame.

use alloc::vec::Vec;

/// The first two bytes of each frame.
pub const MAGIC: u16 = 0x7e54;
/// Bytes in front of the payload.
pub const HEADER: usize = 8;
/// Most bytes of payload in a frame.
pub const PAYLOAD_MAX: usize = 60 * 1024;

/// A message that does not fit into one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Its size in bytes.
    pub bytes: usize,
}

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the message has {} bytes, a frame holds {PAYLOAD_MAX}", self.bytes)
    }
}

/// The frame of a payload.
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, TooLong> {
    let length = match u16::try_from(payload.len()) {
        Ok(length) if payload.len() <= PAYLOAD_MAX => length,
        _ => return Err(TooLong { bytes: payload.len() }),
    };
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&checksum(length, payload).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

fn checksum(length: u16, payload: &[u8]) -> u32 {
    crc32(length.to_le_bytes().iter().chain(payload))
}

/// The CRC of Ethernet and ZIP: polynomial 0x04C11DB7 reflected, start and final XOR all ones.
pub fn crc32<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    !bytes.into_iter().fold(!0u32, |crc, &byte| {
        let entry = TABLE.get(usize::from(crc as u8 ^ byte)).copied().unwrap_or(0);
        entry ^ crc >> 8
    })
}

static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// Cuts a byte line into payloads.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    from: usize,
    skipped: u64,
}

impl Decoder {
    /// A decoder at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in bytes as they came. The decoder holds at most one frame more than what it was given.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.from > 0 && self.from >= self.held.len() / 2 {
            self.held.drain(..self.from);
            self.from = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// Bytes that belonged to no frame so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole payload, if it is here. Call until it says `None`.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.held.get(self.from..)?;
            let (&[m0, m1, l0, l1, c0, c1, c2, c3], body) = rest.split_first_chunk::<HEADER>()?;
            let length = u16::from_le_bytes([l0, l1]);
            if u16::from_le_bytes([m0, m1]) == MAGIC && usize::from(length) <= PAYLOAD_MAX {
                let payload = body.get(..usize::from(length))?;
                if checksum(length, payload) == u32::from_le_bytes([c0, c1, c2, c3]) {
                    let payload = payload.to_vec();
                    self.from += HEADER + payload.len();
                    return Some(payload);
                }
            }
            // Not the start of a frame: go on to the next byte that could be one.
            let step = rest
                .iter()
                .skip(1)
                .position(|&byte| byte == MAGIC.to_le_bytes()[0])
                .map_or(rest.len(), |at| at + 1);
            self.from += step;
            self.skipped += step as u64;
        }
    }

    /// Whether a frame has begun and not ended, or what looks like one.
    pub fn is_waiting(&self) -> bool {
        self.from < self.held.len()
    }

    /// Gives up on a frame that has begun and does not continue, for a line on which nothing came for a while: a damaged length
    /// would otherwise hold back the frames behind it. Call [`Self::next_frame`] again after it.
    pub fn resynchronise(&mut self) {
        if self.from < self.held.len() {
            self.from += 1;
            self.skipped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn frames_survive_any_cut() {
        let line: Vec<u8> = [&b"one"[..], b"", b"three"].iter().flat_map(|p| encode(p).unwrap()).collect();
        for step in 1..line.len() {
            let mut decoder = Decoder::new();
            let mut got = vec![];
            for part in line.chunks(step) {
                decoder.push(part);
                got.extend(core::iter::from_fn(|| decoder.next_frame()));
            }
            assert_eq!(got, [&b"one"[..], b"", b"three"]);
            assert_eq!(decoder.skipped(), 0);
        }
    }

    #[test]
    fn noise_and_damage_are_skipped() {
        let mut line = b"login: \x54\x7e".to_vec();
        line.extend(encode(b"first").unwrap());
        let mut damaged = encode(b"second").unwrap();
        damaged[9] ^= 1;
        line.extend(damaged);
        line.extend(&encode(b"cut short").unwrap()[..5]);
        line.extend(encode(b"third").unwrap());
        let mut decoder = Decoder::new();
        decoder.push(&line);
        let mut got = vec![];
        for _ in 0..line.len() {
            got.extend(core::iter::from_fn(|| decoder.next_frame()));
            decoder.resynchronise();
        }
        assert_eq!(got, [&b"first"[..], b"third"]);
    }

    #[test]
    fn a_payload_that_is_too_long_is_refused() {
        assert!(encode(&vec![0; PAYLOAD_MAX]).is_ok());
        assert_eq!(encode(&vec![0; PAYLOAD_MAX + 1]), Err(TooLong { bytes: PAYLOAD_MAX + 1 }));
    }
}
