//! `hvm_op`.

use trunnion_protocol::hypercall::hvm::{
    Callback, FIRST_UPCALL_VECTOR, GetMemType, MemType, Op, ParamArgument, UpcallVector,
};

use crate::prelude::*;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    let (width, at) = (arguments.width, arguments.pointer(1));
    match op {
        Op::SetParam => {
            let argument: ParamArgument = running.get(width, at)?;
            set_param(running, argument, width)
        }
        Op::GetParam => {
            let mut argument: ParamArgument = running.get(width, at)?;
            let domain = target(running, argument.domain)?;
            let param = Param::from_number(argument.index).ok_or(Errno::Inval)?;
            if !running.domain.is_privileged() && !param.guest_may_read() {
                return Err(Errno::Perm.into());
            }
            argument.value =
                domain.params.get(argument.index as usize).ok_or(Errno::Inval)?.load(Ordering::Acquire);
            running.put(width, at, &argument)?;
            Ok(0)
        }
        Op::GetTime => {
            let now = running.now().0;
            running.write(at, &now.to_le_bytes())?;
            Ok(0)
        }
        Op::GetMemType => {
            let mut question: GetMemType = running.get(width, at)?;
            let domain = target(running, question.domain)?;
            let leaf = domain.memory.lock().tables.lookup(&running.host.machine, question.gfn);
            let kind = match leaf {
                Some(leaf) if leaf.kind == Kind::Device => MemType::Mmio,
                Some(leaf) if leaf.rights.contains(Rights::WRITE) => MemType::Ram,
                Some(_) => MemType::RamReadOnly,
                None => MemType::Mmio,
            };
            question.kind = kind.number();
            running.put(width, at, &question)?;
            Ok(0)
        }
        Op::SetEvtchnUpcallVector => {
            let UpcallVector { vcpu, vector } = running.get(width, at)?;
            if vector < FIRST_UPCALL_VECTOR {
                return Err(Errno::Inval.into());
            }
            let vcpu = running.domain.vcpu(vcpu).ok_or(Errno::NoEnt)?;
            vcpu.upcall_vector.store(u32::from(vector), Ordering::Release);
            if events::upcall_waits(running.host, vcpu) {
                events::deliver_upcall(running.host, running.domain, vcpu);
            }
            Ok(0)
        }
        Op::FlushTlbs => {
            running.domain.epoch.fetch_add(1, Ordering::SeqCst);
            Ok(0)
        }
        // Only shadow paging needs to know.
        Op::PagetableDying => Err(Errno::Inval.into()),
        Op::GuestRequestVmEvent | Op::Altp2m => Err(Errno::NoSys.into()),
    }
}

fn set_param<M: Machine>(running: &mut Running<'_, M>, argument: ParamArgument, width: Width) -> Reply {
    let own = argument.domain == DomainId::SELF || argument.domain == running.domain.id;
    let domain = target(running, argument.domain)?;
    let param = Param::from_number(argument.index).ok_or(Errno::Inval)?;
    if !running.domain.is_privileged() && !param.guest_may_write() {
        return Err(Errno::Perm.into());
    }
    let slot = domain.params.get(argument.index as usize).ok_or(Errno::Inval)?;
    if param == Param::CallbackIrq {
        let callback = Callback::decode(argument.value).ok_or(Errno::Inval)?;
        let vector = match callback {
            Callback::Vector(vector) if vector < FIRST_UPCALL_VECTOR => return Err(Errno::Inval.into()),
            Callback::Vector(vector) => vector,
            // There is no interrupt controller besides the local ones.
            Callback::Off | Callback::Gsi(_) | Callback::Pci { .. } => 0,
        };
        domain.callback.store(u32::from(vector), Ordering::Release);
        if own {
            latch_width(running.host, &domain, width);
        }
    }
    slot.store(argument.value, Ordering::Release);
    Ok(0)
}

/// Notes the form that a domain uses for its shared info page.
pub fn latch_width<M: Machine>(host: &Host<M>, domain: &Domain<M>, width: Width) {
    if domain.width() != width {
        domain.narrow.store(width == Width::W32, Ordering::Release);
        time::write_wall_clock(host, domain);
    }
}
