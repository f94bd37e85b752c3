//! dom0's control calls ([`trunnion_protocol::control`]).
//!
//! Each works on a structure of dom0's, which is copied once; what has an answer writes it back.

mod domains;
mod foreign;
mod look;
mod model;

use crate::audit::{self, Position};
use crate::authority::Control;
use crate::prelude::*;

/// Bytes of the log in one call.
const LOG_CHUNK: usize = 4096;

/// The authority is asked for here, once for all.
#[expect(clippy::redundant_closure_for_method_calls, reason = "a path names one lifetime, not any")]
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
        Operation::HostInfo => running.answer(at, |running, call| running.host_info(call)),
        Operation::CreateDomain => running.answer(at, |running, call| running.create_domain(call)),
        Operation::DestroyDomain => running.order(at, |running, call| running.destroy_domain(call)),
        Operation::DomainInfo => running.answer(at, |running, call| running.domain_info(call)),
        Operation::Pause => running.order(at, |running, call| running.pause_domain(call)),
        Operation::Unpause => running.order(at, |running, call| running.unpause_domain(call)),
        Operation::SetVcpuState => running.order(at, |running, call| running.set_vcpu_state(call)),
        Operation::MapForeign => running.order(at, |running, call| running.map_foreign(call, arguments)),
        Operation::UnmapForeign => running.order(at, |running, call| running.unmap_foreign(call, arguments)),
        Operation::SeedGrant => running.order(at, |running, call| running.seed_grant(call)),
        Operation::MapPirq => running.answer(at, |running, call| running.map_pirq(call)),
        Operation::UnmapPirq => running.order(at, |running, call: &PirqRef| {
            Ok(running.host.pirqs.lock().unmap(Pirq(call.pirq), running.domain.id)?)
        }),
        Operation::UnmaskPirq => running.order(at, |running, call: &PirqRef| {
            let host = running.host;
            Ok(host.pirqs.lock().unmask(&host.machine, Pirq(call.pirq), running.domain.id)?)
        }),
        Operation::Counters => running.answer(at, |running, call| running.domain_counters(call)),
        Operation::ReadLog => running.answer(at, |running, call| running.read_log(call)),
        Operation::CrashReport => running.answer(at, |running, call| running.crash_report(call)),
        Operation::SetScheduling => running.order(at, |running, call| running.set_scheduling(call)),
        Operation::Charge => running.order(at, |running, call: &Charge| {
            let domain = running.find(call.domain)?;
            schedule::charge(&domain, call.ns.min(Charge::MOST));
            Ok(())
        }),
        Operation::Audit => running.audit(at, arguments),
        Operation::SetModel => running.order(at, |running, call| running.set_model(call)),
        Operation::ModelAnswer => running.order(at, |running, call| running.model_answer(call)),
        Operation::ModelSignal => running.order(at, |running, call| running.model_signal(call)),
        Operation::VcpuInfo => running.answer(at, |running, call| running.vcpu_info(call)),
        Operation::DebugKey => running.order(at, |running, call| running.debug_key(call)),
        Operation::PowerOff => {
            running.order(at, |running, call: &PowerOff| running.host.machine.power_off(call.status == 0))
        }
    }
}

impl<M: Machine> Running<'_, M> {
    /// A call without an answer.
    fn order<T: FromBytes + IntoBytes>(
        &mut self,
        at: Gva,
        work: impl FnOnce(&mut Running<'_, M>, &T) -> Result<(), Stop>,
    ) -> Reply {
        let call = self.get_plain(at)?;
        work(self, &call).map(|()| 0)
    }

    /// A call that fills its structure in.
    fn answer<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        at: Gva,
        work: impl FnOnce(&mut Running<'_, M>, &mut T) -> Result<(), Errno>,
    ) -> Reply {
        let mut call = self.get_plain(at)?;
        work(self, &mut call)?;
        self.put_plain(at, &call)?;
        Ok(0)
    }

    /// A domain by number, also one that is being destroyed.
    fn find(&self, id: u16) -> Result<Arc<Domain<M>>, Errno> {
        self.host.domain(DomainId(id)).ok_or(Errno::Srch)
    }

    fn host_info(&mut self, info: &mut HostInfo) -> Result<(), Errno> {
        let host = self.host;
        let vendor = match host.machine.opcode() {
            Opcode::Vmcall => 1,
            Opcode::Vmmcall => 2,
        };
        *info = HostInfo {
            revision: REVISION,
            cpus: host.machine.cpus(),
            memory_bytes: host.memory_bytes,
            free_bytes: host.frames.free_frames() << 12,
            hypervisor_bytes: host.hypervisor_bytes,
            dom0_bytes: host.dom0_bytes.load(Ordering::Relaxed),
            ready_ns: host.ready.load(Ordering::Relaxed),
            tsc_khz: host.machine.tsc_khz(),
            features: vendor | u64::from(host.machine.tsc_is_stable()) << 2,
        };
        Ok(())
    }

    fn read_log(&mut self, text: &mut ReadText) -> Result<(), Errno> {
        let mut bytes = [0; LOG_CHUNK];
        let room = usize::try_from(text.length).unwrap_or(usize::MAX).min(LOG_CHUNK);
        let (start, count) = self.host.journal.read(text.position, bytes.get_mut(..room).unwrap_or(&mut []));
        self.write(Gva(text.buffer), bytes.get(..count).unwrap_or(&[]))?;
        text.position = start + count as u64;
        text.length = count as u64;
        Ok(())
    }

    fn map_pirq(&mut self, wanted: &mut MapPirq) -> Result<(), Errno> {
        let (host, id) = (self.host, self.domain.id);
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
    fn audit(&mut self, at: Gva, arguments: &mut Arguments) -> Reply {
        let [_, _, part, first, second] = &mut arguments.values;
        let (position, mut found) = match *part {
            0 => (Position::Frames(0), Audit::default()),
            1 => (Position::Frames(*first), self.get_plain(at)?),
            _ => (Position::Map(*first as u16, *second), self.get_plain(at)?),
        };
        let next = audit::step(self.host, position, &mut found);
        self.put_plain(at, &found)?;
        (*part, *first, *second) = match next {
            None => return Ok(0),
            Some(Position::Frames(frame)) => (1, frame, 0),
            Some(Position::Map(domain, gfn)) => (2, u64::from(domain), gfn),
        };
        Err(Stop::Again)
    }
}
