//! Starting a vCPU: at the state dom0 or the guest gives, or by INIT and a start-up IPI.

use crate::prelude::*;

/// Replaces the registers of a vCPU that does not run; `up` also starts it. `EEXIST` when it is up already.
pub fn load<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, state: &VcpuState, up: bool) -> Result<(), Errno> {
    if at.state.is_up() {
        return Err(Errno::Exist);
    }
    {
        let mut body = at.body.lock();
        let body = body.as_mut().ok_or(Errno::Busy)?;
        body.context.load(state);
        body.last.forget();
    }
    at.forget_question();
    at.started.store(true, Ordering::Release);
    if up {
        at.going_down.store(false, Ordering::Release);
        schedule::start(host, at);
    }
    Ok(())
}

/// INIT for a vCPU: it stops, and waits for a start-up IPI.
pub fn init<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    at.waits_for_startup.store(true, Ordering::Release);
    schedule::stop(host, at);
    at.forget_question();
}

/// A start-up IPI for a vCPU that waits for one; others ignore it.
pub fn startup<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, page: u8) {
    if at.waits_for_startup.load(Ordering::Acquire)
        && load(host, at, &VcpuState::real_mode(page), true).is_ok()
    {
        at.waits_for_startup.store(false, Ordering::Release);
    }
}
