//! What is changed of a living domain besides its devices, and what is seen of its vCPUs.

use super::{Platform, State, Toolstack, hypervisor};
use crate::config::wrong_name;
use crate::control::reply::{SchedulingInfo, VcpuInfo};
use crate::control::request::DomainName;
use crate::control::{Code, Event, Failure, Reply};
use crate::plan::{Plan, uuid_text};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::control::{self, activity};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, VcpuId};
use trunnion_protocol::store::Kind;

impl<P: Platform> Toolstack<P> {
    /// Writes a node of a domain's own folder.
    pub(super) fn tell(&self, id: DomainId, node: &str, value: &str) -> Result<Reply, Failure> {
        self.write_node(&format!("/local/domain/{id}/{node}"), value)
    }

    fn write_node(&self, path: &str, value: &str) -> Result<Reply, Failure> {
        let written = self.platform.store(Kind::Write, format!("{path}\0{value}").as_bytes());
        written.map_err(|errno| Failure::new(Code::Store, format!("{}: {path}", errno.name())))?;
        Ok(Reply::Done)
    }

    /// Acts on the plan of a living domain.
    fn with_plan<R>(&self, id: DomainId, act: impl FnOnce(&mut Plan) -> R) -> Result<R, Failure> {
        self.check_alive(id)?;
        let mut state = self.state.borrow_mut();
        let domain = state.entries.get_mut(&id).and_then(|entry| entry.domain.as_mut());
        domain
            .map(|domain| act(&mut domain.plan))
            .ok_or_else(|| Failure::new(Code::State, "the domain is ending"))
    }

    /// Gives a domain another name. The hypervisor keeps the first in its own messages.
    pub(super) fn rename(&self, domain: &DomainName, name: &str) -> Result<Reply, Failure> {
        let id = self.find_guest(domain)?;
        if let Some(wrong) = wrong_name(name) {
            return Err(Failure::new(
                Code::Configuration,
                format!("`{name}` cannot be a domain's name: {wrong}"),
            ));
        }
        let (before, uuid) = self.with_plan(id, |plan| (plan.name.clone(), plan.uuid))?;
        if before == name {
            return Ok(Reply::Done);
        }
        self.check_free(name)?;
        self.tell(id, "name", name)?;
        self.write_node(&format!("/vm/{}/name", uuid_text(&uuid)), name)?;
        self.with_plan(id, |plan| plan.name = name.into())?;
        {
            let State { entries, figures, .. } = &mut *self.state.borrow_mut();
            if let Some(entry) = entries.get(&id) {
                *entry.wish.renamed.borrow_mut() = Some(name.into());
                if let Some(figure) = figures.get_mut(entry.figure) {
                    figure.name = name.into();
                }
            }
        }
        log::info!("a domain has another name domain={id} before={before} name={name}");
        self.platform.event(Event::DomainRenamed { domid: id.0, before, name: name.into() });
        Ok(Reply::Done)
    }

    /// Presses a key of the guest's system request.
    pub(super) fn sysrq(&self, domain: &DomainName, key: char) -> Result<Reply, Failure> {
        let id = self.find_guest(domain)?;
        self.check_alive(id)?;
        if !key.is_ascii_graphic() {
            return Err(Failure::new(
                Code::Configuration,
                "a key is one character of ASCII; Linux lists its own at `h`",
            ));
        }
        self.tell(id, "control/sysrq", &key.to_string())
    }

    /// Tells a guest's balloon driver how much memory it is to have.
    pub(super) fn set_memory(&self, domain: &DomainName, kib: u64) -> Result<Reply, Failure> {
        let id = self.find_guest(domain)?;
        let most = self.with_plan(id, |plan| plan.ram_pages * 4)?;
        if kib == 0 || kib > most {
            return Err(Failure::new(
                Code::Configuration,
                format!(
                    "domain {id} can have 1 KiB to {} MiB, the `memory` that it began with, and not {kib} KiB",
                    most >> 10
                ),
            ));
        }
        self.tell(id, "memory/target", &kib.to_string())
    }

