//! What both halves agree on: the class, the keys, a request and its answer.

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout;
use trunnion_protocol::ring::Interface;

/// The class: the directory's name in the store.
pub const CLASS: &str = "vrng";
/// Front end: the grant of the ring's page.
pub const RING_REF: &str = "ring-ref";
/// Front end: the port.
pub const EVENT_CHANNEL: &str = "event-channel";
/// Back end: most bytes of one request.
pub const MAX_BYTES: &str = "max-bytes";
/// Most bytes of any request: they lie in one page.
pub const LIMIT: usize = PAGE_SIZE;

/// [`Response::status`]: the bytes are there.
pub const DONE: i16 = 0;
/// [`Response::status`]: the request made no sense, or its page could not be reached.
pub const FAILED: i16 = -1;

// Each structure names its size and its fields' offsets in the 64-bit and in the 32-bit form. Here they are the same.
layout! {
    /// Asks for random bytes at the beginning of a page.
    pub struct Request: 16, 16 {
        /// Comes back in the answer.
        pub id: u64 = 0, 0;
        /// The page, granted for writing.
        pub reference: GrantRef = 8, 8;
        /// How many bytes: 1 to [`LIMIT`].
        pub length: u32 = 12, 12;
    }

    /// The answer to a request.
    pub struct Response: 16, 16 {
        /// The request's identity.
        pub id: u64 = 0, 0;
        /// How many bytes were written; fewer than asked for is allowed.
        pub length: u32 = 8, 8;
        /// [`DONE`] or [`FAILED`].
        pub status: i16 = 12, 12;
    }
}

/// The interface of the ring.
#[derive(Debug)]
pub enum Vrng {}

impl Interface for Vrng {
    type Request = Request;
    type Response = Response;
}
