//! Setting a port pending, and the upcall.

use trunnion_protocol::event::Posted;
use trunnion_protocol::shared_info::vcpu::{UPCALL, UPCALL_PENDING, UPCALL_PENDING_BYTE};

use super::channel::Channel;
use crate::prelude::*;

/// `EVTCHNOP_send`.
pub fn send<M: Machine>(running: &Running<'_, M>, port: Port) -> Result<(), Errno> {
    running.vcpu.tally.sent.add(1);
    let (channel, vcpu) = running.domain.ports.get(port);
    match channel {
        Channel::Interdomain(remote, remote_port) => {
            notify(running.host, running.domain, port, remote, remote_port);
            Ok(())
        }
        Channel::Ipi => {
            set_pending(running.host, running.domain, port, vcpu);
            Ok(())
        }
        Channel::Unbound(_) => Ok(()),
        _ => Err(Errno::Inval),
    }
}

/// Sends from a port of a domain to its peer. Does nothing when the peer has gone or no longer names the sender.
pub fn notify<M: Machine>(host: &Host<M>, from: &Arc<Domain<M>>, port: Port, to: DomainId, remote: Port) {
    let found;
    let domain = if to == from.id {
        from
    } else {
        match host.domain(to) {
            Some(domain) => {
                found = domain;
                &found
            }
            None => return,
        }
    };
    let (channel, vcpu) = domain.ports.get(remote);
    if channel == Channel::Interdomain(from.id, port) {
        set_pending(host, domain, remote, vcpu);
    }
}

/// Raises a virtual interrupt of one vCPU or of its domain.
pub fn raise_virq<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, vcpu: &Vcpu<M>, virq: Virq) {
    if let Some(port) = vcpu.virq(virq) {
        let (_, vcpu) = domain.ports.get(port);
        set_pending(host, domain, port, vcpu);
    }
}

/// Raises a virtual interrupt of the host for the domain that has bound it.
pub fn raise_global<M: Machine>(host: &Host<M>, virq: Virq) {
    debug_assert_eq!(virq.scope(), Some(VirqScope::Global));
    if let Some(owner) = host.virq_owner(virq)
        && let Some(domain) = host.domain(owner)
        && let Some(vcpu) = domain.vcpus.first()
    {
        raise_virq(host, &domain, vcpu, virq);
    }
}

/// The word that says whether a port is pending, and its bit there.
fn pending<'h, M: Machine>(host: &'h Host<M>, of: &Domain<M>, port: Port) -> Option<(&'h AtomicU32, u32)> {
    let place = event::place(port, of.width())?;
    Some((host.machine.page(of.shared_info)?.word_at(place.pending)?, place.bit))
}

/// Makes a port pending for the vCPU that receives it.
pub(crate) fn set_pending<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, port: Port, target: VcpuId) {
    // Each width with its own constants.
    let place = match domain.width() {
        Width::W64 => event::place(port, Width::W64),
        Width::W32 => event::place(port, Width::W32),
    };
    let (Some(place), Some(page), Some(vcpu)) =
        (place, host.machine.page(domain.shared_info), domain.vcpu(target))
    else {
        return;
    };
    match event::post(page, &place, || info(host, vcpu)) {
        Posted::Before => {}
        Posted::Quietly => tell_pollers(host, domain, port),
        Posted::Upcall => upcall(host, domain, vcpu, port),
    }
}

#[inline(never)]
fn upcall<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, vcpu: &Vcpu<M>, port: Port) {
    deliver_upcall(host, domain, vcpu);
    tell_pollers(host, domain, port);
}

fn tell_pollers<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, port: Port) {
    if domain.ports.pollers.load(Ordering::SeqCst) != 0 {
        wake_pollers(host, domain, port);
    }
}

/// The page of a vCPU's info structure, and the offset in it.
fn info<'h, M: Machine>(host: &'h Host<M>, vcpu: &Vcpu<M>) -> Option<(&'h SharedPage, usize)> {
    let (frame, offset) = vcpu.info_place();
    Some((host.machine.page(frame)?, offset))
}

