//! Xen's public guest ABI as types: layouts, rings and state machines, for any `no_std` Rust kernel.
//!
//! What this crate is: the bytes two parties agree on, with the arithmetic that goes with them. What it is not: it makes
//! no hypercall, waits for nothing, allocates nothing, and knows no kernel. A hypervisor, a back end, a front end and
//! a toolstack all build on the same definitions.
//!
//! Where to start:
//!
//! - a driver: [`xenbus`] (the handshake), [`ring`] (requests and answers), then [`blkif`] or [`netif`];
//! - memory that another domain may change at any moment: [`shared`];
//! - a structure that exists in a 64-bit and a 32-bit form: [`mod@layout`];
//! - a hypercall: [`hypercall`], one submodule for each;
//! - a kernel's first instructions: [`start_info`], [`elfnote`], [`cpuid`].
//!
//! All integers are little-endian. Sources are Xen's public headers (`xen/include/public`), named item by item; the C
//! names are searchable as documentation aliases.
#![cfg_attr(any(target_os = "none", not(any(test, feature = "planted"))), no_std)]

#[macro_use]
mod closed;

pub mod address;
pub mod blkif;
pub mod console;
pub mod control;
pub mod cpuid;
pub mod elfnote;
pub mod errno;
pub mod event;
pub mod grant;
pub mod hypercall;
pub mod id;
pub mod layout;
pub mod netif;
#[doc(hidden)]
pub mod planted;
pub mod ring;
// Not inside the module: the test of all interleavings compiles that by itself.
#[cfg(test)]
#[path = "ring/tests.rs"]
mod ring_tests;
pub mod shared;
pub mod shared_info;
pub mod start_info;
pub mod store;
pub mod xenbus;
