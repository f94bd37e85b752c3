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
use core::ops::Range;
use core::task::Context;

use trunnion_devices::board::Board;
use trunnion_devices::emulate::{Known, Machine, Outcome, step, vector};
use trunnion_devices::ioapic::Message;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::time::{Time, earlier};
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::{
    ANSWER_OFFSET, ANSWER_STATE, Answer, NO_VECTOR, REQUEST_STATE, Request, RequestKind, SignalKind,
    VcpuState, answer_flags,
};
use trunnion_protocol::shared::SharedPage;

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
/// The least time between two looks at the board's timers, in nanoseconds: a guest may set them to any rate.
const RESOLUTION: u64 = 50_000;
/// Unknown instructions that are logged; a guest can make them without end.
const LOGGED: u32 = 16;

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
    /// Instructions that were met before.
    known: Known<M::Page>,
    /// The level of the interrupt line that the hypervisor was told.
    line: bool,
    unknown: u32,
}

impl<M: GuestMemory, C: Core, P: AsRef<[SharedPage]>> Model<M, C, P> {
    /// A model of a guest that has never run.
    pub fn new(board: Board<M>, core: C, pages: P, ram: [Range<u64>; 4]) -> Self {
        let answered = vec![0; pages.as_ref().len()];
        Self { board, core, pages, answered, ram, known: Known::default(), line: false, unknown: 0 }
    }

    /// Answers at most one request of each vCPU. Returns whether there was one, and there may be more.
    pub fn turn(&mut self, now: Time) -> bool {
        let mut busy = false;
        for vcpu in 0..self.answered.len() {
            busy |= self.serve(vcpu, now).is_some();
        }
        busy
    }

    /// Takes what storage, networks and lines have brought, and lets time pass. To be called after requests too that may have given a
    /// device something to do ([`Board::take_touched`]). The context's waker is woken when there is more.
    pub fn poll(&mut self, context: &mut Context<'_>, now: Time) {
        self.board.poll(context, now);
        self.tell();
    }

    /// When [`Self::poll`] is due after one at `now` if nothing else happens: at the board's deadline, or at `other` if that is sooner, and no
    /// sooner than it is good for other guests. `set` is what this said the last time: a moment that stays is not put off by polls before it.
    pub fn next_look(&self, set: Option<Time>, other: Option<Time>, now: Time) -> Option<Time> {
        let moment = earlier(self.board.deadline(), other)?;
        Some(if set == Some(moment) { moment } else { moment.max(now.after(RESOLUTION)) })
    }

    /// A non-maskable interrupt, as from a button.
    pub fn nmi(&self) {
        self.core.signal(SignalKind::Nmi, 0, 0);
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
        let request: Request = page.load(0).ok()?;
        let mut answer = Answer { serial, ..Answer::default() };
        let mut state = None;
        match RequestKind::from_number(request.kind) {
            Some(RequestKind::Port) => {
                let width = Width::of(usize::from(request.size)).unwrap_or(Width::Byte);
                if request.read != 0 {
                    answer.value = u64::from(self.board.port_read(request.port, width, now));
                } else {
                    self.board.port_write(request.port, width, request.value as u32, now);
                }
            }
            Some(RequestKind::Instruction) => {
                let mut registers = page.load(REQUEST_STATE).ok()?;
                // Behind the forced-emulation prefix the address is 0, where no device is.
                if request.value == 0 || !self.moves(&mut registers, request.value, now) {
                    self.emulate(&mut registers, &mut answer, now);
                }
                answer.flags |= answer_flags::STATE;
                state = Some(registers);
            }
            Some(RequestKind::Acknowledge) => {
                answer.value =
                    if self.board.wants() { u64::from(self.board.acknowledge()) } else { NO_VECTOR };
            }
            Some(RequestKind::End) => self.board.end(request.value as u8),
            None => log::error!("the hypervisor asks for something unknown kind={}", request.kind),
        }
        // Before the vCPU goes on, so that it sees the lines as they are behind its access.
        self.tell();
        let page = self.pages.as_ref().get(vcpu)?;
        if let Some(state) = state {
            page.store(ANSWER_STATE, &state).ok()?;
        }
        page.store(ANSWER_OFFSET, &answer).ok()?;
        self.core.answer(vcpu as u32);
        Some(())
    }

    /// Carries out a plain move to or from the device at `address`; false when the instruction is none.
    fn moves(&mut self, state: &mut VcpuState, address: u64, now: Time) -> bool {
        let Some(plain) = self.known.find(state, &self.board.memory, address) else { return false };
        let mut bytes = plain.stored.unwrap_or(0).to_le_bytes();
        let Some(moved) = bytes.get_mut(..plain.size) else { return false };
        let mut bus = Bus { board: &mut self.board, ram: &self.ram, now };
        // No device here answers later.
        let _ = match plain.stored {
            Some(_) => bus.write(Gpa(address), moved),
            None => bus.read(Gpa(address), moved),
        };
        plain.finish(state, u64::from_le_bytes(bytes));
        true
    }

    /// Carries out the instruction at the instruction pointer.
    fn emulate(&mut self, state: &mut VcpuState, answer: &mut Answer, now: Time) {
        let rip = state.rip;
        for _ in 0..PIECES {
            let mut bus = Bus { board: &mut self.board, ram: &self.ram, now };
            match step(state, &mut bus) {
                // A repetition that is not at its end yet.
                Outcome::Done if state.rip == rip => {}
                // Nothing that touches a device halts, and no device here answers later.
                Outcome::Done | Outcome::Halted | Outcome::Pending => return,
                Outcome::Fault(fault) => {
                    answer.flags |= answer_flags::EXCEPTION;
                    answer.vector = u32::from(fault.vector);
                    if let Some(error) = fault.error {
                        answer.flags |= answer_flags::ERROR;
                        answer.error = error;
                    }
                    if fault.vector == vector::PF {
                        state.cr2 = fault.address;
                    }
                    return;
                }
                Outcome::Unknown(bytes) => {
                    answer.flags |= answer_flags::EXCEPTION;
                    answer.vector = u32::from(vector::UD);
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
