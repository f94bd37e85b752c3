//! Receiving: filters and descriptors (317453, 3.2 and 13.4.22).

use alloc::rc::Rc;

use trunnion_protocol::address::Gpa;

use super::{E1000, cause, reg};
use crate::memory::GuestMemory;
use crate::nic::SHORTEST;

/// Frames that one poll takes at most.
const BUDGET: usize = 128;

/// RCTL: enable, store bad, unicast and multicast promiscuous, long packets, broadcast, VLAN filter, strip the check sequence.
const ENABLE: u32 = 1 << 1;
const UNICAST: u32 = 1 << 3;
const MULTICAST: u32 = 1 << 4;
const LONG: u32 = 1 << 5;
const BROADCAST: u32 = 1 << 15;
const VLAN: u32 = 1 << 18;
const STRIP: u32 = 1 << 26;

/// Descriptor status: done, end of packet, checksums were not looked at, the transport's and IP's are good.
const DONE: u8 = 1;
const END: u8 = 2;
const UNCHECKED: u8 = 4;
const TRANSPORT: u8 = 0x20;
const INTERNET: u8 = 0x40;
/// RXCSUM: whether the checksums of IP and of the transport are looked at.
const CHECK_INTERNET: u32 = 1 << 8;
const CHECK_TRANSPORT: u32 = 1 << 9;

impl E1000 {
    fn buffer_size(&self) -> usize {
        let control = self.get(reg::RCTL);
        let size = 2048usize >> (control >> 16 & 3);
        // BSEX makes them sixteen times as long; with 2048 that means nothing.
        if control >> 25 & 1 != 0 && size < 2048 { size * 16 } else { size }
    }

    fn receive_ring(&self) -> Option<(u64, u32)> {
        let base = u64::from(self.get(reg::RDBAH)) << 32 | u64::from(self.get(reg::RDBAL));
        let count = self.get(reg::RDLEN) / 16;
        let (head, tail) = (self.get(reg::RDH), self.get(reg::RDT));
        (self.get(reg::RCTL) & ENABLE != 0
            && count > 0
            && head < count
            && tail < count
            && self.config.is_master())
        .then_some((base, count))
    }

    /// Descriptors that the card owns.
    fn free(&self, count: u32) -> u32 {
        let (head, tail) = (self.get(reg::RDH), self.get(reg::RDT));
        if tail >= head { tail - head } else { count.saturating_sub(head).saturating_add(tail) }
    }

