//! `event_channel_op`.

use trunnion_protocol::hypercall::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq, Op, PortArgument, Reset, Status,
};

use crate::prelude::*;

/// Ports that one exit closes.
const RESET_BUDGET: usize = 128;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    let (width, at) = (arguments.width, arguments.pointer(1));
    match op {
        Op::Send => {
            let PortArgument { port } = running.get(width, at)?;
            events::send(running, port)?;
        }
        Op::BindInterdomain => {
            let mut bind: BindInterdomain = running.get(width, at)?;
            let id = if bind.remote == DomainId::SELF { running.domain.id } else { bind.remote };
            let remote = running.host.domain(id).ok_or(Errno::Srch)?;
            bind.local_port = running.domain.bind_interdomain(running.host, &remote, bind.remote_port)?;
            running.put(width, at, &bind)?;
        }
        Op::BindVirq => {
            let mut bind: BindVirq = running.get(width, at)?;
            bind.port = running.domain.bind_virq(running.host, bind.virq, bind.vcpu)?;
            running.put(width, at, &bind)?;
        }
        Op::BindPirq => {
            let mut bind: BindPirq = running.get(width, at)?;
            bind.port = running.domain.bind_pirq(running.host, bind.pirq)?;
            running.put(width, at, &bind)?;
        }
        Op::Close => {
            let PortArgument { port } = running.get(width, at)?;
            running.domain.close_port(running.host, port)?;
        }
        Op::Status => {
            let status: Status = running.get(width, at)?;
            let domain = target(running, status.domain)?;
            let status = domain.port_status(status)?;
            running.put(width, at, &status)?;
        }
        Op::AllocUnbound => {
            let mut new: AllocUnbound = running.get(width, at)?;
            let domain = target(running, new.domain)?;
            let remote = if new.remote == DomainId::SELF { running.domain.id } else { new.remote };
            new.port = domain.alloc_unbound(running.host, remote)?;
            running.put(width, at, &new)?;
        }
        Op::BindIpi => {
            let mut bind: BindIpi = running.get(width, at)?;
            bind.port = running.domain.bind_ipi(running.host, bind.vcpu)?;
            running.put(width, at, &bind)?;
        }
        Op::BindVcpu => {
            let BindVcpu { port, vcpu: VcpuId(vcpu) } = running.get(width, at)?;
            running.domain.bind_vcpu(port, VcpuId(vcpu))?;
        }
        Op::Unmask => {
            let PortArgument { port } = running.get(width, at)?;
            events::unmask(running.host, running.domain, port)?;
        }
        Op::Reset => {
            let Reset { domain } = running.get(width, at)?;
            let domain = target(running, domain)?;
            if !domain.reset_ports(running.host, RESET_BUDGET) {
                return Err(Stop::Again);
            }
        }
        // Without the FIFO form guests use the two-level one.
        Op::InitControl | Op::ExpandArray | Op::SetPriority => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}
