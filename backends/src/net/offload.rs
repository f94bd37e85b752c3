//! What a network card does for those who have none: transport checksums filled in and checked, large TCP packets cut.
//!
//! Works on private copies only. A packet that is not what it claims to be is refused, never repaired.

use alloc::vec::Vec;
use core::ops::Range;

use trunnion_protocol::netif::{Gso, GsoKind};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const TAG: usize = 4;
/// 802.1Q and 802.1ad.
const TAGGED: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// TCP's number.
pub const TCP: u8 = 6;
/// UDP's number.
pub const UDP: u8 = 17;
/// Extension headers of IPv6 that are skipped, and how many.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const EXTENSIONS_MAX: usize = 8;

/// Which Internet protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// 4.
    V4,
    /// 6.
    V6,
}

/// Where the headers of a packet are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Which Internet protocol.
    pub version: Version,
    /// Where its header begins.
    pub network: usize,
    /// Where the transport header begins.
    pub transport: usize,
    /// [`TCP`], [`UDP`] or another's number.
    pub protocol: u8,
    /// Where the packet ends, which may be before the end of the frame. For a large packet the length fields say what its
    /// sender made of it, and nobody looks.
    pub end: usize,
    /// One of several fragments of a packet: it has no whole transport part.
    pub fragment: bool,
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

/// The type of a frame behind its tags, where its payload begins, and the number of its first tag (0: none).
pub fn payload(head: &[u8]) -> Option<(u16, usize, u16)> {
    let (mut at, mut tag) = (12, None);
    let mut kind = word(head, at)?;
    for _ in 0..2 {
        if !TAGGED.contains(&kind) {
            break;
        }
        tag = tag.or(Some(word(head, at + 2)? & 0xfff));
        at += TAG;
        kind = word(head, at)?;
    }
    Some((kind, at + 2, tag.unwrap_or(0)))
}

/// Finds the headers of an IP packet; `None` for other frames and for those that end too early.
pub fn headers(head: &[u8]) -> Option<Headers> {
    let (kind, network, _) = payload(head)?;
    let first = byte(head, network)?;
    match (kind, first >> 4) {
        (IPV4, 4) => {
            let length = usize::from(first & 15) * 4;
            if length < 20 {
                return None;
            }
            let fragment = word(head, network + 6)? & 0x3fff != 0;
            let total = usize::from(word(head, network + 2)?);
            Some(Headers {
                version: Version::V4,
                network,
                transport: network + length,
                protocol: byte(head, network + 9)?,
                end: network + total.max(length),
                fragment,
            })
        }
        (IPV6, 6) => {
            let end = network + 40 + usize::from(word(head, network + 4)?);
            let (mut next, mut at) = (byte(head, network + 6)?, network + 40);
            for _ in 0..EXTENSIONS_MAX {
                if !EXTENSIONS.contains(&next) {
                    break;
                }
                let length = (usize::from(byte(head, at + 1)?) + 1) * 8;
                next = byte(head, at)?;
                at += length;
            }
            let fragment = next == 44;
            Some(Headers { version: Version::V6, network, transport: at, protocol: next, end, fragment })
        }
        _ => None,
    }
}

impl Headers {
    /// Where the checksum field of the transport header is.
    pub const fn checksum_at(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(self.transport + 16),
            UDP => Some(self.transport + 6),
            _ => None,
        }
    }

    /// The unfolded sum of the pseudo header for so many bytes of transport header and data.
    pub(super) fn pseudo(&self, bytes: &[u8], length: usize) -> Option<u64> {
        let addresses = match self.version {
            Version::V4 => bytes.get(self.network + 12..self.network + 20)?,
            Version::V6 => bytes.get(self.network + 8..self.network + 40)?,
        };
        Some(sum(addresses) + u64::from(self.protocol) + length as u64)
    }
}

