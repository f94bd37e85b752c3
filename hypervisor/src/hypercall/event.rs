//! `event_channel_op`.

use trunnion_protocol::hypercall::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindVcpu, BindVirq, Op, PortArgument, Reset, Status,
};

use super::{Arguments, Reply, Stop, target};
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
            bind.local_port =
                events::bind_interdomain(running.host, running.domain, &remote, bind.remote_port)?;
            running.put(width, at, &bind)?;
        }
        Op::BindVirq => {
            let mut bind: BindVirq = running.get(width, at)?;
            bind.port = events::bind_virq(running.host, running.domain, bind.virq, bind.vcpu)?;
            running.put(width, at, &bind)?;
        }
        Op::BindPirq => {
            let mut bind: BindPirq = running.get(width, at)?;
            bind.port = events::bind_pirq(running.host, running.domain, bind.pirq)?;
            running.put(width, at, &bind)?;
        }
        Op::Close => {
            let PortArgument { port } = running.get(width, at)?;
            events::close(running.host, running.domain, port)?;
        }
        Op::Status => {
            let status: Status = running.get(width, at)?;
            let domain = target(running, status.domain)?;
            let status = events::status(&domain, status)?;
            running.put(width, at, &status)?;
        }
        Op::AllocUnbound => {
            let mut new: AllocUnbound = running.get(width, at)?;
            let domain = target(running, new.domain)?;
            let remote = if new.remote == DomainId::SELF { running.domain.id } else { new.remote };
            new.port = events::alloc_unbound(running.host, &domain, remote)?;
            running.put(width, at, &new)?;
        }
        Op::BindIpi => {
            let mut bind: BindIpi = running.get(width, at)?;
            bind.port = events::bind_ipi(running.host, running.domain, bind.vcpu)?;
            running.put(width, at, &bind)?;
        }
        Op::BindVcpu => {
            let BindVcpu { port, vcpu: VcpuId(vcpu) } = running.get(width, at)?;
            events::bind_vcpu(running.domain, port, VcpuId(vcpu))?;
        }
        Op::Unmask => {
            let PortArgument { port } = running.get(width, at)?;
            events::unmask(running.host, running.domain, port)?;
        }
        Op::Reset => {
            let Reset { domain } = running.get(width, at)?;
            let domain = target(running, domain)?;
            if !events::reset(running.host, &domain, RESET_BUDGET) {
                return Err(Stop::Again);
            }
        }
        // Without the FIFO form guests use the two-level one.
        Op::InitControl | Op::ExpandArray | Op::SetPriority => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}
