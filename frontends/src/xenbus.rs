//! Devices in the store: where they are, and the handshake with the back end.
//!
//! The rules are one function, [`front_step`], over the states of both halves; [`Device`] carries them out. A back end in
//! a guest has [`BackDevice`] and the rules of [`trunnion_protocol::xenbus::back_step`].

mod back;

use core::cell::Cell;

use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::State;

pub use back::{BackDevice, Client, clients};

use crate::error::Error;
use crate::platform::Platform;
use crate::store::{Store, Transaction, Watch};
use crate::text::{Path, Text};

/// What a front end does, seeing both states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontStep {
    /// Nothing: it is the back end's turn, or all is well.
    Stay,
    /// Share rings, write the keys, then [`State::Initialised`].
    Negotiate,
    /// Read the device's properties, then [`State::Connected`].
    Connect,
    /// Stop making requests and write [`State::Closing`].
    Close,
    /// Release rings and grants and write [`State::Closed`].
    Release,
    /// Write [`State::Initialising`]: both halves are closed, and a new connection can begin.
    Reopen,
}

/// The rule of a front end: its own state, and the state it sees. A back end that is not there reads as
/// [`State::Unknown`].
pub const fn front_step(own: State, back: State) -> FrontStep {
    match (own, back) {
        (State::Initialising, State::InitWait) => FrontStep::Negotiate,
        (State::Initialised, State::Connected) => FrontStep::Connect,
        (State::Initialised | State::Connected, State::Closing) => FrontStep::Close,
        (State::Initialised | State::Connected | State::Closing, State::Closed | State::Unknown)
        | (State::Closing, State::Closing | State::InitWait) => FrontStep::Release,
        (State::Closed, State::Closed | State::InitWait | State::Unknown) => FrontStep::Reopen,
        _ => FrontStep::Stay,
    }
}

/// Identities of this guest's devices of a class, such as `vbd`; `into` takes their names.
pub async fn devices<'b, P: Platform>(
    store: &Store<'_, P>,
    class: &str,
    into: &'b mut [u8],
) -> Result<impl Iterator<Item = &'b str> + use<'b, P>, Error> {
    let path: Path = Text::format(format_args!("device/{class}"))?;
    store.list(Transaction::NONE, path.as_str(), into).await
}

/// How far a front end has taken leave of its back end: a farewell that was cut off, by a future that was dropped or by an
/// error of the store, goes on where it was.
#[derive(Debug)]
pub(crate) struct Farewell(Cell<Option<State>>);

impl Default for Farewell {
    fn default() -> Self {
        Self(Cell::new(Some(State::Closing)))
    }
}

/// One device, as its front end sees it.
pub struct Device<'s, 'p, P: Platform> {
    store: &'s Store<'p, P>,
    front: Path,
    back: Path,
    backend: DomainId,
    watch: Watch<'s, 'p, P>,
    /// The watch has told of a change, and the state was not read since.
    stale: Cell<bool>,
}

impl<'s, 'p, P: Platform> Device<'s, 'p, P> {
    /// The device `id` of a class.
    pub async fn open(store: &'s Store<'p, P>, class: &str, id: &str) -> Result<Self, Error> {
        let front: Path = Text::format(format_args!("device/{class}/{id}"))?;
        let key: Path = Text::format(format_args!("{front}/backend"))?;
        let back: Path = store.read_text(Transaction::NONE, key.as_str()).await?;
        let key: Path = Text::format(format_args!("{front}/backend-id"))?;
        let backend = store.read_number(Transaction::NONE, key.as_str()).await?;
        let backend = backend.and_then(|number| u16::try_from(number).ok()).map(DomainId);
        let backend = backend.filter(|domain| domain.is_guest()).ok_or(Error::Malformed("backend-id"))?;
        let state: Path = Text::format(format_args!("{back}/state"))?;
        let watch = store.watch(state.as_str()).await?;
        Ok(Self { store, front, back, backend, watch, stale: Cell::new(true) })
    }

    /// The domain of the back end.
    pub const fn backend(&self) -> DomainId {
        self.backend
    }

    /// The store that the device is in.
    pub const fn store(&self) -> &'s Store<'p, P> {
        self.store
    }

    /// A key of the back end, as a number.
    pub async fn offered(&self, key: &str) -> Result<Option<u64>, Error> {
        let path: Path = Text::format(format_args!("{}/{key}", self.back))?;
        self.store.read_number(Transaction::NONE, path.as_str()).await
    }

    /// A key of the back end that has to be there.
    pub async fn required(&self, key: &'static str) -> Result<u64, Error> {
        self.offered(key).await?.ok_or(Error::Malformed(key))
    }

    /// A key of the front end that the toolstack wrote.
    pub async fn own_text<const N: usize>(&self, key: &str) -> Result<Text<N>, Error> {
        let path: Path = Text::format(format_args!("{}/{key}", self.front))?;
        self.store.read_text(Transaction::NONE, path.as_str()).await
    }

    /// Writes a key of the front end.
    pub async fn write(&self, transaction: Transaction, key: &str, value: &str) -> Result<(), Error> {
        let path: Path = Text::format(format_args!("{}/{key}", self.front))?;
        self.store.write(transaction, path.as_str(), value.as_bytes()).await
    }

    /// This half's state, as the store has it.
    pub async fn own_state(&self) -> Result<State, Error> {
        state_of(self.store, &self.front).await
    }

    /// The back end's state.
    pub async fn back_state(&self) -> Result<State, Error> {
        state_of(self.store, &self.back).await
    }

