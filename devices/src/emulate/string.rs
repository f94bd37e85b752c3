//! String instructions and their repetition (SDM 2, REP). Each iteration is complete in itself: the counter and the index
//! registers are up to date after it, as an interrupt between two would find them.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::Gpr;

use super::arithmetic::subtract;
use super::cpu::{Cpu, flag, mask};
use super::fault::Stop;
use super::machine::Machine;
use super::paging::Access;
use crate::width::Width;

/// Iterations that one call carries out at most. The rest follow when the instruction is executed again.
const ITERATIONS: u32 = 1024;

/// Bytes that INS and OUTS move at once at most.
const ROW: usize = 2048;

/// What a string instruction does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Compare,
    Store,
    Load,
    Scan,
    Input,
    Output,
}

const fn kind(name: Mnemonic) -> Option<(Kind, usize)> {
    Some(match name {
        Mnemonic::Movsb => (Kind::Move, 1),
        Mnemonic::Movsw => (Kind::Move, 2),
        Mnemonic::Movsd => (Kind::Move, 4),
        Mnemonic::Movsq => (Kind::Move, 8),
        Mnemonic::Cmpsb => (Kind::Compare, 1),
        Mnemonic::Cmpsw => (Kind::Compare, 2),
        Mnemonic::Cmpsd => (Kind::Compare, 4),
        Mnemonic::Cmpsq => (Kind::Compare, 8),
        Mnemonic::Stosb => (Kind::Store, 1),
        Mnemonic::Stosw => (Kind::Store, 2),
        Mnemonic::Stosd => (Kind::Store, 4),
        Mnemonic::Stosq => (Kind::Store, 8),
        Mnemonic::Lodsb => (Kind::Load, 1),
        Mnemonic::Lodsw => (Kind::Load, 2),
        Mnemonic::Lodsd => (Kind::Load, 4),
        Mnemonic::Lodsq => (Kind::Load, 8),
        Mnemonic::Scasb => (Kind::Scan, 1),
        Mnemonic::Scasw => (Kind::Scan, 2),
        Mnemonic::Scasd => (Kind::Scan, 4),
        Mnemonic::Scasq => (Kind::Scan, 8),
        Mnemonic::Insb => (Kind::Input, 1),
        Mnemonic::Insw => (Kind::Input, 2),
        Mnemonic::Insd => (Kind::Input, 4),
        Mnemonic::Outsb => (Kind::Output, 1),
        Mnemonic::Outsw => (Kind::Output, 2),
        Mnemonic::Outsd => (Kind::Output, 4),
        _ => return None,
    })
}

/// The width of the index registers that an instruction uses.
fn index_size(i: &Instruction) -> Option<usize> {
    (0..i.op_count()).find_map(|operand| {
        Some(match i.op_kind(operand) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
            _ => return None,
        })
    })
}

