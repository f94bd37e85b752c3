//! Requests and their answers.

use super::{Platform, Toolstack, hypervisor, padded};
use crate::control::reply::{DomainInfo, DomainState, HostInfo};
use crate::control::request::{DomainName, ShutdownKind};
use crate::control::{Code, Failure, Reply, Request, VERSION};
use crate::plan::uuid_text;
use crate::shell;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use trunnion_protocol::control::{self, domain_state};
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::planted::{self, Bug};

impl<P: Platform> Toolstack<P> {
    /// Answers a request. Requests may be answered side by side.
    pub async fn answer(&self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Hello { version: VERSION } => {
                Ok(Reply::Hello { version: VERSION, ready: self.is_ready() })
            }
            Request::Hello { version } => Err(Failure::new(
                Code::Version,
                format!("dom0 speaks version {VERSION} of the control messages, and the tool {version}"),
            )),
            Request::Create { domain, paused } => {
                let built = self.create(domain, paused).await?;
                Ok(Reply::Created { domid: built.id.0, name: built.name, warnings: built.warnings })
            }
            Request::List(which) => self.list(which.as_ref()).map(Reply::Domains),
            Request::Destroy(name) => {
                let id = self.find_guest(&name)?;
                self.destroy(id).await?;
                Ok(Reply::Done)
            }
            Request::Shutdown { domain, kind } => self.shut_down(&domain, kind),
            Request::Pause(name) => {
                let id = self.find_guest(&name)?;
                self.check_alive(id)?;
                self.platform.pause(id).map_err(|errno| hypervisor("pausing", errno))?;
                Ok(Reply::Done)
            }
            Request::Unpause(name) => {
                let id = self.find_guest(&name)?;
                self.let_run(id)?;
                Ok(Reply::Done)
            }
            Request::Info => self.info().map(Reply::Info),
            Request::Dmesg { from } => {
                assert!(!planted::is(Bug::Panic), "a panic that was planted");
                let (text, next) =
                    self.platform.read_log(from).map_err(|errno| hypervisor("reading the log", errno))?;
                Ok(Reply::Dmesg { text, next })
            }
            Request::VcpuList(which) => self.vcpus(which.as_ref()).map(Reply::Vcpus),
            Request::ConsoleAttach { domain, channel, replay, hold } => {
                let id = self.find_console(&domain)?;
                self.platform.attach_channel(id, channel, replay, hold)?;
                Ok(Reply::Done)
            }
            Request::ConsoleDetach { channel } => {
                if self.platform.detach_channel(channel) {
                    Ok(Reply::Done)
                } else {
                    Err(Failure::new(Code::Channel, format!("channel {channel} is not open")))
                }
            }
            Request::Xenstore(request) => self.store_request(&request),
            Request::Summary => Ok(Reply::Summary(self.summary())),
            Request::Shell { line } => shell::run(self, &line).await.map(Reply::Text),
            Request::PowerOff => {
                self.destroy_all().await;
                self.platform.power_off();
                Ok(Reply::Done)
            }
            Request::Device(request) => self.device(&request).await,
            Request::NicList(name) => self.nics(&name).map(Reply::Nics),
            Request::NicAttach { domain, specification } => self.attach_nic(&domain, &specification).await,
            Request::NicDetach { domain, nic } => self.detach_nic(&domain, &nic).await,
            Request::DiskList(name) => self.disks(&name).map(Reply::Disks),
            Request::DiskAttach { domain, specification, source } => {
                self.attach_disk(&domain, &specification, source).await
            }
            Request::DiskDetach { domain, disk, force } => self.detach_disk(&domain, &disk, force).await,
            Request::Rename { domain, name } => self.rename(&domain, &name),
            Request::Sysrq { domain, key } => self.sysrq(&domain, key),
            Request::SetMemory { domain, kib } => self.set_memory(&domain, kib),
            Request::SetVcpus { domain, count } => self.set_vcpus(&domain, count),
            Request::Schedule { domain, weight, cap } => {
                self.schedule(domain.as_ref(), weight, cap).map(Reply::Scheduling)
            }
            Request::DebugKeys(keys) => self.debug_keys(&keys),
            Request::NicCapture { domain, nic, channel } => {
                let id = self.find_guest(&domain)?;
                self.platform.capture_nic(id, nic, channel)?;
                Ok(Reply::Done)
            }
            Request::Press { domain, press } => {
                let id = self.find_guest(&domain)?;
                self.check_alive(id)?;
                self.platform.press(id, &press)?;
                Ok(Reply::Done)
            }
            Request::ChangeDisc { domain, drive, disc } => {
                let id = self.find_guest(&domain)?;
                self.check_alive(id)?;
                self.platform.change_disc(id, &drive, disc.as_ref())?;
                Ok(Reply::Done)
            }
            Request::Screen { domain, view } => self.platform.screen(self.find_guest(&domain)?, view).await,
            Request::Devices => Ok(Reply::Devices(self.platform.devices())),
        }
    }

    fn is_ready(&self) -> bool {
        self.state.borrow().baseline.dom0_ready_ns > 0
    }

    /// Asks a domain to end, in the store; it takes notice or not.
    fn shut_down(&self, name: &DomainName, kind: ShutdownKind) -> Result<Reply, Failure> {
        let id = self.find_guest(name)?;
        self.check_alive(id)?;
        let word = match kind {
            ShutdownKind::Poweroff => "poweroff",
            ShutdownKind::Reboot => "reboot",
        };
        self.tell(id, "control/shutdown", word)
    }

    /// The name of a domain: the hypervisor keeps the one that it began with.
    pub(super) fn name_of(&self, info: &control::DomainInfo) -> String {
        let state = self.state.borrow();
        let entry = state.entries.get(&DomainId(info.domain));
        match entry.map(|entry| state.figures.get(entry.figure).map_or("", |figure| figure.name.as_str())) {
            Some(name) if !name.is_empty() => name.into(),
            _ if info.domain == 0 => "Domain-0".into(),
            _ => padded(&info.name),
        }
    }

    /// The domain whose console a name means; one that has ended too, while its log is kept.
    fn find_console(&self, name: &DomainName) -> Result<DomainId, Failure> {
        self.find(name).or_else(|failure| {
            let state = self.state.borrow();
            let is = |figure: &&crate::control::summary::Domain| match name {
                DomainName::Id(id) => figure.domid == *id,
                DomainName::Name(name) => figure.name == *name,
            };
            state.figures.iter().rev().find(is).map(|figure| DomainId(figure.domid)).ok_or(failure)
        })
    }

    fn list(&self, which: Option<&DomainName>) -> Result<Vec<DomainInfo>, Failure> {
        let only = which.map(|name| self.find(name)).transpose()?;
        let all = self.domains()?;
        let now = self.platform.now_ns();
        let described = |info: &control::DomainInfo| DomainInfo {
            name: self.name_of(info),
            up_ns: if info.first_run_ns == 0 { 0 } else { now.saturating_sub(info.first_run_ns) },
            ..described(info)
        };
        Ok(all.iter().filter(|info| only.is_none_or(|id| id.0 == info.domain)).map(described).collect())
    }

    fn info(&self) -> Result<HostInfo, Failure> {
        let host =
            self.platform.host_info().map_err(|errno| hypervisor("asking for the host's facts", errno))?;
        let mut hardware = String::from(match host.features & 3 {
            1 => "vmx",
            2 => "svm",
            _ => "unknown",
        });
        if host.features & 4 != 0 {
            hardware.push_str(" invariant-tsc");
        }
        Ok(HostInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            hardware,
            cpus: host.cpus,
            tsc_khz: host.tsc_khz,
            memory_bytes: host.memory_bytes,
            free_bytes: host.free_bytes,
            hypervisor_bytes: host.hypervisor_bytes,
            dom0_bytes: host.dom0_bytes,
            uptime_ns: self.platform.now_ns(),
        })
    }
}

/// What the hypervisor knows of a domain.
fn described(info: &control::DomainInfo) -> DomainInfo {
    let has = |bit| info.state & bit != 0;
    let state = if has(domain_state::DYING) {
        DomainState::Dying
    } else if has(domain_state::SHUTDOWN) {
        let crashed = info.shutdown_reason == ShutdownReason::Crash.number();
        if crashed { DomainState::Crashed } else { DomainState::Shutdown }
    } else if has(domain_state::PAUSED) {
        DomainState::Paused
    } else if has(domain_state::RUNNABLE) {
        DomainState::Running
    } else {
        DomainState::Blocked
    };
    DomainInfo {
        domid: info.domain,
        name: String::new(),
        uuid: uuid_text(&info.uuid),
        memory_bytes: info.pages * 4096,
        vcpus: info.online_vcpus,
        state,
        cpu_ns: info.cpu_ns,
        up_ns: 0,
    }
}
