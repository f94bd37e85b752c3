//! dom0's control calls ([`trunnion_protocol::control`]).

mod domains;
mod foreign;
mod host;
mod interrupts;

use trunnion_protocol::control::{FOREIGN_MAX, Operation};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::Width;

use alloc::sync::Arc;

use super::{Arguments, Reply};
use crate::authority::Control;
use crate::domain::Domain;
use crate::seam::Machine;
use crate::vcpu::Running;

pub(super) fn call<M: Machine>(
    control: &Control,
    running: &mut Running<'_, M>,
    arguments: &mut Arguments,
) -> Reply {
    if arguments.width != Width::W64 {
        return Err(Errno::Inval.into());
    }
    let operation = Operation::from_number(arguments.get(0)).ok_or(Errno::NoSys)?;
    if arguments.get(2) > u64::from(FOREIGN_MAX) {
        return Err(Errno::Inval.into());
    }
    let at = arguments.pointer(1);
    match operation {
        Operation::HostInfo => host::info(control, running, at),
        Operation::CreateDomain => domains::create(control, running, at),
        Operation::DestroyDomain => domains::destroy(control, running, at),
        Operation::DomainInfo => domains::info(control, running, at),
        Operation::Pause => domains::pause(control, running, at),
        Operation::Unpause => domains::unpause(control, running, at),
        Operation::SetVcpuState => domains::set_vcpu_state(control, running, at),
        Operation::GetVcpuState => domains::get_vcpu_state(control, running, at),
        Operation::MapForeign => foreign::map(control, running, at, arguments),
        Operation::UnmapForeign => foreign::unmap(control, running, at, arguments),
        Operation::SeedGrant => foreign::seed_grant(control, running, at),
        Operation::MapPirq => interrupts::map(control, running, at),
        Operation::UnmapPirq => interrupts::unmap(control, running, at),
        Operation::UnmaskPirq => interrupts::unmask(control, running, at),
        Operation::Counters => domains::counters(control, running, at),
        Operation::ReadLog => host::read_log(control, running, at),
        Operation::CrashReport => domains::crash_report(control, running, at),
        Operation::SetScheduling => domains::set_scheduling(control, running, at),
        Operation::Audit => host::audit(control, running, at, arguments),
        Operation::PowerOff => host::power_off(control, running, at),
        Operation::SetMaxMemory => domains::set_max_memory(control, running, at),
    }
}

/// A domain by number, also one that is being destroyed.
fn find<M: Machine>(running: &Running<'_, M>, id: u16) -> Result<Arc<Domain<M>>, Errno> {
    running.host.domain(DomainId(id)).ok_or(Errno::Srch)
}
