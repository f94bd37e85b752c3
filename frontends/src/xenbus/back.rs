//! The other half of the handshake: a back end in a guest.
//!
//! The toolstack makes both directories and gives each guest the right to write its own
//! (`xl device-attach FRONT class=CLASS backend=BACK`). A back end needs no privilege: it finds its clients below
//! `backend/CLASS` in its own part of the store.

use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::{BackStep, State, back_step};

use crate::error::Error;
use crate::platform::Platform;
use crate::store::{Store, Transaction, Watch};
use crate::text::{Path, Text};
use crate::xenbus::state_of;

/// A device of this back end: whose it is, and its identity there.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The domain of the front end.
    pub domain: DomainId,
    /// The device's name in its class, such as `0`.
    pub id: Text<32>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.domain == other.domain && self.id.as_str() == other.id.as_str()
    }
}

/// The devices of a class that this guest is to serve, at most `N`: those that the toolstack wants (`online` is 1). Watch
/// `backend` to hear of others.
pub async fn clients<const N: usize, P: Platform>(
    store: &Store<'_, P>,
    class: &str,
) -> Result<[Option<Client>; N], Error> {
    let mut found = [None; N];
    let mut places = found.iter_mut();
    let top: Path = Text::format(format_args!("backend/{class}"))?;
    let mut domains = [0; 512];
    let domains = match store.list(Transaction::NONE, top.as_str(), &mut domains).await {
        Ok(domains) => domains,
        // No device of the class was ever attached.
        Err(Error::Store(_)) => return Ok(found),
        Err(error) => return Err(error),
    };
    for name in domains {
        let Some(domain) = name.parse().ok().map(DomainId).filter(|domain| domain.is_guest()) else {
            continue;
        };
        let below: Path = Text::format(format_args!("{top}/{domain}"))?;
        let mut ids = [0; 512];
        let Ok(ids) = store.list(Transaction::NONE, below.as_str(), &mut ids).await else { continue };
        for id in ids {
            let online: Path = Text::format(format_args!("{below}/{id}/online"))?;
            if !matches!(store.read_number(Transaction::NONE, online.as_str()).await, Ok(Some(1))) {
                continue;
            }
            let Some(place) = places.next() else { return Ok(found) };
            *place = Some(Client { domain, id: Text::copy(id)? });
        }
    }
    Ok(found)
}

/// One device, as its back end sees it.
pub struct BackDevice<'s, 'p, P: Platform> {
    store: &'s Store<'p, P>,
    back: Path,
    front: Path,
    client: Client,
    watch: Watch<'s, 'p, P>,
    /// The directory of this half: it changes when the toolstack wants the device away.
    own: Watch<'s, 'p, P>,
}

impl<'s, 'p, P: Platform> BackDevice<'s, 'p, P> {
    /// The device of a client.
    pub async fn open(store: &'s Store<'p, P>, class: &str, client: Client) -> Result<Self, Error> {
        let back: Path = Text::format(format_args!("backend/{class}/{}/{}", client.domain, client.id))?;
        let key: Path = Text::format(format_args!("{back}/frontend"))?;
        let front: Path = store.read_text(Transaction::NONE, key.as_str()).await?;
        let state: Path = Text::format(format_args!("{front}/state"))?;
        let watch = store.watch(state.as_str()).await?;
        let online: Path = Text::format(format_args!("{back}/online"))?;
        let own = store.watch(online.as_str()).await?;
        Ok(Self { store, back, front, client, watch, own })
    }

    /// Whose device it is.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// A key of the front end, as a number; `None` if there is none. Whatever it says is a claim.
    pub async fn claimed(&self, key: &str) -> Result<Option<u64>, Error> {
        let path: Path = Text::format(format_args!("{}/{key}", self.front))?;
        self.store.read_number(Transaction::NONE, path.as_str()).await
    }

    /// A key of the front end that has to be there, and fit.
    pub async fn required<T: TryFrom<u64>>(&self, key: &'static str) -> Result<T, Error> {
        let value = self.claimed(key).await?.ok_or(Error::Malformed(key))?;
        T::try_from(value).map_err(|_| Error::Malformed(key))
    }

    /// Writes a key of the back end.
    pub async fn write(&self, transaction: Transaction, key: &str, value: &str) -> Result<(), Error> {
        let path: Path = Text::format(format_args!("{}/{key}", self.back))?;
        self.store.write(transaction, path.as_str(), value.as_bytes()).await
    }

    /// Writes this half's state. A device that the toolstack has removed, which it does when the front end's domain ends, is closed without
    /// anybody writing it: then [`State::Closing`] and [`State::Closed`] are no errors.
    pub async fn set_state(&self, state: State) -> Result<(), Error> {
        match self.write(Transaction::NONE, "state", state.text()).await {
            Err(Error::Store(_))
                if matches!(state, State::Closing | State::Closed)
                    && state_of(self.store, &self.back).await? == State::Unknown =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// The front end's state; [`State::Unknown`] when it is gone.
    pub async fn front_state(&self) -> Result<State, Error> {
        state_of(self.store, &self.front).await
    }

    /// False once the toolstack wants the device away, or has removed it.
    pub async fn online(&self) -> Result<bool, Error> {
        let path: Path = Text::format(format_args!("{}/online", self.back))?;
        match self.store.read_number(Transaction::NONE, path.as_str()).await {
            Ok(value) => Ok(value == Some(1)),
            Err(Error::Store(_) | Error::Malformed(_) | Error::TooLong) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the rule asks for a step, with this half in state `own`. A device that the toolstack wants away asks to
    /// be [closed](BackStep::Close) while it is in use, and [removed](BackStep::Remove) when it is not.
    pub async fn next_step(&mut self, own: State) -> Result<BackStep, Error> {
        loop {
            let step = back_step(own, self.front_state().await?);
            if !self.online().await? {
                match own {
                    State::Connected => return Ok(BackStep::Close),
                    State::Closing if step == BackStep::Stay => {}
                    State::Closing => return Ok(step),
                    _ => return Ok(BackStep::Remove),
                }
            } else if step != BackStep::Stay {
                return Ok(step);
            }
            let mut front = core::pin::pin!(self.watch.wait());
            let mut own = core::pin::pin!(self.own.wait());
            core::future::poll_fn(|context| match front.as_mut().poll(context) {
                core::task::Poll::Pending => own.as_mut().poll(context),
                ready @ core::task::Poll::Ready(_) => ready,
            })
            .await?;
        }
    }
}

impl<P: Platform> core::fmt::Debug for BackDevice<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BackDevice")
            .field("back", &self.back)
            .field("front", &self.front)
            .finish_non_exhaustive()
    }
}
