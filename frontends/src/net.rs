//! Network ports: frames sent and received through a pair of rings.
//!
//! [`Nic::connect`] brings a port up. Pages are granted once, for as long as the port lives; a frame is copied into them
//! when it is sent, and out of them when it is taken, so nothing of a caller's is ever shared. [`Nic::send`] and
//! [`Nic::receive`] wait; [`Nic::try_send`] and [`Nic::try_receive`] do not.
//!
//! With [`Options::offload`] checksums may be left blank and TCP packets of 64 KiB pass in both directions; the caller then
//! reads [`Received::checksum`] and [`Received::large`]. Without it frames are those of the wire, complete, and fit a
//! page.
//!
//! Behind the feature `smoltcp` is an adapter for that stack, [`phy`].

#[cfg(feature = "smoltcp")]
pub mod phy;
mod ring;
mod setup;

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

pub use trunnion_protocol::netif::{Gso, GsoKind, MAX_PACKET};
use trunnion_protocol::xenbus::State;

use crate::error::Error;
use crate::event::Channel;
use crate::grant::GrantTable;
use crate::platform::Platform;
use crate::wait::{Turn, Waiters};
use crate::xenbus::{Device, Farewell};

pub use ring::Fault;
use ring::{Receiving, Sending};

/// Tasks that can wait for a port without polling in turns.
const TASKS: usize = 8;

/// How a port is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Frames may be larger than the wire takes, and their checksums blank.
    pub offload: bool,
}

/// What is known of a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Nobody has looked at it.
    #[default]
    Unknown,
    /// It was checked, or never left the machine.
    Good,
    /// Its field holds the sum of the pseudo header only; the data never left the machine.
    Blank,
}

/// What goes with a frame that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum holds the sum of the pseudo header only, and is to be completed.
    pub checksum_blank: bool,
    /// A TCP packet that is to be cut; its checksum is blank.
    pub large: Option<Gso>,
}

/// A frame that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes of it.
    pub length: usize,
    /// What is known of its transport checksum.
    pub checksum: Checksum,
    /// It is a TCP packet that no wire would take.
    pub large: Option<Gso>,
}

/// Why a frame was not sent or received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NetError {
    /// Shorter than a header, longer than a packet, or longer than the back end takes.
    Length,
    /// The frame is longer than the place for it; it is lost.
    TooLong,
    /// The back end does not take blank checksums or large packets of this kind.
    Unsupported,
    /// The port is closed.
    Closed,
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "not the length of a frame",
            Self::TooLong => "longer than the place for it",
            Self::Unsupported => "the back end cannot do that",
            Self::Closed => "the port is closed",
        })
    }
}

impl core::error::Error for NetError {}

/// A connected network port. Several tasks may use it.
pub struct Nic<'t, 'p, P: Platform> {
    grants: &'t GrantTable<'p, P>,
    /// There until the port is closed.
    device: Option<Device<'t, 'p, P>>,
    address: [u8; 6],
    options: Options,
    accepts: setup::Accepts,
    channel: Channel<'p, P>,
    sending: RefCell<Sending<P>>,
    receiving: RefCell<Receiving<P>>,
    waiters: Waiters<TASKS>,
    closed: Cell<bool>,
    fault: Cell<Option<Fault>>,
    farewell: Farewell,
}

impl<'t, 'p, P: Platform> Nic<'t, 'p, P> {
    /// The port's Ethernet address.
    pub const fn address(&self) -> [u8; 6] {
        self.address
    }

    /// How the port was set up.
    pub const fn options(&self) -> Options {
        self.options
    }

    /// What the back end did that no back end may, if it did: the port is closed since.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Sends a frame if there is room now; false when there is none.
    pub fn try_send(&self, frame: &[u8], offload: Offload) -> Result<bool, NetError> {
        self.check(frame, offload)?;
        self.take_answers();
        if self.closed.get() {
            return Err(NetError::Closed);
        }
        let mut sending = self.sending.borrow_mut();
        if !sending.put(frame, offload) {
            return Ok(false);
        }
        if sending.publish() {
            self.channel.notify();
        }
        Ok(true)
    }

    /// Sends a frame, once there is room.
    pub async fn send(&self, frame: &[u8], offload: Offload) -> Result<(), NetError> {
        let turn = Turn::new(&self.waiters);
        let result = poll_fn(|context| {
            self.poll(context, || match self.try_send(frame, offload) {
                Ok(false) => None,
                Ok(true) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            })
        })
        .await;
        drop(turn);
        result
    }

