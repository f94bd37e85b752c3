//! The back end: serves one device of one front end.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll};

use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::mapping::{Mapping, Window};
use trunnion_frontends::platform::Platform;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::text::Text;
use trunnion_frontends::xenbus::{BackDevice, Client};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, Overrun};
use trunnion_protocol::xenbus::{BackStep, State};

use crate::wire::{CLASS, DONE, EVENT_CHANNEL, FAILED, LIMIT, MAX_BYTES, RING_REF, Request, Response, Vrng};

/// Where the bytes come from.
pub trait Source {
    /// Fills a piece of memory with random bytes.
    fn fill(&mut self, into: &mut [u8]);
}

/// What was done for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes given.
    pub bytes: u64,
    /// Requests that made no sense.
    pub refused: u64,
}

// ANCHOR: connection
/// A ring in use.
struct Connection<'w, 'p, P: Platform> {
    ring: BackRing<Vrng, Mapping<'w, 'p, P>>,
    channel: Channel<'p, P>,
    window: &'w Window<'p, P>,
    client: Client,
}

impl<'w, 'p, P: Platform> Connection<'w, 'p, P> {
    async fn new(
        platform: &'p P,
        window: &'w Window<'p, P>,
        device: &BackDevice<'_, 'p, P>,
    ) -> Result<Self, Error> {
        // Both numbers are claims: the hypervisor refuses what was not granted to us, or not opened for us.
        let reference = GrantRef(device.required(RING_REF).await?);
        let port = Port(device.required(EVENT_CHANNEL).await?);
        let client = *device.client();
        let page = window.map(client.domain, reference)?;
        let ring = BackRing::new(page, Width::W64).ok_or(Error::Broken)?;
        let channel = Channel::join(platform, client.domain, port)?;
        Ok(Self { ring, channel, window, client })
    }
}
// ANCHOR_END: connection

// ANCHOR: work
impl<P: Platform> Connection<'_, '_, P> {
    /// Answers what has come. Pending when there is nothing more; ready only when the ring is broken.
    fn poll(
        &mut self,
        platform: &P,
        source: &mut impl Source,
        figures: &mut Figures,
        context: &Context<'_>,
    ) -> Poll<Overrun> {
        platform.on_event(self.channel.port(), context.waker());
        // A front end may put requests as fast as they are taken: after a ring full of them the others have their turn.
        for _ in 0..self.ring.slots() {
            match self.ring.take() {
                Ok(Some(claimed)) => {
                    let request = claimed.request;
                    let length = self.give(&request, source).unwrap_or_else(|error| {
                        log::warn!("vrng {}: {request:?} refused: {error}", self.client.domain);
                        0
                    });
                    figures.bytes += u64::from(length);
                    figures.refused += u64::from(length == 0);
                    let status = if length == 0 { FAILED } else { DONE };
                    // `claimed` goes into the answer: a second one does not compile. It is of this ring, so it fits.
                    let _ = self.ring.answer(claimed, &Response { id: request.id, length, status });
                }
                Ok(None) => match self.ring.arm() {
                    Ok(true) => {}
                    Ok(false) => {
                        self.publish();
                        return Poll::Pending;
                    }
                    Err(overrun) => return Poll::Ready(overrun),
                },
                Err(overrun) => return Poll::Ready(overrun),
            }
        }
        self.publish();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn publish(&mut self) {
        if self.ring.publish().is_due() {
            self.channel.notify();
        }
    }

    /// Carries a request out. `request` is a copy: the front end cannot change it any more.
    fn give(&self, request: &Request, source: &mut impl Source) -> Result<u32, Error> {
        let length = usize::try_from(request.length).unwrap_or(usize::MAX);
        if length == 0 || length > LIMIT {
            return Err(Error::TooLong);
        }
        let page = self.window.map(self.client.domain, request.reference)?;
        let mut bytes = [0; 256];
        for offset in (0..length).step_by(bytes.len()) {
            let piece = bytes.get_mut(..(length - offset).min(256)).unwrap_or_default();
            source.fill(piece);
            page.page().copy_in(offset, piece).map_err(|_| Error::TooLong)?;
        }
        // Let go of the page before the front end hears of the answer.
        page.unmap()?;
        Ok(request.length)
    }
}
// ANCHOR_END: work

// ANCHOR: serve
/// Serves a client's device until the toolstack takes it away or the client is gone.
pub async fn serve<P: Platform>(
    store: &Store<'_, P>,
    window: &Window<'_, P>,
    client: Client,
    source: &mut impl Source,
) -> Result<Figures, Error> {
    let platform = store.platform();
    let mut device = BackDevice::open(store, CLASS, client).await?;
    let limit: Text<12> = Text::format(format_args!("{LIMIT}"))?;
    device.write(Transaction::NONE, MAX_BYTES, limit.as_str()).await?;
    let mut state = State::InitWait;
    device.set_state(state).await?;
    let mut figures = Figures::default();
    let mut connection: Option<Connection<'_, '_, P>> = None;
    loop {
        let step = {
            let mut next = pin!(device.next_step(state));
            poll_fn(|context| {
                if let Some(connection) = &mut connection
                    && let Poll::Ready(overrun) = connection.poll(platform, source, &mut figures, context)
                {
                    log::error!("vrng {}: {overrun}", client.domain);
                    return Poll::Ready(Ok(BackStep::Close));
                }
                next.as_mut().poll(context)
            })
            .await?
        };
        state = match step {
            BackStep::Stay => continue,
            BackStep::Offer => State::InitWait,
            BackStep::Connect => match Connection::new(platform, window, &device).await {
                Ok(new) => {
                    connection = Some(new);
                    State::Connected
                }
                // A front end that writes nonsense gets no connection; it may begin again.
                Err(error) => {
                    log::error!("vrng {}: cannot connect: {error}", client.domain);
                    State::Closing
                }
            },
            BackStep::Close => State::Closing,
            BackStep::Release => State::Closed,
            BackStep::Remove => {
                drop(connection);
                // The directory may be gone already.
                let _ = device.set_state(State::Closed).await;
                return Ok(figures);
            }
        };
        // Nothing is taken, mapped or notified but in state 4.
        if state != State::Connected {
            connection = None;
        }
        device.set_state(state).await?;
    }
}
// ANCHOR_END: serve
