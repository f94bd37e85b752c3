//! Hypercalls: the table, and the way in and out.
//!
//! A row of `Table::ROWS` is a call: its number and its handler. Dispatch indexes the rows by
//! number. Handlers get the five arguments and the caller's width, and answer with the result register or a [`Stop`].
//!
//! An operation whose length a guest chooses does a bounded part of it, notes in its arguments how far it is, and answers
//! [`Stop::Again`]: the instruction pointer stays, and the guest executes the instruction once more. Interrupts and other
//! vCPUs get their turn in between.

mod console;
mod control;
mod event;
mod grant;
mod hvm;
mod memory;
mod multicall;
mod sched;
mod vcpu;
mod version;

use trunnion_protocol::hypercall::Hypercall;

use crate::prelude::*;

pub use hvm::latch_width;
pub use page::write as write_page;
pub(crate) use sched::end_poll;

mod page;

/// Arguments of a call, in the caller's width. A handler that stops with [`Stop::Again`] changes them to say how far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// Argument 1 to 5, cut to the width.
    pub values: [u64; 5],
    /// The caller's width.
    pub width: Width,
}

impl Arguments {
    /// Argument `index`, from 0.
    pub fn get(&self, index: usize) -> u64 {
        self.values.get(index).copied().unwrap_or(0)
    }

    /// Argument 1: most calls' operation. Operations are 32 bits wide.
    pub fn op(&self) -> u32 {
        self.get(0) as u32
    }

    /// An argument as a pointer.
    pub fn pointer(&self, index: usize) -> Gva {
        Gva(self.get(index))
    }
}

/// How a call ends, other than with a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It fails.
    Error(Errno),
    /// It goes on when the guest executes the instruction again with the changed arguments.
    Again,
    /// It has returned this, and the vCPU waits now.
    Wait(u64),
    /// It has returned this, and others run first.
    Yield(u64),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

/// What a handler answers.
pub type Reply = Result<u64, Stop>;

/// Carries out a call. What the domain may do to others, the handler checks.
type Handler<M> = fn(&mut Running<'_, M>, &mut Arguments) -> Reply;

/// The calls, by number.
struct Table<M: Machine>(core::marker::PhantomData<M>);

impl<M: Machine> Table<M> {
    /// Every call there is.
    const ROWS: &'static [(Hypercall, Handler<M>)] = &[
        // Populate, increase and decrease reservation, add to and remove from the physical map, memory map.
        (Hypercall::MemoryOp, memory::call),
        // Several calls in one.
        (Hypercall::Multicall, multicall::call),
        // One deadline for the calling vCPU.
        (Hypercall::SetTimerOp, vcpu::set_timer),
        // Version, features, names, identity.
        (Hypercall::XenVersion, version::call),
        // Text for the hypervisor's log, rate-limited for guests.
        (Hypercall::ConsoleIo, console::call),
        // Version 1: map, unmap, copy, query, set up.
        (Hypercall::GrantTableOp, grant::call),
        // The runstate update flag.
        (Hypercall::VmAssist, vcpu::assist),
        // Start and stop, timers, info page, run state and clock areas, NMI.
        (Hypercall::VcpuOp, vcpu::call),
        // Yield, block, poll, shut down, watchdog.
        (Hypercall::SchedOp, sched::call),
        // The two-level ABI: bind, send, unmask, status, close, reset.
        (Hypercall::EventChannelOp, event::call),
        // Parameters, upcall vectors, types of memory.
        (Hypercall::HvmOp, hvm::call),
        // Dom0's control calls: `trunnion_protocol::control`.
        (Hypercall::Arch0, with_authority),
    ];

    const BY_NUMBER: [Handler<M>; 64] = {
        let mut table: [Handler<M>; 64] = [|_, _| Err(Stop::Error(Errno::NoSys)); 64];
        let mut at = 0;
        while at < Self::ROWS.len() {
            let (call, handler) = Self::ROWS[at];
            table[call.number() as usize] = handler;
            at += 1;
        }
        table
    };
}

/// Control calls are for who has the authority.
fn with_authority<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let domain = running.domain;
    control::call(domain.control.as_ref().ok_or(Errno::Perm)?, running, arguments)
}

