//! Block, network and console back ends behind device traits.
//!
//! A back end serves one device to one guest. It stands between two seams, and knows neither side's whole:
//!
//! ```text
//!   guest's ring ── claims ──▶  block::Backend  ── requests that own their pages ──▶  BlockDevice
//!                                     │
//!                        GrantMapper, EventPort, StoreClient (what its own kernel gives it)
//! ```
//!
//! - [`device`]: what storage and byte streams look like from above, whoever asks;
//! - [`host`]: what a back end asks of the kernel it runs in;
//! - [`block`]: the block back end;
//! - [`frame`], [`bridge`], [`net`]: frames and what takes them, the switch, the network back end;
//! - [`console`]: the console back end and its log;
//! - [`ram`], [`share`], [`faulty`]: a RAM disk, a disk for several readers, a device that misbehaves on request.
//!
//! Nothing here blocks, spins or holds a lock; each call does a bounded amount of work, whatever the guest wrote.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod block;
pub mod bridge;
pub mod console;
pub mod device;
pub mod faulty;
pub mod frame;
mod handshake;
pub mod host;
pub mod net;
mod pages;
#[cfg(feature = "planted")]
pub mod planted;
pub mod ram;
pub mod share;
pub mod values;
