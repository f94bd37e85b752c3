//! `sched_op`.

use trunnion_protocol::hypercall::sched::{Op, POLL_LIMIT, Poll, RemoteShutdown, Shutdown, Watchdog};

use crate::prelude::*;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number(arguments.op()).ok_or(Errno::NoSys)?;
    let (width, at) = (arguments.width, arguments.pointer(1));
    match op {
        Op::Yield if !running.host.cpu_of(running.vcpu).queue.is_contended() => Ok(0),
        Op::Yield => {
            schedule::step_behind(running.host, running.vcpu);
            Err(Stop::Yield(0))
        }
        Op::Block => Err(Stop::Wait(0)),
        Op::Shutdown => {
            let Shutdown { reason } = running.get(width, at)?;
            let reason = ShutdownReason::from_number(reason).ok_or(Errno::Inval)?;
            if reason == ShutdownReason::Crash {
                life::crash(running, reason, format_args!("the guest reports a crash"));
            } else {
                life::end(running.host, running.domain, reason);
            }
            Err(Stop::Yield(0))
        }
        Op::ShutdownCode => {
            let Shutdown { reason } = running.get(width, at)?;
            let reason = ShutdownReason::from_number(reason).ok_or(Errno::Inval)?;
            running.domain.life.lock().noted = Some(reason);
            Ok(0)
        }
        Op::RemoteShutdown => {
            let RemoteShutdown { domain, reason } = running.get(width, at)?;
            let reason = ShutdownReason::from_number(reason).ok_or(Errno::Inval)?;
            if !running.domain.is_privileged() {
                return Err(Errno::Perm.into());
            }
            let domain = target(running, domain)?;
            life::end(running.host, &domain, reason);
            Ok(0)
        }
        Op::Poll => {
            let wanted: Poll = running.get(width, at)?;
            poll(running, wanted)
        }
        Op::Watchdog => {
            let wanted: Watchdog = running.get(width, at)?;
            watchdog(running, wanted)
        }
        Op::PinOverride => Err(Errno::NoSys.into()),
    }
}

/// Waits for one of some ports. The bit of the vCPU is set before the ports are looked at, so that an event in between
/// wakes it.
fn poll<M: Machine>(running: &mut Running<'_, M>, wanted: Poll) -> Reply {
    if wanted.count > POLL_LIMIT {
        return Err(Errno::Inval.into());
    }
    if wanted.count == 0 && wanted.deadline_ns == 0 {
        return Err(Stop::Yield(0));
    }
    let mut ports = [Port(0); POLL_LIMIT as usize];
    for (index, port) in ports.iter_mut().take(wanted.count as usize).enumerate() {
        *port = Port(running.get_plain(Gva(wanted.ports.0.wrapping_add(index as u64 * 4)))?);
    }
    let ports = ports.get(..wanted.count as usize).unwrap_or(&[]);
    let (host, domain, vcpu) = (running.host, running.domain, running.vcpu);
    let polled = if let [port] = ports { port.0 } else { POLL_MANY };
    vcpu.polled.store(polled, Ordering::SeqCst);
    domain.ports.pollers.fetch_or(1 << (vcpu.id.0 % 32), Ordering::SeqCst);
    let mut ready =
        Ok(events::upcall_waits(host, vcpu)
            || local::pending(host, &running.name(), vcpu) != Default::default());
    for &port in ports {
        match events::is_pending(host, domain, port) {
            Some(pending) => ready = ready.map(|ready| ready || pending),
            None => ready = Err(Errno::Inval),
        }
    }
    let passed = wanted.deadline_ns != 0 && running.now() >= HostTime(wanted.deadline_ns);
    if passed || ready != Ok(false) {
        end_poll(running.host, &running.name());
        return Ok(ready.map(|_| 0)?);
    }
    if wanted.deadline_ns != 0 {
        timers::change(host, &running.name(), |timers| timers.poll = Some(HostTime(wanted.deadline_ns)));
    }
    Err(Stop::Wait(0))
}

/// A vCPU that polled goes on.
pub(crate) fn end_poll<M: Machine>(host: &crate::host::Host<M>, at: &VcpuRef<M>) {
    if at.polled.swap(0, Ordering::SeqCst) != 0 {
        at.domain.ports.pollers.fetch_and(!(1 << (at.id.0 % 32)), Ordering::SeqCst);
        timers::change(host, at, |timers| timers.poll = None);
    }
}

fn watchdog<M: Machine>(running: &mut Running<'_, M>, wanted: Watchdog) -> Reply {
    let at = VcpuRef { domain: running.domain.clone(), index: 0 };
    let deadline = (wanted.seconds != 0)
        .then(|| HostTime(running.now().0.saturating_add(u64::from(wanted.seconds) * 1_000_000_000)));
    let mut reply = Err(Errno::Inval);
    timers::change(running.host, &at, |timers| {
        reply = match wanted.id {
            0 => match (deadline, timers.watchdogs.iter_mut().enumerate().find(|(_, slot)| slot.is_none())) {
                (None, _) => Err(Errno::Inval),
                (Some(_), None) => Err(Errno::NoSpc),
                (Some(deadline), Some((index, slot))) => {
                    *slot = Some(deadline);
                    Ok(index as u64 + 1)
                }
            },
            id => match timers.watchdogs.get_mut(id as usize - 1) {
                Some(slot @ Some(_)) => {
                    *slot = deadline;
                    Ok(0)
                }
                _ => Err(Errno::Inval),
            },
        };
    });
    Ok(reply?)
}
