//! Physical interrupts for dom0.

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::{MapPirq, PirqRef};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::Pirq;

use crate::authority::Control;
use crate::hypercall::Reply;
use crate::seam::Machine;
use crate::vcpu::Running;

pub(super) fn map<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut wanted: MapPirq = running.get_plain(at)?;
    let (host, id) = (running.host, running.domain.id);
    match wanted.kind {
        0 => {
            let (pirq, message) = host.pirqs.lock().map_message(&host.machine, id)?;
            wanted.pirq = pirq.0;
            wanted.address = message.address;
            wanted.data = message.data;
        }
        1 => wanted.pirq = host.pirqs.lock().map_line(&host.machine, id, wanted.line)?.0,
        _ => return Err(Errno::Inval.into()),
    }
    running.put_plain(at, &wanted)?;
    Ok(0)
}

pub(super) fn unmap<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let PirqRef { pirq, .. } = running.get_plain(at)?;
    running.host.pirqs.lock().unmap(Pirq(pirq), running.domain.id)?;
    Ok(0)
}

pub(super) fn unmask<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let PirqRef { pirq, .. } = running.get_plain(at)?;
    let host = running.host;
    host.pirqs.lock().unmask(&host.machine, Pirq(pirq), running.domain.id)?;
    Ok(0)
}
