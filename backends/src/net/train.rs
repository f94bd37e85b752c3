//! Segments of one TCP connection, one behind the other, that may go on as one large packet: what is sent by a stack that cuts
//! by itself costs a guest that takes large packets much less that way.
//!
//! IPv4 only. Works on private copies.

use trunnion_protocol::netif::{Gso, GsoKind};

use super::offload::{Headers, TCP, Version, fold, headers, put, sum};

/// Bytes of a large packet at most.
const MOST: usize = 60_000;
/// TCP's flags: ACK, and PSH, which only the last may have.
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A segment that may be part of a train.
struct Segment<'a> {
    bytes: &'a [u8],
    headers: Headers,
    /// Where the data begins.
    data: usize,
}

impl<'a> Segment<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let headers = headers(bytes)?;
        let data = headers.transport + usize::from(bytes.get(headers.transport + 12)? >> 4) * 4;
        let fits = headers.version == Version::V4
            && headers.protocol == TCP
            && !headers.fragment
            && headers.end == bytes.len()
            && data < bytes.len();
        fits.then_some(Self { bytes, headers, data })
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    fn sequence(&self) -> u32 {
        self.part(self.headers.transport + 4, self.headers.transport + 8)
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn flags(&self) -> u8 {
        self.bytes.get(self.headers.transport + 13).copied().unwrap_or_default()
    }

    const fn length(&self) -> usize {
        self.bytes.len().saturating_sub(self.data)
    }

    /// Whether the headers are the same but for length, identity, sequence, PSH and checksums.
    fn is_like(&self, other: &Self) -> bool {
        let (network, transport) = (self.headers.network, self.headers.transport);
        let same = |from, to| self.part(from, to) == other.part(from, to);
        (network, transport, self.data) == (other.headers.network, other.headers.transport, other.data)
            && same(0, network + 2)
            && same(network + 6, network + 10)
            && same(network + 12, transport + 4)
            && same(transport + 8, transport + 13)
            && same(transport + 14, transport + 16)
            && same(transport + 18, self.data)
    }
}

/// A train: the first so many of some frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Train {
    /// How many frames; at least two.
    pub count: usize,
    /// Where the data begins in each.
    pub data: usize,
    /// Bytes of the large packet.
    pub length: usize,
    /// How it is to be cut again.
    pub gso: Gso,
}

/// The train that begins with the first of the frames, if it is of more than one.
pub fn find<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Option<Train> {
    let mut frames = frames.into_iter();
    let first = Segment::of(frames.next()?)?;
    let size = first.length();
    let (mut count, mut length, mut last) = (1, first.bytes.len(), first.flags());
    let mut next = first.sequence().wrapping_add(size as u32);
    let mut whole = true;
    for segment in frames.map_while(Segment::of) {
        let fits = whole
            && last == ACK
            && segment.flags() & !PSH == ACK
            && segment.sequence() == next
            && segment.length() <= size
            && length + segment.length() <= MOST
            && segment.is_like(&first);
        if !fits {
            break;
        }
        whole = segment.length() == size;
        last = segment.flags();
        next = next.wrapping_add(segment.length() as u32);
        length += segment.length();
        count += 1;
    }
    let gso = Gso { kind: GsoKind::TcpV4, size: size as u16 };
    (count > 1).then_some(Train { count, data: first.data, length, gso })
}

/// Whether a TCP segment has PSH.
pub fn is_pushed(segment: &[u8]) -> bool {
    Segment::of(segment).is_some_and(|segment| segment.flags() & PSH != 0)
}

/// Makes the first frame's headers those of the whole train, with a blank checksum. `pushed`: the last has PSH. False when the
/// frame is no TCP packet.
pub fn couple(first: &mut [u8], train: &Train, pushed: bool) -> bool {
    let mut write = || {
        let headers = headers(first)?;
        let length = train.length.checked_sub(headers.network)?;
        put(first, headers.network + 2, length as u16)?;
        put(first, headers.network + 10, 0)?;
        let check = !fold(sum(first.get(headers.network..headers.transport)?));
        put(first, headers.network + 10, check)?;
        if pushed {
            *first.get_mut(headers.transport + 13)? |= PSH;
        }
        let whole = train.length.checked_sub(headers.transport)?;
        let total = headers.pseudo(first, whole)?;
        put(first, headers.checksum_at()?, fold(total))
    };
    write().is_some()
}

#[cfg(test)]
mod tests {
    use super::super::offload::{ETHERNET, complete, is_good, segment};
    use super::*;
    use alloc::vec::Vec;

    /// A large packet of so many bytes of data, with all of its headers right.
    fn large(data: usize, flags: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        bytes.extend((data as u16 + 40).to_be_bytes());
        bytes.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let check = !fold(sum(&bytes[ETHERNET..]));
        put(&mut bytes, ETHERNET + 10, check).unwrap();
        bytes.extend([0x12, 0x34, 0, 80, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..data).map(|n| (n * 7 % 251) as u8));
        bytes
    }

    fn cut(bytes: &[u8], size: u16) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let gso = Gso { kind: GsoKind::TcpV4, size };
        segment(bytes, gso, &mut Vec::new(), |frame| frames.push(frame.to_vec())).unwrap();
        frames
    }

    #[test]
    fn what_was_cut_is_put_together_again() {
        for (data, flags) in [(5000, ACK), (2920, ACK | PSH), (1461, ACK), (40_000, ACK | PSH)] {
            let whole = large(data, flags);
            let frames = cut(&whole, 1460);
            let train = find(frames.iter().map(Vec::as_slice)).unwrap();
            assert_eq!((train.count, train.length, train.gso.size), (frames.len(), whole.len(), 1460));
            let mut together = frames[0].clone();
            assert!(couple(&mut together, &train, flags & PSH != 0));
            frames[1..].iter().for_each(|frame| together.extend(&frame[train.data..]));
            let mut right = whole.clone();
            // Both with the checksum filled in, since one was blank.
            assert!(complete(&mut together) && complete(&mut right) && is_good(&together));
            assert!(together == right);
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let frames = cut(&large(8000, ACK), 1460);
        let alone = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut frames = frames.clone();
            change(&mut frames);
            find(frames.iter().map(Vec::as_slice)).map(|train| train.count)
        };
        assert_eq!(alone(&|_| {}), Some(6));
        assert_eq!(alone(&|frames| frames.truncate(1)), None);
        // Another sequence, connection, window, acknowledgement, FIN, and one that was pushed in the middle.
        for at in [41, 35, 48, 44, 47] {
            assert_eq!(alone(&|frames| frames[1][at] ^= 1), None, "{at}");
            assert_eq!(alone(&|frames| frames[3][at] ^= 1), Some(3), "{at}");
        }
        assert_eq!(alone(&|frames| frames[2][47] |= PSH), Some(3));
        assert_eq!(alone(&|frames| frames[0][47] |= PSH), None);
        // Nothing comes behind a short one.
        assert_eq!(alone(&|frames| drop(frames.remove(1))), None);
        assert_eq!(find([]), None);
        assert_eq!(find([&[0u8; 20][..], &[0; 20]]), None);
    }
}
