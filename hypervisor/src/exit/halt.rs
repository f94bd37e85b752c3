//! HLT.

use core::sync::atomic::Ordering;

use super::advance;
use crate::life;
use crate::local;
use crate::seam::{Context, Machine, Verdict};
use crate::vcpu::Running;

/// HLT waits for an interrupt. With interrupts off nothing but an NMI could come: the guest has stopped the vCPU for good,
/// and when it was the last one, has switched itself off.
pub(super) fn halt<M: Machine>(running: &mut Running<'_, M>, length: u8) -> Verdict {
    advance(running, length);
    if running.context.interruptibility().interrupts_enabled {
        return Verdict::Wait;
    }
    if local::nmi_waits(running.vcpu) {
        return Verdict::Resume;
    }
    running.vcpu.going_down.store(true, Ordering::Release);
    life::last_one_out(running.host, running.domain, running.vcpu.id);
    Verdict::Wait
}
