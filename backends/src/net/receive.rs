//! The ring on which a guest receives: frames go into the buffers that it offered, in their order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::netif::{ExtraInfo, Gso, Rx, RxRequest, RxResponse, RxSlot, SLOTS_MIN, Status, rx};
use trunnion_protocol::ring::{BackRing, Claimed, Notify, Overrun, Owed, Pages};

use super::workshop::Room;
use crate::frame::Checksum;
use crate::host::{CopyPage, GrantCopier, GrantCopy};

/// Bytes of frames that wait for buffers of one ring, at most.
const BACKLOG: usize = 1 << 20;
/// How long they wait at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// A frame in this kernel's memory that waits for buffers.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: Checksum,
    pub(super) gso: Option<Gso>,
    #[expect(dead_code, reason = "it is given back when the frame goes")]
    pub(super) room: Room,
}

/// A buffer that is being filled.
struct Slot {
    owed: Owed,
    request: RxRequest,
    /// Bytes; `None` for the slot of extra information.
    length: Option<u16>,
}

/// A packet that is being copied.
struct Packet {
    slots: usize,
    copies: usize,
    length: usize,
    checksum: Checksum,
    gso: Option<Gso>,
    outcome: Outcome,
}

/// What became of a packet's copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All were made.
    Good,
    /// The receiver's buffers are to blame.
    Refused,
    /// Its sender took pages away meanwhile: the receiver has nothing to do with it.
    Withdrawn,
}

/// Buffers with data of one packet, when they are not filled: Linux takes that many fragments.
const MOST_APART: usize = SLOTS_MIN - 1;

/// Buffers that pieces take when none is split: then one copy moves each, and it is made in one go.
fn apart(pieces: impl Iterator<Item = usize>) -> usize {
    let (mut buffers, mut used) = (0, PAGE_SIZE);
    for length in pieces {
        if used + length > PAGE_SIZE {
            buffers += 1;
            used = 0;
        }
        used += length;
    }
    buffers
}

/// How a run ended.
#[derive(Default)]
pub(super) struct Done {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
    pub(super) notify: bool,
}

pub(super) struct Receiver<P: Pages> {
    pub(super) ring: BackRing<Rx, P>,
    domain: DomainId,
    buffers: VecDeque<Claimed<RxRequest>>,
    copies: Vec<GrantCopy>,
    results: Vec<Result<(), GrantStatus>>,
    packets: Vec<Packet>,
    slots: Vec<Slot>,
    backlog: VecDeque<Kept>,
    kept: usize,
    since: Duration,
}

