//! Hypercalls: the table, and the way in and out.
//!
//! A row of [`Table::ROWS`] is a call: its number, name, the authority it needs, and its handler. Dispatch indexes the
//! rows by number; [`describe`] prints them for the documentation. Handlers get the five arguments and the caller's width,
//! and answer with the result register or a [`Stop`].
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

use trunnion_protocol::address::Gva;
use trunnion_protocol::control::Gpr;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::Width;

use alloc::sync::Arc;

use crate::authority::Control;
use crate::domain::Domain;
use crate::exit;
use crate::seam::{CodeMode, Context, Machine, Verdict};
use crate::vcpu::Running;

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
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        self.values.get(index).copied().unwrap_or(0)
    }

    /// Argument 1: most calls' operation. Operations are 32 bits wide.
    #[inline]
    pub fn op(&self) -> u32 {
        self.get(0) as u32
    }

    /// An argument as a pointer.
    #[inline]
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
pub enum Handler<M: Machine> {
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

/// A hypercall.
pub struct Row<M: Machine> {
    /// Which.
    pub call: Hypercall,
    /// Name, as Xen's headers have it after `__HYPERVISOR_`.
    pub name: &'static str,
    /// What it does, in a line.
    pub purpose: &'static str,
    /// Who does it.
    pub handler: Handler<M>,
}

/// The table, for one machine.
pub struct Table<M: Machine>(core::marker::PhantomData<M>);

impl<M: Machine> Table<M> {
    /// Every call there is.
    pub const ROWS: &'static [Row<M>] = &[
        Row {
            call: Hypercall::MemoryOp,
            name: "memory_op",
            purpose: "populate, increase and decrease reservation, add to and remove from the physical map, memory map",
            handler: Handler::Any(memory::call),
        },
        Row {
            call: Hypercall::Multicall,
            name: "multicall",
            purpose: "several calls in one",
            handler: Handler::Any(multicall::call),
        },
        Row {
            call: Hypercall::SetTimerOp,
            name: "set_timer_op",
            purpose: "one deadline for the calling vCPU",
            handler: Handler::Any(vcpu::set_timer),
        },
        Row {
            call: Hypercall::XenVersion,
            name: "xen_version",
            purpose: "version, features, names, identity",
            handler: Handler::Any(version::call),
        },
        Row {
            call: Hypercall::ConsoleIo,
            name: "console_io",
            purpose: "text for the hypervisor's log, rate-limited for guests",
            handler: Handler::Any(console::call),
        },
        Row {
            call: Hypercall::GrantTableOp,
            name: "grant_table_op",
            purpose: "version 1: map, unmap, copy, query, set up",
            handler: Handler::Any(grant::call),
        },
        Row {
            call: Hypercall::VmAssist,
            name: "vm_assist",
            purpose: "the runstate update flag",
            handler: Handler::Any(vcpu::assist),
        },
        Row {
            call: Hypercall::VcpuOp,
            name: "vcpu_op",
            purpose: "start and stop, timers, info page, run state and clock areas, NMI",
            handler: Handler::Any(vcpu::call),
        },
        Row {
            call: Hypercall::SchedOp,
            name: "sched_op",
            purpose: "yield, block, poll, shut down, watchdog",
            handler: Handler::Any(sched::call),
        },
        Row {
            call: Hypercall::EventChannelOp,
            name: "event_channel_op",
            purpose: "the two-level ABI: bind, send, unmask, status, close, reset",
            handler: Handler::Any(event::call),
        },
        Row {
            call: Hypercall::HvmOp,
            name: "hvm_op",
            purpose: "parameters, upcall vectors, types of memory",
            handler: Handler::Any(hvm::call),
        },
        Row {
            call: Hypercall::Arch0,
            name: "arch_0",
            purpose: "dom0's control calls: `trunnion_protocol::control`",
            handler: Handler::Control(control::call),
        },
    ];

    /// The rows by number.
    const BY_NUMBER: [Option<Handler<M>>; 64] = {
        let mut table = [const { None }; 64];
        let mut at = 0;
        while at < Self::ROWS.len() {
            table[Self::ROWS[at].call.number() as usize] = Some(Self::ROWS[at].handler);
            at += 1;
        }
        table
    };
}

/// The table for the documentation: number, name, authority, purpose.
pub fn describe<M: Machine>(out: &mut impl core::fmt::Write) -> core::fmt::Result {
    writeln!(out, "| number | call | who | purpose |\n|---|---|---|---|")?;
    for row in Table::<M>::ROWS {
        let who = match row.handler {
            Handler::Any(_) => "any domain",
            Handler::Control(_) => "dom0",
        };
        writeln!(out, "| {} | `{}` | {who} | {} |", row.call.number(), row.name, row.purpose)?;
    }
    Ok(())
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
    /// The book's page has the table as the code has it.
    #[test]
    fn the_book_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/hypercalls.md");
        let page = std::fs::read_to_string(path).unwrap();
        let mut table = String::new();
        super::describe::<crate::fake::FakeMachine>(&mut table).unwrap();
        assert!(page.contains(&table), "the table should be:\n{table}");
    }
}
