//! Frames on a byte line: `magic u16, length u16, !length u16, crc32 u32, payload`, little-endian.
//!
//! The checksum covers the payload. A reader that meets anything else skips one byte and looks for the next magic, so a line with lost or
//! foreign bytes recovers at the next whole frame. The length is checked by itself, so a damaged one never holds back what follows, and a
//! frame may take any time to arrive: either end may stand still for as long as its machine likes.

use alloc::vec::Vec;

/// The first two bytes of each frame.
pub const MAGIC: u16 = 0x7e54;
/// Bytes in front of the payload.
pub const HEADER: usize = 10;
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
    frame.extend_from_slice(&(!length).to_le_bytes());
    frame.extend_from_slice(&crc32(payload).to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
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
            let (&[m0, m1, l0, l1, n0, n1, c0, c1, c2, c3], body) = rest.split_first_chunk::<HEADER>()?;
            let length = u16::from_le_bytes([l0, l1]);
            let is_header = u16::from_le_bytes([m0, m1]) == MAGIC
                && length == !u16::from_le_bytes([n0, n1])
                && usize::from(length) <= PAYLOAD_MAX;
            if is_header {
                let payload = body.get(..usize::from(length))?;
                if crc32(payload) == u32::from_le_bytes([c0, c1, c2, c3]) {
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
        damaged[HEADER + 1] ^= 1;
        let mut longer = encode(b"longer").unwrap();
        longer[3] ^= 0x40;
        line.extend(damaged);
        line.extend(longer);
        line.extend(&encode(b"cut short").unwrap()[..5]);
        line.extend(encode(b"third").unwrap());
        let mut decoder = Decoder::new();
        decoder.push(&line);
        let got: Vec<Vec<u8>> = core::iter::from_fn(|| decoder.next_frame()).collect();
        assert_eq!(got, [&b"first"[..], b"third"]);
    }

    #[test]
    fn a_payload_that_is_too_long_is_refused() {
        assert!(encode(&vec![0; PAYLOAD_MAX]).is_ok());
        assert_eq!(encode(&vec![0; PAYLOAD_MAX + 1]), Err(TooLong { bytes: PAYLOAD_MAX + 1 }));
    }
}
