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
//! # Example
//!
//! Both halves of a ring, in one page. A request that was taken is owed one answer, and the type says so.
//!
//! ```
//! use trunnion_protocol::blkif::{Block, Request, Response, Status};
//! use trunnion_protocol::layout::Width;
//! use trunnion_protocol::ring::{BackRing, FrontRing};
//! use trunnion_protocol::shared::SharedPage;
//!
//! let page = SharedPage::zeroed(); // in two kernels: one page, granted by one and mapped by the other
//! let mut front = FrontRing::<Block, _>::new(&page, Width::W64).unwrap();
//! let mut back = BackRing::<Block, _>::new(&page, Width::W64).unwrap();
//!
//! front.put(&Request::Flush { handle: 0, id: 7 }).unwrap();
//! assert!(front.publish().is_due()); // the back end asked for an event
//!
//! let claimed = back.take().unwrap().unwrap();
//! let (id, operation) = (claimed.request.id(), claimed.request.operation());
//! back.answer(claimed, &Response { id, operation, status: Status::Okay.number() }).unwrap();
//! assert!(back.publish().is_due());
//!
//! assert_eq!(front.take().unwrap().unwrap().id, 7);
//! ```
//!
//! A structure of your own, in both widths:
//!
//! ```
//! use trunnion_protocol::id::GrantRef;
//! use trunnion_protocol::layout::{Layout, Width};
//!
//! trunnion_protocol::layout! {
//!     /// Asks for random bytes.
//!     pub struct Request: 16, 16 {
//!         /// Comes back in the answer.
//!         pub id: u64 = 0, 0;
//!         /// Where the bytes go.
//!         pub reference: GrantRef = 8, 8;
//!         /// How many.
//!         pub length: u32 = 12, 12;
//!     }
//! }
//!
//! let mut bytes = [0; 16];
//! let request = Request { id: 1, reference: GrantRef(8), length: 64 };
//! request.encode(Width::W64, &mut bytes).unwrap();
//! assert_eq!(Request::decode(Width::W64, &bytes), Some(request));
//! ```
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | (none) | everything: `no_std`, no allocator, no dependency but `bitflags` and `zerocopy` |
//! | `planted` | nothing for users: this project's simulation plants known mistakes with it |
//!
//! # Versions
//!
//! Rust 1.95 or later; a later minimum is a minor version. The usual rules of semantic versioning hold, and before 1.0 a
//! minor version may break: layouts and constants follow Xen's headers and do not move, names and signatures may. Not under the
//! promise: the feature `planted`, and [`control`] with the rest of Trunnion's own calls, which are no part of Xen's ABI.
//!
//! # Sources
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
pub mod publish;
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

/// The example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
