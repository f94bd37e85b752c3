//! What the network back end does in the handshake.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::task::{Context, Poll};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::netif::back_step;
use trunnion_protocol::netif::keys::CARRIER;
use trunnion_protocol::xenbus::{BackStep, State};

use super::keys;
use super::vif::{Fault, Vif};
use crate::handshake::{self, Device, Front, Written};
pub use crate::handshake::{Ended, Place};
use crate::host::{NetHost, StoreClient};

/// Serves one port until it is removed or its guest is gone.
///
/// The toolstack makes both directories before and deletes them after; while this runs it writes at most `online` in the
/// back end's. When it returns nothing of the guest is held.
pub async fn serve<H, S>(vif: &Rc<Vif<H>>, store: &S, place: &Place) -> Ended
where
    H: NetHost + 'static,
    S: StoreClient,
{
    handshake::serve(&mut Rc::clone(vif), store, place).await
}

impl<H: NetHost + 'static, S: StoreClient> Device<S> for Rc<Vif<H>> {
    type Fault = Fault;
    const CLASS: &'static str = "net";
    const LEAVES_EARLY: bool = true;
    const STEPWISE: bool = true;

    fn domain(&self) -> DomainId {
        self.config().domain
    }

    fn offer(&self) -> Written {
        keys::offer(self.config().queues)
    }

    fn rule(own: State, front: State) -> BackStep {
        back_step(own, front)
    }

    async fn connect(&mut self, front: &Front<'_, S>) -> Result<Result<Written, String>, Errno> {
        let most = self.config().queues;
        let mut values = keys::Values::default();
        front.note(keys::FRONT, &mut values).await?;
        let queues = match keys::queues(&values, most) {
            Ok(queues) => queues,
            Err(bad) => return Ok(Err(bad.to_string())),
        };
        for prefix in queues {
            front.note(keys::OF_QUEUE.map(|key| format!("{prefix}{key}")), &mut values).await?;
        }
        let plan = match keys::plan(&values, most) {
            Ok(plan) => plan,
            Err(bad) => return Ok(Err(bad.to_string())),
        };
        let connected = Vif::connect(self, &plan).map_err(|fault| fault.to_string());
        Ok(connected.map(|()| [(CARRIER.to_string(), "1".to_string())].into()))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Fault> {
        Vif::poll(self, context)
    }

    async fn let_go(&mut self) {
        self.disconnect();
    }
}
