//! From exit reasons (SDM 3, appendix C) to the words both vendors share.

use super::context::VmxContext;
use super::control as field;
use super::inject;
use super::instruction::{vmread, vmwrite};
use crate::machine::irq;
use crate::machine::prelude::*;

pub(super) fn decode(cpu: &PerCpu, context: &mut VmxContext) -> Exit {
    let reason = vmread(field::EXIT_REASON) as u32;
    if reason & 1 << 31 != 0 {
        return Exit::EntryRefused(u64::from(reason & 0xffff));
    }
    inject::reinject();
    match reason & 0xffff {
        18 => Exit::Hypercall,
        48 => memory(),
        30 => port(),
        31 => Exit::Rdmsr,
        32 => Exit::Wrmsr,
        10 => Exit::Cpuid,
        12 => Exit::Halt,
        1 => {
            let event = vmread(field::EXIT_EVENT) as u32;
            if event & field::EVENT_VALID != 0 {
                irq::take(cpu, event as u8);
            }
            Exit::Interrupt
        }
        0 => exception(),
        7 => {
            inject::window(field::primary::INTERRUPT_WINDOW, false);
            Exit::InterruptWindow
        }
        8 => {
            inject::window(field::primary::NMI_WINDOW, false);
            Exit::NmiWindow
        }
        2 => Exit::TripleFault,
        3 | 4 | 5 | 6 | 41 => Exit::Shutdown,
        9 => Exit::TaskSwitch,
        13 | 54 => Exit::Cache,
        15 | 19..=27 | 36 | 39 | 50 | 53 | 58 => Exit::Forbidden,
        28 => control_register(context),
        29 => Exit::Debug(vmread(field::QUALIFICATION) as u8 & 7),
        33 | 34 => Exit::EntryRefused(u64::from(reason & 0xffff)),
        40 => Exit::Pause,
        52 => {
            irq::open();
            Exit::Timer
        }
        55 => Exit::Xsetbv,
        62 => Exit::DirtyLogFull,
        other => Exit::Unknown(other.into()),
    }
}

fn memory() -> Exit {
    let qualification = vmread(field::QUALIFICATION);
    // The fault came while an IRET unblocked NMIs: it will execute again, so they stay blocked (SDM 3, 27.2.3).
    if qualification & 1 << 12 != 0 && vmread(field::VECTORING_EVENT) as u32 & field::EVENT_VALID == 0 {
        let held = vmread(field::INTERRUPTIBILITY);
        vmwrite(field::INTERRUPTIBILITY, held | u64::from(field::NMI_BLOCKED));
    }
    Exit::Memory(SecondLevelFault {
        gpa: Gpa(vmread(field::GUEST_PHYSICAL)),
        write: qualification & 2 != 0,
        execute: qualification & 4 != 0,
        walk: qualification & 1 << 7 != 0 && qualification & 1 << 8 == 0,
    })
}

fn port() -> Exit {
    let qualification = vmread(field::QUALIFICATION);
    Exit::Port(PortAccess {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        read: qualification & 8 != 0,
        string: qualification & 16 != 0,
        repeat: qualification & 32 != 0,
        length: vmread(field::EXIT_LENGTH) as u8,
    })
}

/// The events of reason 0: NMIs of the host, and the exceptions in the bitmap.
fn exception() -> Exit {
    let event = vmread(field::EXIT_EVENT) as u32;
    if event & field::EVENT_TYPE == field::EVENT_NMI {
        // The exit blocks further NMIs until an IRET: the host's handler executes one.
        // SAFETY: a software interrupt to the NMI's handler, which counts and returns.
        unsafe { asm!("int 2", options(nostack)) };
        return Exit::Interrupt;
    }
    let vector = event as u8;
    if vector == 18 {
        return Exit::Shutdown;
    }
    let qualification = vmread(field::QUALIFICATION);
    if vector == 1 {
        // The processor says which condition it was, and leaves DR6 to us (SDM 3, 27.2.1).
        let old: u64;
        // SAFETY: DR6 holds the guest's value while its vCPU is switched in; the conditions are the low bits, and RTM is inverted.
        unsafe {
            asm!("mov {}, dr6", out(reg) old, options(nomem, nostack));
            let new = (old & !0xf | qualification & 0x600f | 0xffff_0ff0) ^ (qualification & 1 << 16);
            asm!("mov dr6, {}", in(reg) new, options(nomem, nostack));
        }
    }
    let error = (event & field::EVENT_ERROR != 0).then(|| vmread(field::EXIT_ERROR) as u32);
    Exit::Exception { vector, error, address: Gva(if vector == 14 { qualification } else { 0 }) }
}

fn control_register(context: &VmxContext) -> Exit {
    let qualification = vmread(field::QUALIFICATION);
    let register = qualification as u8 & 15;
    let gpr = Gpr::from_encoding((qualification >> 8) as u8);
    match qualification >> 4 & 3 {
        0 => Exit::ToControl(register, context.gpr(gpr)),
        1 => Exit::FromControl(register, gpr),
        2 => Exit::Clts,
        _ => Exit::Lmsw((qualification >> 16) as u16),
    }
}
