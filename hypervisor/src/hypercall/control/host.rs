//! The host: what it is, its log, the audit, the end.

use core::sync::atomic::Ordering;

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::{Audit, HostInfo, PowerOff, REVISION, ReadText};

use crate::audit::Position;
use crate::authority::Control;
use crate::hypercall::{Arguments, Reply, Stop};
use crate::seam::Machine;
use crate::vcpu::Running;

/// Bytes of the log in one call.
const LOG_CHUNK: usize = 4096;

pub(super) fn info<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let host = running.host;
    let vendor = match host.machine.opcode() {
        trunnion_protocol::hypercall::page::Opcode::Vmcall => 1,
        trunnion_protocol::hypercall::page::Opcode::Vmmcall => 2,
    };
    let info = HostInfo {
        revision: REVISION,
        cpus: host.machine.cpus(),
        memory_bytes: host.facts.memory_bytes,
        free_bytes: host.frames.free_frames() << 12,
        hypervisor_bytes: host.facts.hypervisor_bytes,
        dom0_bytes: host.dom0_bytes.load(Ordering::Relaxed),
        ready_ns: host.ready.load(Ordering::Relaxed),
        tsc_khz: host.machine.tsc_khz(),
        features: vendor | u64::from(host.machine.tsc_is_stable()) << 2,
    };
    running.put_plain(at, &info)?;
    Ok(0)
}

pub(super) fn read_log<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let mut text: ReadText = running.get_plain(at)?;
    let mut bytes = [0; LOG_CHUNK];
    let room = usize::try_from(text.length).unwrap_or(usize::MAX).min(LOG_CHUNK);
    let (start, count) = running.host.journal.read(text.position, bytes.get_mut(..room).unwrap_or(&mut []));
    running.write(Gva(text.buffer), bytes.get(..count).unwrap_or(&[]))?;
    text.position = start + count as u64;
    text.length = count as u64;
    running.put_plain(at, &text)?;
    Ok(0)
}

/// The walk goes on in arguments 3 to 5 (which part, and where), and adds to the structure as it goes.
pub(super) fn audit<M: Machine>(
    _: &Control,
    running: &mut Running<'_, M>,
    at: Gva,
    arguments: &mut Arguments,
) -> Reply {
    let [_, _, part, first, second] = &mut arguments.values;
    let (position, mut audit) = match *part {
        0 => (Position::Frames(0), Audit::default()),
        1 => (Position::Frames(*first), running.get_plain(at)?),
        _ => (Position::Map(*first as u16, *second), running.get_plain(at)?),
    };
    let next = crate::audit::step(running.host, position, &mut audit);
    running.put_plain(at, &audit)?;
    (*part, *first, *second) = match next {
        None => return Ok(0),
        Some(Position::Frames(frame)) => (1, frame, 0),
        Some(Position::Map(domain, gfn)) => (2, u64::from(domain), gfn),
    };
    Err(Stop::Again)
}

pub(super) fn power_off<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let PowerOff { status, .. } = running.get_plain(at)?;
    running.host.machine.power_off(status == 0)
}
