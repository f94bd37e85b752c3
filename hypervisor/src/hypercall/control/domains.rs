//! Domains: create, look at, pause, destroy.

use core::sync::atomic::Ordering;

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::{
    CountersCall, CreateDomain, DomainCounters, DomainInfo, DomainRef, MaxMemory, ReadText, Scheduling,
    VcpuStateCall, domain_state,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::{DomainId, VcpuId};

use super::find;
use crate::authority::Control;
use crate::create::{self, Wanted};
use crate::domain::stop;
use crate::hypercall::{Reply, Stop};
use crate::life;
use crate::schedule::Activity;
use crate::seam::{Context, HostTime, Machine};
use crate::start;
use crate::vcpu::{Running, VcpuRef};

pub(super) fn create<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut wanted: CreateDomain = running.get_plain(at)?;
    let domain = create::create(
        running.host,
        &Wanted {
            id: (wanted.domain != 0).then_some(DomainId(wanted.domain)),
            vcpus: wanted.vcpus,
            max_pages: wanted.max_pages,
            uuid: wanted.uuid,
            name: wanted.name,
            privileged: false,
        },
    )?;
    wanted.domain = domain.id.0;
    running.put_plain(at, &wanted)?;
    Ok(0)
}

pub(super) fn destroy<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let DomainRef { domain, .. } = running.get_plain(at)?;
    let domain = find(running, domain)?;
    if life::destroy_step(running.host, &domain)? { Ok(0) } else { Err(Stop::Again) }
}

pub(super) fn info<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let wanted: DomainInfo = running.get_plain(at)?;
    let host = running.host;
    life::reap(host);
    let domain = host.domain_from(DomainId(wanted.domain)).ok_or(Errno::NoEnt)?;
    let stopped = domain.stopped.load(Ordering::Acquire);
    let ready =
        domain.vcpus.iter().any(|vcpu| matches!(vcpu.state.activity(), Activity::Ready | Activity::Running));
    let life = domain.life.lock();
    let mut state = 0;
    for (bit, set) in [
        (domain_state::RUNNABLE, ready),
        (domain_state::PAUSED, life.pauses > 0),
        (domain_state::SHUTDOWN, life.reason.is_some()),
        (domain_state::DYING, stopped & stop::DYING != 0),
    ] {
        state |= if set { bit } else { 0 };
    }
    let ns = |time: Option<HostTime>| time.map_or(0, |time| time.0.max(1));
    let info = DomainInfo {
        domain: domain.id.0,
        state,
        shutdown_reason: life.reason.map_or(0, ShutdownReason::number),
        vcpus: domain.vcpus.len() as u32,
        online_vcpus: domain.vcpus.iter().filter(|vcpu| vcpu.state.is_up()).count() as u32,
        pages: u64::from(host.frames.owned(domain.id)),
        max_pages: domain.max_pages.load(Ordering::Relaxed),
        cpu_ns: domain.vcpus.iter().map(|vcpu| vcpu.tally.ran.get()).sum(),
        first_run_ns: ns(life.first_run),
        ended_ns: ns(life.ended),
        uuid: domain.uuid,
        name: domain.name,
    };
    drop(life);
    running.put_plain(at, &info)?;
    Ok(0)
}

pub(super) fn pause<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let DomainRef { domain, .. } = running.get_plain(at)?;
    let domain = find(running, domain)?;
    if domain.is_privileged() {
        return Err(Errno::Inval.into());
    }
    life::pause(running.host, &domain)?;
    Ok(0)
}

pub(super) fn unpause<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let DomainRef { domain, .. } = running.get_plain(at)?;
    let domain = find(running, domain)?;
    life::unpause(running.host, &domain)?;
    Ok(0)
}

pub(super) fn set_vcpu_state<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let call: VcpuStateCall = running.get_plain(at)?;
    let domain = find(running, call.domain)?;
    domain.vcpu(VcpuId(call.vcpu)).ok_or(Errno::NoEnt)?;
    let name = VcpuRef { domain, index: call.vcpu };
    start::load(running.host, &name, &call.state, true)?;
    Ok(0)
}

pub(super) fn get_vcpu_state<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut call: VcpuStateCall = running.get_plain(at)?;
    let domain = find(running, call.domain)?;
    let vcpu = domain.vcpu(VcpuId(call.vcpu)).ok_or(Errno::NoEnt)?;
    if domain.may_run() {
        return Err(Errno::Busy.into());
    }
    {
        let body = vcpu.body.lock();
        call.state = body.as_ref().ok_or(Errno::Busy)?.context.save();
    }
    running.put_plain(at, &call)?;
    Ok(0)
}

pub(super) fn counters<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut call: CountersCall = running.get_plain(at)?;
    let domain = find(running, call.domain)?;
    call.counters = DomainCounters::default();
    for vcpu in &domain.vcpus {
        vcpu.tally.add_to(&mut call.counters);
    }
    running.put_plain(at, &call)?;
    Ok(0)
}

pub(super) fn crash_report<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut text: ReadText = running.get_plain(at)?;
    let id = u16::try_from(text.position).map_err(|_| Errno::Srch)?;
    let domain = find(running, id)?;
    let mut bytes = [0; crate::report::REPORT_BYTES];
    let count = {
        let life = domain.life.lock();
        let report = life.report.bytes();
        for (to, from) in bytes.iter_mut().zip(report) {
            *to = *from;
        }
        report.len()
    };
    let count = count.min(usize::try_from(text.length).unwrap_or(usize::MAX)).min(bytes.len());
    running.write(Gva(text.buffer), bytes.get(..count).unwrap_or(&[]))?;
    text.length = count as u64;
    running.put_plain(at, &text)?;
    Ok(0)
}

pub(super) fn set_scheduling<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let wanted: Scheduling = running.get_plain(at)?;
    let domain = find(running, wanted.domain)?;
    if wanted.weight == 0 || wanted.weight > 65535 || wanted.cap > 100 {
        return Err(Errno::Inval.into());
    }
    domain.weight.store(wanted.weight, Ordering::Relaxed);
    domain.cap.store(wanted.cap, Ordering::Relaxed);
    Ok(0)
}

pub(super) fn set_max_memory<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let MaxMemory { domain, max_pages, .. } = running.get_plain(at)?;
    let domain = find(running, domain)?;
    domain.max_pages.store(max_pages, Ordering::Relaxed);
    Ok(0)
}
