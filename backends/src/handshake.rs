//! The handshake around a back end, from the offer to the end: the same for every class of device but for what [`Device`]
//! says.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use trunnion_protocol::blkif::keys::{ONLINE, STATE};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::xenbus::{BackStep, State};

use crate::host::{GrantMapper, StoreClient, StoreWatch, Wanted};
use crate::values::Values;

/// Lines that one guest can cause in the log for one device.
const COMPLAINTS: u32 = 8;

/// Where the two halves are in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The back end's directory.
    pub back: String,
    /// The front end's directory.
    pub front: String,
}

/// Why the service ended. Either way nothing is mapped any more and the device has nothing of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The toolstack took the device away, and the guest has let go of it.
    Removed,
    /// The front end's directory is gone, and so, most likely, is the guest.
    Gone,
    /// The store does not answer as it should.
    Store(Errno),
}

/// Keys and values that are written together.
pub(crate) type Written = Vec<(String, String)>;

/// What one class of device does in the handshake.
pub(crate) trait Device<S: StoreClient> {
    /// Why a connection failed by the guest's doing.
    type Fault: fmt::Display;
    /// The class, as the log calls it.
    const CLASS: &'static str;
    /// The rings are left when the front end closes; otherwise when it has closed.
    const LEAVES_EARLY: bool;
    /// A front end that starts again waits for each state in turn.
    const STEPWISE: bool;

    /// Whose it is.
    fn domain(&self) -> DomainId;
    /// What is written before the front end is waited for.
    fn offer(&self) -> Written;
    /// The rule: own state and the front end's.
    fn rule(own: State, front: State) -> BackStep;
    /// Connects by what the front end wrote; returns what is written with state 4. The inner error is the guest's doing.
    async fn connect(&mut self, front: &Front<'_, S>) -> Result<Result<Written, String>, Errno>;
    /// Does work while connected; ready when the connection has failed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Self::Fault>;
    /// Leaves the rings; when it returns nothing of the guest is held.
    async fn let_go(&mut self);
}

/// The front end's directory, to be read.
pub(crate) struct Front<'a, S> {
    store: &'a S,
    place: &'a Place,
}

impl<S: StoreClient> Front<'_, S> {
    /// Reads these keys; those that are not there stay unset.
    pub(crate) async fn note(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
        values: &mut Values,
    ) -> Result<(), Errno> {
        for key in keys {
            let key = key.as_ref();
            if let Some(value) = read(self.store, &self.place.front, key).await? {
                values.insert(key, value);
            }
        }
        Ok(())
    }
}

async fn read<S: StoreClient>(store: &S, directory: &str, key: &str) -> Result<Option<Vec<u8>>, Errno> {
    match store.read(&format!("{directory}/{key}")).await {
        Err(Errno::NoEnt) => Ok(None),
        other => other,
    }
}

struct Session<'a, D, S> {
    device: &'a mut D,
    store: &'a S,
    place: &'a Place,
    /// The state that was written last.
    own: State,
    complaints: u32,
}

/// Serves one device until it is removed or its guest is gone.
pub(crate) async fn serve<D: Device<S>, S: StoreClient>(device: &mut D, store: &S, place: &Place) -> Ended {
    let mut session = Session { device, store, place, own: State::Initialising, complaints: 0 };
    let ended = match session.run().await {
        Ok(ended) => ended,
        Err(errno) => Ended::Store(errno),
    };
    session.device.let_go().await;
    ended
}

