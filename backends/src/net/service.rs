//! The handshake around a port, from the offer to the end.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::netif::back_step;
use trunnion_protocol::netif::keys::{CARRIER, ONLINE, STATE};
use trunnion_protocol::xenbus::{BackStep, State};

use super::keys;
use super::vif::Vif;
pub use crate::block::{Ended, Place};
use crate::host::{NetHost, StoreClient, StoreWatch};

/// Lines that one guest can cause in the log for one device.
const COMPLAINTS: u32 = 8;

struct Session<'a, H: NetHost, S: StoreClient> {
    vif: &'a Rc<Vif<H>>,
    store: &'a S,
    place: &'a Place,
    /// The state that was written last.
    own: State,
    complaints: u32,
}

/// Serves one port until it is removed or its guest is gone.
///
/// The toolstack makes both directories before and deletes them after; while this runs it writes at most `online` in the
/// back end's. When it returns nothing of the guest is held.
pub async fn serve<H, S>(vif: &Rc<Vif<H>>, store: &S, place: &Place) -> Ended
where
    H: NetHost + 'static,
    S: StoreClient,
{
    let mut session = Session { vif, store, place, own: State::Initialising, complaints: 0 };
    let ended = match session.run().await {
        Ok(ended) => ended,
        Err(errno) => Ended::Store(errno),
    };
    vif.disconnect();
    ended
}

impl<H: NetHost + 'static, S: StoreClient> Session<'_, H, S> {
    async fn run(&mut self) -> Result<Ended, Errno> {
        let mut front = self.store.watch(&format!("{}/{STATE}", self.place.front)).await?;
        let mut online = self.store.watch(&format!("{}/{ONLINE}", self.place.back)).await?;
        self.write(State::InitWait, keys::offer(self.vif.config().queues)).await?;
        loop {
            let vif = self.vif;
            let fault = poll_fn(|context| {
                // Both are asked, so that both have the waker.
                let changed =
                    front.poll_changed(context).is_ready() | online.poll_changed(context).is_ready();
                if changed {
                    return Poll::Ready(None);
                }
                vif.poll(context).map(Some)
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
                self.vif.disconnect();
                // A front end that starts again waits for each state in turn.
                if self.own == State::Connected {
                    self.step(State::Closing).await?;
                }
                if self.own == State::Closing {
                    self.step(State::Closed).await?;
                }
                self.step(State::InitWait).await?;
            }
            BackStep::Connect => self.connect().await?,
            BackStep::Close => {
                self.vif.disconnect();
                self.step(State::Closing).await?;
            }
            BackStep::Release => {
                self.vif.disconnect();
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
        let plan = match self.front_keys().await? {
            Ok(plan) => plan,
            Err(bad) => return self.fail(&bad).await,
        };
        if let Err(fault) = self.vif.connect(&plan) {
            return self.fail(&fault).await;
        }
        self.write(State::Connected, [(CARRIER.to_string(), "1".to_string())].into()).await
    }

    async fn front_keys(&self) -> Result<Result<keys::LinkPlan, keys::BadKey>, Errno> {
        let most = self.vif.config().queues;
        let mut values = keys::Values::default();
        for key in keys::FRONT {
            self.note(key, &mut values).await?;
        }
        let queues = match keys::queues(&values, most) {
            Ok(queues) => queues,
            Err(bad) => return Ok(Err(bad)),
        };
        for prefix in queues {
            for key in keys::OF_QUEUE {
                self.note(&format!("{prefix}{key}"), &mut values).await?;
            }
        }
        Ok(keys::plan(&values, most))
    }

    async fn note(&self, key: &str, values: &mut keys::Values) -> Result<(), Errno> {
        if let Some(value) = self.read(&self.place.front, key).await? {
            values.insert(key, value);
        }
        Ok(())
    }

    /// Closes the device for a reason that the guest gave.
    async fn fail(&mut self, reason: &dyn fmt::Display) -> Result<(), Errno> {
        self.complaints = self.complaints.saturating_add(1);
        if self.complaints <= COMPLAINTS {
            log::warn!("net: domain {}: {}: {reason}; closed", self.vif.config().domain, self.place.back);
        }
        self.vif.disconnect();
        self.step(State::Closing).await
    }

    async fn read(&self, directory: &str, key: &str) -> Result<Option<Vec<u8>>, Errno> {
        match self.store.read(&format!("{directory}/{key}")).await {
            Err(Errno::NoEnt) => Ok(None),
            other => other,
        }
    }

    async fn step(&mut self, state: State) -> Result<(), Errno> {
        self.write(state, Vec::new()).await
    }

    async fn write(&mut self, state: State, mut values: Vec<(String, String)>) -> Result<(), Errno> {
        values.push((STATE.to_string(), state.text().to_string()));
        self.store.write_all(&self.place.back, &values).await?;
        self.own = state;
        Ok(())
    }
}
