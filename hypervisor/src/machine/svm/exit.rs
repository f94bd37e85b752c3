//! From exit codes (APM 2, appendix C) to the words both vendors share.

use super::context::SvmContext;
use super::control as field;
use super::inject;
use crate::machine::irq;
use crate::machine::prelude::*;

pub(super) fn decode(context: &mut SvmContext) -> Exit {
    let code: u64 = context.get(field::EXIT_CODE);
    match code {
        0x81 => Exit::Hypercall,
        0x400 => memory(context),
        0x7b => port(context),
        0x7c if context.get(field::EXIT_INFO_1) & 1 != 0 => Exit::Wrmsr,
        0x7c => Exit::Rdmsr,
        0x72 => Exit::Cpuid,
        0x78 => Exit::Halt,
        // NMIs that came meanwhile were taken when the global interrupt flag went up.
        0x60..=0x62 => {
            irq::open();
            Exit::Interrupt
        }
        0x64 => {
            inject::interrupt_window(context, false);
            Exit::InterruptWindow
        }
        0x74 => {
            inject::end_of_nmi(context);
            Exit::NmiWindow
        }
        0x77 => Exit::Pause,
        0x00..=0x1f => control_register(context, code as u8),
        0x20..=0x3f => Exit::Debug(code as u8 & 15),
        0x52 | 0x63 | 0x7e => Exit::Shutdown,
        0x40..=0x5f => exception(context, code as u8 - 0x40),
        0x76 | 0x89 => Exit::Cache,
        0x7d => Exit::TaskSwitch,
        0x7f => Exit::TripleFault,
        0x8d => Exit::Xsetbv,
        0x6f | 0x73 | 0x7a | 0x80 | 0x82..=0x86 | 0x8a..=0x8c | 0x8e => Exit::Forbidden,
        // -1, whatever the width the processor writes.
        0xffff_ffff | u64::MAX => Exit::EntryRefused(code),
        _ => Exit::Unknown(code),
    }
}

fn memory(context: &SvmContext) -> Exit {
    let info: u64 = context.get(field::EXIT_INFO_1);
    Exit::Memory(SecondLevelFault {
        gpa: Gpa(context.get(field::EXIT_INFO_2)),
        write: info & 2 != 0,
        execute: info & 16 != 0,
        walk: info & 1 << 33 != 0,
    })
}

fn port(context: &SvmContext) -> Exit {
    let info: u64 = context.get(field::EXIT_INFO_1);
    let end: u64 = context.get(field::EXIT_INFO_2);
    Exit::Port(PortAccess {
        port: (info >> 16) as u16,
        size: (info >> 4) as u8 & 7,
        read: info & 1 != 0,
        string: info & 4 != 0,
        repeat: info & 8 != 0,
        length: end.wrapping_sub(context.get(field::RIP)) as u8,
    })
}

/// Intercepted only with decode assists, which give the register.
fn control_register(context: &SvmContext, code: u8) -> Exit {
    let gpr = Gpr::from_encoding(context.get(field::EXIT_INFO_1) as u8);
    if code >= 0x10 { Exit::ToControl(code & 15, context.gpr(gpr)) } else { Exit::FromControl(code, gpr) }
}

fn exception(context: &SvmContext, vector: u8) -> Exit {
    let error =
        matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30).then(|| context.get(field::EXIT_INFO_1) as u32);
    Exit::Exception { vector, error, address: Gva(context.get(field::EXIT_INFO_2)) }
}
