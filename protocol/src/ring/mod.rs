//! Rings of requests and responses in shared pages (`io/ring.h`).
//!
//! One page, or several in a row, hold a header of four indices and an array of slots. The front end writes requests
//! into slots, the back end writes responses into the same slots. Indices run freely through 32 bits; the slot of an
//! index is its low bits. Each side keeps its own cursors and never believes the page about them.
//!
//! | offset | index | written by |
//! |---|---|---|
//! | 0 | requests produced | front end |
//! | 4 | "notify me when requests reach this" | back end |
//! | 8 | responses produced | back end |
//! | 12 | "notify me when responses reach this" | front end |
//! | 64 | first slot | both |
//!
//! # The safe order
//!
//! Producing: write slots, then the index (release), then a full barrier, then look at the event index: that is
//! [`FrontRing::publish`] and [`BackRing::publish`], whose [`Notify`] must be acted on. Consuming: take until there is
//! nothing, then [`arm`](BackRing::arm), which asks for an event and looks once more; sleep only when it says that nothing
//! is there.
//!
//! # An answer goes out once
//!
//! A request that was taken is a [`Claimed`] value, which cannot be copied; the answer takes it.
//!
//! ```
//! use trunnion_protocol::blkif::{Block, Response};
//! use trunnion_protocol::ring::{BackRing, Claimed, Pages, Refused};
//! # use trunnion_protocol::blkif::Request;
//! fn right<P: Pages>(
//!     ring: &mut BackRing<Block, P>,
//!     claimed: Claimed<Request>,
//!     response: &Response,
//! ) -> Result<(), Refused> {
//!     ring.answer(claimed, response)
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use trunnion_protocol::blkif::{Block, Request, Response};
//! # use trunnion_protocol::ring::{BackRing, Claimed, Pages, Refused};
//! fn wrong<P: Pages>(
//!     ring: &mut BackRing<Block, P>,
//!     claimed: Claimed<Request>,
//!     response: &Response,
//! ) -> Result<(), Refused> {
//!     ring.answer(claimed, response)?;
//!     ring.answer(claimed, response) // the slot belongs to the front end again
//! }
//! ```
//!
//! Nor does a copy of the duty help:
//!
//! ```compile_fail,E0599
//! # use trunnion_protocol::ring::Owed;
//! fn wrong(owed: Owed) -> (Owed, Owed) {
//!     (owed.clone(), owed)
//! }
//! ```
//!
//! # Pages are in one ring or in none
//!
//! ```
//! # use trunnion_protocol::blkif::Block;
//! # use trunnion_protocol::ring::{BackRing, Pages};
//! fn right<P: Pages>(mut ring: BackRing<Block, P>) -> P {
//!     let _ = ring.take();
//!     ring.into_pages() // to be unmapped
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use trunnion_protocol::blkif::Block;
//! # use trunnion_protocol::ring::{BackRing, Pages};
//! fn wrong<P: Pages>(mut ring: BackRing<Block, P>) -> P {
//!     let pages = ring.into_pages();
//!     let _ = ring.take(); // from pages that may be unmapped
//!     pages
//! }
//! ```
//!
//! # Claims
//!
//! What is taken is an owned copy, made once. An index that the peer cannot honestly have written breaks the ring for good:
//! every later call fails the same way, and the caller closes the device.

mod back;
mod front;
mod outstanding;
mod pages;

pub use back::{BackRing, Claimed, Owed, Refused};
pub use front::{FrontRing, Full};
pub use outstanding::Outstanding;
pub use pages::Pages;

use core::fmt;

use crate::address::PAGE_SIZE;
use crate::layout::{Layout, Width};

/// Offset of the index of requests produced.
pub const REQ_PROD: usize = 0;
/// Offset of the index at which the back end wants an event.
pub const REQ_EVENT: usize = 4;
/// Offset of the index of responses produced.
pub const RSP_PROD: usize = 8;
/// Offset of the index at which the front end wants an event.
pub const RSP_EVENT: usize = 12;
/// Bytes of the header: slots begin here.
pub const HEADER_SIZE: usize = 64;
/// log2 of the most pages of one ring.
pub const MAX_PAGE_ORDER: u32 = 4;

/// What travels through a ring.
pub trait Interface {
    /// From front end to back end.
    type Request: Layout;
    /// From back end to front end.
    type Response: Layout;
    /// Responses must be in the slots of the requests they answer, so in their order.
    const IN_ORDER: bool = false;

    /// Bytes from slot to slot: the larger of request and response.
    fn stride(width: Width) -> usize {
        crate::layout::larger(Self::Request::size(width), Self::Response::size(width))
    }

    /// Slots of a ring of so many pages: the greatest power of two that fits, 0 for no pages.
    fn slots(width: Width, pages: usize) -> u32 {
        let room = pages.saturating_mul(PAGE_SIZE).saturating_sub(HEADER_SIZE);
        match room.checked_div(Self::stride(width)).unwrap_or(0) {
            0 => 0,
            fit => 1 << fit.min(1 << 30).ilog2(),
        }
    }
}

/// Whether the peer asked to be notified.
#[must_use = "a peer that asked for an event sleeps until it gets one"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// Send an event.
    Peer,
    /// It will look by itself.
    Nobody,
}

impl Notify {
    /// The rule: notify if the event index lies in what was just published.
    pub const fn after(old: u32, new: u32, event: u32) -> Self {
        if new.wrapping_sub(event) < new.wrapping_sub(old) { Self::Peer } else { Self::Nobody }
    }

    /// Either of two.
    pub const fn or(self, other: Self) -> Self {
        match self {
            Self::Peer => Self::Peer,
            Self::Nobody => other,
        }
    }

    /// True if an event is due.
    pub const fn is_due(self) -> bool {
        matches!(self, Self::Peer)
    }
}

/// The peer's index is one that it cannot honestly have written. The ring is broken from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// What the page says.
    pub index: u32,
    /// What it said before.
    pub before: u32,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer's ring index jumps from {} to {}", self.before, self.index)
    }
}

impl core::error::Error for Overrun {}