    /// Whether a frame of so many bytes that begins like this is for the card.
    fn accepts(&self, frame: &[u8], length: usize) -> bool {
        let control = self.get(reg::RCTL);
        let Some(&[a, b, c, d, e, f]) = frame.first_chunk::<6>() else { return false };
        if length > 1522 && control & LONG == 0 {
            return false;
        }
        if control & VLAN != 0
            && let Some(&[0x81, 0, high, low]) = frame.get(12..16).and_then(|bytes| bytes.first_chunk::<4>())
        {
            let tag = u32::from(u16::from_be_bytes([high, low]) & 0xfff);
            if self.get(reg::VFTA + (tag >> 5) * 4) >> (tag & 31) & 1 == 0 {
                return false;
            }
        }
        let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]));
        if a & 1 == 0 && control & UNICAST != 0 || a & 1 != 0 && control & MULTICAST != 0 {
            return true;
        }
        if [a, b, c, d, e, f] == [0xff; 6] {
            return control & BROADCAST != 0;
        }
        let matches = (0..16).any(|n| {
            let at = reg::RAL + n * 8;
            let top = self.get(at + 4);
            top >> 31 != 0 && self.get(at) == low && top & 0xffff == high
        });
        if matches || a & 1 == 0 {
            return matches;
        }
        // Twelve bits of the address, chosen by RCTL.MO, are the index of a bit.
        let shift = match control >> 12 & 3 {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        };
        let index = u32::from(u16::from_le_bytes([e, f])) >> shift & 0xfff;
        self.get(reg::MTA + (index >> 5) * 4) >> (index & 31) & 1 != 0
    }

    /// Takes frames that have arrived, as many as there are descriptors for. True when it could go on.
    pub(super) fn receive<M: GuestMemory>(&mut self, memory: &M) -> bool {
        if self.inbox.is_empty() {
            return false;
        }
        let inbox = Rc::clone(&self.inbox);
        for _ in 0..BUDGET {
            let Some((_, count)) = self.receive_ring() else {
                // A card that does not listen hears nothing.
                if self.get(reg::RCTL) & ENABLE == 0 {
                    inbox.clear();
                }
                return false;
            };
            if self.free(count) == 0 || inbox.next(|parts, good| self.take(memory, parts, good)).is_none() {
                return false;
            }
        }
        true
    }

    /// A frame that the card itself has sent.
    pub(super) fn loop_back<M: GuestMemory>(&mut self, memory: &M, frame: &[u8]) {
        self.take(memory, [frame, &[]], false);
    }

    /// What the card says of a frame's checksums. It has looked at them when somebody before it has, or has made them.
    fn checked(&self, good: bool) -> u8 {
        let control = self.get(reg::RXCSUM);
        if !good || control & CHECK_TRANSPORT == 0 {
            return UNCHECKED;
        }
        TRANSPORT | if control & CHECK_INTERNET != 0 { INTERNET } else { 0 }
    }

    /// Takes a frame, in two parts.
    fn take<M: GuestMemory>(&mut self, memory: &M, [front, rest]: [&[u8]; 2], good: bool) {
        let length = front.len().saturating_add(rest.len());
        if !self.accepts(front, length) {
            return;
        }
        let Some((base, count)) = self.receive_ring() else { return };
        // The check sequence is zeroes: drivers look at its place, not at what it says.
        let checked_by = if self.get(reg::RCTL) & STRIP == 0 { 4 } else { 0 };
        let padding = SHORTEST.saturating_sub(length) + checked_by;
        let total = length.saturating_add(padding);
        let size = self.buffer_size();
        let needed = total.div_ceil(size) as u32;
        if needed > self.free(count) {
            self.count(reg::MPC);
            return self.raise(cause::OVERRUN);
        }
        let checked = self.checked(good);
        let mut parts = Parts([front, rest, PADDING.get(..padding).unwrap_or_default()]);
        let mut left = total;
        while left > 0 {
            let piece = left.min(size);
            left -= piece;
            let head = self.get(reg::RDH);
            let at = base.wrapping_add(u64::from(head) * 16);
            let mut address = [0; 8];
            if memory.read(Gpa(at), &mut address).is_ok() {
                parts.write(memory, u64::from_le_bytes(address), piece);
                let [low, high] = (piece as u16).to_le_bytes();
                let status = DONE | checked | if left == 0 { END } else { 0 };
                let _ = memory.write(Gpa(at.wrapping_add(8)), &[low, high, 0, 0, status, 0, 0, 0]);
            } else {
                parts.skip(piece);
            }
            self.set(reg::RDH, if head + 1 >= count { 0 } else { head + 1 });
        }
        self.count(reg::GPRC);
        self.has_received();
        // RCTL.RDMTS: a half, a quarter, an eighth of the ring is left.
        if self.free(count) <= count >> (1 + (self.get(reg::RCTL) >> 8 & 3)) {
            self.raise(cause::FEW_DESCRIPTORS);
        }
    }
}

/// What is behind a frame at most: padding to the shortest, and the check sequence.
const PADDING: [u8; SHORTEST + 4] = [0; SHORTEST + 4];

/// A frame's parts that are not written yet.
struct Parts<'a>([&'a [u8]; 3]);

impl<'a> Parts<'a> {
    /// The next bytes of one part, at most so many.
    fn next(&mut self, most: usize) -> Option<&'a [u8]> {
        let part = self.0.iter_mut().find(|part| !part.is_empty())?;
        let (now, later) = part.split_at(most.min(part.len()));
        *part = later;
        Some(now)
    }

    /// Writes the next bytes to a buffer. What is not in RAM is lost.
    fn write<M: GuestMemory>(&mut self, memory: &M, at: u64, length: usize) {
        let mut done = 0;
        while done < length
            && let Some(bytes) = self.next(length - done)
        {
            let _ = memory.write(Gpa(at.wrapping_add(done as u64)), bytes);
            done += bytes.len();
        }
    }

    fn skip(&mut self, length: usize) {
        let mut left = length;
        while left > 0
            && let Some(bytes) = self.next(left)
        {
            left -= bytes.len();
        }
    }
}
