//! The store: a tree of small values with permissions, transactions and watches, and the server that guests and tools
//! talk to.
//!
//! The library is pure: it does no I/O, reads no clock and knows no executor. A [`server::Store`] takes requests
//! (header and payload) from connections and queues replies and watch events for them; the transports are thin:
//! [`ring`] moves bytes through the page a guest shares, the host program `trunnion-xenstored` moves them through Unix
//! sockets, and [`local::LocalClient`] calls straight in.
//!
//! Layers, each knowing only those before it: [`path`], [`perms`], [`quota`], [`tree`], [`transaction`], [`watch`],
//! [`connection`], [`view`] (what one request may see and do), [`ring`], [`server`].
//!
//! Everything that comes from a connection is a claim: lengths, paths, transaction numbers, ring indices. It is checked
//! once and then has a type that says so. What a guest may hold is limited by [`quota::Quotas`].
#![cfg_attr(not(test), no_std)]

extern crate alloc;

/// True if this mistake is planted; always false, and gone, without the feature.
macro_rules! planted {
    ($holder:expr, $bug:ident) => {{
        #[cfg(feature = "planted")]
        {
            $holder.planted == Some(crate::planted::Bug::$bug)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

pub mod connection;
mod control;
mod domains;
pub mod local;
pub mod path;
pub mod perms;
#[cfg(feature = "planted")]
pub mod planted;
pub mod quota;
mod requests;
pub mod ring;
pub mod server;
pub mod transaction;
pub mod tree;
pub mod view;
pub mod watch;
