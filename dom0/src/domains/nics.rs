//! Network ports that come and go while their domain runs.

use super::{Platform, Toolstack};
use crate::config::{self, Nic};
use crate::control::reply::NicInfo;
use crate::control::request::DomainName;
use crate::control::{Code, Failure, Reply};
use crate::plan::{backend_nic, frontend_nic, network};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;

/// Most ports of a domain.
const MOST: u32 = 16;

impl<P: Platform> Toolstack<P> {
    /// The ports of a domain.
    pub(super) fn nics(&self, name: &DomainName) -> Result<Vec<NicInfo>, Failure> {
        let id = self.find(name)?;
        Ok(self.platform.nics(id))
    }

    /// Acts on the list of a living domain's ports.
    fn with_nics<R>(&self, id: DomainId, act: impl FnOnce(&mut Vec<(u32, Nic)>) -> R) -> Result<R, Failure> {
        let mut state = self.state.borrow_mut();
        let domain = state.entries.get_mut(&id).and_then(|entry| entry.domain.as_mut());
        domain.map(|domain| act(&mut domain.nics)).ok_or_else(gone)
    }

    /// Gives a running domain a port.
    pub(super) async fn attach_nic(&self, name: &DomainName, text: &str) -> Result<Reply, Failure> {
        let id = self.find_guest(name)?;
        self.check_alive(id)?;
        let taken: Vec<u32> = self.with_nics(id, |nics| nics.iter().map(|(number, _)| *number).collect())?;
        let number = (0..MOST)
            .find(|number| !taken.contains(number))
            .ok_or_else(|| Failure::new(Code::Limit, format!("a domain has at most {MOST} network ports")))?;
        let called = self.state.borrow().entries.get(&id).map(|entry| String::from(entry.name()));
        let nic = config::nic(text, &called.unwrap_or_default(), number as usize).map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            Failure::new(Code::Configuration, lines.join("\n"))
        })?;
        // Taken before anything is waited for: the next request may come meanwhile.
        self.with_nics(id, |nics| nics.push((number, nic.clone())))?;
        let attached = match self.platform.write_nodes(id, &network(id, number, &nic)).await {
            Ok(()) => self.platform.attach_nic(id, number, &nic).await,
            Err(errno) => Err(errno),
        };
        if let Err(errno) = attached {
            let _ = self.with_nics(id, |nics| nics.retain(|(known, _)| *known != number));
            let _ = self.remove_nodes(id, number).await;
            return Err(store(errno));
        }
        // A domain that ended meanwhile may have done so before there was anything to let go of.
        if self.with_nics(id, |_| ()).is_err() {
            self.platform.detach_nic(id, number).await;
            let _ = self.remove_nodes(id, number).await;
            return Err(gone());
        }
        Ok(Reply::Nics(self.platform.nics(id).into_iter().filter(|nic| nic.number == number).collect()))
    }

    /// Takes a port away.
    pub(super) async fn detach_nic(&self, name: &DomainName, which: &str) -> Result<Reply, Failure> {
        let id = self.find_guest(name)?;
        self.check_alive(id)?;
        let number = self.with_nics(id, |nics| {
            let is =
                |(number, nic): &&(u32, Nic)| number.to_string() == which || nic.mac.to_string() == which;
            nics.iter().find(is).map(|(number, _)| *number)
        })?;
        let number = number
            .ok_or_else(|| Failure::new(Code::State, format!("domain {id} has no network port `{which}`")))?;
        self.platform.release_nic(id, number).await;
        // The domain may have ended meanwhile, and its ports with it.
        if self.with_nics(id, |nics| nics.retain(|(known, _)| *known != number)).is_err() {
            return Ok(Reply::Done);
        }
        self.platform.detach_nic(id, number).await;
        self.remove_nodes(id, number).await.map_err(store)?;
        Ok(Reply::Done)
    }

    async fn remove_nodes(&self, id: DomainId, number: u32) -> Result<(), Errno> {
        let back = self.platform.remove_node(&backend_nic(id, number)).await;
        self.platform.remove_node(&frontend_nic(id, number)).await.and(back)
    }
}

fn gone() -> Failure {
    Failure::new(Code::State, "the domain is ending")
}

fn store(errno: Errno) -> Failure {
    Failure::new(Code::Store, format!("{}: the network port", errno.name()))
}
