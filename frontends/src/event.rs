//! Event channels between two halves.

use trunnion_protocol::id::{DomainId, Port};

use crate::error::Error;
use crate::hypercall;
use crate::platform::Platform;

/// A port to another domain; it is closed when dropped.
#[derive(Debug)]
pub struct Channel<'p, P: Platform> {
    platform: &'p P,
    port: Port,
}

impl<'p, P: Platform> Channel<'p, P> {
    /// Opens a port that `peer` may join.
    pub fn open(platform: &'p P, peer: DomainId) -> Result<Self, Error> {
        Ok(Self { platform, port: hypercall::open_port(platform, peer)? })
    }

    /// Joins a port that `peer` opened for this guest. An event may be pending from the start.
    pub fn join(platform: &'p P, peer: DomainId, port: Port) -> Result<Self, Error> {
        Ok(Self { platform, port: hypercall::join_port(platform, peer, port)? })
    }

    /// The port's number: of one that was [opened](Self::open), for the peer to join.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// Notifies the peer.
    pub fn notify(&self) {
        hypercall::send(self.platform, self.port);
    }
}

impl<P: Platform> Drop for Channel<'_, P> {
    fn drop(&mut self) {
        // It cannot fail for a port of one's own, and there is nothing to do if it does.
        let _ = hypercall::close_port(self.platform, self.port);
    }
}
