//! Front ends for guests on a hypervisor that speaks Xen's public guest ABI: Xen itself, or Trunnion.
//!
//! A kernel implements [`platform::Platform`] (five functions: pages, addresses, a hypercall, an interrupt) and gets the store, the
//! console, block devices and network ports, with what it takes to write drivers of other classes, front and back:
//!
//! 1. [`grant::GrantTable::new`] and [`store::Store::new`], once each;
//! 2. [`console::Console::primary`] for the console;
//! 3. [`xenbus::devices`] lists the devices of a class, [`block::Disk::connect`] or
//!    [`net::Nic::connect`] brings one up.
//!
//! Everything that waits is a plain [`core::future::Future`]; no executor is brought along. [`blocking::block_on`]
//! waits for one in a kernel that has none, or not yet. Nothing here allocates: tables have fixed sizes, pages come
//! from the platform.
//!
//! The objects are meant for one executor: they can be shared by its tasks by reference, and not by several threads.
//!
//! # Example
//!
//! ```
//! use trunnion_frontends::block::{BlockError, Disk};
//! use trunnion_frontends::console::Console;
//! use trunnion_frontends::error::Error;
//! use trunnion_frontends::grant::GrantTable;
//! use trunnion_frontends::page::Buffer;
//! use trunnion_frontends::platform::Platform;
//! use trunnion_frontends::store::{Store, Transaction};
//! use trunnion_frontends::xenbus::Device;
//!
//! /// Says hello, and copies the first sector of `xvda` to the second.
//! async fn start<P: Platform>(kernel: &P) -> Result<Result<(), BlockError>, Error> {
//!     let grants = GrantTable::new(kernel, 4)?;
//!     let store = Store::new(kernel)?;
//!     let console = Console::primary(kernel)?;
//!     let name = store.read_text::<64>(Transaction::NONE, "name").await?;
//!     console.write(name.as_str().as_bytes()).await;
//!
//!     let device = Device::open(&store, "vbd", "51712").await?;
//!     let disk = Disk::connect(&grants, device).await?;
//!     let (buffer, mut result) = disk.read(0, Buffer::new(kernel, 512)?).await;
//!     if result.is_ok() {
//!         (_, result) = disk.write(1, buffer).await;
//!     }
//!     if result.is_ok() && disk.shape().flush {
//!         result = disk.flush().await;
//!     }
//!     disk.close().await?;
//!     Ok(result)
//! }
//! ```
//!
//! # A class of your own
//!
//! [`xenbus::Device`] and [`xenbus::BackDevice`] are the two halves of the handshake, [`event::Channel`] is a port,
//! [`grant::GrantTable::offer`] and [`mapping::Window::map`] share a page, and [`trunnion_protocol::ring`] is the traffic between
//! them. [`testbed`] runs both halves in a test. The book's chapter *Write your first PV driver* goes the whole way.
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | (none) | everything but what follows: `no_std`, no allocator, no dependency but `trunnion-protocol` |
//! | `embedded-io` | the console as an `embedded-io` 0.7 stream ([`embedded`]) |
//! | `embedded-io-async` | the console and a network port as `embedded-io-async` 0.7 streams ([`streams`]) |
//! | `log` | one line to the `log` crate when a back end breaks the rules |
//! | `smoltcp` | a network port as a `smoltcp` device |
//! | `testbed` | a world of guests in one process, for tests ([`testbed`]; needs `std`) |
//!
//! # Versions
//!
//! Rust 1.95 or later; a later minimum is a minor version. The usual rules of semantic versioning hold, and before 1.0 a minor
//! version may break. [`platform::Platform`] grows only by functions that have a default. Error enums may grow; sizes of
//! objects, the number of tasks that may wait and what [`core::fmt::Debug`] prints are no promise.
//!
//! # What is promised about memory
//!
//! A page that the other side may reach belongs to the object that shares it. It comes back only after the hypervisor
//! has confirmed that nobody reaches it any more, also when a future is dropped or the other side dies. Whatever is
//! read from shared memory is copied once and then checked.
#![cfg_attr(
    not(all(feature = "testbed", feature = "embedded-io-async")),
    allow(rustdoc::broken_intra_doc_links)
)]
#![cfg_attr(not(any(test, feature = "testbed")), no_std)]

/// True if this mistake is planted; always false, and gone, outside of this crate's tests.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(test)]
        {
            crate::planted::is(crate::planted::Bug::$bug)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

pub mod block;
pub mod blocking;
pub mod console;
#[cfg(feature = "embedded-io")]
pub mod embedded;
pub mod error;
pub mod event;
#[cfg(test)]
mod fake;
pub mod grant;
pub mod hypercall;
pub mod mapping;
pub mod net;
pub mod page;
#[cfg(test)]
mod planted;
pub mod platform;
pub mod store;
#[cfg(feature = "embedded-io-async")]
pub mod streams;
#[cfg(feature = "testbed")]
pub mod testbed;
#[cfg(test)]
mod tests;
pub mod text;
pub mod wait;
pub mod xenbus;

/// The example of the readme.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