impl<D: Device<S>, S: StoreClient> Session<'_, D, S> {
    async fn run(&mut self) -> Result<Ended, Errno> {
        let mut front = self.store.watch(&format!("{}/{STATE}", self.place.front)).await?;
        let mut online = self.store.watch(&format!("{}/{ONLINE}", self.place.back)).await?;
        self.write(State::InitWait, self.device.offer()).await?;
        loop {
            let device = &mut *self.device;
            let fault = poll_fn(|context| {
                // Both are asked, so that both have the waker.
                let changed =
                    front.poll_changed(context).is_ready() | online.poll_changed(context).is_ready();
                if changed {
                    return Poll::Ready(None);
                }
                device.poll(context).map(Some)
            })
            .await;
            if let Some(fault) = fault {
                self.fail(&fault).await?;
            }
            if let Some(ended) = self.look().await? {
                return Ok(ended);
            }
        }
    }

    /// Reads the states and takes one step.
    async fn look(&mut self) -> Result<Option<Ended>, Errno> {
        if read(self.store, &self.place.back, STATE).await?.is_none() {
            return Ok(Some(Ended::Removed));
        }
        let front = read(self.store, &self.place.front, STATE).await?;
        let front = front.map_or(State::Unknown, |value| State::parse(&value));
        let online = read(self.store, &self.place.back, ONLINE).await?;
        let online = online.is_none_or(|value| value.strip_suffix(&[0]).unwrap_or(&value) != b"0");
        match D::rule(self.own, front) {
            BackStep::Stay => {}
            BackStep::Offer => {
                self.device.let_go().await;
                if D::STEPWISE && self.own == State::Connected {
                    self.step(State::Closing).await?;
                }
                if D::STEPWISE && self.own == State::Closing {
                    self.step(State::Closed).await?;
                }
                self.step(State::InitWait).await?;
            }
            BackStep::Connect => self.connect().await?,
            BackStep::Close => {
                if D::LEAVES_EARLY {
                    self.device.let_go().await;
                }
                self.step(State::Closing).await?;
            }
            BackStep::Release => {
                self.device.let_go().await;
                self.step(State::Closed).await?;
            }
            BackStep::Remove => return Ok(Some(Ended::Gone)),
        }
        if online {
            return Ok(None);
        }
        match (self.own, front) {
            (State::Closed, _) => Ok(Some(Ended::Removed)),
            (State::InitWait, State::Initialising | State::Closed) => {
                // The front end never connected: nothing has to be waited for.
                self.step(State::Closed).await?;
                Ok(Some(Ended::Removed))
            }
            (State::Connected, _) => {
                self.step(State::Closing).await?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn connect(&mut self) -> Result<(), Errno> {
        let front = Front { store: self.store, place: self.place };
        match self.device.connect(&front).await? {
            Ok(values) => self.write(State::Connected, values).await,
            Err(reason) => self.fail(&reason).await,
        }
    }

    /// Closes the device for a reason that the guest gave.
    async fn fail(&mut self, reason: &dyn fmt::Display) -> Result<(), Errno> {
        self.complaints = self.complaints.saturating_add(1);
        if self.complaints <= COMPLAINTS {
            let (class, domain, back) = (D::CLASS, self.device.domain(), &self.place.back);
            log::warn!("{class}: domain {domain}: {back}: {reason}; closed");
        }
        self.device.let_go().await;
        self.step(State::Closing).await
    }

    async fn step(&mut self, state: State) -> Result<(), Errno> {
        self.write(state, Vec::new()).await
    }

    async fn write(&mut self, state: State, mut values: Written) -> Result<(), Errno> {
        values.push((STATE.to_string(), state.text().to_string()));
        self.store.write_all(&self.place.back, &values).await?;
        self.own = state;
        Ok(())
    }
}

/// Maps the pages of rings to read and write, all or none.
pub(crate) fn map_rings<H: GrantMapper>(
    host: &H,
    domain: DomainId,
    references: impl IntoIterator<Item = GrantRef>,
) -> Result<Vec<H::Page>, GrantStatus> {
    let want = |reference| Wanted { reference, access: Access::ReadWrite };
    let wanted: Vec<_> = references.into_iter().map(want).collect();
    let mut results = Vec::with_capacity(wanted.len());
    host.map(domain, &wanted, &mut results);
    let (mut pages, mut failed) = (Vec::with_capacity(wanted.len()), None);
    for result in results {
        match result {
            Ok(page) => pages.push(page),
            Err(status) => failed = failed.or(Some(status)),
        }
    }
    if failed.is_some() || pages.len() != wanted.len() {
        host.unmap(&mut pages);
        return Err(failed.unwrap_or(GrantStatus::GeneralError));
    }
    Ok(pages)
}
