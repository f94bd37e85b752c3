//! What network cards share: frames that wait for a card, and frames on their way out of it, through the same
//! [`NetPort`] that paravirtual back ends have.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

use trunnion_backends::device::GuestPage;
use trunnion_backends::frame::{Checksum, Frame, HEAD, MAX_FRAME, NetPort, Piece, Place};
use trunnion_backends::net::offload::{self, Cut};
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::netif::Gso;

use crate::memory::GuestMemory;

/// Packets, and bytes, that wait for a card at most; further ones are dropped, as on a wire.
const FRAMES: usize = 256;
const BYTES: usize = 1 << 20;
/// Bytes of the longest frame that a card takes, with a VLAN tag.
pub const LONGEST: usize = 16_128;
/// Bytes of the shortest frame on a wire, without its check sequence.
pub const SHORTEST: usize = 60;

/// Buffers of large packets that are kept to be used again.
const SPARE: usize = 4;

/// A packet that has come: a frame, or one that becomes several.
struct Packet {
    bytes: Vec<u8>,
    /// Its checksums are known to be right: whoever sent it left them to others, or somebody has looked.
    good: bool,
    cut: Option<Cut>,
}

#[derive(Default)]
struct Waiting {
    packets: VecDeque<Packet>,
    bytes: usize,
    dropped: u64,
    waker: Option<Waker>,
    /// Headers of a frame that is cut from a packet.
    front: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

/// The end of a wire at which a card listens. The bridge delivers to it, the card takes from it when it is polled.
#[derive(Default)]
pub struct Inbox(RefCell<Waiting>);

impl Inbox {
    /// Hands over the next frame, as it is on a wire without the check sequence: its bytes in two parts, of which the second may be
    /// empty, and whether its checksums are known to be right. `None` when there is none.
    pub fn next<R>(&self, take: impl FnOnce([&[u8]; 2], bool) -> R) -> Option<R> {
        let waiting = &mut *self.0.borrow_mut();
        let Packet { bytes, good, cut } = waiting.packets.front_mut()?;
        let result = match cut {
            None => Some(take([bytes, &[]], *good)),
            Some(cut) => {
                let data = cut.next(bytes, &mut waiting.front).and_then(|data| bytes.get(data));
                let result = data.map(|data| take([&waiting.front, data], *good));
                if result.is_some() && !cut.is_over() {
                    return result;
                }
                result
            }
        };
        waiting.pop();
        result
    }

    /// Forgets all frames.
    pub fn clear(&self) {
        let mut waiting = self.0.borrow_mut();
        waiting.packets.clear();
        waiting.bytes = 0;
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().packets.is_empty()
    }

    /// Packets that found no room.
    pub fn dropped(&self) -> u64 {
        self.0.borrow().dropped
    }

    /// Who is woken at the next frame.
    pub fn wake(&self, waker: &Waker) {
        match &mut self.0.borrow_mut().waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Waiting {
    /// Takes a packet, if there is room for it and it is what it claims to be.
    fn push(&mut self, frame: &Frame<'_>) -> Option<()> {
        let length = frame.length;
        let longest = if frame.gso.is_some() { MAX_FRAME } else { LONGEST };
        let parts: usize = frame.pieces.iter().map(|piece| usize::from(piece.length)).sum();
        if length > longest
            || length != parts
            || self.packets.len() >= FRAMES
            || self.bytes.saturating_add(length) > BYTES
        {
            return None;
        }
        // What is in a buffer already is not filled with zeroes first: all of it is written.
        let mut bytes = if frame.gso.is_some() { self.spare.pop().unwrap_or_default() } else { Vec::new() };
        bytes.resize(length, 0);
        if !frame.copy_to(&mut bytes) {
            return None;
        }
        let cut = match frame.gso {
            Some(gso) => Some(Cut::new(&bytes, gso).filter(|cut| cut.longest() <= LONGEST)?),
            None => None,
        };
        if cut.is_none() && frame.checksum == Checksum::Blank {
            offload::complete(&mut bytes);
        }
        self.bytes = self.bytes.saturating_add(length);
        self.packets.push_back(Packet { bytes, good: frame.checksum != Checksum::Unknown, cut });
        Some(())
    }

    fn pop(&mut self) {
        let Some(Packet { bytes, cut, .. }) = self.packets.pop_front() else { return };
        self.bytes = self.bytes.saturating_sub(bytes.len());
        if cut.is_some() && self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }
}

impl NetPort for Inbox {
    fn deliver(&self, frame: &Frame<'_>) {
        let mut waiting = self.0.borrow_mut();
        if waiting.push(frame).is_none() {
            waiting.dropped = waiting.dropped.wrapping_add(1);
        }
    }
    fn flush(&self) {
        // Only at a frame: a run may have had none for this card.
        let mut waiting = self.0.borrow_mut();
        let waker = if waiting.packets.is_empty() { None } else { waiting.waker.take() };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Where a card's frames go.
pub type Outlet = Rc<dyn NetPort>;

/// Sends a frame, in pages of the device model's own; false when there is no memory for them. What is said of its checksum and of how
/// it is to be cut goes with it.
pub fn send<M: GuestMemory>(
    memory: &M,
    outlet: &Outlet,
    bytes: &[u8],
    checksum: Checksum,
    gso: Option<Gso>,
) -> bool {
    let mut pages = Vec::new();
    for piece in bytes.chunks(PAGE_SIZE) {
        let Some(page) = memory.scratch() else { return false };
        if page.shared().copy_in(0, piece).is_err() {
            return false;
        }
        pages.push((page, piece.len() as u16));
    }
    let pieces: Vec<Piece<'_>> = pages
        .iter()
        .map(|(page, length)| Piece {
            place: Place::Local { page: page.shared(), gfn: page.gfn(), offset: 0 },
            length: *length,
        })
        .collect();
    outlet.deliver(&Frame {
        head: bytes.get(..HEAD).unwrap_or(bytes),
        pieces: &pieces,
        length: bytes.len(),
        checksum,
        gso,
    });
    outlet.flush();
    true
}

/// The one's complement sum of bytes (RFC 1071), to be folded by [`fold`].
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    offload::sum(bytes) as u32
}

/// The checksum of a sum.
pub(crate) const fn fold(total: u32) -> u16 {
    let once = (total & 0xffff) + (total >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// The index of a multicast address in a hash of 64: the upper six bits of its CRC (DP8390D data sheet, 7.0).
pub(crate) fn hash(address: &[u8]) -> u8 {
    let mut crc = 0xffff_ffffu32;
    for &byte in address.iter().take(6) {
        for bit in 0..8 {
            let feedback = (crc >> 31) as u8 & 1 ^ byte >> bit & 1;
            crc <<= 1;
            if feedback != 0 {
                crc ^= 0x04c1_1db7;
            }
        }
    }
    (crc >> 26) as u8
}
