//! The block back end: one disk, one guest.
//!
//! - [`keys`] says what goes into the store and reads what the guest wrote there;
//! - [`Backend`] moves the data: ring, grants, device, and nothing of the store;
//! - [`serve`] joins the two along the states of the handshake, until the device is removed or the guest is gone.
//!
//! # A request's way
//!
//! Copied out of the ring once; its numbers checked; all pages of a run of requests mapped in one batch; submitted to the
//! device with the pages that it owns. When the device is done: pages unmapped in one batch, *then* the answers written
//! and published, then one event if the guest asked for it.
//!
//! # What a guest cannot do
//!
//! A wrong number in a request costs that request an error. An impossible ring index costs the guest its device: one line
//! in the log, state 5, and a new handshake is possible. A guest that dies with a DMA in flight is waited for: its pages
//! stay mapped until the device has let go of them.

mod check;
mod engine;
mod intake;
mod kept;
pub mod keys;
mod service;
mod statistics;

pub use engine::{Backend, Config, Fault, Limits};
pub use service::{Ended, Place, serve};
pub use statistics::{Snapshot, Statistics};