/// Carries out the call that the registers ask for. `length` is that of the instruction.
#[inline(always)]
#[expect(clippy::inline_always, reason = "of the two places that call it, one is hot")]
pub fn dispatch<M: Machine>(running: &mut Running<'_, M>, length: u8) -> Verdict {
    let context = &mut *running.context;
    let number = context.gpr(Gpr::Rax);
    let (width, number, values) = if context.mode() == CodeMode::Bits64 {
        (Width::W64, number, LONG.map(|register| context.gpr(register)))
    } else {
        let values = SHORT.map(|register| context.gpr(register) & 0xffff_ffff);
        (Width::W32, number & 0xffff_ffff, values)
    };
    let mut call = Arguments { values, width };
    if context.cpl() != 0 {
        return stopped(running, length, &call, Errno::Perm.into());
    }
    match perform(running, number, &mut call) {
        Ok(value) => finish(running, length, value, Verdict::Resume),
        Err(stop) => stopped(running, length, &call, stop),
    }
}

/// Registers of the arguments in 64-bit mode, and in the others.
const LONG: [Gpr; 5] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8];
const SHORT: [Gpr; 5] = [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi, Gpr::Rdi];

/// Carries out one call.
pub(crate) fn perform<M: Machine>(running: &mut Running<'_, M>, number: u64, call: &mut Arguments) -> Reply {
    running.vcpu.tally.hypercall(number);
    match Table::<M>::BY_NUMBER.get(number as usize) {
        Some(handler) => handler(running, call),
        None => Err(Errno::NoSys.into()),
    }
}

/// Goes on behind the instruction with a result, of which 32-bit code sees the lower half.
fn finish<M: Machine>(running: &mut Running<'_, M>, length: u8, value: u64, verdict: Verdict) -> Verdict {
    running.context.set_gpr(Gpr::Rax, value);
    exit::advance(running, length);
    verdict
}

/// A call has no plain result.
#[inline(never)]
fn stopped<M: Machine>(running: &mut Running<'_, M>, length: u8, call: &Arguments, stop: Stop) -> Verdict {
    let (value, verdict) = match stop {
        Stop::Error(errno) => (i64::from(errno) as u64, Verdict::Resume),
        Stop::Wait(value) => (value, Verdict::Wait),
        Stop::Yield(value) => (value, Verdict::Reschedule),
        Stop::Again => {
            let registers = if call.width == Width::W64 { LONG } else { SHORT };
            for (register, value) in registers.into_iter().zip(call.values) {
                running.context.set_gpr(register, value);
            }
            return Verdict::Resume;
        }
    };
    finish(running, length, value, verdict)
}

/// The domain that a call names: the caller itself, or with authority any that exists and is not being destroyed.
pub(crate) fn target<M: Machine>(running: &Running<'_, M>, id: DomainId) -> Result<Arc<Domain<M>>, Errno> {
    if id == DomainId::SELF || id == running.domain.id {
        return Ok(running.domain.clone());
    }
    if !running.domain.is_privileged() {
        return Err(Errno::Perm);
    }
    running.host.domain(id).filter(|domain| crate::life::is_alive(domain)).ok_or(Errno::Srch)
}

#[cfg(test)]
mod tests {
    use super::{Hypercall, Table};

    /// `MemoryOp` as the headers have it: `memory_op`.
    fn name(call: impl core::fmt::Debug) -> String {
        let mut name = String::new();
        for letter in format!("{call:?}").chars() {
            if !name.is_empty() && !letter.is_lowercase() {
                name.push('_');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// The book's page has a row for each call, and no more.
    #[test]
    fn the_book_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/hypercalls.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows = Table::<crate::fake::FakeMachine>::ROWS;
        for (call, _) in rows {
            let who = if *call == Hypercall::Arch0 { "dom0" } else { "any domain" };
            let row = format!("\n| {} | `{}` | {who} | ", call.number(), name(call));
            assert!(page.contains(&row), "a row should begin:{row}");
        }
        let described = page.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")).count();
        assert_eq!(described, rows.len());
    }
}