    /// Writes this half's state. A device that the toolstack has removed, which it does when the back end's domain ends, is closed without
    /// anybody writing it: then [`State::Closing`] and [`State::Closed`] are no errors.
    pub async fn set_state(&self, state: State) -> Result<(), Error> {
        match self.write(Transaction::NONE, "state", state.text()).await {
            Err(Error::Store(_))
                if matches!(state, State::Closing | State::Closed)
                    && self.own_state().await? == State::Unknown =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Waits until the back end's state is one that is wanted, and returns it.
    pub async fn wait_back(&self, wanted: impl Fn(State) -> bool) -> Result<State, Error> {
        loop {
            let state = self.back_state().await?;
            self.stale.set(false);
            if wanted(state) {
                return Ok(state);
            }
            self.watch.wait().await?;
            self.stale.set(true);
        }
    }

    /// Waits until the back end is no longer connected: it closes, or is gone. Unlike [`wait_back`](Self::wait_back) it asks the
    /// store nothing as long as nothing changes, so that it can be waited for beside every request.
    pub async fn closing(&self) -> Result<State, Error> {
        loop {
            if !self.stale.get() {
                self.watch.wait().await?;
                self.stale.set(true);
            }
            let state = self.back_state().await?;
            self.stale.set(false);
            if !matches!(state, State::Connected | State::Initialised) {
                return Ok(state);
            }
        }
    }

    /// Takes the connection down: both halves are closed when this returns. It may be begun again after it was cut off, and
    /// does nothing once it is done.
    pub(crate) async fn part(&self, farewell: &Farewell) -> Result<(), Error> {
        while let Some(state) = farewell.0.get() {
            self.set_state(state).await?;
            if state == State::Closing {
                self.wait_back(|back| !matches!(back, State::Connected | State::Initialised)).await?;
                farewell.0.set(Some(State::Closed));
            } else {
                self.wait_back(|back| matches!(back, State::Closed | State::InitWait | State::Unknown))
                    .await?;
                farewell.0.set(None);
            }
        }
        Ok(())
    }

    /// Waits until the rule asks for a step, with this half in state `own`.
    pub async fn next_step(&self, own: State) -> Result<FrontStep, Error> {
        self.wait_back(|back| front_step(own, back) != FrontStep::Stay)
            .await
            .map(|back| front_step(own, back))
    }

    /// Brings the device to its beginning, whatever an earlier kernel left behind: afterwards the back end is in
    /// [`State::InitWait`] and this half in [`State::Initialising`].
    pub async fn reset(&self) -> Result<(), Error> {
        if self.own_state().await? != State::Initialising {
            self.set_state(State::Closing).await?;
            self.wait_back(|back| front_step(State::Closing, back) == FrontStep::Release).await?;
            self.set_state(State::Closed).await?;
            self.wait_back(|back| matches!(back, State::Closed | State::InitWait | State::Unknown)).await?;
            self.set_state(State::Initialising).await?;
        }
        match self.wait_back(|back| matches!(back, State::InitWait | State::Unknown)).await? {
            State::InitWait => Ok(()),
            _ => Err(Error::Closed),
        }
    }
}

/// The state that the store has of one half of a device; [`State::Unknown`] when it is gone, hidden, or no state at all.
async fn state_of<P: Platform>(store: &Store<'_, P>, directory: &Path) -> Result<State, Error> {
    let path: Path = Text::format(format_args!("{directory}/state"))?;
    let mut bytes = [0; 8];
    match store.read(Transaction::NONE, path.as_str(), &mut bytes).await {
        Ok(value) => Ok(State::parse(value)),
        Err(Error::Store(_) | Error::TooLong) => Ok(State::Unknown),
        Err(error) => Err(error),
    }
}

impl<P: Platform> core::fmt::Debug for Device<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Device").field("front", &self.front).field("back", &self.back).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunnion_protocol::xenbus::{BackStep, back_step};

    /// Plays both rules against each other from every pair of states, and sees where they come to rest.
    fn settle(mut own: State, mut back: State, wanted: bool) -> (State, State) {
        for _ in 0..32 {
            let before = (own, back);
            own = match front_step(own, back) {
                FrontStep::Negotiate => State::Initialised,
                FrontStep::Connect => State::Connected,
                FrontStep::Close => State::Closing,
                FrontStep::Release => State::Closed,
                FrontStep::Reopen if wanted => State::Initialising,
                FrontStep::Stay | FrontStep::Reopen => own,
            };
            back = match back_step(back, own) {
                BackStep::Stay => back,
                BackStep::Offer => State::InitWait,
                BackStep::Connect => State::Connected,
                BackStep::Close => State::Closing,
                BackStep::Release => State::Closed,
                BackStep::Remove => State::Unknown,
            };
            if before == (own, back) {
                break;
            }
        }
        (own, back)
    }

    #[test]
    fn both_rules_lead_to_a_connection() {
        assert_eq!(settle(State::Initialising, State::InitWait, true), (State::Connected, State::Connected));
        assert_eq!(settle(State::Closed, State::Closed, true), (State::Connected, State::Connected));
        assert_eq!(settle(State::Connected, State::Closing, true), (State::Connected, State::Connected));
    }

    #[test]
    fn both_rules_lead_to_an_end() {
        for own in [State::Connected, State::Closing, State::Closed] {
            for back in [State::Closing, State::Closed] {
                assert_eq!(settle(own, back, false).0, State::Closed, "{own} {back}");
            }
        }
        assert_eq!(settle(State::Connected, State::Unknown, false).0, State::Closed);
    }

    #[test]
    fn a_back_end_that_is_not_ready_is_waited_for() {
        for back in [State::Unknown, State::Initialising, State::Closing] {
            assert_eq!(front_step(State::Initialising, back), FrontStep::Stay);
        }
        for back in [State::Connected, State::Reconfiguring, State::Reconfigured] {
            assert_eq!(front_step(State::Connected, back), FrontStep::Stay);
        }
    }
}
