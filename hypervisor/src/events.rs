//! Event channels, two-level form (`event_channel.h`; the bitmaps are described in [`trunnion_protocol::event`]).
//!
//! Each port is one word ([`channel::Channel`]) that says what it is and who is at the other end. Binding and closing take
//! the lock of the one domain whose port numbers change; the other end's word is changed by compare and exchange, which
//! fails when that end closed meanwhile. Sending takes no domain-wide lock: it reads its own word, takes a counted
//! reference to the peer, checks that the peer's word still names the sender, and sets bits in the peer's shared page.
//! A port that is closed and used again at that very moment can get a spurious event, as the ABI allows at any time.

mod bind;
mod channel;
mod deliver;
mod pirq;

pub use channel::{Channel, Ports};
pub use deliver::*;
pub use pirq::Pirqs;
