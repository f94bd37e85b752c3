//! The adapter for `smoltcp`: a port as its `phy::Device`.
//!
//! For a port that was connected without [offloads](super::Options::offload): the stack then computes and checks every
//! checksum, and no frame is longer than the wire's.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::{Nic, Offload};
use crate::platform::Platform;

/// Bytes of the longest frame: 1,500 bytes of payload with header and tag.
const FRAME: usize = 1518;
const MTU: usize = 1514;

/// A port as smoltcp sees it.
#[derive(Debug)]
pub struct Phy<'n, 't, 'p, P: Platform>(&'n Nic<'t, 'p, P>);

impl<'n, 't, 'p, P: Platform> Phy<'n, 't, 'p, P> {
    /// An adapter for a port.
    pub const fn new(nic: &'n Nic<'t, 'p, P>) -> Self {
        Self(nic)
    }
}

/// A frame that has come.
#[derive(Debug)]
pub struct Incoming<'n, 't, 'p, P: Platform>(&'n Nic<'t, 'p, P>);

/// Room for a frame.
#[derive(Debug)]
pub struct Outgoing<'n, 't, 'p, P: Platform>(&'n Nic<'t, 'p, P>);

impl<P: Platform> RxToken for Incoming<'_, '_, '_, P> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let mut bytes = [0; FRAME];
        let length = match self.0.try_receive(&mut bytes) {
            Some(Ok(received)) => received.length,
            // The stack drops an empty frame.
            _ => 0,
        };
        f(bytes.get(..length).unwrap_or_default())
    }
}

impl<P: Platform> TxToken for Outgoing<'_, '_, '_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = [0; FRAME];
        // The stack keeps to the size that it was told.
        let frame = bytes.get_mut(..length.min(FRAME)).unwrap_or_default();
        let result = f(frame);
        // A frame that finds no room is lost, as on any wire.
        let _ = self.0.try_send(frame, Offload::default());
        result
    }
}

impl<'n, 't, 'p, P: Platform> Device for Phy<'n, 't, 'p, P> {
    type RxToken<'a>
        = Incoming<'n, 't, 'p, P>
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'n, 't, 'p, P>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        (self.0.has_frame() && self.0.has_room()).then_some((Incoming(self.0), Outgoing(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.0.has_room().then_some(Outgoing(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}