/// The sum of big-endian words, folded; an odd last byte is followed by a zero. Words are added in memory order and swapped at
/// the end (RFC 1071, 2B), eight bytes at a time, a carry going on to the next word and at last round.
pub fn sum(bytes: &[u8]) -> u64 {
    let add =
        |(total, carry): (u64, bool), word: &[u8; 8]| total.carrying_add(u64::from_le_bytes(*word), carry);
    let (words, rest) = bytes.as_chunks::<8>();
    let (eights, words) = words.as_chunks::<8>();
    let mut total = (0, false);
    for [a, b, c, d, e, f, g, h] in eights {
        let half = add(add(add(add(total, a), b), c), d);
        total = add(add(add(add(half, e), f), g), h);
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let (total, carry) = add(words.iter().fold(total, add), &last);
    u64::from(fold(u64::from(fold(total)) + u64::from(carry)).swap_bytes())
}

/// Folds a sum into 16 bits.
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Leaves the transport checksum of a whole frame blank, with the sum of the pseudo header in its field. False when it has
/// none that is known.
pub fn blank(bytes: &mut [u8]) -> bool {
    let mut put_pseudo = || {
        let headers = headers(bytes)?;
        let at = headers.checksum_at()?;
        if headers.fragment || headers.end > bytes.len() {
            return None;
        }
        let total = headers.pseudo(bytes, headers.end.checked_sub(headers.transport)?)?;
        put(bytes, at, fold(total))
    };
    put_pseudo().is_some()
}

/// Fills in the transport checksum of a whole frame. False when it has none that is known; it is then left as it is.
pub fn complete(bytes: &mut [u8]) -> bool {
    fill(bytes).is_some()
}

fn fill(bytes: &mut [u8]) -> Option<()> {
    let headers = headers(bytes)?;
    let at = headers.checksum_at()?;
    if headers.fragment || headers.end > bytes.len() || at + 2 > headers.end {
        return None;
    }
    put(bytes, at, 0)?;
    let data = bytes.get(headers.transport..headers.end)?;
    let total = headers.pseudo(bytes, data.len())? + sum(data);
    let checksum = match !fold(total) {
        // 0 would mean that there is none (RFC 768).
        0 if headers.protocol == UDP => 0xffff,
        checksum => checksum,
    };
    put(bytes, at, checksum)
}

/// Whether the checksums of a whole frame are right, as far as it has any that are known.
pub fn is_good(bytes: &[u8]) -> bool {
    let Some(headers) = headers(bytes) else { return true };
    let Some(at) = headers.checksum_at().filter(|_| !headers.fragment) else { return true };
    let check = || {
        let data = bytes.get(headers.transport..headers.end)?;
        if headers.protocol == UDP && headers.version == Version::V4 && word(bytes, at)? == 0 {
            return Some(true);
        }
        Some(fold(headers.pseudo(bytes, data.len())? + sum(data)) == 0xffff)
    };
    check().unwrap_or(false)
}

/// TCP's flags that only the last, and only the first segment keeps: FIN and PSH; CWR.
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;

/// A large TCP packet on its way to become frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    headers: Headers,
    /// Where the data begin and end.
    start: usize,
    end: usize,
    /// Bytes of data in a frame.
    size: usize,
    /// Where the next frame's data begin, and which frame it is.
    at: usize,
    index: u16,
}

impl Cut {
    /// `None` when the packet is not what `gso` says.
    pub fn new(bytes: &[u8], gso: Gso) -> Option<Self> {
        let headers = headers(bytes)?;
        let version = match gso.kind {
            GsoKind::TcpV4 => Version::V4,
            GsoKind::TcpV6 => Version::V6,
        };
        if headers.version != version || headers.protocol != TCP || headers.fragment {
            return None;
        }
        let offset = usize::from(byte(bytes, headers.transport + 12)? >> 4) * 4;
        let start = headers.transport + offset;
        let size = usize::from(gso.size);
        (offset >= 20 && start <= bytes.len() && size > 0).then_some(Self {
            headers,
            start,
            end: bytes.len(),
            size,
            at: start,
            index: 0,
        })
    }

    /// Frames in all; a packet without data is one.
    pub fn count(&self) -> usize {
        self.end.saturating_sub(self.start).div_ceil(self.size).max(1)
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.start.saturating_add(self.size).min(self.end)
    }

