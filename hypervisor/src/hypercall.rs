//! Hypercalls: the table, and the way in and out.
//!
//! A row of `Table::ROWS` is a call: its number, the authority it needs, and its handler. Dispatch indexes the rows by
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

use trunnion_protocol::control::Gpr;
use trunnion_protocol::hypercall::Hypercall;

use crate::authority::Control;
use crate::exit;
use crate::prelude::*;
use crate::seam::{CodeMode, Context, Verdict};

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

/// A handler, by the authority it needs.
enum Handler<M: Machine> {
    /// Any domain may call it. What it may do to others, it checks itself.
    Any(fn(&mut Running<'_, M>, &mut Arguments) -> Reply),
    /// Only with this authority.
    Control(fn(&Control, &mut Running<'_, M>, &mut Arguments) -> Reply),
}

impl<M: Machine> Clone for Handler<M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for Handler<M> {}

/// The calls, by number.
struct Table<M: Machine>(core::marker::PhantomData<M>);

impl<M: Machine> Table<M> {
    /// Every call there is.
    const ROWS: &'static [(Hypercall, Handler<M>)] = &[
        // Populate, increase and decrease reservation, add to and remove from the physical map, memory map.
        (Hypercall::MemoryOp, Handler::Any(memory::call)),
        // Several calls in one.
        (Hypercall::Multicall, Handler::Any(multicall::call)),
        // One deadline for the calling vCPU.
        (Hypercall::SetTimerOp, Handler::Any(vcpu::set_timer)),
        // Version, features, names, identity.
        (Hypercall::XenVersion, Handler::Any(version::call)),
        // Text for the hypervisor's log, rate-limited for guests.
        (Hypercall::ConsoleIo, Handler::Any(console::call)),
        // Version 1: map, unmap, copy, query, set up.
        (Hypercall::GrantTableOp, Handler::Any(grant::call)),
        // The runstate update flag.
        (Hypercall::VmAssist, Handler::Any(vcpu::assist)),
        // Start and stop, timers, info page, run state and clock areas, NMI.
        (Hypercall::VcpuOp, Handler::Any(vcpu::call)),
        // Yield, block, poll, shut down, watchdog.
        (Hypercall::SchedOp, Handler::Any(sched::call)),
        // The two-level ABI: bind, send, unmask, status, close, reset.
        (Hypercall::EventChannelOp, Handler::Any(event::call)),
        // Parameters, upcall vectors, types of memory.
        (Hypercall::HvmOp, Handler::Any(hvm::call)),
        // Dom0's control calls: `trunnion_protocol::control`.
        (Hypercall::Arch0, Handler::Control(control::call)),
    ];

    const BY_NUMBER: [Option<Handler<M>>; 64] = {
        let mut table = [const { None }; 64];
        let mut at = 0;
        while at < Self::ROWS.len() {
            let (call, handler) = Self::ROWS[at];
            table[call.number() as usize] = Some(handler);
            at += 1;
        }
        table
    };
}

/// Carries out the call that the registers ask for. `length` is that of the instruction.
#[inline]
pub fn dispatch<M: Machine>(running: &mut Running<'_, M>, length: u8) -> Verdict {
    let context = &mut *running.context;
    let number = context.gpr(Gpr::Rax);
    let (width, number, values) = if context.mode() == CodeMode::Bits64 {
        (Width::W64, number, LONG.map(|register| context.gpr(register)))
    } else {
        let values = SHORT.map(|register| context.gpr(register) & 0xffff_ffff);
        (Width::W32, number & 0xffff_ffff, values)
    };
    if context.cpl() != 0 {
        return finish(running, length, width, Err(Stop::Error(Errno::Perm)));
    }
    let mut call = Arguments { values, width };
    let reply = perform(running, number, &mut call);
    if reply == Err(Stop::Again) {
        let registers = if width == Width::W64 { LONG } else { SHORT };
        for (register, value) in registers.into_iter().zip(call.values) {
            running.context.set_gpr(register, value);
        }
    }
    finish(running, length, width, reply)
}

/// Registers of the arguments in 64-bit mode, and in the others.
const LONG: [Gpr; 5] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8];
const SHORT: [Gpr; 5] = [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi, Gpr::Rdi];

/// Carries out one call.
#[inline]
pub(crate) fn perform<M: Machine>(
    running: &mut Running<'_, M>,
    number: u64,
    arguments: &mut Arguments,
) -> Reply {
    running.vcpu.tally.hypercall(number);
    match Table::<M>::BY_NUMBER.get(number as usize) {
        Some(Some(Handler::Any(handler))) => handler(running, arguments),
        Some(Some(Handler::Control(handler))) => {
            let domain = running.domain;
            let control = domain.control.as_ref().ok_or(Errno::Perm)?;
            handler(control, running, arguments)
        }
        _ => Err(Stop::Error(Errno::NoSys)),
    }
}

#[inline]
fn finish<M: Machine>(running: &mut Running<'_, M>, length: u8, width: Width, reply: Reply) -> Verdict {
    let (value, verdict) = match reply {
        Ok(value) => (value, Verdict::Resume),
        Err(Stop::Error(errno)) => (i64::from(errno) as u64, Verdict::Resume),
        Err(Stop::Wait(value)) => (value, Verdict::Wait),
        Err(Stop::Yield(value)) => (value, Verdict::Reschedule),
        Err(Stop::Again) => return Verdict::Resume,
    };
    let value = if width == Width::W64 { value } else { value & 0xffff_ffff };
    running.context.set_gpr(Gpr::Rax, value);
    exit::advance(running, length);
    verdict
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
    use super::{Handler, Table};

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
        for (call, handler) in rows {
            let who = if matches!(handler, Handler::Any(_)) { "any domain" } else { "dom0" };
            let row = format!("\n| {} | `{}` | {who} | ", call.number(), name(call));
            assert!(page.contains(&row), "a row should begin:{row}");
        }
        let described = page.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")).count();
        assert_eq!(described, rows.len());
    }
}