impl<M: Machine> Cpu<'_, M> {
    /// MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, with and without a repeat prefix.
    pub(crate) fn string(&mut self, i: &Instruction) -> Result<(), Stop> {
        let (kind, size) = kind(i.mnemonic()).ok_or(Stop::Unknown)?;
        let wide = index_size(i).ok_or(Stop::Unknown)?;
        if !i.has_rep_prefix() && !i.has_repne_prefix() {
            return self.iterate(i, kind, size, wide);
        }
        if matches!(kind, Kind::Input | Kind::Output) {
            // Also when there is nothing to move.
            self.string_port(size)?;
        }
        let compares = matches!(kind, Kind::Compare | Kind::Scan);
        for _ in 0..ITERATIONS {
            let count = self.gpr(Gpr::Rcx) & mask(wide);
            if count == 0 {
                return Ok(());
            }
            match self.row(i, kind, size, wide, count) {
                Ok(0) => {}
                Ok(done) => {
                    self.set_gpr(Gpr::Rcx, wide, count - done);
                    self.machine.commit();
                    continue;
                }
                Err(stop) => {
                    self.kept = true;
                    return Err(stop);
                }
            }
            if let Err(stop) = self.iterate(i, kind, size, wide) {
                // What earlier iterations did stays done, and this one has changed no register yet.
                self.kept = true;
                return Err(stop);
            }
            self.set_gpr(Gpr::Rcx, wide, count - 1);
            self.machine.commit();
            if compares && self.test(flag::ZF) != i.has_rep_prefix() {
                return Ok(());
            }
        }
        self.again = self.gpr(Gpr::Rcx) & mask(wide) != 0;
        Ok(())
    }

    /// Many iterations of INS or OUTS upwards at once, as far as they stay in one page; says how many. None where the first of
    /// them has to find out by itself what is wrong.
    fn row(
        &mut self,
        i: &Instruction,
        kind: Kind,
        size: usize,
        wide: usize,
        count: u64,
    ) -> Result<u64, Stop> {
        let (place, access) = match kind {
            Kind::Input => ((Register::ES, Gpr::Rdi), Access::Write),
            Kind::Output => ((self.segment_of(i), Gpr::Rsi), Access::Read),
            _ => return Ok(0),
        };
        let (port, width) = self.string_port(size)?;
        let (segment, register) = place;
        let index = self.gpr(register) & mask(wide);
        let Ok(linear) = self.place(place, size, wide, access) else { return Ok(0) };
        let room = (0x1000 - linear % 0x1000).min(ROW as u64);
        let done = count.min(room.checked_div(size as u64).unwrap_or(0));
        let bytes = done * size as u64;
        let ends = index.checked_add(bytes).is_some_and(|end| end <= mask(wide));
        if done < 2 || self.test(flag::DF) || !ends || self.linear(segment, index, bytes, access).is_err() {
            return Ok(0);
        }
        let at = Gpa(self.translate(linear, access)?);
        let mut buffer = [0; ROW];
        let data = buffer.get_mut(..bytes as usize).ok_or(Stop::Unknown)?;
        if kind == Kind::Input {
            self.machine.port_read_string(port, width, data)?;
            self.machine.write(at, data)?;
        } else {
            self.machine.read(at, data)?;
            self.machine.port_write_string(port, width, data)?;
        }
        self.set_gpr(register, wide, index + bytes);
        Ok(done)
    }

    fn iterate(&mut self, i: &Instruction, kind: Kind, size: usize, wide: usize) -> Result<(), Stop> {
        let source = (self.segment_of(i), Gpr::Rsi);
        let target = (Register::ES, Gpr::Rdi);
        let rax = self.gpr(Gpr::Rax) & mask(size);
        match kind {
            Kind::Move => {
                let value = self.at(source, size, wide, Access::Read)?;
                self.put(target, size, wide, value)?;
            }
            Kind::Compare => {
                // The second first: where both are missing, processors fault for that one.
                let b = self.at(target, size, wide, Access::Read)?;
                let a = self.at(source, size, wide, Access::Read)?;
                self.set_status(subtract(a, b, false, size).1);
            }
            Kind::Store => self.put(target, size, wide, rax)?,
            Kind::Load => {
                let value = self.at(source, size, wide, Access::Read)?;
                self.set_gpr(Gpr::Rax, size, value);
            }
            Kind::Scan => {
                let b = self.at(target, size, wide, Access::Read)?;
                self.set_status(subtract(rax, b, false, size).1);
            }
            Kind::Input => {
                let (port, width) = self.string_port(size)?;
                // The place first: a device's register must not be read for nothing.
                let linear = self.place(target, size, wide, Access::Write)?;
                self.probe(linear, size, Access::Write)?;
                let value = self.machine.port_read(port, width)?;
                self.store(linear, size, u64::from(value), Access::Write)?;
            }
            Kind::Output => {
                let (port, width) = self.string_port(size)?;
                let value = self.at(source, size, wide, Access::Read)?;
                self.machine.port_write(port, width, value as u32)?;
            }
        }
        let step = if self.test(flag::DF) { (size as u64).wrapping_neg() } else { size as u64 };
        if matches!(kind, Kind::Move | Kind::Compare | Kind::Load | Kind::Output) {
            let next = self.gpr(Gpr::Rsi).wrapping_add(step);
            self.set_gpr(Gpr::Rsi, wide, next);
        }
        if !matches!(kind, Kind::Load | Kind::Output) {
            let next = self.gpr(Gpr::Rdi).wrapping_add(step);
            self.set_gpr(Gpr::Rdi, wide, next);
        }
        Ok(())
    }

    fn string_port(&mut self, size: usize) -> Result<(u16, Width), Stop> {
        let port = self.gpr(Gpr::Rdx) as u16;
        self.check_port(port, size)?;
        Ok((port, Width::of(size).ok_or(Stop::Unknown)?))
    }

    fn place(
        &self,
        (segment, index): (Register, Gpr),
        size: usize,
        wide: usize,
        access: Access,
    ) -> Result<u64, Stop> {
        self.linear(segment, self.gpr(index) & mask(wide), size as u64, access)
    }

    fn at(&mut self, place: (Register, Gpr), size: usize, wide: usize, access: Access) -> Result<u64, Stop> {
        let linear = self.place(place, size, wide, access)?;
        self.load(linear, size, access)
    }

    fn put(&mut self, place: (Register, Gpr), size: usize, wide: usize, value: u64) -> Result<(), Stop> {
        let linear = self.place(place, size, wide, Access::Write)?;
        self.store(linear, size, value, Access::Write)
    }
}
