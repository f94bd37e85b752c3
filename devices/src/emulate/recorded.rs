//! A machine whose devices answer later.

use alloc::vec::Vec;

use trunnion_protocol::address::Gpa;

use super::machine::{Machine, Pending, Refused};
use crate::width::Width;

/// An access: its kind, its address or port, and its bytes.
type Access = (Kind, u64, usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    In,
    Out,
}

/// Remembers what the accesses of the present instruction were answered, so that an instruction which stopped at a
/// [`Pending`] access can be executed again from its start: the accesses before that one are answered from memory and do not
/// reach their devices twice.
pub struct Recorded<M> {
    machine: M,
    answers: Vec<(Access, u64)>,
    next: usize,
}

impl<M> Recorded<M> {
    /// Puts a memory around a machine.
    pub const fn new(machine: M) -> Self {
        Self { machine, answers: Vec::new(), next: 0 }
    }

    /// The machine.
    pub const fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Forgets the present instruction: it is not executed again, or the vCPU was given another state.
    pub fn forget(&mut self) {
        self.answers.clear();
        self.next = 0;
    }

    /// The answer to the next access, from memory or from the machine. An access that was not made before comes in front of those that were:
    /// a repetition that stops in a later iteration begins with the bytes of its instruction when it is executed again.
    fn answer(
        &mut self,
        access: Access,
        ask: impl FnOnce(&mut M) -> Result<u64, Pending>,
    ) -> Result<u64, Pending> {
        let value = match self.answers.get(self.next) {
            Some((known, value)) if *known == access => *value,
            _ => {
                let Ok(value) = ask(&mut self.machine) else {
                    self.next = 0;
                    return Err(Pending);
                };
                self.answers.insert(self.next, (access, value));
                value
            }
        };
        self.next += 1;
        Ok(value)
    }
}

impl<M: Machine> Machine for Recorded<M> {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        let mut at = at.0;
        for piece in into.chunks_mut(8) {
            let length = piece.len();
            let value = self.answer((Kind::Read, at, length), |machine| {
                let mut bytes = [0; 8];
                machine.read(Gpa(at), bytes.get_mut(..length).unwrap_or(&mut []))?;
                Ok(u64::from_le_bytes(bytes))
            })?;
            for (to, from) in piece.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            at = at.wrapping_add(8);
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        self.answer((Kind::Write, at.0, from.len()), |machine| machine.write(at, from).map(|()| 0))
            .map(|_| ())
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        self.answer((Kind::In, port.into(), width.bytes()), |machine| {
            machine.port_read(port, width).map(u64::from)
        })
        .map(|value| value as u32)
    }
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Pending> {
        self.answer((Kind::Out, port.into(), width.bytes()), |machine| {
            machine.port_write(port, width, value).map(|()| 0)
        })
        .map(|_| ())
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.machine.cpuid(leaf, subleaf)
    }
    fn msr_read(&mut self, index: u32) -> Result<u64, Refused> {
        self.machine.msr_read(index)
    }
    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), Refused> {
        self.machine.msr_write(index, value)
    }
    fn tsc(&mut self) -> u64 {
        self.machine.tsc()
    }
    fn commit(&mut self) {
        self.forget();
        self.machine.commit();
    }
}