    /// Tells a guest which of its vCPUs to use.
    pub(super) fn set_vcpus(&self, domain: &DomainName, count: u32) -> Result<Reply, Failure> {
        let id = self.find_guest(domain)?;
        let (most, emulated) = self.with_plan(id, |plan| (plan.max_vcpus, plan.pc.is_some()))?;
        if emulated {
            return Err(Failure::new(
                Code::Unsupported,
                format!("domain {id} is an emulated PC, which keeps the processors that it began with"),
            ));
        }
        if count == 0 || count > most {
            return Err(Failure::new(
                Code::Configuration,
                format!("domain {id} can have 1 to {most} vCPUs (`maxvcpus`), and not {count}"),
            ));
        }
        for vcpu in 0..most {
            let state = if vcpu < count { "online" } else { "offline" };
            self.tell(id, &format!("cpu/{vcpu}/availability"), state)?;
        }
        Ok(Reply::Done)
    }

    /// Weight and cap of a domain or of all, after those that are given are set.
    pub(super) fn schedule(
        &self,
        domain: Option<&DomainName>,
        weight: Option<u32>,
        cap: Option<u32>,
    ) -> Result<Vec<SchedulingInfo>, Failure> {
        let only = domain.map(|name| self.find(name)).transpose()?;
        if weight.is_some() || cap.is_some() {
            let Some(id) = only else {
                return Err(Failure::new(
                    Code::Configuration,
                    "weight and cap are set for one domain: name it",
                ));
            };
            if weight.is_some_and(|weight| !(1..=65535).contains(&weight)) {
                return Err(Failure::new(Code::Configuration, "a weight is 1 to 65535; 256 is usual"));
            }
            if cap.is_some_and(|cap| cap > 100) {
                return Err(Failure::new(
                    Code::Configuration,
                    "a cap is 0, for none, to 100 per cent of a processor",
                ));
            }
            if id == DomainId::DOM0 && cap.is_some_and(|cap| cap != 0) {
                return Err(Failure::new(Code::Unsupported, "dom0 serves all others, and has no cap"));
            }
            let now = self.vcpu(id, 0)?;
            self.platform
                .set_scheduling(id, weight.unwrap_or(now.weight), cap.unwrap_or(now.cap))
                .map_err(|errno| hypervisor("setting weight and cap", errno))?;
        }
        let mut found = Vec::new();
        for info in self.domains()?.iter().filter(|info| only.is_none_or(|id| id.0 == info.domain)) {
            let vcpu = self.vcpu(DomainId(info.domain), 0)?;
            let (weight, cap) = (vcpu.weight, vcpu.cap);
            found.push(SchedulingInfo { domid: info.domain, name: self.name_of(info), weight, cap });
        }
        Ok(found)
    }

    fn vcpu(&self, id: DomainId, vcpu: u32) -> Result<control::VcpuInfo, Failure> {
        let found = self.platform.vcpu(id, VcpuId(vcpu));
        found.map_err(|errno| hypervisor("looking at a vCPU", errno))
    }

    /// The vCPUs of a domain, or of all.
    pub(super) fn vcpus(&self, domain: Option<&DomainName>) -> Result<Vec<VcpuInfo>, Failure> {
        let only = domain.map(|name| self.find(name)).transpose()?;
        let mut found = Vec::new();
        for info in self.domains()?.iter().filter(|info| only.is_none_or(|id| id.0 == info.domain)) {
            for number in 0..info.vcpus {
                let vcpu = self.vcpu(DomainId(info.domain), number)?;
                let state = match vcpu.activity {
                    activity::DOWN => "offline",
                    activity::BLOCKED => "blocked",
                    activity::READY => "runnable",
                    activity::RUNNING => "running",
                    _ => "paused",
                };
                found.push(VcpuInfo {
                    domid: info.domain,
                    name: self.name_of(info),
                    vcpu: number,
                    cpu: (vcpu.activity != activity::DOWN).then_some(vcpu.cpu),
                    state: String::from(state),
                    cpu_ns: vcpu.cpu_ns,
                });
            }
        }
        Ok(found)
    }

    /// Has the hypervisor write to its log.
    pub(super) fn debug_keys(&self, keys: &str) -> Result<Reply, Failure> {
        let domains = self.domains()?;
        // A domain at a time, so that the hypervisor never works long for one call.
        for (key, info) in keys.chars().flat_map(|key| domains.iter().map(move |info| (key, info))) {
            self.platform.debug_key(key, DomainId(info.domain)).map_err(|errno| match errno {
                Errno::Inval => Failure::new(
                    Code::Configuration,
                    format!("there is no debug key `{key}`; `h` writes those that there are to the log, which `dmesg` shows"),
                ),
                errno => hypervisor("a debug key", errno),
            })?;
        }
        Ok(Reply::Done)
    }
}
