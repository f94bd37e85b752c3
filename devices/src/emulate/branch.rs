//! Branches inside a segment (SDM 2, JMP, Jcc, LOOP, CALL), and port instructions beside them.

use iced_x86::{Instruction, Mnemonic, OpKind};
use trunnion_protocol::control::Gpr;

use super::cpu::{Cpu, mask};
use super::fault::{GP, Stop};
use super::machine::Machine;
use super::paging::Access;
use crate::width::Width;

impl<M: Machine> Cpu<'_, M> {
    /// Where a near branch goes, and how many bytes wide its target is.
    fn target(&mut self, i: &Instruction) -> Result<(u64, usize), Stop> {
        Ok(match i.op0_kind() {
            OpKind::NearBranch16 => (u64::from(i.near_branch16()), 2),
            OpKind::NearBranch32 => (u64::from(i.near_branch32()), 4),
            OpKind::NearBranch64 => (i.near_branch64(), 8),
            _ => (self.get(i, 0)?, self.size(i, 0)),
        })
    }

    /// JMP, near.
    pub(crate) fn near_jump(&mut self, i: &Instruction) -> Result<(), Stop> {
        let (to, _) = self.target(i)?;
        self.jump(to)
    }

    /// Jcc.
    pub(crate) fn jump_condition(&mut self, i: &Instruction) -> Result<(), Stop> {
        if self.holds(i.condition_code()) { self.near_jump(i) } else { Ok(()) }
    }

    /// CALL, near.
    pub(crate) fn near_call(&mut self, i: &Instruction) -> Result<(), Stop> {
        let (to, size) = self.target(i)?;
        let back = self.next;
        self.jump(to)?;
        self.push(back, size)
    }

    /// LOOP, LOOPE, LOOPNE, JCXZ and kin.
    pub(crate) fn counted(&mut self, i: &Instruction) -> Result<(), Stop> {
        use iced_x86::Code;
        let size = match i.code() {
            Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX
            | Code::Jcxz_rel8_16
            | Code::Jcxz_rel8_32 => 2,
            Code::Loop_rel8_64_RCX
            | Code::Loop_rel8_16_RCX
            | Code::Loope_rel8_64_RCX
            | Code::Loope_rel8_16_RCX
            | Code::Loopne_rel8_64_RCX
            | Code::Loopne_rel8_16_RCX
            | Code::Jrcxz_rel8_16
            | Code::Jrcxz_rel8_64 => 8,
            _ => 4,
        };
        let count = self.gpr(Gpr::Rcx) & mask(size);
        let zero = self.test(super::cpu::flag::ZF);
        let taken = match i.mnemonic() {
            Mnemonic::Loop => count != 1,
            Mnemonic::Loope => count != 1 && zero,
            Mnemonic::Loopne => count != 1 && !zero,
            // JCXZ and its kin only look.
            _ if count == 0 => return self.near_jump(i),
            _ => return Ok(()),
        };
        if taken {
            self.near_jump(i)?;
        }
        self.set_gpr(Gpr::Rcx, size, count.wrapping_sub(1));
        Ok(())
    }

    /// Whether the privilege level, or the task's map, allows a port (SDM 1, 19.5).
    pub(crate) fn check_port(&mut self, port: u16, width: usize) -> Result<(), Stop> {
        let level = (self.state.rflags & super::cpu::flag::IOPL) >> 12;
        if self.state.cr0 & 1 == 0 || self.protected() && u64::from(self.cpl()) <= level {
            return Ok(());
        }
        let task = self.state.tr;
        // A 32-bit task state segment has the map's offset at 0x66 (SDM 3, 8.2.1).
        if task.attributes & 0x8d != 0x89 || task.limit < 0x67 {
            return Err(GP);
        }
        let map = self.load(task.base.wrapping_add(0x66), 2, Access::System)?;
        let at = map.wrapping_add(u64::from(port) / 8);
        if at.wrapping_add(1) > u64::from(task.limit) {
            return Err(GP);
        }
        let bits = self.load(task.base.wrapping_add(at), 2, Access::System)?;
        let wanted = (1u64 << width) - 1;
        if bits >> (port & 7) & wanted == 0 { Ok(()) } else { Err(GP) }
    }

    /// IN and OUT.
    pub(crate) fn port(&mut self, i: &Instruction) -> Result<(), Stop> {
        let input = i.mnemonic() == Mnemonic::In;
        let (data, place) = if input { (0, 1) } else { (1, 0) };
        let port = self.get(i, place)? as u16;
        let bytes = self.size(i, data);
        let width = Width::of(bytes).ok_or(Stop::Unknown)?;
        self.check_port(port, bytes)?;
        if input {
            let value = self.machine.port_read(port, width)?;
            self.set(i, data, u64::from(value))
        } else {
            let value = self.get(i, data)? as u32;
            self.machine.port_write(port, width, value)?;
            Ok(())
        }
    }
}
