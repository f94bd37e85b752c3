//! The front ends' platform on this runtime.

use core::task::Waker;

use trunnion_frontends::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};
use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::Port;

use crate::memory::{self, Pages};
use crate::{events, hypercall};

/// The kernel that this runtime makes, as the front ends see it. All its state is the runtime's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Platform for Kernel {
    type Pages = Pages;

    fn pages(&self, count: usize) -> Result<(Pages, Gfns), OutOfMemory> {
        let pages = memory::pages(count).ok_or(OutOfMemory)?;
        let gfns = Gfns::new(pages.first(), count);
        Ok((pages, gfns))
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        let mut registers = [0; 5];
        if call.arguments.len() > registers.len() {
            return Errno::Inval.into();
        }
        for (register, argument) in registers.iter_mut().zip(call.arguments.iter_mut()) {
            *register = match argument {
                Argument::Value(value) => *value,
                Argument::Memory(bytes) => bytes.as_mut_ptr() as u64,
            };
        }
        hypercall::raw(call.number, registers)
    }

    fn map(&self, gfn: Gfn) -> Result<Pages, NotMapped> {
        memory::placed(gfn, 1).map(Pages::Placed).ok_or(NotMapped)
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        memory::holes(count).map(|first| Gfns::new(first, count)).ok_or(OutOfMemory)
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        events::on_event(port, waker);
    }

    fn relax(&self) {
        events::dispatch();
        hypercall::yield_now();
    }
}
