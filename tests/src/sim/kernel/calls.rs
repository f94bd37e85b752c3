//! Hypercalls of a simulated kernel: structures are encoded into its own memory, registers are set as the convention wants,
//! and the call goes through the core's exit handling.

use std::task::Waker;
use trunnion_frontends::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};
use trunnion_hypervisor::exit;
use trunnion_hypervisor::seam::{Context, Exit, Verdict};
use trunnion_hypervisor::vcpu::Running;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::Gpr;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::id::Port;
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;

use super::Kernel;
use super::memory::Pages;

/// Re-executions of one hypercall that are still bounded work.
const CONTINUATIONS: u32 = 100_000;

impl Kernel {
    /// A hypercall with plain register values.
    pub fn raw(&self, number: u32, arguments: [u64; 5]) -> i64 {
        if self.dead.get() || !self.domain.may_run() {
            return Errno::Srch.into();
        }
        let side = self.side();
        side.context.change(|state| {
            state.gpr[Gpr::Rax as usize] = number.into();
            for (register, value) in
                [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8].into_iter().zip(arguments)
            {
                state.gpr[register as usize] = value;
            }
        });
        for _ in 0..CONTINUATIONS {
            let before = side.context.rip();
            let verdict = self.leave(Exit::Hypercall);
            if verdict == Verdict::Wait {
                side.waits.set(true);
            }
            if side.context.rip() != before || !self.domain.may_run() {
                let result = side.context.gpr(Gpr::Rax) as i64;
                self.shared.note(self.id().0, "hypercall", [number.into(), arguments[0], result as u64]);
                return result;
            }
        }
        self.shared.complain(format!("domain {}: hypercall {number} does not get on", self.id()));
        Errno::Io.into()
    }

    /// Leaves guest mode for a reason, and has the core deal with it.
    fn leave(&self, exit: Exit) -> Verdict {
        let side = self.side();
        let mut context = side.context.clone();
        let mut last = side.last.borrow_mut();
        let mut running = Running {
            host: &self.host,
            domain: &self.domain,
            vcpu: &self.domain.vcpus[self.current.get()],
            context: &mut context,
            last: &mut last,
        };
        exit::handle(&mut running, &exit)
    }

    /// A hypercall with an operation and a structure, as the front ends make it.
    pub fn with<T: Layout>(&self, number: Hypercall, operation: u64, value: &mut T) -> Result<u64, Errno> {
        let mut bytes = T::ZEROED;
        value.encode(Width::W64, bytes.as_mut()).ok_or(Errno::Inval)?;
        let mut arguments = [Argument::Value(operation), Argument::Memory(bytes.as_mut())];
        let result = self.hypercall(RawCall { number: number.number(), arguments: &mut arguments });
        *value = T::decode(Width::W64, bytes.as_ref()).ok_or(Errno::Inval)?;
        Errno::from_return(result)
    }
}

impl Platform for Kernel {
    type Pages = Pages;

    fn pages(&self, count: usize) -> Result<(Pages, Gfns), OutOfMemory> {
        if self.dead.get() {
            return Err(OutOfMemory);
        }
        let first = self.take_pages(count).ok_or(OutOfMemory)?;
        let mfn = self.frame(Gfn(first)).ok_or(OutOfMemory)?;
        let pages = self.pages_at(mfn.0 as usize, count, Some(first));
        pages.as_ref().iter().for_each(SharedPage::fill_zero);
        Ok((pages, Gfns::new(Gfn(first), count)))
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        if self.dead.get() {
            return Errno::Srch.into();
        }
        let mut registers = [0; 5];
        let mut offset = 0;
        for (register, argument) in registers.iter_mut().zip(call.arguments.iter()) {
            *register = match argument {
                Argument::Value(value) => *value,
                Argument::Memory(bytes) => {
                    let Some(address) = self.lend(offset, bytes) else { return Errno::Fault.into() };
                    offset += bytes.len().next_multiple_of(16);
                    address.0
                }
            };
        }
        let result = self.raw(call.number, registers);
        let mut offset = 0;
        for argument in call.arguments.iter_mut() {
            if let Argument::Memory(bytes) = argument {
                let _ = self.back(offset, bytes);
                offset += bytes.len().next_multiple_of(16);
            }
        }
        result
    }

    fn map(&self, gfn: Gfn) -> Result<Pages, NotMapped> {
        let mfn = self.frame(gfn).filter(|_| !self.dead.get()).ok_or(NotMapped)?;
        Ok(self.pages_at(mfn.0 as usize, 1, None))
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        Ok(Gfns::new(self.take_holes(count as u64), count))
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        self.slot(port, |slot| slot.waker = Some(waker.clone()));
    }
}