    fn check(&self, frame: &[u8], offload: Offload) -> Result<(), NetError> {
        let most = if self.accepts.sg { MAX_PACKET } else { trunnion_protocol::address::PAGE_SIZE };
        if frame.len() < 14 || frame.len() > most {
            return Err(NetError::Length);
        }
        let taken = match offload.large {
            None => true,
            Some(_) if !offload.checksum_blank => false,
            Some(Gso { kind: GsoKind::TcpV4, size }) => self.accepts.gso_v4 && size > 0,
            Some(Gso { kind: GsoKind::TcpV6, size }) => self.accepts.gso_v6 && size > 0,
        };
        if taken { Ok(()) } else { Err(NetError::Unsupported) }
    }

    /// Takes a frame if one has come; `None` when none has.
    pub fn try_receive(&self, into: &mut [u8]) -> Option<Result<Received, NetError>> {
        self.take_answers();
        let mut receiving = self.receiving.borrow_mut();
        let received = receiving.take(into);
        if matches!(received, Ok(Some(_))) && receiving.refill() {
            self.channel.notify();
        }
        drop(receiving);
        let received = received.unwrap_or_else(|fault| {
            self.fail(fault);
            self.waiters.wake();
            None
        });
        match received {
            None if self.closed.get() => Some(Err(NetError::Closed)),
            received => received,
        }
    }

    /// Whether a frame has come that nobody has taken.
    pub fn has_frame(&self) -> bool {
        self.take_answers();
        self.receiving.borrow().has_packet()
    }

    /// Whether there is room for a frame of one page.
    pub fn has_room(&self) -> bool {
        self.take_answers();
        !self.closed.get() && self.sending.borrow().has_room()
    }

    /// Takes the next frame, once one has come.
    pub async fn receive(&self, into: &mut [u8]) -> Result<Received, NetError> {
        let turn = Turn::new(&self.waiters);
        let result = poll_fn(|context| self.poll(context, || self.try_receive(into))).await;
        drop(turn);
        result
    }

    /// Ready when something may have changed since the port was looked at: frames came, or room was made. Look again after
    /// this was pending, since the wake-up may have been for another task.
    pub fn poll_event(&self, context: &mut Context<'_>, seen: &mut u64) -> Poll<()> {
        self.poll(context, || {
            let state = self.receiving.borrow().progress() ^ self.sending.borrow().progress() << 32;
            (core::mem::replace(seen, state) != state || self.closed.get()).then_some(())
        })
    }

    /// Takes answers, tries, and waits for an event if nothing came of it.
    fn poll<T>(&self, context: &mut Context<'_>, mut attempt: impl FnMut() -> Option<T>) -> Poll<T> {
        for again in [true, false] {
            self.take_answers();
            if let Some(value) = attempt() {
                return Poll::Ready(value);
            }
            if again {
                self.waiters.wait(self.grants.platform(), self.channel.port(), context);
            }
        }
        Poll::Pending
    }

    /// Takes what the back end has answered.
    fn take_answers(&self) {
        if self.fault.get().is_some() {
            // What a liar says further is nothing to go by.
            return;
        }
        let sent = self.sending.borrow_mut().take_answers();
        let received = self.receiving.borrow_mut().take_answers();
        let news = match (sent, received) {
            (Ok(sent), Ok(received)) => sent | received,
            (Err(fault), _) | (_, Err(fault)) => {
                self.fail(fault);
                true
            }
        };
        if news {
            self.waiters.wake();
        }
    }

    /// The back end broke the rules: the port is closed.
    fn fail(&self, fault: Fault) {
        self.closed.set(true);
        crate::error::complain("network port", &fault);
        self.fault.set(Some(fault));
    }

    /// Closes the port and gives the device back, to be connected again.
    pub async fn close(mut self) -> Result<Device<'t, 'p, P>, Error> {
        let device = self.device.take().ok_or(Error::Closed)?;
        self.shut(&device).await?;
        Ok(device)
    }

    /// Waits until the back end takes the port away (hot unplug, or its end), and lets go of everything.
    /// [`close`](Self::close) the port afterwards.
    pub async fn unplugged(&self) -> Result<(), Error> {
        let Some(device) = &self.device else { return Ok(()) };
        device.wait_back(|back| matches!(back, State::Closing | State::Closed | State::Unknown)).await?;
        self.shut(device).await
    }

    async fn shut(&self, device: &Device<'_, 'p, P>) -> Result<(), Error> {
        self.closed.set(true);
        self.waiters.wake();
        device.part(&self.farewell).await
    }
}

impl<P: Platform> Drop for Nic<'_, '_, P> {
    fn drop(&mut self) {
        // Pages come back once the back end has let go of them.
        self.sending.borrow_mut().bury(self.grants);
        self.receiving.borrow_mut().bury(self.grants);
    }
}

impl<P: Platform> fmt::Debug for Nic<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic").field("address", &self.address).finish_non_exhaustive()
    }
}
