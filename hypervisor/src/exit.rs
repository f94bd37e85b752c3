//! What the core does about each way out of a guest. Nothing here knows a vendor.

mod instruction;
mod memory;
mod port;

pub(crate) use port::fill;

use crate::length;
use crate::prelude::*;
use crate::report::Text;

/// Exception vectors (SDM 6.3.1).
pub mod vector {
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
}

/// Deals with an exit. Afterwards the vCPU's registers say where it goes on.
pub fn handle<M: Machine>(running: &mut Running<'_, M>, exit: &Exit) -> Verdict {
    match *exit {
        Exit::Hypercall => match length_of(running, &Exit::Hypercall) {
            Some(length) => hypercall::dispatch(running, length),
            None => undefined(running),
        },
        Exit::Cpuid => skip(running, &Exit::Cpuid, instruction::cpuid),
        Exit::Rdmsr => skip(running, &Exit::Rdmsr, instruction::read_msr),
        Exit::Wrmsr => skip(running, &Exit::Wrmsr, instruction::write_msr),
        Exit::Halt => match length_of(running, &Exit::Halt) {
            Some(length) => instruction::halt(running, length),
            None => undefined(running),
        },
        Exit::Xsetbv
        | Exit::ToControl(..)
        | Exit::FromControl(..)
        | Exit::Clts
        | Exit::Lmsw(_)
        | Exit::Cache => instruction::carry_out(running, exit),
        Exit::Interrupt => interrupt(running),
        Exit::InterruptWindow | Exit::NmiWindow | Exit::Timer | Exit::DirtyLogFull => Verdict::Resume,
        Exit::Port(access) => port::access(running, access),
        Exit::Memory(fault) => memory::fault(running, fault),
        Exit::Pause => Verdict::Reschedule,
        Exit::Forbidden | Exit::Debug(_) => undefined(running),
        Exit::Exception { vector, error, address } => exception(running, vector, error, address),
        Exit::TripleFault => triple_fault(running),
        Exit::TaskSwitch => ends(running, format_args!("task switch, which is not emulated")),
        Exit::Shutdown => ends(running, format_args!("shutdown condition")),
        Exit::EntryRefused(code) => {
            let mut state = Text::new();
            // Writing to `Text` does not fail.
            let _ = running.context.write_entry_state(&mut state);
            ends(running, format_args!("entry refused, error {code:#x}\n{state}"))
        }
        Exit::Unknown(code) => ends(running, format_args!("unknown exit {code:#x}")),
    }
}

/// A physical interrupt, which the run loop looks at. When it comes between STI and HLT, the HLT is carried out here: no
/// interrupt may get between the two, and QEMU's entry forgets the shadow that says so.
fn interrupt<M: Machine>(running: &mut Running<'_, M>) -> Verdict {
    if running.context.interruptibility().shadow
        && let Some(length) = find_length(running, &Exit::Halt)
    {
        return instruction::halt(running, length);
    }
    Verdict::Resume
}

/// How an instruction ended.
enum Done {
    /// Go on behind it.
    Next,
    /// It raises an exception.
    Fault(u8, Option<u32>),
}

/// Carries an instruction out and goes on behind it.
fn skip<M: Machine>(
    running: &mut Running<'_, M>,
    exit: &Exit,
    work: impl FnOnce(&mut Running<'_, M>) -> Done,
) -> Verdict {
    let Some(length) = length_of(running, exit) else { return undefined(running) };
    match work(running) {
        Done::Next => advance(running, length),
        Done::Fault(vector, error) => running.context.inject(Event::Exception(vector, error)),
    }
    Verdict::Resume
}

/// The length of the instruction that left the guest: the processor's word, or that of the bytes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it shrinks to a comparison where the exit is known")]
fn length_of<M: Machine>(running: &mut Running<'_, M>, exit: &Exit) -> Option<u8> {
    let said = running.context.length();
    if said.is_some() {
        return said;
    }
    let space = DomainSpace { host: running.host, domain: running.domain };
    let code = running.last.code(&space, running.context.cr3(), code_address(running));
    code.and_then(|bytes| exit.plain(bytes)).or_else(|| find_length(running, exit))
}

#[cold]
fn find_length<M: Machine>(running: &mut Running<'_, M>, exit: &Exit) -> Option<u8> {
    let at = code_address(running);
    let mut bytes = [0; 15];
    let count = running.with_memory(|memory| {
        memory.see(at);
        memory.fetch(at, &mut bytes).len()
    });
    length::find(exit, running.context.mode(), bytes.get(..count)?)
}

/// Linear address of the instruction.
pub(crate) fn code_address<M: Machine>(running: &Running<'_, M>) -> Gva {
    let rip = running.context.rip();
    match running.context.mode() {
        CodeMode::Bits64 => Gva(rip),
        _ => Gva(running.context.code_base().wrapping_add(rip) & 0xffff_ffff),
    }
}

/// Goes on behind an instruction.
pub(crate) fn advance<M: Machine>(running: &mut Running<'_, M>, length: u8) {
    let old = running.context.rip();
    let mut rip = old.wrapping_add(u64::from(length));
    // Only 64-bit code goes on behind its first 4 GiB.
    if (old as u32).checked_add(length.into()).is_none() && running.context.mode() != CodeMode::Bits64 {
        rip &= 0xffff_ffff;
    }
    running.context.set_rip(rip);
}

/// #UD for the guest.
pub(crate) fn undefined<M: Machine>(running: &mut Running<'_, M>) -> Verdict {
    running.context.inject(Event::Exception(vector::UD, None));
    Verdict::Resume
}

#[cold]
fn exception<M: Machine>(running: &mut Running<'_, M>, vector: u8, error: Option<u32>, at: Gva) -> Verdict {
    if vector == vector::UD
        && let Some(verdict) = model::ask_forced(running)
    {
        return verdict;
    }
    // The other vendor's hypercall instruction raises #UD on this one. It means the same.
    if vector == vector::UD
        && let Some(length) = find_length(running, &Exit::Hypercall)
    {
        return hypercall::dispatch(running, length);
    }
    if vector == vector::PF {
        running.context.set_cr2(at.0);
    }
    running.context.inject(Event::Exception(vector, error));
    Verdict::Resume
}

fn triple_fault<M: Machine>(running: &mut Running<'_, M>) -> Verdict {
    let reason = running.domain.triple_fault_reason();
    life::crash(running, reason, format_args!("triple fault"));
    Verdict::Reschedule
}

/// Crashes the domain.
pub(crate) fn ends<M: Machine>(running: &mut Running<'_, M>, why: core::fmt::Arguments<'_>) -> Verdict {
    life::crash(running, ShutdownReason::Crash, why);
    Verdict::Reschedule
}