/// Tells a vCPU that its pending flag is set: by its own vector through the local interrupt controller, or by making it
/// look before it goes on.
pub fn deliver_upcall<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, vcpu: &Vcpu<M>) {
    let vector = vcpu.upcall_vector.load(Ordering::Acquire);
    let at = VcpuRef { domain: domain.clone(), index: vcpu.id.0 };
    if vector != 0 {
        local::post(host, &at, vcpu, vector as u8, false);
    }
    if planted::is(Bug::LostWake) {
        return;
    }
    schedule::wake(host, &at);
}

/// Whether a vCPU's pending flag is set.
pub fn upcall_waits<M: Machine>(host: &Host<M>, vcpu: &Vcpu<M>) -> bool {
    info(host, vcpu)
        .and_then(|(page, offset)| page.word_at(offset + UPCALL))
        .is_some_and(|word| word.load(Ordering::Acquire) & UPCALL_PENDING_BYTE != 0)
}

/// Moves a vCPU's info structure: copies the old contents, then makes everything pending, so that no event is lost in
/// between (`VCPUOP_register_vcpu_info`).
pub fn place_info<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, vcpu: &Vcpu<M>, mfn: Mfn, at: usize) {
    use trunnion_protocol::shared_info::VCPU_INFO_SIZE;
    let (old_frame, old_offset) = vcpu.info_place();
    let (Some(old), Some(page)) = (host.machine.page(old_frame), host.machine.page(mfn)) else { return };
    let _ = page.copy_between(at, old, old_offset, VCPU_INFO_SIZE);
    vcpu.info.store(mfn.address().0 | at as u64, Ordering::SeqCst);
    let selector = at + trunnion_protocol::shared_info::vcpu::pending_sel(domain.width());
    let words = domain.width().word() / 4;
    for word in 0..words {
        if let Some(word) = page.word_at(selector + word * 4) {
            word.store(u32::MAX, Ordering::SeqCst);
        }
    }
    if let Some(word) = page.word_at(at + UPCALL) {
        word.fetch_or(UPCALL_PENDING, Ordering::SeqCst);
    }
    deliver_upcall(host, domain, vcpu);
}

#[cold]
fn wake_pollers<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, port: Port) {
    let mut waiting = domain.ports.pollers.load(Ordering::SeqCst);
    while waiting != 0 {
        let index = waiting.trailing_zeros();
        waiting &= waiting - 1;
        let Some(vcpu) = domain.vcpu(VcpuId(index)) else { continue };
        let polled = vcpu.polled.load(Ordering::SeqCst);
        if polled == port.0 || polled == POLL_MANY {
            schedule::wake(host, &VcpuRef { domain: domain.clone(), index });
        }
    }
}

/// Whether a port's pending bit is set.
pub fn is_pending<M: Machine>(host: &Host<M>, domain: &Domain<M>, port: Port) -> Option<bool> {
    let (word, bit) = pending(host, domain, port)?;
    Some(word.load(Ordering::SeqCst) & bit != 0)
}

/// `EVTCHNOP_unmask`.
pub fn unmask<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, port: Port) -> Result<(), Errno> {
    let (channel, target) = domain.ports.get(port);
    if channel == Channel::Free {
        return Err(Errno::Inval);
    }
    let place = event::place(port, domain.width()).ok_or(Errno::Inval)?;
    let page = host.machine.page(domain.shared_info).ok_or(Errno::Inval)?;
    if let Some(vcpu) = domain.vcpu(target)
        && event::unmask(page, &place, || info(host, vcpu))
    {
        deliver_upcall(host, domain, vcpu);
    }
    Ok(())
}

/// Forgets that a port is pending, when it gets a new meaning.
pub(super) fn clear_pending<M: Machine>(host: &Host<M>, domain: &Domain<M>, port: Port) {
    if let Some((word, bit)) = pending(host, domain, port) {
        word.fetch_and(!bit, Ordering::SeqCst);
    }
}
