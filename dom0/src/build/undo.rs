//! A domain with what has been done for it, so that it can be undone from wherever building or running stopped.

use super::Host;
use crate::config::Nic;
use crate::plan::{self, Plan, PlannedDisk};
use alloc::vec::Vec;
use trunnion_protocol::id::DomainId;

/// A built domain, or the part of it that exists.
#[derive(Debug)]
pub struct Domain {
    /// What was planned.
    pub plan: Plan,
    pub(super) id: Option<DomainId>,
    pub(super) console: bool,
    pub(super) nodes: bool,
    pub(super) introduced: bool,
    pub(super) model: bool,
    /// The disks that have a back end: the plan's, and those attached later.
    pub disks: Vec<PlannedDisk>,
    /// The network ports that have a back end, by number: the plan's, and those attached later.
    pub nics: Vec<(u32, Nic)>,
}

impl Domain {
    pub(super) fn nothing(plan: Plan) -> Self {
        Self {
            plan,
            id: None,
            console: false,
            nodes: false,
            introduced: false,
            model: false,
            disks: Vec::new(),
            nics: Vec::new(),
        }
    }

    /// Its number. A domain that came out of [`build`](super::build) has one.
    pub fn id(&self) -> DomainId {
        self.id.unwrap_or(DomainId::INVALID)
    }

    /// Reads the console to its end and leaves it, while the domain's memory is still there: a dying guest's last bytes are in the ring.
    pub async fn drain<H: Host>(&mut self, host: &H) {
        if let Some(id) = self.id
            && core::mem::take(&mut self.console)
        {
            host.detach_console(id).await;
        }
    }

    /// Undoes everything, last step first: nothing of the domain is left. Failures are logged, and the rest is undone nevertheless.
    pub async fn end<H: Host>(mut self, host: &H) {
        let Some(id) = self.id else { return };
        // A domain that still runs must not see its devices go.
        if let Err(error) = host.pause(id) {
            log::warn!("pausing failed domain={id} error={}", error.name());
        }
        if self.model {
            host.detach_model(id).await;
        }
        for (number, _) in self.nics.iter().rev() {
            host.detach_nic(id, *number).await;
        }
        for disk in self.disks.iter().rev() {
            host.detach_disk(id, disk).await;
        }
        if self.introduced {
            host.release(id).await;
        }
        self.drain(host).await;
        if let Err(error) = host.destroy(id) {
            log::error!("the domain could not be destroyed domain={id} error={}", error.name());
        }
        if self.model {
            host.forget_model(id);
        }
        if self.nodes {
            for path in plan::roots(id, &self.plan.uuid) {
                if let Err(error) = host.remove_node(&path).await {
                    log::error!("store nodes could not be removed path={path} error={}", error.name());
                }
            }
        }
    }
}
