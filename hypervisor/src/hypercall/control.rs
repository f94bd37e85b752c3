//! dom0's control calls ([`trunnion_protocol::control`]).
//!
//! Each works on a structure of dom0's, which is copied once; what has an answer writes it back.

mod domains;
mod foreign;

use trunnion_protocol::control::{
    Audit, FOREIGN_MAX, HostInfo, MapPirq, Operation, PirqRef, PowerOff, REVISION, ReadText,
};
use trunnion_protocol::hypercall::page::Opcode;
use trunnion_protocol::id::Pirq;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Arguments, Reply, Stop};
use crate::audit::{self, Position};
use crate::authority::Control;
use crate::prelude::*;

/// Bytes of the log in one call.
const LOG_CHUNK: usize = 4096;

/// The authority is asked for here, once for all.
pub(super) fn call<M: Machine>(
    _: &Control,
    running: &mut Running<'_, M>,
    arguments: &mut Arguments,
) -> Reply {
    if arguments.width != Width::W64 || arguments.get(2) > u64::from(FOREIGN_MAX) {
        return Err(Errno::Inval.into());
    }
    let at = arguments.pointer(1);
    match Operation::from_number(arguments.get(0)).ok_or(Errno::NoSys)? {
        Operation::HostInfo => answer(running, at, host_info),
        Operation::CreateDomain => answer(running, at, domains::create),
        Operation::DestroyDomain => order(running, at, domains::destroy),
        Operation::DomainInfo => answer(running, at, domains::info),
        Operation::Pause => order(running, at, domains::pause),
        Operation::Unpause => order(running, at, domains::unpause),
        Operation::SetVcpuState => order(running, at, domains::set_vcpu_state),
        Operation::MapForeign => order(running, at, |running, call| foreign::map(running, call, arguments)),
        Operation::UnmapForeign => {
            order(running, at, |running, call| foreign::unmap(running, call, arguments))
        }
        Operation::SeedGrant => order(running, at, foreign::seed_grant),
        Operation::MapPirq => answer(running, at, map_pirq),
        Operation::UnmapPirq => order(running, at, |running, call: &PirqRef| {
            Ok(running.host.pirqs.lock().unmap(Pirq(call.pirq), running.domain.id)?)
        }),
        Operation::UnmaskPirq => order(running, at, |running, call: &PirqRef| {
            let host = running.host;
            Ok(host.pirqs.lock().unmask(&host.machine, Pirq(call.pirq), running.domain.id)?)
        }),
        Operation::Counters => answer(running, at, domains::counters),
        Operation::ReadLog => answer(running, at, read_log),
        Operation::CrashReport => answer(running, at, domains::crash_report),
        Operation::SetScheduling => order(running, at, domains::set_scheduling),
        Operation::Audit => audit(running, at, arguments),
        Operation::PowerOff => {
            order(running, at, |running, call: &PowerOff| running.host.machine.power_off(call.status == 0))
        }
    }
}

/// A call without an answer.
fn order<M: Machine, T: FromBytes + IntoBytes>(
    running: &mut Running<'_, M>,
    at: Gva,
    work: impl FnOnce(&mut Running<'_, M>, &T) -> Result<(), Stop>,
) -> Reply {
    let call = running.get_plain(at)?;
    work(running, &call).map(|()| 0)
}

/// A call that fills its structure in.
fn answer<M: Machine, T: FromBytes + IntoBytes + Immutable>(
    running: &mut Running<'_, M>,
    at: Gva,
    work: impl FnOnce(&mut Running<'_, M>, &mut T) -> Result<(), Errno>,
) -> Reply {
    let mut call = running.get_plain(at)?;
    work(running, &mut call)?;
    running.put_plain(at, &call)?;
    Ok(0)
}

/// A domain by number, also one that is being destroyed.
fn find<M: Machine>(running: &Running<'_, M>, id: u16) -> Result<Arc<Domain<M>>, Errno> {
    running.host.domain(DomainId(id)).ok_or(Errno::Srch)
}

fn host_info<M: Machine>(running: &mut Running<'_, M>, info: &mut HostInfo) -> Result<(), Errno> {
    let host = running.host;
    let vendor = match host.machine.opcode() {
        Opcode::Vmcall => 1,
        Opcode::Vmmcall => 2,
    };
    *info = HostInfo {
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
    Ok(())
}

fn read_log<M: Machine>(running: &mut Running<'_, M>, text: &mut ReadText) -> Result<(), Errno> {
    let mut bytes = [0; LOG_CHUNK];
    let room = usize::try_from(text.length).unwrap_or(usize::MAX).min(LOG_CHUNK);
    let (start, count) = running.host.journal.read(text.position, bytes.get_mut(..room).unwrap_or(&mut []));
    running.write(Gva(text.buffer), bytes.get(..count).unwrap_or(&[]))?;
    text.position = start + count as u64;
    text.length = count as u64;
    Ok(())
}

fn map_pirq<M: Machine>(running: &mut Running<'_, M>, wanted: &mut MapPirq) -> Result<(), Errno> {
    let (host, id) = (running.host, running.domain.id);
    let mut pirqs = host.pirqs.lock();
    match wanted.kind {
        0 => {
            let (pirq, message) = pirqs.map_message(&host.machine, id)?;
            (wanted.pirq, wanted.address, wanted.data) = (pirq.0, message.address, message.data);
        }
        1 => wanted.pirq = pirqs.map_line(&host.machine, id, wanted.line)?.0,
        _ => return Err(Errno::Inval),
    }
    Ok(())
}

/// The walk goes on in arguments 3 to 5 (which part, and where), and adds to the structure as it goes.
fn audit<M: Machine>(running: &mut Running<'_, M>, at: Gva, arguments: &mut Arguments) -> Reply {
    let [_, _, part, first, second] = &mut arguments.values;
    let (position, mut found) = match *part {
        0 => (Position::Frames(0), Audit::default()),
        1 => (Position::Frames(*first), running.get_plain(at)?),
        _ => (Position::Map(*first as u16, *second), running.get_plain(at)?),
    };
    let next = audit::step(running.host, position, &mut found);
    running.put_plain(at, &found)?;
    (*part, *first, *second) = match next {
        None => return Ok(0),
        Some(Position::Frames(frame)) => (1, frame, 0),
        Some(Position::Map(domain, gfn)) => (2, u64::from(domain), gfn),
    };
    Err(Stop::Again)
}
