//! The network back end: one port of one guest.
//!
//! - [`keys`] says what goes into the store and reads what the guest wrote there;
//! - [`Vif`] moves frames between the guest's rings and a bridge;
//! - [`serve`] joins the two along the states of the handshake, until the device is removed or the guest is gone.
//!
//! # A frame's way out of the guest
//!
//! A run of packets is taken from the ring, their first bytes are copied in one hypercall (the whole packets, when the last
//! ones went to somebody who reads them), each is checked and given to the bridge, and all copies into another guest's
//! buffers are made by one more hypercall, from page to page. Then the requests are answered, with one event.
//!
//! # Offloads
//!
//! The guest may leave checksums blank and send packets of 64 KiB. They pass as they are to whoever can take them; for
//! the others they are completed and cut here.
//!
//! # What a guest cannot do
//!
//! A wrong number in a packet costs that packet. An impossible ring index, or a chain of slots without end, costs the
//! guest its connection: one line in the log, state 5, and a new handshake is possible. A guest that offers no buffers has
//! its frames kept up to a limit and then dropped. Only frames from its own address leave a guest.

mod groups;
pub mod keys;
pub mod limit;
pub mod offload;
mod receive;
mod send;
mod service;
mod statistics;
mod vif;
mod workshop;

pub(crate) use groups::is_group;
pub use service::{Ended, Place, serve};
pub use statistics::{Snapshot, Statistics};
pub use vif::{Config, Fault, Vif};

pub use workshop::{Gather, Shared, bring};
