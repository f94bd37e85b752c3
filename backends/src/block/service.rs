//! The handshake around a back end, from the offer to the end.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use trunnion_protocol::blkif::keys::{ONLINE, STATE};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::xenbus::{BackStep, State, back_step};

use super::engine::Backend;
use super::keys;
use crate::device::BlockDevice;
use crate::host::{Events, GrantMapper, StoreClient, StoreWatch};

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

struct Session<'a, H: GrantMapper + Events, D: BlockDevice<H::Page>, S: StoreClient> {
    backend: &'a mut Backend<H, D>,
    store: &'a S,
    place: &'a Place,
    /// The state that was written last.
    own: State,
    complaints: u32,
}

/// Serves one device until it is removed or its guest is gone.
///
/// The toolstack makes both directories before and deletes them after; while this runs it writes at most `online` in the
/// back end's. A device that never completes a request keeps the service from ending, since the guest's pages cannot be
/// given back before.
pub async fn serve<H, D, S>(backend: &mut Backend<H, D>, store: &S, place: &Place) -> Ended
where
    H: GrantMapper + Events,
    D: BlockDevice<H::Page>,
    S: StoreClient,
{
    let mut session = Session { backend, store, place, own: State::Initialising, complaints: 0 };
    let ended = match session.run().await {
        Ok(ended) => ended,
        Err(errno) => Ended::Store(errno),
    };
    session.let_go().await;
    ended
}

impl<H, D, S> Session<'_, H, D, S>
where
    H: GrantMapper + Events,
    D: BlockDevice<H::Page>,
    S: StoreClient,
{
    async fn run(&mut self) -> Result<Ended, Errno> {
        let mut front = self.store.watch(&format!("{}/{STATE}", self.place.front)).await?;
        let mut online = self.store.watch(&format!("{}/{ONLINE}", self.place.back)).await?;
        self.write(State::InitWait, keys::offer(self.backend.shape())).await?;
        loop {
            let backend = &mut *self.backend;
            let fault = poll_fn(|context| {
                // Both are asked, so that both have the waker.
                let changed =
                    front.poll_changed(context).is_ready() | online.poll_changed(context).is_ready();
                if changed {
                    return Poll::Ready(None);
                }
                backend.poll(context).map(Some)
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
        if self.read(&self.place.back, STATE).await?.is_none() {
            return Ok(Some(Ended::Removed));
        }
        let front = self.read(&self.place.front, STATE).await?;
        let front = front.map_or(State::Unknown, |value| State::parse(&value));
        let online = self.read(&self.place.back, ONLINE).await?;
        let online = online.is_none_or(|value| value.strip_suffix(&[0]).unwrap_or(&value) != b"0");
        match back_step(self.own, front) {
            BackStep::Stay => {}
            BackStep::Offer => {
                self.let_go().await;
                self.write(State::InitWait, alloc::vec::Vec::new()).await?;
            }
            BackStep::Connect => self.connect().await?,
            BackStep::Close => self.write(State::Closing, alloc::vec::Vec::new()).await?,
            BackStep::Release => {
                self.let_go().await;
                self.write(State::Closed, alloc::vec::Vec::new()).await?;
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
                self.write(State::Closed, alloc::vec::Vec::new()).await?;
                Ok(Some(Ended::Removed))
            }
            (State::Connected, _) => {
                self.write(State::Closing, alloc::vec::Vec::new()).await?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn connect(&mut self) -> Result<(), Errno> {
        let plan = match self.front_keys().await? {
            Ok(plan) => plan,
            Err(bad) => return self.fail(&bad).await,
        };
        if let Err(fault) = self.backend.connect(&plan) {
            return self.fail(&fault).await;
        }
        let config = *self.backend.config();
        let properties = keys::properties(self.backend.shape(), config.removable, config.cdrom);
        self.write(State::Connected, properties).await
    }

    async fn front_keys(&self) -> Result<Result<keys::RingPlan, keys::BadKey>, Errno> {
        let mut values = keys::Values::default();
        for key in keys::FRONT {
            if let Some(value) = self.read(&self.place.front, key).await? {
                values.insert(key, value);
            }
        }
        let further = match keys::further(&values) {
            Ok(further) => further,
            Err(bad) => return Ok(Err(bad)),
        };
        for key in &further {
            if let Some(value) = self.read(&self.place.front, key).await? {
                values.insert(key, value);
            }
        }
        Ok(keys::plan(&values))
    }

    /// Closes the device for a reason that the guest gave.
    async fn fail(&mut self, reason: &dyn fmt::Display) -> Result<(), Errno> {
        self.complaints = self.complaints.saturating_add(1);
        if self.complaints <= COMPLAINTS {
            log::warn!(
                "block: domain {}: {}: {reason}; closed",
                self.backend.config().domain,
                self.place.back
            );
        }
        self.let_go().await;
        self.write(State::Closing, alloc::vec::Vec::new()).await
    }

    /// Leaves the ring, and waits until the device has let go of the guest's pages.
    async fn let_go(&mut self) {
        self.backend.disconnect();
        poll_fn(|context| self.backend.poll_idle(context)).await;
    }

    async fn read(&self, directory: &str, key: &str) -> Result<Option<alloc::vec::Vec<u8>>, Errno> {
        match self.store.read(&format!("{directory}/{key}")).await {
            Err(Errno::NoEnt) => Ok(None),
            other => other,
        }
    }

    async fn write(
        &mut self,
        state: State,
        mut values: alloc::vec::Vec<(String, String)>,
    ) -> Result<(), Errno> {
        values.push((STATE.to_string(), state.text().to_string()));
        self.store.write_all(&self.place.back, &values).await?;
        self.own = state;
        Ok(())
    }
}
