//! What the block back end does in the handshake.

use alloc::string::{String, ToString};
use core::future::poll_fn;
use core::task::{Context, Poll};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::{BackStep, State, back_step};

use super::engine::{Backend, Fault};
use super::keys;
use crate::device::BlockDevice;
use crate::handshake::{self, Device, Front, Written};
pub use crate::handshake::{Ended, Place};
use crate::host::{BlockHost, StoreClient};

/// Serves one device until it is removed or its guest is gone.
///
/// The toolstack makes both directories before and deletes them after; while this runs it writes at most `online` in the
/// back end's. A device that never completes a request keeps the service from ending, since the guest's pages cannot be
/// given back before.
pub async fn serve<H, D, S>(backend: &mut Backend<H, D>, store: &S, place: &Place) -> Ended
where
    H: BlockHost,
    D: BlockDevice<H::Page>,
    S: StoreClient,
{
    handshake::serve(backend, store, place).await
}

impl<H, D, S> Device<S> for Backend<H, D>
where
    H: BlockHost,
    D: BlockDevice<H::Page>,
    S: StoreClient,
{
    type Fault = Fault;
    const CLASS: &'static str = "block";
    const LEAVES_EARLY: bool = false;
    const STEPWISE: bool = false;

    fn domain(&self) -> DomainId {
        self.config().domain
    }

    fn offer(&self) -> Written {
        keys::offer(self.shape(), self.keeps())
    }

    fn rule(own: State, front: State) -> BackStep {
        back_step(own, front)
    }

    async fn connect(&mut self, front: &Front<'_, S>) -> Result<Result<Written, String>, Errno> {
        let mut values = keys::Values::default();
        front.note(keys::FRONT, &mut values).await?;
        let further = match keys::further(&values) {
            Ok(further) => further,
            Err(bad) => return Ok(Err(bad.to_string())),
        };
        front.note(&further, &mut values).await?;
        let plan = match keys::plan(&values) {
            Ok(plan) => plan,
            Err(bad) => return Ok(Err(bad.to_string())),
        };
        let connected = Self::connect(self, &plan).map_err(|fault| fault.to_string());
        let config = *self.config();
        Ok(connected.map(|()| keys::properties(self.shape(), config.removable, config.cdrom)))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Fault> {
        Self::poll(self, context)
    }

    /// Leaves the ring, and waits until the device has let go of the guest's pages.
    async fn let_go(&mut self) {
        self.disconnect();
        poll_fn(|context| self.poll_idle(context)).await;
    }
}
