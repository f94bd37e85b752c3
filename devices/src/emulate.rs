//! The instruction emulator: iced-x86 decodes, this executes.
//!
//! [`step`] carries out one instruction on a [`VcpuState`] and a [`Machine`]. It is what a device model needs for an
//! instruction that touched a device's memory in a way the processor did not decode, and complete enough to be a
//! processor by itself: the host's tests boot firmware with it, with [`interrupt`] for what devices want.
//!
//! An instruction that does not complete has changed neither registers nor memory: operands are read with the rights that
//! their write will need, every page of an access is translated before a byte moves, and the one write comes last.
//! Instructions that write more than one place ask for all of them first. What has been done and stays done is marked
//! accessed and dirty bits in page tables, and complete iterations of a repeated string instruction.
//!
//! Not known, and refused as [`Outcome::Unknown`]: floating point and vectors, task switches and call gates, SYSCALL and
//! SYSENTER with their returns, CR8. SDM is Intel's *Software Developer's Manual*, APM AMD's *Architecture Programmer's Manual*.

mod arithmetic;
mod bits;
mod branch;
mod cpu;
mod execute;
mod far;
mod fault;
mod interrupt;
mod known;
mod machine;
mod memory;
mod moves;
mod multiply;
mod paging;
mod recorded;
mod segment;
mod shift;
mod stack;
mod string;
mod system;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Register};
use trunnion_protocol::control::VcpuState;

use cpu::Cpu;
use fault::Stop;
pub use fault::{Fault, vector};
use interrupt::Source;
pub use known::{Known, Plain};
pub use machine::{Machine, Pending, Refused};
use paging::Access;
pub use recorded::Recorded;

/// Most bytes of an instruction (SDM 2, 2.3.11).
pub const LONGEST: usize = 15;

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done; the instruction pointer is at the next one, or still here while a repetition goes on.
    Done,
    /// It is done and was HLT.
    Halted,
    /// It raises an exception; registers are as before it.
    Fault(Fault),
    /// A device answers later; registers are as before it.
    Pending,
    /// The emulator does not know it; registers are as before it. The guest is to get #UD, the log these bytes.
    Unknown([u8; LONGEST]),
}

/// Registers that [`step`] saves, so that nothing is left of an instruction that stops.
fn new<'a, M: Machine>(state: &'a mut VcpuState, machine: &'a mut M) -> Cpu<'a, M> {
    let bits = cpu::bits(state);
    let next = state.rip;
    Cpu { state, machine, bits, next, halted: false, again: false, kept: false }
}

/// Executes the instruction at the instruction pointer.
pub fn step<M: Machine>(state: &mut VcpuState, machine: &mut M) -> Outcome {
    let before = *state;
    let mut cpu = new(state, machine);
    let mut bytes = [0; LONGEST];
    let result = fetch(&mut cpu, &mut bytes).and_then(|instruction| {
        // A shadow of STI or MOV SS lasts for this instruction.
        cpu.state.interruptibility &= !3;
        cpu.next = instruction.next_ip();
        cpu.execute(&instruction)
    });
    let (again, kept, halted) = (cpu.again, cpu.kept, cpu.halted);
    let next = match cpu.bits {
        // Only branches cut it to 16 bits; what runs on beyond 64 KiB meets the segment's limit.
        16 | 32 => cpu.next & 0xffff_ffff,
        _ => cpu.next,
    };
    match result {
        Ok(()) => {
            if !again {
                state.rip = next;
                state.rflags &= !cpu::flag::RF;
            }
            machine.commit();
            if halted { Outcome::Halted } else { Outcome::Done }
        }
        Err(stop) => {
            if !kept {
                *state = before;
            }
            match stop {
                Stop::Fault(fault) => {
                    machine.commit();
                    Outcome::Fault(fault)
                }
                Stop::Pending => Outcome::Pending,
                Stop::Unknown => {
                    machine.commit();
                    Outcome::Unknown(bytes)
                }
            }
        }
    }
}

/// Delivers an interrupt of a device (`error` is `None`) or an exception through the guest's interrupt table, as the
/// processor does. On an error the registers are as before, and the exception is the one that the delivery raised.
pub fn interrupt<M: Machine>(
    state: &mut VcpuState,
    machine: &mut M,
    vector: u8,
    error: Option<u32>,
) -> Result<(), Outcome> {
    let before = *state;
    let mut cpu = new(state, machine);
    let back = cpu.next;
    let result = cpu.deliver(vector, error, Source::Hardware, back);
    let next = cpu.next;
    match result {
        Ok(()) => {
            state.rip = next;
            state.interruptibility &= !3;
            machine.commit();
            Ok(())
        }
        Err(stop) => {
            *state = before;
            Err(match stop {
                Stop::Fault(fault) => {
                    machine.commit();
                    Outcome::Fault(fault)
                }
                Stop::Pending => Outcome::Pending,
                Stop::Unknown => Outcome::Unknown([0; LONGEST]),
            })
        }
    }
}

/// Reads and decodes the instruction at the instruction pointer, without a byte more than it has where the next page or
/// the segment ends.
fn fetch<M: Machine>(cpu: &mut Cpu<'_, M>, bytes: &mut [u8; LONGEST]) -> Result<Instruction, Stop> {
    let rip = cpu.next;
    let linear = cpu.linear(Register::CS, rip, 1, Access::Fetch)?;
    let mut have = (0x1000 - (linear & 0xfff) as usize).min(LONGEST);
    if cpu.bits != 64 {
        let room = u64::from(cpu.state.cs.limit).wrapping_sub(rip).wrapping_add(1);
        have = have.min(usize::try_from(room).unwrap_or(LONGEST).max(1));
    }
    let first = bytes.get_mut(..have).ok_or(Stop::Unknown)?;
    cpu.load_bytes(linear, first, Access::Fetch)?;
    let decode = |bytes: &[u8]| {
        let mut decoder = Decoder::with_ip(cpu.bits, bytes, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (instruction, decoder.last_error())
    };
    let (instruction, error) = decode(bytes.get(..have).unwrap_or(&[]));
    match error {
        DecoderError::None => Ok(instruction),
        DecoderError::NoMoreBytes if have < LONGEST => {
            let rest = bytes.get_mut(have..).ok_or(Stop::Unknown)?;
            let more = cpu.linear(Register::CS, rip.wrapping_add(have as u64), 1, Access::Fetch)?;
            cpu.load_bytes(more, rest, Access::Fetch)?;
            let (instruction, error) =
                Decoder::with_ip(cpu.bits, bytes.as_slice(), rip, DecoderOptions::NONE).decode_one();
            if error { Err(fault::UD) } else { Ok(instruction) }
        }
        // Longer than an instruction may be.
        DecoderError::NoMoreBytes => Err(fault::GP),
        _ => Err(fault::UD),
    }
}

/// Decoding with a verdict.
trait DecodeOne {
    fn decode_one(self) -> (Instruction, bool);
}

impl DecodeOne for Decoder<'_> {
    fn decode_one(mut self) -> (Instruction, bool) {
        let instruction = self.decode();
        (instruction, self.last_error() != DecoderError::None)
    }
}
