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
use trunnion_protocol::netif::Gso;

use crate::memory::GuestMemory;

/// Frames, and bytes, that wait for a card at most; further ones are dropped, as on a wire.
const FRAMES: usize = 256;
const BYTES: usize = 1 << 20;
/// Bytes of the longest frame that a card takes, with a VLAN tag.
pub const LONGEST: usize = 16_128;
/// Bytes of the shortest frame on a wire, without its check sequence.
pub const SHORTEST: usize = 60;

/// A frame that has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// From its Ethernet header on, without the check sequence.
    pub bytes: Vec<u8>,
    /// Its checksums are known to be right: whoever sent it left them to others, or somebody has looked.
    pub good: bool,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Arrived>,
    bytes: usize,
    dropped: u64,
    waker: Option<Waker>,
}

/// The end of a wire at which a card listens. The bridge delivers to it, the card takes from it when it is polled.
#[derive(Default)]
pub struct Inbox(RefCell<Waiting>);

impl Inbox {
    /// The next frame.
    pub fn take(&self) -> Option<Arrived> {
        let mut waiting = self.0.borrow_mut();
        let frame = waiting.frames.pop_front()?;
        waiting.bytes = waiting.bytes.saturating_sub(frame.bytes.len());
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
    /// Whether a frame of so many bytes fits; one that does not is counted as lost.
    fn fits(&self, length: usize) -> bool {
        let mut waiting = self.0.borrow_mut();
        let fits = length <= LONGEST
            && waiting.frames.len() < FRAMES
            && waiting.bytes.saturating_add(length) <= BYTES;
        if !fits {
            waiting.dropped = waiting.dropped.wrapping_add(1);
        }
        fits
    }

    /// Queues a frame if it fits.
    fn put(&self, bytes: Vec<u8>, good: bool) {
        if self.fits(bytes.len()) {
            let mut waiting = self.0.borrow_mut();
            waiting.bytes = waiting.bytes.saturating_add(bytes.len());
            waiting.frames.push_back(Arrived { bytes, good });
        }
    }
}

/// Hands a frame over as it is on a wire: large packets cut, and with their checksums. False when it is not what it claims to be.
pub fn on_a_wire(frame: &Frame<'_>, mut each: impl FnMut(&mut Vec<u8>)) -> bool {
    let mut bytes = Vec::new();
    if frame.length > MAX_FRAME || !frame.append_to(&mut bytes) {
        return false;
    }
    if let Some(gso) = frame.gso {
        return offload::segment(&bytes, gso, &mut Vec::new(), |piece| each(&mut piece.to_vec())).is_some();
    }
    if frame.checksum == Checksum::Blank {
        offload::complete(&mut bytes);
    }
    each(&mut bytes);
    true
}

impl NetPort for Inbox {
    fn deliver(&self, frame: &Frame<'_>) {
        let good = frame.checksum != Checksum::Unknown;
        if !on_a_wire(frame, |bytes| self.put(core::mem::take(bytes), good)) {
            let mut waiting = self.0.borrow_mut();
            waiting.dropped = waiting.dropped.wrapping_add(1);
        }
    }
    fn flush(&self) {
        if let Some(waker) = self.0.borrow_mut().waker.take() {
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
