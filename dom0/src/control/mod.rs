//! What people's tools and dom0 say to each other: typed requests and replies, events that dom0 sends by itself, and console bytes.
//!
//! The bytes travel over one serial line with nothing else on it (virtio-console, or a UART where there is no virtio). [`frame`] cuts
//! the line into checked frames and finds its feet again after lost bytes; each frame is one message in postcard's encoding. A
//! [`Request`] has a number that its [`Reply`] repeats, so several may be under way. [`Event`]s have no number.
//!
//! **Who may send how much.** A tool has at most [`WINDOW`] unanswered requests, and replies and events stay small, so they
//! need no more rules. Console bytes flow per *channel* and only against credit: dom0 sends at most as many bytes on a channel as the
//! tool allowed, and [`link::Outbox`] puts every reply and event before any of them. A flood on a console thus costs nobody else
//! more than one frame's time. Files flow only when dom0 asks for a piece of one ([`Event::Want`]), one piece at a time.
//!
//! A peer that knows fewer messages stays in step: the number of a request is encoded in front of it, so an unknown one is answered with
//! [`Code::UnknownRequest`]; an unknown event is skipped.

pub mod event;
pub mod frame;
pub mod link;
pub mod manifest;
pub mod reply;
pub mod request;
pub mod summary;
pub mod wire;

pub use event::Event;
pub use link::Outbox;
pub use manifest::Manifest;
pub use reply::{Code, Failure, Reply};
pub use request::Request;
pub use summary::Summary;
pub use wire::{Down, Up};

/// Number of this set of messages; [`Request::Hello`] compares it.
pub const VERSION: u16 = 3;

/// Most requests of one tool without a reply.
pub const WINDOW: usize = 16;

/// Most console bytes in one frame, so that a reply never waits long behind one.
pub const CONSOLE_CHUNK: usize = 1024;

/// Most bytes of a file in one [`Down::Data`].
pub const DATA_CHUNK: usize = 32 * 1024;

/// Channel of a console attachment; chosen by the tool.
pub type Channel = u32;
