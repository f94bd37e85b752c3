//! The front end: random bytes for this guest.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll};

use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::{Access, Grant, GrantTable};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::platform::Platform;
use trunnion_frontends::store::Transaction;
use trunnion_frontends::text::Text;
use trunnion_frontends::xenbus::{Device, FrontStep};
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{FrontRing, Pages};
use trunnion_protocol::xenbus::State;

use crate::wire::{DONE, EVENT_CHANNEL, LIMIT, MAX_BYTES, RING_REF, Request, Response, Vrng};

// ANCHOR: entropy
/// A connected entropy device.
pub struct Entropy<'t, 'p, P: Platform> {
    device: Device<'t, 'p, P>,
    channel: Channel<'p, P>,
    ring: FrontRing<Vrng, Grant<'t, 'p, P>>,
    /// The page that the back end writes into. It stays granted; the bytes are copied out of it.
    page: Grant<'t, 'p, P>,
    /// Most bytes of a request.
    most: usize,
    /// The identity of the last request.
    id: u64,
    /// That request has no answer yet.
    in_flight: bool,
}
// ANCHOR_END: entropy

// ANCHOR: connect
impl<'t, 'p, P: Platform> Entropy<'t, 'p, P> {
    /// Connects the device.
    pub async fn connect(grants: &'t GrantTable<'p, P>, device: Device<'t, 'p, P>) -> Result<Self, Error> {
        // Whatever an earlier kernel left behind: afterwards we are in state 1, and the back end in 2.
        device.reset().await?;
        let most = device.required(MAX_BYTES).await?;
        let most = usize::try_from(most).unwrap_or(LIMIT).min(LIMIT);
        if most == 0 {
            return Err(Error::Malformed(MAX_BYTES));
        }
        let (platform, back) = (grants.platform(), device.backend());
        let share = || {
            let page = Buffer::new(platform, PAGE_SIZE)?;
            grants.offer(page, back, Access::ReadWrite).map_err(|(error, _)| error)
        };
        let (shared, page) = (share()?, share()?);
        let reference: Text<12> = Text::format(format_args!("{}", shared.reference()))?;
        // The ring's header is there before anybody hears of the page.
        let ring = FrontRing::new(shared, Width::W64).ok_or(Error::OutOfMemory)?;
        let channel = Channel::open(platform, back)?;
        let port: Text<12> = Text::format(format_args!("{}", channel.port()))?;
        // Both keys or none.
        let keys = [(RING_REF, reference.as_str()), (EVENT_CHANNEL, port.as_str())];
        let write = async |transaction: Transaction| {
            for (key, value) in keys {
                device.write(transaction, key, value).await?;
            }
            Ok(())
        };
        device.store().transact(write).await?;
        device.set_state(State::Initialised).await?;
        // A return before this line takes everything back: grants and port end when they are dropped.
        if device.next_step(State::Initialised).await? != FrontStep::Connect {
            // The back end does not want it: let go, and say so.
            drop((ring, page, channel));
            device.set_state(State::Closed).await?;
            return Err(Error::Closed);
        }
        device.set_state(State::Connected).await?;
        Ok(Self { device, channel, ring, page, most, id: 0, in_flight: false })
    }
    // ANCHOR_END: connect

    // ANCHOR: fill
    /// Fills `into` with random bytes. [`Error::Closed`] when the back end goes away meanwhile, [`Error::Broken`] when it
    /// lies; the device is of no use after either.
    pub async fn fill(&mut self, into: &mut [u8]) -> Result<(), Error> {
        let mut rest = into;
        while !rest.is_empty() {
            // An earlier call may have been dropped while it waited: the page is the back end's until it answers.
            if self.in_flight {
                self.answer().await?;
            }
            let asked = rest.len().min(self.most);
            self.id += 1;
            self.in_flight = true;
            let request = Request { id: self.id, reference: self.page.reference(), length: asked as u32 };
            self.ring.put(&request).map_err(|_| Error::Broken)?;
            if self.ring.publish().is_due() {
                self.channel.notify();
            }
            let given = self.answer().await?.min(asked);
            let (part, later) = rest.split_at_mut(given);
            self.page.page(0).ok_or(Error::Broken)?.copy_out(0, part).map_err(|_| Error::Broken)?;
            rest = later;
        }
        Ok(())
    }

    /// Waits for the answer to the request in flight, and returns how many bytes were written.
    async fn answer(&mut self) -> Result<usize, Error> {
        let Self { device, channel, ring, id, .. } = self;
        let platform = device.store().platform();
        let mut closing = pin!(device.closing());
        let response = poll_fn(|context| match poll_response(platform, channel, ring, context) {
            Poll::Pending => {
                closing.as_mut().poll(context).map(|state| Err(state.err().unwrap_or(Error::Closed)))
            }
            ready @ Poll::Ready(_) => ready,
        })
        .await?;
        // An answer is a claim. One to something else, or of no effect, ends the connection.
        if response.id != *id || response.status != DONE || response.length == 0 {
            log::error!("vrng: the back end answers {response:?} to request {id}");
            return Err(Error::Broken);
        }
        self.in_flight = false;
        Ok(response.length as usize)
    }
    // ANCHOR_END: fill

    // ANCHOR: close
    /// Closes the device and gives it back, to be connected again.
    pub async fn close(self) -> Result<Device<'t, 'p, P>, Error> {
        let Self { device, channel, ring, page, .. } = self;
        device.set_state(State::Closing).await?;
        device.wait_back(|back| !matches!(back, State::Connected | State::Initialised)).await?;
        device.set_state(State::Closed).await?;
        device.wait_back(|back| matches!(back, State::Closed | State::InitWait | State::Unknown)).await?;
        drop(channel);
        // What the back end still maps, though it says that it is closed, goes to the reaper, with its page.
        for grant in [ring.into_pages(), page] {
            if let Err(still) = grant.revoke() {
                log::warn!("vrng: the back end keeps {:?}", still.0);
            }
        }
        Ok(device)
    }
    // ANCHOR_END: close
}

impl<P: Platform> core::fmt::Debug for Entropy<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Entropy").field("device", &self.device).finish_non_exhaustive()
    }
}

// ANCHOR: poll
/// The next answer, or a wake-up when there is one.
fn poll_response<P: Platform>(
    platform: &P,
    channel: &Channel<'_, P>,
    ring: &mut FrontRing<Vrng, Grant<'_, '_, P>>,
    context: &Context<'_>,
) -> Poll<Result<Response, Error>> {
    // The order that loses no event: name the waker, then look, then ask for an event and look again.
    platform.on_event(channel.port(), context.waker());
    loop {
        match ring.take() {
            Ok(Some(response)) => return Poll::Ready(Ok(response)),
            Ok(None) => {}
            Err(overrun) => {
                log::error!("vrng: {overrun}");
                return Poll::Ready(Err(Error::Broken));
            }
        }
        match ring.arm() {
            Ok(true) => {}
            Ok(false) => return Poll::Pending,
            Err(_) => return Poll::Ready(Err(Error::Broken)),
        }
    }
}
// ANCHOR_END: poll