    /// Whether there is no frame any more.
    pub fn is_over(&self) -> bool {
        self.index > 0 && self.at >= self.end
    }

    /// The next frame: its headers, with complete checksums, go to `front`, its data are where the range says in the packet.
    pub fn next(&mut self, bytes: &[u8], front: &mut Vec<u8>) -> Option<Range<usize>> {
        if self.is_over() {
            return None;
        }
        let Headers { version, network, transport, .. } = self.headers;
        let range = self.at..self.at.saturating_add(self.size).min(self.end);
        let data = bytes.get(range.clone())?;
        front.clear();
        front.extend_from_slice(bytes.get(..self.start)?);
        let length = self.start + data.len();
        match version {
            Version::V4 => {
                put(front, network + 2, (length - network) as u16)?;
                put(front, network + 4, word(bytes, network + 4)?.wrapping_add(self.index))?;
                put(front, network + 10, 0)?;
                let check = !fold(sum(front.get(network..transport)?));
                put(front, network + 10, check)?;
            }
            Version::V6 => put(front, network + 4, (length - network - 40) as u16)?,
        }
        let sequence: &mut [u8; 4] = front.get_mut(transport + 4..)?.first_chunk_mut()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add((self.at - self.start) as u32).to_be_bytes();
        let flags = front.get_mut(transport + 13)?;
        if range.end < self.end {
            *flags &= !LAST_ONLY;
        }
        if self.index > 0 {
            *flags &= !FIRST_ONLY;
        }
        put(front, transport + 16, 0)?;
        // The data begin at a multiple of four bytes behind the header's beginning, so the two sums add up.
        let total =
            self.headers.pseudo(front, length - transport)? + sum(front.get(transport..)?) + sum(data);
        put(front, transport + 16, !fold(total))?;
        self.at = range.end;
        self.index = self.index.saturating_add(1);
        Some(range)
    }
}

/// Cuts a large TCP packet into frames, each with its own headers and complete checksums. `each` gets them in order, in a
/// buffer that is used again. `None` when the packet is not what `gso` says.
pub fn segment(
    bytes: &[u8],
    gso: Gso,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&mut [u8]),
) -> Option<usize> {
    let mut cut = Cut::new(bytes, gso)?;
    while let Some(data) = cut.next(bytes, buffer) {
        buffer.extend_from_slice(bytes.get(data)?);
        each(buffer);
    }
    Some(cut.count())
}

