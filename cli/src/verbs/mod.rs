//! The verbs that talk to a running instance, and the ones that are not there yet.

pub(crate) mod bench;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod device;
pub(crate) mod image;
pub(crate) mod keys;
pub(crate) mod network;
pub(crate) mod picture;
pub(crate) mod top;
pub(crate) mod tune;
pub(crate) mod vnc;
pub(crate) mod xenstore;
pub(crate) mod xl;

use crate::failure::{Failure, Result, Status};

/// A verb that is not there yet says so; it never pretends.
pub(crate) fn not_yet<T>(verb: &str) -> Result<T> {
    Err(Failure::new(Status::Usage, format!("`trunnion {verb}` is not there yet")))
}
