//! Event channels of front ends.

use trunnion_protocol::id::{DomainId, Port};

use crate::error::Error;
use crate::hypercall;
use crate::platform::Platform;

/// A port that this guest opened for a back end; it is closed when dropped.
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

    /// The port's number, for the peer to join.
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