/// A number that is the same for all packets of a flow, for choosing a queue.
pub fn flow(head: &[u8]) -> u32 {
    let hash = |hash: u32, bytes: &[u8]| {
        bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    };
    let seed = 0x811c_9dc5;
    let Some(headers) = headers(head) else { return hash(seed, head.get(..12).unwrap_or_default()) };
    let addresses = match headers.version {
        Version::V4 => head.get(headers.network + 12..headers.network + 20),
        Version::V6 => head.get(headers.network + 8..headers.network + 40),
    };
    let value = hash(seed, addresses.unwrap_or_default());
    if headers.fragment || headers.checksum_at().is_none() {
        return value;
    }
    hash(value, head.get(headers.transport..headers.transport + 4).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with these parts.
    fn frame(version: Version, protocol: u8, tagged: bool, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if tagged {
            bytes.extend([0x81, 0, 0, 7]);
        }
        let transport: usize = if protocol == TCP { 20 } else { 8 };
        let length = (transport + data.len()) as u16;
        match version {
            Version::V4 => {
                bytes.extend(IPV4.to_be_bytes());
                let start = bytes.len();
                bytes.extend([0x45, 0]);
                bytes.extend((length + 20).to_be_bytes());
                bytes.extend([0, 9, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                let check = !fold(sum(&bytes[start..]));
                put(&mut bytes, start + 10, check).unwrap();
            }
            Version::V6 => {
                bytes.extend(IPV6.to_be_bytes());
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([protocol, 64]);
                bytes.extend([0xfd; 16]);
                bytes.extend([0xfc; 16]);
            }
        }
        bytes.extend([0x12, 0x34, 0, 80]);
        if protocol == TCP {
            bytes.extend([0, 0, 0, 100, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0]);
        } else {
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn sums_of_the_book() {
        // RFC 1071, 3.
        assert_eq!(fold(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(fold(sum(&[0x12])), 0x1200);
        assert_eq!(fold(sum(&[0, 0, 0, 0, 0x12, 0x34, 0x56])), 0x1234 + 0x5600);
    }

    #[test]
    fn checksums_are_filled_in_and_found_good() {
        for version in [Version::V4, Version::V6] {
            for protocol in [TCP, UDP] {
                for tagged in [false, true] {
                    for length in [0, 1, 2, 3, 64, 1447] {
                        let data: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
                        let mut bytes = frame(version, protocol, tagged, &data);
                        // Padding of a short frame is not part of the packet.
                        bytes.extend([0xaa; 5]);
                        assert!(complete(&mut bytes));
                        assert!(is_good(&bytes));
                        let at = headers(&bytes).unwrap().checksum_at().unwrap();
                        bytes[at] ^= 1;
                        assert!(!is_good(&bytes));
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_packet_becomes_small_ones() {
        for (version, kind) in [(Version::V4, GsoKind::TcpV4), (Version::V6, GsoKind::TcpV6)] {
            for (length, size) in
                [(5000, 1448), (1448, 1448), (1449, 1448), (1, 1448), (0, 100), (60000, 536)]
            {
                let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
                let bytes = frame(version, TCP, length == 5000, &data);
                let (mut got, mut flags) = (Vec::new(), Vec::new());
                let count = segment(&bytes, Gso { kind, size }, &mut Vec::new(), |bytes| {
                    assert!(is_good(bytes));
                    let headers = headers(bytes).unwrap();
                    assert_eq!(headers.end, bytes.len());
                    let t = headers.transport;
                    let sequence = u32::from_be_bytes(bytes[t + 4..t + 8].try_into().unwrap());
                    assert_eq!(sequence as usize, 100 + got.len());
                    flags.push(bytes[t + 13]);
                    assert!(bytes.len() - t - 20 <= usize::from(size));
                    got.extend_from_slice(&bytes[t + 20..]);
                });
                assert_eq!(got, data);
                assert_eq!(count, Some(flags.len()));
                assert_eq!(flags.pop(), Some(0x19), "the last keeps FIN and PSH");
                assert!(flags.iter().all(|flags| *flags == 0x10));
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let gso = Gso { kind: GsoKind::TcpV4, size: 1000 };
        let good = frame(Version::V4, TCP, false, &[1; 3000]);
        let refuse = |bytes: &[u8]| {
            assert_eq!(segment(bytes, gso, &mut Vec::new(), |_| panic!("nothing comes out")), None);
        };
        for length in 0..50 {
            refuse(&good[..length]);
        }
        refuse(&frame(Version::V6, TCP, false, &[1; 3000]));
        refuse(&frame(Version::V4, UDP, false, &[1; 3000]));
        let mut bytes = good.clone();
        bytes[46] = 0xf0;
        refuse(&bytes[..80]);
        for seed in 0..4000u32 {
            // Whatever the bytes, nothing panics.
            let mut bytes: Vec<u8> = (0..seed % 200).map(|n| (n.wrapping_mul(seed) >> 3) as u8).collect();
            if let Some(kind) = bytes.get_mut(12..14) {
                kind.copy_from_slice(&[IPV4, IPV6, 0x8100][seed as usize % 3].to_be_bytes());
            }
            let _ = (headers(&bytes), flow(&bytes), is_good(&bytes));
            let _ = segment(&bytes, gso, &mut Vec::new(), |_| {});
            complete(&mut bytes);
        }
    }

    #[test]
    fn flows_are_told_apart() {
        let one = frame(Version::V4, TCP, false, &[]);
        let mut other = one.clone();
        other[37] ^= 1;
        assert_ne!(flow(&one), flow(&other));
        assert_eq!(flow(&one), flow(&frame(Version::V4, TCP, false, &[5; 100])));
    }
}
