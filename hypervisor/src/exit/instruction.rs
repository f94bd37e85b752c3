//! Instructions that the core carries out for the guest, by the rules of [`crate::policy`].

use super::{Done, advance, skip, vector};
use crate::policy::control::{self, Registers};
use crate::policy::cpuid::Now;
use crate::policy::msr::{self, Core, Read, Write};
use crate::prelude::*;

const LONG: CodeMode = CodeMode::Bits64;

const GP: Done = Done::Fault(vector::GP, Some(0));
const UD: Done = Done::Fault(vector::UD, None);

/// Carries a rare instruction out.
#[cold]
pub(super) fn carry_out<M: Machine>(running: &mut Running<'_, M>, exit: &Exit) -> Verdict {
    skip(running, exit, |running| match exit {
        Exit::Xsetbv => xsetbv(running),
        Exit::Cache => Done::Next,
        _ => control_register(running, exit),
    })
}

/// HLT waits for an interrupt. With interrupts off nothing but an NMI could come: the guest has stopped the vCPU for good,
/// and when it was the last one, has switched itself off.
pub(super) fn halt<M: Machine>(running: &mut Running<'_, M>, length: u8) -> Verdict {
    advance(running, length);
    if running.context.interruptibility().interrupts_enabled {
        return Verdict::Wait;
    }
    if running.vcpu.local.lock().nmi {
        return Verdict::Resume;
    }
    running.vcpu.going_down.store(true, Ordering::Release);
    life::last_one_out(running.host, running.domain, running.vcpu.id);
    Verdict::Wait
}

/// CPUID.
pub(super) fn cpuid<M: Machine>(running: &mut Running<'_, M>) -> Done {
    let context = &mut *running.context;
    let leaf = context.gpr(Gpr::Rax) as u32;
    let subleaf = context.gpr(Gpr::Rcx) as u32;
    let xcr0 = if leaf == 0xd { context.xcr0() } else { 0 };
    let now = Now { vcpu: running.vcpu.id.0, cr4: context.cr4(), xcr0 };
    let answer = running.domain.cpuid.answer(leaf, subleaf, now);
    context.set_gpr(Gpr::Rax, u64::from(answer.eax));
    context.set_gpr(Gpr::Rbx, u64::from(answer.ebx));
    context.set_gpr(Gpr::Rcx, u64::from(answer.ecx));
    context.set_gpr(Gpr::Rdx, u64::from(answer.edx));
    Done::Next
}

fn msr_value<M: Machine>(running: &Running<'_, M>, number: u32) -> Option<u64> {
    let row = msr::find(number)?;
    match row.read {
        Read::Context => running.context.msr(number),
        Read::Value(value) => Some(value),
        Read::Core(Core::Tsc) => Some(running.host.machine.tsc().wrapping_add(running.domain.tsc_offset)),
        Read::Core(Core::ApicBase) => Some(msr::apic_base(running.vcpu.id.0)),
        Read::Core(Core::Efer) => Some(running.context.efer()),
        Read::Core(Core::HypercallPage) => Some(0),
        Read::Fault => None,
    }
}

/// RDMSR.
pub(super) fn read_msr<M: Machine>(running: &mut Running<'_, M>) -> Done {
    let number = running.context.gpr(Gpr::Rcx) as u32;
    let Some(value) = msr_value(running, number) else { return GP };
    running.context.set_gpr(Gpr::Rax, value & 0xffff_ffff);
    running.context.set_gpr(Gpr::Rdx, value >> 32);
    Done::Next
}

/// EDX:EAX.
fn pair(context: &impl Context) -> u64 {
    context.gpr(Gpr::Rdx) << 32 | context.gpr(Gpr::Rax) & 0xffff_ffff
}

fn registers(context: &impl Context) -> Registers {
    Registers { cr0: context.cr0(), cr4: context.cr4(), efer: context.efer(), long: context.mode() == LONG }
}

/// WRMSR.
pub(super) fn write_msr<M: Machine>(running: &mut Running<'_, M>) -> Done {
    let number = running.context.gpr(Gpr::Rcx) as u32;
    let value = pair(running.context);
    let Some(row) = msr::find(number) else { return GP };
    let done = match row.write {
        Write::Context => running.context.set_msr(number, value),
        Write::Ignore => Some(()),
        Write::Same => msr_value(running, number).filter(|&now| now == value).map(|_| ()),
        Write::Core(Core::Efer) => control::efer(registers(running.context), value, &running.domain.cpuid)
            .ok()
            .map(|efer| running.context.set_efer(efer)),
        Write::Core(Core::HypercallPage) => hypercall_page(running, value),
        Write::Core(Core::Tsc | Core::ApicBase) | Write::Fault => None,
    };
    if done.is_some() { Done::Next } else { GP }
}

fn hypercall_page<M: Machine>(running: &mut Running<'_, M>, value: u64) -> Option<()> {
    let gfn = msr::hypercall_frame(value)?;
    let opcode = running.host.machine.opcode();
    hypercall::write_page(running.host, running.domain, gfn.checked_address()?, opcode).then_some(())?;
    let width = if running.context.mode() == LONG { Width::W64 } else { Width::W32 };
    hypercall::latch_width(running.host, running.domain, width);
    Some(())
}

/// XSETBV.
fn xsetbv<M: Machine>(running: &mut Running<'_, M>) -> Done {
    let index = running.context.gpr(Gpr::Rcx) as u32;
    let value = pair(running.context);
    let allowed = control::xcr0(running.context.cpl(), index, value, &running.domain.cpuid);
    let Ok(value) = allowed else { return GP };
    running.context.set_xcr0(value);
    Done::Next
}

/// An access to a control register.
fn control_register<M: Machine>(running: &mut Running<'_, M>, exit: &Exit) -> Done {
    let now = registers(running.context);
    let (register, value) = match *exit {
        Exit::FromControl(register, to) => {
            let value = match register {
                0 => now.cr0,
                3 => running.context.cr3(),
                4 => now.cr4,
                8 => running.vcpu.local.lock().lapic.cr8(),
                _ => return UD,
            };
            running.context.set_gpr(to, value);
            return Done::Next;
        }
        Exit::Clts => (0, control::clts(now)),
        Exit::Lmsw(value) => (0, control::lmsw(now, value)),
        Exit::ToControl(8, value) => {
            return if local::set_cr8(running.vcpu, value).is_some() { Done::Next } else { GP };
        }
        Exit::ToControl(register @ (0 | 3 | 4), value) => (register, value),
        _ => return UD,
    };
    let result = match register {
        0 => control::cr0(now, value).map(|(cr0, efer)| {
            if efer != now.efer {
                running.context.set_efer(efer);
            }
            cr0
        }),
        4 => control::cr4(now, value, running.domain.cr4_allowed),
        _ => Ok(value),
    };
    let Ok(value) = result else { return GP };
    running.context.set_control(register, value);
    Done::Next
}
