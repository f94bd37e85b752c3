//! Looks at what there is: one vCPU for the toolstack, and the debug keys, which write to the log for people.

use crate::events::Channel;
use crate::prelude::*;

/// Ports of a domain that a debug key lists at most.
const PORTS: usize = 64;

impl<M: Machine> Running<'_, M> {
    pub(super) fn vcpu_info(&mut self, info: &mut VcpuInfo) -> Result<(), Errno> {
        let domain = self.find(info.domain)?;
        let vcpu = domain.vcpu(VcpuId(info.vcpu)).ok_or(Errno::NoEnt)?;
        *info = VcpuInfo {
            activity: vcpu.state.activity().number(),
            cpu: vcpu.state.cpu().0,
            cpu_ns: vcpu.tally.ran.get(),
            weight: domain.weight.load(Ordering::Relaxed),
            cap: domain.cap.load(Ordering::Relaxed),
            ..*info
        };
        Ok(())
    }

    pub(super) fn debug_key(&mut self, call: &DebugKey) -> Result<(), Stop> {
        let host = self.host;
        let show: fn(&Host<M>, &Domain<M>) = match u8::try_from(call.key).unwrap_or_default() {
            b'h' => keys,
            b'e' => ports,
            b'g' => grants,
            b'm' => memory,
            b'q' => vcpus,
            _ => return Err(Errno::Inval.into()),
        };
        show(host, &*self.find(call.domain)?);
        Ok(())
    }
}

fn keys<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let lines = ["e: event channels", "g: grants", "h: this", "m: memory", "q: domains and vCPUs"];
    for line in lines.iter().filter(|_| domain.id == DomainId::DOM0) {
        host.say(format_args!("key {line}"));
    }
}

fn vcpus<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let (weight, cap) = (domain.weight.load(Ordering::Relaxed), domain.cap.load(Ordering::Relaxed));
    let stopped = domain.stopped.load(Ordering::Relaxed);
    host.say(format_args!(
        "domain={} name={} weight={weight} cap={cap} stopped={stopped:#x}",
        domain.id,
        domain.name()
    ));
    for vcpu in &domain.vcpus {
        host.say(format_args!(
            "domain={} vcpu={} activity={:?} cpu={} ran={} attention={} polls={}",
            domain.id,
            vcpu.id,
            vcpu.state.activity(),
            vcpu.state.cpu().0,
            vcpu.tally.ran.get(),
            vcpu.attention.load(Ordering::Relaxed),
            vcpu.polled.load(Ordering::Relaxed)
        ));
    }
}

fn ports<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let (id, end) = (domain.id, domain.ports.end());
    host.say(format_args!("domain={id} ports={} end={end}", domain.ports.in_use()));
    let used = (1..end).map(|port| (port, domain.ports.get(Port(port))));
    for (port, (channel, vcpu)) in used.filter(|(_, (channel, _))| *channel != Channel::Free).take(PORTS) {
        host.say(format_args!("domain={id} port={port} vcpu={vcpu} {channel:?}"));
    }
}

fn grants<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let maps = domain.grants.mappings.lock().used();
    let table = domain.grants.table.lock();
    let (frames, limit, uses) = (table.frames(), table.limit(), table.pins());
    drop(table);
    host.say(format_args!(
        "domain={} grants: frames={frames} limit={limit} used={uses} mapped={maps}",
        domain.id
    ));
}

fn memory<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let highest = domain.memory.lock().highest.0;
    let (id, pages) = (domain.id, host.frames.owned(domain.id));
    host.say(format_args!("domain={id} pages={pages} limit={} highest={highest:#x}", domain.max_pages));
    if domain.id == DomainId::DOM0 {
        let (free, all) = (host.frames.free_frames(), host.frames.end_frame().0);
        host.say(format_args!("frames free={free} all={all}"));
    }
}
