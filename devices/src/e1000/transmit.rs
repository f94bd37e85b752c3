//! Sending: descriptors, checksums, segmentation (317453, 3.3 to 3.5).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use trunnion_backends::frame::{Checksum, MAX_FRAME};
use trunnion_backends::net::offload::{self, TCP, Version};
use trunnion_protocol::address::Gpa;
use trunnion_protocol::netif::{Gso, GsoKind};

use super::{E1000, cause, reg};
use crate::memory::GuestMemory;
use crate::nic::{LONGEST, SHORTEST, fold, send, sum};

/// Descriptors that one call works off at most; the rest follow at the next poll.
const BUDGET: usize = 256;
/// Bytes of a packet before it is cut; a longer one is dropped.
const PACKET: usize = 1 << 16;
/// Segments that a packet is cut into at most.
const SEGMENTS: usize = 1 << 10;

const DONE: u8 = 1;
/// Bits of a descriptor's command.
const END: u8 = 1;
const CHECKSUM: u8 = 4;
const REPORT: u8 = 8;
const EXTENDED: u8 = 0x20;
const SEGMENT: u8 = 4;
const TAG: u8 = 0x40;
const DELAY: u8 = 0x80;

/// What a context descriptor says (3.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Offload {
    ip_start: u8,
    ip_offset: u8,
    ip_end: u16,
    start: u8,
    offset: u8,
    end: u16,
    header: u8,
    size: u16,
    tcp: bool,
    ipv4: bool,
}

/// A packet that is half sent.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Sending {
    offload: Offload,
    packet: Vec<u8>,
    /// Options of the packet's first data descriptor: bit 0 the IP checksum, bit 1 the other.
    options: u8,
    cut: bool,
    tag: Option<u16>,
    /// It is too long, or its data is not in RAM.
    bad: bool,
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    for (n, byte) in value.to_be_bytes().into_iter().enumerate() {
        if let Some(place) = bytes.get_mut(at.wrapping_add(n)) {
            *place = byte;
        }
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    let byte = |n: usize| bytes.get(at.wrapping_add(n)).copied().unwrap_or(0);
    u16::from_be_bytes([byte(0), byte(1)])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) << 16 | u32::from(get16(bytes, at.wrapping_add(2)))
}

/// Puts the checksum of bytes from `start` up to `end` (0: the packet's end) at `at`. What is there counts: drivers put the
/// pseudo-header's sum there.
fn checksum(packet: &mut [u8], start: u8, at: u8, end: u16) {
    let end = if end == 0 { packet.len() } else { (usize::from(end) + 1).min(packet.len()) };
    let Some(bytes) = packet.get(usize::from(start)..end) else { return };
    let value = fold(sum(bytes));
    put16(packet, usize::from(at), value);
}

impl E1000 {
    fn ring(&self) -> Option<(u64, u32)> {
        let base = u64::from(self.get(reg::TDBAH)) << 32 | u64::from(self.get(reg::TDBAL));
        let count = self.get(reg::TDLEN) / 16;
        // TCTL.EN.
        (self.get(reg::TCTL) & 2 != 0 && count > 0 && self.config.is_master()).then_some((base, count))
    }

    /// Whether descriptors wait.
    pub(super) fn has_to_send(&self) -> bool {
        self.ring().is_some_and(|(_, count)| {
            let (head, tail) = (self.get(reg::TDH), self.get(reg::TDT));
            head != tail && head < count && tail < count
        })
    }

    /// Works off descriptors.
    pub(super) fn send<M: GuestMemory>(&mut self, memory: &M) {
        let Some((base, count)) = self.ring() else { return };
        if !self.has_to_send() {
            return;
        }
        // Whether what was reported may be told of later.
        let mut reported = None;
        for _ in 0..BUDGET {
            let (head, tail) = (self.get(reg::TDH), self.get(reg::TDT));
            // A head or a tail beyond the ring stops the card.
            if head == tail || head >= count || tail >= count {
                break;
            }
            let at = Gpa(base.wrapping_add(u64::from(head) * 16));
            let mut raw = [0; 16];
            if memory.read(at, &mut raw).is_err() {
                // No ring there: nothing is sent until the registers say something else.
                self.set(reg::TDH, tail);
                break;
            }
            self.descriptor(memory, raw);
            let [.., command, status, _, _, _] = raw;
            if command & REPORT != 0 {
                let _ = memory.write(Gpa(at.0.wrapping_add(12)), &[status | DONE]);
                reported = Some(reported.unwrap_or(true) && command & DELAY != 0);
            }
            self.set(reg::TDH, if head + 1 >= count { 0 } else { head + 1 });
        }
        if let Some(delayed) = reported {
            self.has_sent(delayed);
        }
        if !self.has_to_send() {
            self.raise(cause::QUEUE_EMPTY);
        }
    }

