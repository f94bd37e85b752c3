//! `vcpu_op`, `set_timer_op`, `vm_assist`.

use trunnion_protocol::hypercall::misc::{Assist, AssistOp};
use trunnion_protocol::hypercall::vcpu::{
    AreaVirtual, HvmContext32, HvmContext64, MODE_32, MODE_64, Op, PeriodicTimer, RegisterVcpuInfo,
    SINGLESHOT_FUTURE, SingleshotTimer,
};
use trunnion_protocol::shared_info::VCPU_INFO_SIZE;

use crate::prelude::*;

/// Shortest period of a periodic timer.
const SHORTEST_PERIOD_NS: u64 = 1_000_000;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    let (width, at) = (arguments.width, arguments.pointer(2));
    let id = VcpuId(u32::try_from(arguments.get(1)).map_err(|_| Errno::NoEnt)?);
    let (host, domain) = (running.host, running.domain);
    let vcpu = domain.vcpu(id).ok_or(Errno::NoEnt)?;
    let name = VcpuRef { domain: domain.clone(), index: id.0 };
    let own = id == running.vcpu.id;
    match op {
        Op::IsUp => return Ok(u64::from(vcpu.state.is_up())),
        Op::Up if !vcpu.started.load(Ordering::Acquire) => return Err(Errno::Inval.into()),
        Op::Up => drop(schedule::start(host, &name)),
        Op::Down => {
            vcpu.going_down.store(true, Ordering::Release);
            if own {
                life::last_one_out(host, domain, id);
                return Err(Stop::Wait(0));
            }
            schedule::stop(host, &name);
            life::last_one_out(host, domain, id);
        }
        Op::Initialise => return initialise(running, &name, arguments),
        Op::RegisterVcpuInfo => {
            let place: RegisterVcpuInfo = running.get(width, at)?;
            let offset = place.offset as usize;
            if offset > PAGE_SIZE - VCPU_INFO_SIZE || !offset.is_multiple_of(8) {
                return Err(Errno::Inval.into());
            }
            if vcpu.info_registered.swap(true, Ordering::AcqRel) {
                return Err(Errno::Busy.into());
            }
            let Some(held) = memory::writable(host, domain, place.gfn) else {
                vcpu.info_registered.store(false, Ordering::Release);
                return Err(Errno::Inval.into());
            };
            events::place_info(host, domain, vcpu, held.into_raw(), offset);
            time::update(host, &name);
        }
        Op::GetRunstateInfo => {
            let state = time::run_state_now(host, vcpu);
            running.put(width, at, &state)?;
        }
        Op::RegisterRunstateMemoryArea | Op::RegisterVcpuTimeMemoryArea => {
            let area: AreaVirtual = running.get(width, at)?;
            let time = op == Op::RegisterVcpuTimeMemoryArea;
            running.register_area(&name, area.address, width, time)?;
        }
        Op::SetSingleshotTimer | Op::StopSingleshotTimer if !own => return Err(Errno::Inval.into()),
        Op::SetSingleshotTimer => {
            let timer: SingleshotTimer = running.get(width, at)?;
            if timer.flags & SINGLESHOT_FUTURE != 0 && timer.deadline_ns < running.now().0 {
                return Err(Errno::Time.into());
            }
            timers::change(host, &name, |timers| timers.singleshot = Some(HostTime(timer.deadline_ns)));
        }
        Op::StopSingleshotTimer => timers::change(host, &name, |timers| timers.singleshot = None),
        Op::SetPeriodicTimer => {
            let PeriodicTimer { period_ns } = running.get(width, at)?;
            if period_ns < SHORTEST_PERIOD_NS {
                return Err(Errno::Inval.into());
            }
            let next = HostTime(running.now().0.saturating_add(period_ns));
            timers::change(host, &name, |timers| timers.periodic = Some((next, period_ns)));
        }
        Op::StopPeriodicTimer => timers::change(host, &name, |timers| timers.periodic = None),
        Op::SendNmi => local::post_nmi(host, &name, vcpu),
        Op::GetPhysid => return Err(Errno::Inval.into()),
        Op::RegisterRunstatePhysArea | Op::RegisterVcpuTimePhysArea => return Err(Errno::NoSys.into()),
    }
    Ok(0)
}

fn initialise<M: Machine>(running: &mut Running<'_, M>, name: &VcpuRef<M>, arguments: &Arguments) -> Reply {
    let at = arguments.pointer(2);
    let state = match running.get_plain(at)? {
        MODE_32 => running.get::<HvmContext32>(arguments.width, at)?.state()?,
        MODE_64 => running.get::<HvmContext64>(arguments.width, at)?.state()?,
        _ => return Err(Errno::Inval.into()),
    };
    start::load(running.host, name, &state, false)?;
    Ok(0)
}

/// `set_timer_op`: one deadline, 0 cancels it. In the 32-bit convention it comes in two halves.
pub(super) fn set_timer<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let deadline = match arguments.width {
        Width::W64 => arguments.get(0),
        Width::W32 => arguments.get(0) | arguments.get(1) << 32,
    };
    let name = running.name();
    timers::change(running.host, &name, |timers| {
        timers.singleshot = (deadline != 0).then_some(HostTime(deadline));
    });
    Ok(0)
}

/// `vm_assist`.
pub(super) fn assist<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = AssistOp::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    match Assist::from_number(arguments.get(1) as u32) {
        Some(Assist::RunstateUpdateFlag) => {
            running.domain.runstate_flag.store(op == AssistOp::Enable, Ordering::Relaxed);
            Ok(0)
        }
        None => Err(Errno::Inval.into()),
    }
}
