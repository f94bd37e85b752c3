//! Starting a vCPU: at the state dom0 or the guest gives, or by INIT and a start-up IPI.

use core::sync::atomic::Ordering;

use trunnion_protocol::control::{Segment, VcpuState};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::vcpu::{HvmContext32, HvmContext64};

use crate::host::Host;
use crate::schedule;
use crate::seam::{Context, Machine};
use crate::vcpu::VcpuRef;

/// Replaces the registers of a vCPU that does not run; `up` also starts it. `EEXIST` when it is up already.
pub fn load<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, state: &VcpuState, up: bool) -> Result<(), Errno> {
    let vcpu = at.vcpu().ok_or(Errno::NoEnt)?;
    if vcpu.state.is_up() {
        return Err(Errno::Exist);
    }
    {
        let mut body = vcpu.body.lock();
        let body = body.as_mut().ok_or(Errno::Busy)?;
        body.context.load(state);
        body.context.set_tsc_offset(at.domain.tsc_offset);
        body.last.forget();
    }
    vcpu.started.store(true, Ordering::Release);
    if up {
        vcpu.going_down.store(false, Ordering::Release);
        schedule::start(host, at);
    }
    Ok(())
}

/// INIT for a vCPU: it stops, and waits for a start-up IPI.
pub fn init<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    if let Some(vcpu) = at.vcpu() {
        vcpu.waits_for_startup.store(true, Ordering::Release);
        schedule::stop(host, at);
    }
}

/// A start-up IPI for a vCPU that waits for one; others ignore it.
pub fn startup<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, page: u8) {
    let Some(vcpu) = at.vcpu() else { return };
    if vcpu.waits_for_startup.load(Ordering::Acquire)
        && load(host, at, &VcpuState::real_mode(page), true).is_ok()
    {
        vcpu.waits_for_startup.store(false, Ordering::Release);
    }
}

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NX_SCE: u64 = 1 << 11 | 1;
const RFLAGS_VM: u64 = 1 << 17;

/// The state of `VCPUOP_initialise` in 32-bit mode.
pub fn from_32(context: &HvmContext32) -> Result<VcpuState, Errno> {
    if u64::from(context.cr0) & CR0_PE == 0
        || context.efer & (EFER_LME | EFER_LMA) != 0
        || u64::from(context.eflags) & RFLAGS_VM != 0
    {
        return Err(Errno::Inval);
    }
    let segment = |index: usize| {
        let rights = context.rights.get(index).copied().unwrap_or(0);
        Segment {
            selector: 0,
            attributes: rights & 0xfff,
            limit: context.limits.get(index).copied().unwrap_or(0),
            base: u64::from(context.bases.get(index).copied().unwrap_or(0)),
        }
    };
    let mut state = VcpuState::pvh(context.eip, 0);
    for (to, from) in state.gpr.iter_mut().zip(context.registers) {
        *to = u64::from(from);
    }
    state.rflags = u64::from(context.eflags) | 2;
    state.cr0 = u64::from(context.cr0);
    state.cr3 = u64::from(context.cr3);
    state.cr4 = u64::from(context.cr4);
    state.efer = context.efer & EFER_NX_SCE;
    state.cs = segment(0);
    state.ds = segment(1);
    state.es = state.ds;
    state.fs = state.ds;
    state.gs = state.ds;
    state.ss = segment(2);
    state.tr = segment(4);
    Ok(state)
}

/// The state of `VCPUOP_initialise` in 64-bit mode, with flat segments.
pub fn from_64(context: &HvmContext64) -> Result<VcpuState, Errno> {
    if context.cr0 & (CR0_PE | CR0_PG) != CR0_PE | CR0_PG
        || context.efer & EFER_LME == 0
        || context.rflags & RFLAGS_VM != 0
    {
        return Err(Errno::Inval);
    }
    let mut state = VcpuState::pvh(0, 0);
    for (to, from) in state.gpr.iter_mut().zip(context.registers) {
        *to = from;
    }
    state.rip = context.rip;
    state.rflags = context.rflags | 2;
    state.cr0 = context.cr0;
    state.cr3 = context.cr3;
    state.cr4 = context.cr4;
    state.efer = context.efer & EFER_NX_SCE | EFER_LME | EFER_LMA;
    // A 64-bit code segment has L instead of D.
    state.cs.attributes = 0xa9b;
    Ok(state)
}