    fn descriptor<M: GuestMemory>(&mut self, memory: &M, raw: [u8; 16]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, middle, command, status, options, s0, s1] = raw;
        if command & EXTENDED != 0 && middle >> 4 == 0 {
            self.state.sending.offload = Offload {
                ip_start: a0,
                ip_offset: a1,
                ip_end: u16::from_le_bytes([a2, a3]),
                start: a4,
                offset: a5,
                end: u16::from_le_bytes([a6, a7]),
                header: options,
                size: u16::from_le_bytes([s0, s1]),
                tcp: command & 1 != 0,
                ipv4: command & 2 != 0,
            };
            return;
        }
        let extended = command & EXTENDED != 0;
        let mut length = usize::from(u16::from_le_bytes([l0, l1]));
        if extended {
            length |= usize::from(middle & 0xf) << 16;
        }
        let sending = &mut self.state.sending;
        if sending.packet.is_empty() {
            sending.options = if extended { options } else { 0 };
            sending.cut = extended && command & SEGMENT != 0;
            sending.tag = (command & TAG != 0).then(|| u16::from_le_bytes([s0, s1]));
        }
        let from = sending.packet.len();
        if sending.bad || from.saturating_add(length) > PACKET {
            sending.bad = true;
        } else {
            sending.packet.resize(from + length, 0);
            let into = sending.packet.get_mut(from..).unwrap_or(&mut []);
            let address = Gpa(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]));
            sending.bad = memory.read(address, into).is_err();
        }
        if command & END == 0 {
            return;
        }
        let mut packet = core::mem::take(&mut sending.packet);
        if core::mem::take(&mut sending.bad) {
            return;
        }
        if !extended && command & CHECKSUM != 0 {
            // Legacy: the sum from CSS on, put at CSO.
            checksum(&mut packet, options, middle, 0);
        }
        let _ = status;
        self.packet(memory, packet);
    }

    fn packet<M: GuestMemory>(&mut self, memory: &M, mut packet: Vec<u8>) {
        let Sending { offload, options, cut, .. } = self.state.sending;
        if cut && offload.size > 0 && packet.len() > usize::from(offload.header) {
            match self.whole(&mut packet) {
                Some(gso) => self.lend(memory, &packet, Checksum::Blank, Some(gso)),
                None => self.segments(memory, &packet),
            }
            return;
        }
        if options & 1 != 0 {
            checksum(&mut packet, offload.ip_start, offload.ip_offset, offload.ip_end);
        }
        if options & 2 != 0 {
            if self.is_outward() && is_blank(&mut packet, &offload) {
                return self.lend(memory, &packet, Checksum::Blank, None);
            }
            checksum(&mut packet, offload.start, offload.offset, offload.end);
        }
        self.emit(memory, packet);
    }

    /// Whether packets leave the card as they are: no tag is put in, and they do not come back.
    fn is_outward(&self) -> bool {
        self.state.sending.tag.is_none() && self.get(reg::RCTL) >> 6 & 3 == 0
    }

    /// Leaves a packet to be cut by whoever cannot take it whole, which is the same cut: TCP's segments, with the headers' lengths and
    /// checksums put in. `None`, and the packet as it was, when its headers are not what the context says.
    fn whole(&self, packet: &mut [u8]) -> Option<Gso> {
        let Sending { offload, options, .. } = self.state.sending;
        if !self.is_outward() || !offload.tcp || options & 2 == 0 || packet.len() > MAX_FRAME {
            return None;
        }
        let headers = offload::headers(packet)?;
        let transport = headers.transport;
        let data = transport + usize::from(packet.get(transport + 12)? >> 4) * 4;
        let kind = match headers.version {
            Version::V4 => GsoKind::TcpV4,
            Version::V6 => GsoKind::TcpV6,
        };
        let agree = headers.protocol == TCP
            && !headers.fragment
            && offload.ipv4 == (headers.version == Version::V4)
            && (!offload.ipv4 || options & 1 != 0 && usize::from(offload.ip_offset) == headers.network + 10)
            && usize::from(offload.ip_start) == headers.network
            && usize::from(offload.start) == transport
            && usize::from(offload.offset) == transport + 16
            && offload.end == 0
            && usize::from(offload.header) == data;
        let length = u16::try_from(packet.len().checked_sub(headers.network)?).ok()?;
        // A driver that starts from another sum gets the packets that it asks for, with bad checksums.
        let partial = fold(sum(pseudo(packet, &headers)?).wrapping_add(u32::from(TCP)));
        if !agree || get16(packet, transport + 16) != !partial {
            return None;
        }
        if offload.ipv4 {
            put16(packet, headers.network + 2, length);
            put16(packet, headers.network + 10, 0);
            checksum(packet, offload.ip_start, offload.ip_offset, offload.ip_end);
        } else {
            put16(packet, headers.network + 4, length.checked_sub(40)?);
        }
        offload::blank(packet).then_some(Gso { kind, size: offload.size })
    }

    /// Cuts a packet: every segment has the header with its own lengths, numbers and checksums (3.5).
    fn segments<M: GuestMemory>(&mut self, memory: &M, packet: &[u8]) {
        let Sending { offload, options, .. } = self.state.sending;
        let Some((header, data)) = packet.split_at_checked(usize::from(offload.header)) else { return };
        let (ip, transport) = (usize::from(offload.ip_start), usize::from(offload.start));
        let identification = get16(header, ip + 4);
        let sequence = get32(header, transport + 4);
        let pieces = data.chunks(usize::from(offload.size)).take(SEGMENTS);
        let last = pieces.len().saturating_sub(1);
        let mut done = 0u32;
        for (index, piece) in pieces.enumerate() {
            let mut segment = header.to_vec();
            segment.extend_from_slice(piece);
            let length = segment.len();
            if offload.ipv4 {
                put16(&mut segment, ip + 2, length.saturating_sub(ip) as u16);
                put16(&mut segment, ip + 4, identification.wrapping_add(index as u16));
            } else {
                put16(&mut segment, ip + 4, length.saturating_sub(ip + 40) as u16);
            }
            let payload = length.saturating_sub(transport) as u16;
            if offload.tcp {
                let number = sequence.wrapping_add(done);
                put16(&mut segment, transport + 4, (number >> 16) as u16);
                put16(&mut segment, transport + 6, number as u16);
                if index < last
                    && let Some(flags) = segment.get_mut(transport + 13)
                {
                    // FIN and PSH are the last segment's.
                    *flags &= !9;
                }
            } else {
                put16(&mut segment, transport + 4, payload);
            }
            done = done.wrapping_add(piece.len() as u32);
            if options & 1 != 0 {
                checksum(&mut segment, offload.ip_start, offload.ip_offset, offload.ip_end);
            }
            if options & 2 != 0 {
                // The driver left the length out of the pseudo-header's sum.
                let partial = u32::from(get16(&segment, usize::from(offload.offset))) + u32::from(payload);
                put16(&mut segment, usize::from(offload.offset), !fold(partial));
                checksum(&mut segment, offload.start, offload.offset, offload.end);
            }
            self.emit(memory, segment);
        }
    }

    fn emit<M: GuestMemory>(&mut self, memory: &M, mut frame: Vec<u8>) {
        if let Some(tag) = self.state.sending.tag
            && frame.len() >= 12
        {
            let tail = frame.split_off(12);
            frame.extend_from_slice(&[0x81, 0]);
            frame.extend_from_slice(&tag.to_be_bytes());
            frame.extend_from_slice(&tail);
        }
        if frame.len() < 14 || frame.len() > LONGEST {
            return;
        }
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        // RCTL.LBM: loop-back.
        if self.get(reg::RCTL) >> 6 & 3 != 0 {
            self.count(reg::GPTC);
            self.loop_back(memory, &frame);
        } else {
            self.lend(memory, &frame, Checksum::Unknown, None);
        }
    }

    /// Puts a frame on the wire.
    fn lend<M: GuestMemory>(&mut self, memory: &M, frame: &[u8], checksum: Checksum, gso: Option<Gso>) {
        self.count(reg::GPTC);
        if let Some(outlet) = &self.outlet {
            send(memory, outlet, frame, checksum, gso);
        }
    }
}

/// The addresses that a transport's checksum includes.
fn pseudo<'a>(packet: &'a [u8], headers: &offload::Headers) -> Option<&'a [u8]> {
    match headers.version {
        Version::V4 => packet.get(headers.network + 12..headers.network + 20),
        Version::V6 => packet.get(headers.network + 8..headers.network + 40),
    }
}

/// Whether the context asks for just the checksum that everybody fills in who needs one: then it stays blank.
fn is_blank(packet: &mut [u8], offload: &Offload) -> bool {
    let Some(headers) = offload::headers(packet) else { return false };
    let at = usize::from(offload.offset);
    let plain = headers.checksum_at() == Some(at)
        && !headers.fragment
        && usize::from(offload.start) == headers.transport
        && offload.end == 0
        && packet.len() >= SHORTEST
        && packet.len() <= LONGEST
        && headers.end == packet.len();
    let before = get16(packet, at);
    if !plain || !offload::blank(packet) {
        return false;
    }
    let same = get16(packet, at) == before;
    put16(packet, at, before);
    same
}