impl<P: Pages> Receiver<P> {
    pub(super) fn new(ring: BackRing<Rx, P>, domain: DomainId) -> Self {
        Self {
            ring,
            domain,
            buffers: VecDeque::new(),
            copies: Vec::new(),
            results: Vec::new(),
            packets: Vec::new(),
            slots: Vec::new(),
            backlog: VecDeque::new(),
            kept: 0,
            since: Duration::ZERO,
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether so many buffers are there.
    fn has_buffers(&mut self, count: usize) -> Result<bool, Overrun> {
        while self.buffers.len() < count {
            match self.ring.take()? {
                Some(claimed) => self.buffers.push_back(claimed),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Buffers that a packet takes.
    const fn needed(length: usize, gso: Option<Gso>) -> usize {
        length.div_ceil(PAGE_SIZE) + gso.is_some() as usize
    }

    /// Takes buffers for a packet and notes the copies into them. False when there are not enough; nothing has happened
    /// then. The pieces' lengths sum to `length`.
    pub(super) fn place(
        &mut self,
        pieces: impl Iterator<Item = (CopyPage, u16, u16)> + Clone,
        length: usize,
        checksum: Checksum,
        gso: Option<Gso>,
    ) -> Result<bool, Overrun> {
        let packed = length.div_ceil(PAGE_SIZE);
        let apart = apart(pieces.clone().map(|(_, _, length)| usize::from(length)));
        let is_apart = apart <= (packed + 1).min(MOST_APART);
        let slots = if is_apart { apart } else { packed } + usize::from(gso.is_some());
        if length == 0 || !self.has_buffers(slots)? {
            return Ok(false);
        }
        let (first, copies) = (self.slots.len(), self.copies.len());
        let mut used = PAGE_SIZE;
        for (from, offset, length) in pieces {
            let (mut offset, mut rest) = (offset, usize::from(length));
            if is_apart && used + rest > PAGE_SIZE {
                used = PAGE_SIZE;
            }
            while rest > 0 {
                if used == PAGE_SIZE {
                    if gso.is_some() && self.slots.len() == first + 1 {
                        self.begin(None);
                    }
                    self.begin(Some(0));
                    used = 0;
                }
                let Some(Slot { request, length: Some(length), .. }) = self.slots.last_mut() else { break };
                let count = rest.min(PAGE_SIZE - used);
                self.copies.push(GrantCopy {
                    from,
                    from_offset: offset,
                    to: CopyPage::Granted(self.domain, request.reference),
                    to_offset: used as u16,
                    length: count as u16,
                });
                *length += count as u16;
                offset = offset.wrapping_add(count as u16);
                used += count;
                rest -= count;
            }
        }
        if gso.is_some() && self.slots.len() == first + 1 {
            self.begin(None);
        }
        let (slots, copies) = (self.slots.len() - first, self.copies.len() - copies);
        self.packets.push(Packet { slots, copies, length, checksum, gso, outcome: Outcome::Good });
        Ok(true)
    }

    /// Takes the next buffer; `None` is for extra information.
    fn begin(&mut self, length: Option<u16>) {
        if let Some(Claimed { owed, request }) = self.buffers.pop_front() {
            self.slots.push(Slot { owed, request, length });
        }
    }

    /// Keeps a frame until there are buffers. False when too much is kept already.
    pub(super) fn keep(&mut self, kept: Kept, now: Duration) -> bool {
        if self.kept.saturating_add(kept.bytes.len()) > BACKLOG {
            return false;
        }
        if self.backlog.is_empty() {
            self.since = now;
        }
        self.kept += kept.bytes.len();
        self.backlog.push_back(kept);
        true
    }

    /// The next frame that waits, if there are buffers for it.
    pub(super) fn next_kept(&mut self, now: Duration) -> Result<Option<Kept>, Overrun> {
        let Some(kept) = self.backlog.front() else { return Ok(None) };
        let needed = Self::needed(kept.bytes.len(), kept.gso);
        if !self.has_buffers(needed)? {
            return Ok(None);
        }
        self.since = now;
        let kept = self.backlog.pop_front();
        self.kept = self.kept.saturating_sub(kept.as_ref().map_or(0, |kept| kept.bytes.len()));
        Ok(kept)
    }

    /// Drops what has waited for too long; returns how many frames.
    pub(super) fn expire(&mut self, now: Duration) -> usize {
        if self.backlog.is_empty() || now.saturating_sub(self.since) < PATIENCE {
            return 0;
        }
        self.kept = 0;
        mem::take(&mut self.backlog).len()
    }

    /// Frames that wait, and are lost with the connection.
    pub(super) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Makes the copies and hands the buffers over. `scratch` is a page of this kernel's own with nothing in it.
    pub(super) fn flush<H: GrantCopier>(&mut self, host: &H, scratch: Gfn) -> Done {
        let mut done = Done::default();
        if self.packets.is_empty() {
            return done;
        }
        self.copy(host, 0);
        if let Some(first) = self.blame(host, scratch) {
            self.close_up(first);
            self.copy(host, first);
        }
        let mut slots = self.slots.drain(..);
        for packet in self.packets.drain(..) {
            let good = packet.outcome == Outcome::Good;
            if good {
                done.packets += 1;
                done.bytes += packet.length as u64;
            } else {
                done.failed += 1;
            }
            for (index, slot) in slots.by_ref().take(packet.slots).enumerate() {
                let answer = answer(&packet, index, &slot, good);
                if let Err(refused) = self.ring.answer(slot.owed, &answer) {
                    log::error!("net: domain {}: {refused}", self.domain);
                }
            }
        }
        // Buffers that are left over are still the next ones.
        for slot in slots.rev() {
            self.buffers.push_front(Claimed { request: slot.request, owed: slot.owed });
        }
        self.copies.clear();
        done.notify = self.ring.publish() == Notify::Peer;
        done
    }

    /// Makes the copies of the packets from `first` on, and notes what became of them.
    fn copy<H: GrantCopier>(&mut self, host: &H, first: usize) {
        let skipped: usize = self.packets.iter().take(first).map(|packet| packet.copies).sum();
        self.results.clear();
        host.copy(self.copies.get(skipped..).unwrap_or_default(), &mut self.results);
        let mut results = self.results.iter();
        for packet in self.packets.iter_mut().skip(first) {
            if packet.outcome == Outcome::Withdrawn {
                continue;
            }
            let good = (0..packet.copies).fold(true, |good, _| good & matches!(results.next(), Some(Ok(()))));
            packet.outcome = if good { Outcome::Good } else { Outcome::Refused };
        }
    }

    /// Finds out whose pages the failed copies could not reach, by copying from their sources alone. Returns the first packet
    /// whose sender withdrew it.
    fn blame<H: GrantCopier>(&mut self, host: &H, scratch: Gfn) -> Option<usize> {
        let (mut at, mut first) = (0, None);
        for (index, packet) in self.packets.iter_mut().enumerate() {
            let copies = at..at + packet.copies;
            at += packet.copies;
            if packet.outcome == Outcome::Good {
                continue;
            }
            let to = CopyPage::Local(scratch);
            let copies = self.copies.get(copies).unwrap_or_default();
            let probes: Vec<_> = copies.iter().map(|copy| GrantCopy { to, to_offset: 0, ..*copy }).collect();
            let mut results = Vec::with_capacity(probes.len());
            host.copy(&probes, &mut results);
            if results.iter().any(Result::is_err) {
                packet.outcome = Outcome::Withdrawn;
                first = first.or(Some(index));
            }
        }
        first
    }

    /// Takes withdrawn packets out, the first of which is `first`; those behind them move up into their buffers.
    fn close_up(&mut self, first: usize) {
        let mut copies = self.copies.iter().copied();
        let mut kept = Vec::with_capacity(self.copies.len());
        let mut slot = 0;
        for (index, packet) in self.packets.iter_mut().enumerate() {
            let mine = copies.by_ref().take(packet.copies);
            if packet.outcome == Outcome::Withdrawn {
                mine.for_each(drop);
                (packet.slots, packet.copies) = (0, 0);
                continue;
            }
            if index < first {
                kept.extend(mine);
            } else {
                let extra = packet.gso.is_some();
                let mut next = slot;
                for copy in mine {
                    // A copy to the beginning of a buffer is the first one into it.
                    if copy.to_offset == 0 {
                        next += 1 + usize::from(extra && next == slot + 1);
                    }
                    let Some(target) = next.checked_sub(1).and_then(|at| self.slots.get_mut(at)) else {
                        continue;
                    };
                    let before = if copy.to_offset == 0 { 0 } else { target.length.unwrap_or(0) };
                    target.length = Some(before + copy.length);
                    kept.push(GrantCopy {
                        to: CopyPage::Granted(self.domain, target.request.reference),
                        ..copy
                    });
                }
                if let Some(place) = self.slots.get_mut(slot + 1).filter(|_| extra) {
                    place.length = None;
                }
            }
            slot += packet.slots;
        }
        self.copies = kept;
    }
}

/// The answer in one slot of a packet.
fn answer(packet: &Packet, index: usize, slot: &Slot, good: bool) -> RxSlot {
    let Some(length) = slot.length else {
        return packet.gso.map_or_else(RxSlot::default, |gso| ExtraInfo::gso(gso).into());
    };
    let mut flags = 0;
    let extra = u16::from(packet.gso.is_some());
    // The slot of extra information is no fragment: what counts is whether a fragment follows.
    if index + 1 + usize::from(extra != 0 && index == 0) < packet.slots {
        flags |= rx::MORE;
    }
    if index == 0 {
        flags |= match packet.checksum {
            Checksum::Unknown => 0,
            Checksum::Good => rx::DATA_VALIDATED,
            Checksum::Blank => rx::CHECKSUM_BLANK | rx::DATA_VALIDATED,
        };
        if extra != 0 {
            flags |= rx::EXTRA;
        }
    }
    let status = if good { length as i16 } else { Status::Error.number() };
    RxResponse { id: slot.request.id, offset: 0, flags, status }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_not_split_where_buffers_allow_it() {
        // A head, the rest of its page, whole pages; two that fit one buffer; three of which no two do.
        assert_eq!(apart([192, 3904, 4096, 4096].into_iter()), 3);
        assert_eq!(apart([192, 3970, 4096].into_iter()), 3);
        assert_eq!(apart([2000, 2000].into_iter()), 1);
        assert_eq!(apart([3000, 3000, 3000].into_iter()), 3);
        assert_eq!(apart([].into_iter()), 0);
    }
}
