//! The device model of one guest: requests of its vCPUs in, answers and interrupts out, on the [board](trunnion_devices::board).
//!
//! It has no right but over its one guest: the guest's memory comes as a [`GuestMemory`], and all that it asks of the
//! hypervisor is a [`Core`]. What a guest asks for is done in bounded pieces: whoever runs the model calls [`Model::turn`] as often
//! as the guest deserves it, and lets others run in between.

mod bus;
pub mod firmware;

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;
use core::task::Context;

use trunnion_devices::board::Board;
use trunnion_devices::emulate::{Outcome, step, vector};
use trunnion_devices::ioapic::Message;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;
use trunnion_protocol::control::{
    ANSWER_OFFSET, Answer, NO_VECTOR, Request, RequestKind, SignalKind, VcpuState, answer_flags,
};
use trunnion_protocol::shared::SharedPage;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use bus::Bus;

/// What a device model asks of the hypervisor.
pub trait Core {
    /// A vCPU's answer is in its page (`ModelAnswer`).
    fn answer(&self, vcpu: u32);
    /// An interrupt (`ModelSignal`).
    fn signal(&self, kind: SignalKind, address: u64, data: u32);
}

/// Pieces of a repeated string instruction that one request carries out; each has many iterations. The vCPU asks again for
/// the rest.
const PIECES: usize = 8;
/// Unknown instructions that are logged; a guest can make them without end.
const LOGGED: u32 = 16;

/// The request without the registers.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    serial: u32,
    kind: u32,
    port: u16,
    size: u8,
    read: u8,
    pad: u32,
    value: u64,
}

const _: () = assert!(size_of::<Head>() == offset_of!(Request, state));

/// The answer without the registers.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Reply {
    serial: u32,
    flags: u32,
    value: u64,
    vector: u32,
    error: u32,
}

const _: () = assert!(size_of::<Reply>() == offset_of!(Answer, state));

/// A device model.
pub struct Model<M: GuestMemory, C, P> {
    /// The devices.
    pub board: Board<M>,
    core: C,
    /// A page for each vCPU.
    pages: P,
    /// Serial numbers of the requests that were answered.
    answered: Vec<u32>,
    /// Where the guest has RAM.
    ram: [Range<u64>; 4],
    /// The level of the interrupt line that the hypervisor was told.
    line: bool,
    unknown: u32,
}

impl<M: GuestMemory, C: Core, P: AsRef<[SharedPage]>> Model<M, C, P> {
    /// A model of a guest that has never run.
    pub fn new(board: Board<M>, core: C, pages: P, ram: [Range<u64>; 4]) -> Self {
        let answered = vec![0; pages.as_ref().len()];
        Self { board, core, pages, answered, ram, line: false, unknown: 0 }
    }

    /// Answers at most one request of each vCPU. Returns whether there was one, and there may be more.
    pub fn turn(&mut self, now: Time) -> bool {
        let mut busy = false;
        for vcpu in 0..self.answered.len() {
            busy |= self.serve(vcpu, now).is_some();
        }
        busy
    }

    /// Takes what storage, networks and lines have brought, and lets time pass. To be called after requests too: they may have given
    /// storage something to do. The context's waker is woken when there is more.
    pub fn poll(&mut self, context: &mut Context<'_>, now: Time) {
        self.board.poll(context, now);
        self.tell();
    }

    /// Answers a vCPU's request, if it has one.
    fn serve(&mut self, vcpu: usize, now: Time) -> Option<()> {
        let page = self.pages.as_ref().get(vcpu)?;
        let serial = page.load::<u32>(0).ok()?;
        let answered = self.answered.get_mut(vcpu)?;
        if serial == *answered {
            return None;
        }
        *answered = serial;
        let head: Head = page.load(0).ok()?;
        let mut reply = Reply { serial, ..Reply::default() };
        let mut state = None;
        match RequestKind::from_number(head.kind) {
            Some(RequestKind::Port) => {
                let width = Width::of(usize::from(head.size)).unwrap_or(Width::Byte);
                if head.read != 0 {
                    reply.value = u64::from(self.board.port_read(head.port, width, now));
                } else {
                    self.board.port_write(head.port, width, head.value as u32, now);
                }
            }
            Some(RequestKind::Instruction) => {
                let mut registers = page.load(offset_of!(Request, state)).ok()?;
                self.emulate(&mut registers, &mut reply, now);
                state = Some(registers);
            }
            Some(RequestKind::Acknowledge) => {
                reply.value =
                    if self.board.wants() { u64::from(self.board.acknowledge()) } else { NO_VECTOR };
            }
            Some(RequestKind::End) => self.board.end(head.value as u8),
            None => log::error!("the hypervisor asks for something unknown kind={}", head.kind),
        }
        // Before the vCPU goes on, so that it sees the lines as they are behind its access.
        self.tell();
        let page = self.pages.as_ref().get(vcpu)?;
        if let Some(state) = state {
            page.store(ANSWER_OFFSET + offset_of!(Answer, state), &state).ok()?;
        }
        page.store(ANSWER_OFFSET, &reply).ok()?;
        self.core.answer(vcpu as u32);
        Some(())
    }

    /// Carries out the instruction at the instruction pointer.
    fn emulate(&mut self, state: &mut VcpuState, reply: &mut Reply, now: Time) {
        reply.flags = answer_flags::STATE;
        let rip = state.rip;
        for _ in 0..PIECES {
            let mut bus = Bus { board: &mut self.board, ram: &self.ram, now };
            match step(state, &mut bus) {
                // A repetition that is not at its end yet.
                Outcome::Done if state.rip == rip => {}
                // Nothing that touches a device halts, and no device here answers later.
                Outcome::Done | Outcome::Halted | Outcome::Pending => return,
                Outcome::Fault(fault) => {
                    reply.flags |= answer_flags::EXCEPTION;
                    reply.vector = u32::from(fault.vector);
                    if let Some(error) = fault.error {
                        reply.flags |= answer_flags::ERROR;
                        reply.error = error;
                    }
                    if fault.vector == vector::PF {
                        state.cr2 = fault.address;
                    }
                    return;
                }
                Outcome::Unknown(bytes) => {
                    reply.flags |= answer_flags::EXCEPTION;
                    reply.vector = u32::from(vector::UD);
                    self.unknown = self.unknown.saturating_add(1);
                    if self.unknown <= LOGGED {
                        log::warn!("an instruction is not known to the device model bytes={bytes:02x?}");
                        for line in alloc::format!("{state}").lines() {
                            log::warn!("{line}");
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Tells the hypervisor what has changed.
    fn tell(&mut self) {
        for message in self.board.take_messages() {
            let (address, data) = bus_message(&message);
            self.core.signal(SignalKind::Message, address, data);
        }
        let wants = self.board.wants();
        if wants != self.line {
            self.line = wants;
            self.core.signal(SignalKind::Line, 0, u32::from(wants));
        }
    }
}

/// A message of the I/O APIC as it is on the bus (SDM 3, 11.11).
fn bus_message(message: &Message) -> (u64, u32) {
    const LOWEST_PRIORITY: u8 = 1;
    let address = 0xfee0_0000
        | u64::from(message.destination) << 12
        | u64::from(message.mode == LOWEST_PRIORITY) << 3
        | u64::from(message.logical) << 2;
    // A level-triggered message is sent when the level is asserted.
    let trigger = if message.level { 0xc000 } else { 0 };
    (address, u32::from(message.vector) | u32::from(message.mode) << 8 | trigger)
}
