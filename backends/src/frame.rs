//! Ethernet frames on their way through a back end, and what takes them.
//!
//! A frame is *lent*: whoever takes it copies what it wants, or drops it, before its sender goes on. So nothing of a guest
//! stays with anybody, a guest that dies leaves nothing behind, and a frame between two guests is copied once, from page
//! to page. What was promised at [`NetPort::deliver`] is done at [`NetPort::flush`], so that a run of frames costs one
//! hypercall and one event.

use alloc::vec::Vec;

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::netif::Gso;
use trunnion_protocol::shared::SharedPage;

/// Bytes of a frame that everybody may look at without a copy of their own: room for Ethernet, a tag, IPv6 with a few
/// extension headers and TCP with options.
pub const HEAD: usize = 192;
/// Bytes of the longest frame: a packet of 64 KiB with its Ethernet header and tag.
pub const MAX_FRAME: usize = 0xffff + 18;

/// Bytes of payload of a wire's frame.
const PAYLOAD: usize = 1500;

/// Where bytes lie.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// In a page that a domain has granted. Its content may change at any moment.
    Granted {
        /// Whose.
        domain: DomainId,
        /// Its grant.
        reference: GrantRef,
        /// First byte.
        offset: u16,
    },
    /// In a page of this kernel's own. It does not change until everybody has flushed.
    Local {
        /// The page.
        page: &'a SharedPage,
        /// Its frame.
        gfn: Gfn,
        /// First byte.
        offset: u16,
    },
}

/// Bytes of one page.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// Where they lie.
    pub place: Place<'a>,
    /// How many; they end in the page.
    pub length: u16,
}

/// What is known of a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It has not been looked at.
    Unknown,
    /// The data is good.
    Good,
    /// It is to be filled in by whoever needs it. The data is good.
    Blank,
}

/// A frame that is lent.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The first bytes, at most [`HEAD`]: a private copy of what the first pieces hold, which are local.
    pub head: &'a [u8],
    /// All of it, in order.
    pub pieces: &'a [Piece<'a>],
    /// Bytes: the sum of the pieces.
    pub length: usize,
    /// What is known of the transport checksum.
    pub checksum: Checksum,
    /// The packet is to be cut when the wire does not take it whole. Its checksum is [`Checksum::Blank`].
    pub gso: Option<Gso>,
}

impl Frame<'_> {
    /// Frames that it is on a wire: what it costs whoever cannot take it whole.
    pub fn count(&self) -> usize {
        let each = self.gso.map_or(PAYLOAD, |gso| usize::from(gso.size));
        self.length.div_ceil(each.max(1)).max(1)
    }

    /// Whether all of it lies in this kernel's own pages.
    pub fn is_local(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece.place, Place::Local { .. }))
    }

    /// Appends its bytes; false when some of them are not local.
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> bool {
        let start = bytes.len();
        bytes.resize(start + self.length, 0);
        bytes.get_mut(start..).is_some_and(|into| self.copy_to(into))
    }

    /// Copies its bytes to the beginning of `into`; false when some of them are not local, or there is no room.
    pub fn copy_to(&self, into: &mut [u8]) -> bool {
        let mut at = 0;
        for piece in self.pieces {
            let Place::Local { page, offset, .. } = piece.place else { return false };
            let end = at + usize::from(piece.length);
            let Some(into) = into.get_mut(at..end) else { return false };
            if page.copy_out(usize::from(offset), into).is_err() {
                return false;
            }
            at = end;
        }
        true
    }
}

/// Whether a place and a length stay inside a page.
pub const fn fits(offset: u16, length: u16) -> bool {
    offset as usize + length as usize <= PAGE_SIZE
}

/// What takes frames: a guest's port, the uplink, this kernel's own stack, an emulated card.
///
/// Frames are never refused: a port that has no room drops them, and counts.
pub trait NetPort {
    /// Takes a frame. Places that it names stay as they are until [`flush`](Self::flush) has returned.
    fn deliver(&self, frame: &Frame<'_>);
    /// Ends a run of frames: everything is copied when this returns, and the other side has been told.
    fn flush(&self);
    /// Whether it looks at the bytes, so that a sender had better put them into local pages from the start.
    fn reads(&self) -> bool {
        true
    }
}

/// What looks on while frames pass through a port.
pub trait Tap {
    /// A frame passes, in either direction.
    fn passes(&self, frame: &Frame<'_>);
}

impl<T: NetPort + ?Sized> NetPort for alloc::rc::Rc<T> {
    fn deliver(&self, frame: &Frame<'_>) {
        (**self).deliver(frame);
    }
    fn flush(&self) {
        (**self).flush();
    }
    fn reads(&self) -> bool {
        (**self).reads()
    }
}
