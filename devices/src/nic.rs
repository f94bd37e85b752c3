//! What network cards share: frames that wait for a card, and frames on their way out of it, through the same
//! [`NetPort`] that paravirtual back ends have.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

use trunnion_backends::device::GuestPage;
use trunnion_backends::frame::{Checksum, Frame, HEAD, MAX_FRAME, NetPort, Piece, Place};
use trunnion_backends::net::offload;
use trunnion_protocol::address::PAGE_SIZE;

use crate::memory::GuestMemory;

/// Frames, and bytes, that wait for a card at most; further ones are dropped, as on a wire.
const FRAMES: usize = 256;
const BYTES: usize = 1 << 20;
/// Bytes of the longest frame that a card takes, with a VLAN tag.
pub const LONGEST: usize = 16_128;
/// Bytes of the shortest frame on a wire, without its check sequence.
pub const SHORTEST: usize = 60;

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    waker: Option<Waker>,
}

/// The end of a wire at which a card listens. The bridge delivers to it, the card takes from it when it is polled.
#[derive(Default)]
pub struct Inbox(RefCell<Waiting>);

impl Inbox {
    /// The next frame.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut waiting = self.0.borrow_mut();
        let frame = waiting.frames.pop_front()?;
        waiting.bytes = waiting.bytes.saturating_sub(frame.len());
        Some(frame)
    }

    /// Frames that found no room.
    pub fn dropped(&self) -> u64 {
        self.0.borrow().dropped
    }

    /// Who is woken at the next frame.
    pub fn wake(&self, waker: &Waker) {
        self.0.borrow_mut().waker = Some(waker.clone());
    }
}

impl Inbox {
    /// Queues a frame that fits, or counts one that is lost.
    fn put(&self, frame: Option<Vec<u8>>) {
        let mut waiting = self.0.borrow_mut();
        let fits = |frame: &Vec<u8>| {
            frame.len() <= LONGEST
                && waiting.frames.len() < FRAMES
                && waiting.bytes.saturating_add(frame.len()) <= BYTES
        };
        match frame.filter(fits) {
            Some(frame) => {
                waiting.bytes = waiting.bytes.saturating_add(frame.len());
                waiting.frames.push_back(frame);
            }
            None => waiting.dropped = waiting.dropped.wrapping_add(1),
        }
    }
}

impl NetPort for Inbox {
    fn deliver(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(frame.length.min(LONGEST));
        if frame.length > MAX_FRAME || !frame.append_to(&mut bytes) {
            return self.put(None);
        }
        // On a wire a packet is cut, and has its checksum.
        if let Some(gso) = frame.gso {
            let mut piece = Vec::new();
            if offload::segment(&bytes, gso, &mut piece, |frame| self.put(Some(frame.to_vec()))).is_none() {
                self.put(None);
            }
            return;
        }
        if frame.checksum == Checksum::Blank {
            offload::complete(&mut bytes);
        }
        self.put(Some(bytes));
    }
    fn flush(&self) {
        if let Some(waker) = self.0.borrow_mut().waker.take() {
            waker.wake();
        }
    }
}

/// Where a card's frames go.
pub type Outlet = Rc<dyn NetPort>;

/// Sends a frame, in pages of the device model's own; false when there is no memory for them.
pub fn send<M: GuestMemory>(memory: &M, outlet: &Outlet, bytes: &[u8]) -> bool {
    let mut pages = Vec::new();
    for piece in bytes.chunks(PAGE_SIZE) {
        let Some(page) = memory.own() else { return false };
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
        checksum: Checksum::Unknown,
        gso: None,
    });
    outlet.flush();
    true
}

/// The one's complement sum of bytes (RFC 1071), to be folded by [`fold`].
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(0u32, |total, pair| {
        let (high, low) = (pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0));
        total.wrapping_add(u32::from(u16::from_be_bytes([high, low])))
    })
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
