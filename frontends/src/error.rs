//! What can go wrong.

use core::fmt;

use trunnion_protocol::errno::{Errno, GrantStatus};

use crate::platform::{NotMapped, OutOfMemory};

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The hypervisor refused a call.
    Hypercall(Errno),
    /// The hypervisor refused to map a page, or to unmap it.
    Grant(GrantStatus),
    /// The store refused a request.
    Store(Errno),
    /// No memory, no address space, or a table is full.
    OutOfMemory,
    /// The toolstack placed no such page, or it cannot be mapped.
    NotMapped,
    /// A name or value is longer than there is room for.
    TooLong,
    /// The store holds something for this key that it should not.
    Malformed(&'static str),
    /// The other side broke the rules of its ring; the connection is unusable.
    Broken,
    /// The back end does not want the device, or has closed it.
    Closed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypercall(error) => write!(f, "hypercall failed: {error}"),
            Self::Grant(status) => write!(f, "grant refused: {status}"),
            Self::Store(error) => write!(f, "store request failed: {error}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NotMapped => f.write_str("page is not there"),
            Self::TooLong => f.write_str("name or value is too long"),
            Self::Malformed(key) => write!(f, "store key `{key}` is malformed"),
            Self::Broken => f.write_str("the other side broke the protocol"),
            Self::Closed => f.write_str("the back end is closed"),
        }
    }
}

impl core::error::Error for Error {}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<NotMapped> for Error {
    fn from(_: NotMapped) -> Self {
        Self::NotMapped
    }
}

/// Says in one line what the other side did wrong, to the `log` crate if the feature `log` is on.
pub(crate) fn complain(who: &str, what: &dyn fmt::Display) {
    #[cfg(feature = "log")]
    log::error!("{who}: {what}; it is closed");
    #[cfg(not(feature = "log"))]
    let _ = (who, what);
}
