//! Large segments for a TCP that cuts by itself. smoltcp cuts what it sends at the size that the other side takes; told of a
//! larger size it makes one packet of what would have been dozens, which a guest takes as it is and the bridge cuts for all
//! others.
//!
//! The size is an option of the packets with SYN (RFC 9293, 3.7.1). In what comes it is raised, in what goes it is put back to
//! what fits a wire. Works on private copies, on packets without a checksum of their own.

use trunnion_backends::net::offload::{self, TCP, Version};
use trunnion_protocol::netif::{Gso, GsoKind};

/// Bytes of data of a segment on the wire.
pub const WIRE: u16 = 1460;
/// Bytes of data of a large one: so many of a wire's that with their headers they fill fifteen pages almost to the end. What a
/// packet costs its receiver goes by pages.
pub const LARGE: u16 = 42 * WIRE;

/// Bytes of a TCP header without options.
const HEADER: usize = 20;
const SYN: u8 = 0x02;
/// The options without a length, and that of the size.
const END: u8 = 0;
const PADDING: u8 = 1;
const SIZE: u8 = 2;

/// Where the data of a TCP packet begins, behind its headers.
fn data(frame: &[u8]) -> Option<(usize, usize)> {
    let headers = offload::headers(frame)?;
    if headers.version != Version::V4 || headers.protocol != TCP || headers.fragment {
        return None;
    }
    let length = usize::from(frame.get(headers.transport + 12)? >> 4) * 4;
    Some((headers.transport, headers.transport + length.max(HEADER)))
}

/// The largest segment that the sender of a SYN takes.
fn size(frame: &mut [u8]) -> Option<&mut [u8; 2]> {
    let (transport, data) = data(frame)?;
    if frame.get(transport + 13)? & SYN == 0 {
        return None;
    }
    let mut at = transport + HEADER;
    while at < data {
        match *frame.get(at)? {
            END => return None,
            PADDING => at += 1,
            SIZE => return frame.get_mut(at + 2..)?.first_chunk_mut(),
            _ => at += usize::from(*frame.get(at + 1)?).max(2),
        }
    }
    None
}

/// Lets the stack make large segments for the sender of a packet, if it takes those of a wire.
pub fn raise(frame: &mut [u8]) {
    if let Some(size) = size(frame).filter(|size| u16::from_be_bytes(**size) >= WIRE) {
        *size = LARGE.to_be_bytes();
    }
}

/// Says in a packet of the stack's what fits a wire.
pub fn lower(frame: &mut [u8]) {
    if let Some(size) = size(frame) {
        *size = u16::from_be_bytes(*size).min(WIRE).to_be_bytes();
    }
}

/// How a packet of the stack's is to be cut, if it is larger than a wire's.
pub fn cut(frame: &[u8]) -> Option<Gso> {
    let (_, data) = data(frame)?;
    let large = frame.len().saturating_sub(data) > usize::from(WIRE);
    large.then_some(Gso { kind: GsoKind::TcpV4, size: WIRE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A TCP packet with these options and so much data.
    fn packet(flags: u8, options: &[u8], data: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        bytes.extend((40 + options.len() as u16 + data as u16).to_be_bytes());
        bytes.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let words = (5 + options.len() / 4) as u8;
        bytes.extend([0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, words << 4, flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend(options);
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    #[test]
    fn sizes_are_raised_and_lowered() {
        // The size last, behind padding, a window scale and the permission of selective answers.
        let with = |size: u16| {
            let [high, low] = size.to_be_bytes();
            packet(SYN, &[1, 3, 3, 7, 4, 2, 1, 1, 2, 4, high, low], 0)
        };
        for (size, raised) in [(1460, LARGE), (8960, LARGE), (1459, 1459), (536, 536)] {
            let mut frame = with(size);
            raise(&mut frame);
            assert_eq!(frame, with(raised), "{size}");
        }
        for (size, lowered) in [(LARGE, 1460), (1460, 1460), (536, 536)] {
            let mut frame = with(size);
            lower(&mut frame);
            assert_eq!(frame, with(lowered), "{size}");
        }
    }

    #[test]
    fn only_a_syn_with_the_option_is_changed() {
        for frame in [
            packet(0x10, &[2, 4, 5, 0xb4], 0),
            packet(SYN, &[], 0),
            packet(SYN, &[0, 2, 4, 9], 0),
            packet(SYN, &[5, 0, 0, 0], 0),
            packet(SYN, &[2, 4], 0)[..55].to_vec(),
            packet(SYN, &[8, 200, 0, 0], 0),
            alloc::vec![0; 60],
        ] {
            let mut changed = frame.clone();
            raise(&mut changed);
            lower(&mut changed);
            assert_eq!(changed, frame);
        }
    }

    #[test]
    fn large_packets_are_to_be_cut() {
        assert_eq!(cut(&packet(0x10, &[], 1460)), None);
        let gso = Gso { kind: GsoKind::TcpV4, size: WIRE };
        assert_eq!(cut(&packet(0x10, &[], 1461)), Some(gso));
        assert_eq!(cut(&packet(0x10, &[1, 1, 1, 1], LARGE.into())), Some(gso));
        assert_eq!(cut(&alloc::vec![0; 3000]), None);
    }
}
