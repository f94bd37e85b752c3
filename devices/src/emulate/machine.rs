//! What the emulator asks of the machine that it executes on.

use trunnion_protocol::address::Gpa;

use crate::width::Width;

/// The answer to an access comes later. The instruction has had no effect on registers, and is executed again from its
/// start when the answer is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending;

/// An MSR that does not exist, or a value that it does not take: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The machine around the processor: memory and devices by guest-physical address, ports, and the registers that the
/// emulator does not keep.
///
/// An access that is [`Pending`] makes the emulator give up the instruction and come back to it. The accesses that it
/// made before are then made again, so a machine that ever answers `Pending` wraps itself into
/// [`Recorded`](super::Recorded), which answers repeated reads of an instruction from what was answered before and does not
/// repeat its writes.
pub trait Machine {
    /// Reads bytes of one page. Memory that is not there reads as ones.
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending>;
    /// Writes bytes of one page. Writes to what is not there are dropped.
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending>;
    /// Reads a port. One that is not there reads as ones.
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending>;
    /// Writes a port.
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Pending>;
    /// Reads a port again and again, into accesses of `width` one behind the other.
    fn port_read_string(&mut self, port: u16, width: Width, into: &mut [u8]) -> Result<(), Pending> {
        for piece in into.chunks_mut(width.bytes()) {
            let value = self.port_read(port, width)?;
            piece.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
    /// Writes a port again and again, from accesses of `width` one behind the other.
    fn port_write_string(&mut self, port: u16, width: Width, from: &[u8]) -> Result<(), Pending> {
        for piece in from.chunks(width.bytes()) {
            let mut value = [0; 4];
            value.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            self.port_write(port, width, u32::from_le_bytes(value))?;
        }
        Ok(())
    }
    /// EAX, EBX, ECX, EDX of a CPUID leaf.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads an MSR that is no part of the vCPU's state.
    fn msr_read(&mut self, index: u32) -> Result<u64, Refused>;
    /// Writes an MSR that is no part of the vCPU's state.
    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), Refused>;
    /// The time-stamp counter.
    fn tsc(&mut self) -> u64;
    /// An instruction, or one iteration of a repeated one, is done: its accesses are not made again.
    fn commit(&mut self) {}
}
