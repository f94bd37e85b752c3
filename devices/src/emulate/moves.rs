//! Moves, conversions and exchanges (SDM 2, under each name).

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::control::Gpr;

use super::arithmetic::{add, subtract};
use super::cpu::{Cpu, extend, flag, mask};
use super::fault::{Fault, GP, Stop, UD, vector};
use super::machine::Machine;
use super::paging::Access;

impl<M: Machine> Cpu<'_, M> {
    /// MOV between registers, memory, immediates and segment registers; control and debug registers are elsewhere.
    pub(crate) fn mov(&mut self, i: &Instruction) -> Result<(), Stop> {
        if i.op0_kind() == OpKind::Register {
            let to = i.op0_register();
            if to.is_segment_register() {
                let selector = self.get(i, 1)? as u16;
                if to == Register::CS {
                    return Err(UD);
                }
                self.load_segment(to, selector)?;
                if to == Register::SS {
                    self.state.interruptibility |= 2;
                }
                return Ok(());
            }
            if !to.is_gpr() {
                return self.move_to_system(i);
            }
            if i.op1_kind() == OpKind::Register {
                let from = i.op1_register();
                if !from.is_gpr() && !from.is_segment_register() {
                    return self.move_from_system(i);
                }
            }
        }
        let value = self.get(i, 1)?;
        self.set(i, 0, value)
    }

    /// MOVZX, MOVSX, MOVSXD, MOVNTI, MOVBE, BSWAP.
    pub(crate) fn convert(&mut self, i: &Instruction) -> Result<(), Stop> {
        let value = match i.mnemonic() {
            Mnemonic::Movsx | Mnemonic::Movsxd => extend(self.get(i, 1)?, self.size(i, 1)) as u64,
            Mnemonic::Movbe => {
                let size = self.size(i, 0);
                self.get(i, 1)?.swap_bytes() >> (64 - size * 8)
            }
            Mnemonic::Bswap => {
                let size = self.size(i, 0);
                // Of 16 bits the manual says nothing; processors clear them.
                if size == 2 { 0 } else { self.get(i, 0)?.swap_bytes() >> (64 - size * 8) }
            }
            _ => self.get(i, 1)?,
        };
        self.set(i, 0, value)
    }

    /// CBW, CWDE, CDQE, CWD, CDQ, CQO.
    pub(crate) fn widen(&mut self, i: &Instruction) {
        let rax = self.gpr(Gpr::Rax);
        match i.mnemonic() {
            Mnemonic::Cbw => self.set_gpr(Gpr::Rax, 2, extend(rax, 1) as u64),
            Mnemonic::Cwde => self.set_gpr(Gpr::Rax, 4, extend(rax, 2) as u64),
            Mnemonic::Cdqe => self.set_gpr(Gpr::Rax, 8, extend(rax, 4) as u64),
            Mnemonic::Cwd => self.set_gpr(Gpr::Rdx, 2, (extend(rax, 2) >> 63) as u64),
            Mnemonic::Cdq => self.set_gpr(Gpr::Rdx, 4, (extend(rax, 4) >> 63) as u64),
            _ => self.set_gpr(Gpr::Rdx, 8, (rax as i64 >> 63) as u64),
        }
    }

    /// LEA.
    pub(crate) fn lea(&mut self, i: &Instruction) -> Result<(), Stop> {
        let offset = self.offset(i);
        self.set(i, 0, offset)
    }

    /// XLAT.
    pub(crate) fn xlat(&mut self, i: &Instruction) -> Result<(), Stop> {
        let base = i.memory_base();
        let offset = self.register(base).wrapping_add(self.gpr(Gpr::Rax) & 0xff) & mask(base.size());
        let linear = self.linear(self.segment_of(i), offset, 1, Access::Read)?;
        let value = self.load(linear, 1, Access::Read)?;
        self.set_gpr(Gpr::Rax, 1, value);
        Ok(())
    }

    /// XCHG, which is locked with memory whether it says so or not.
    pub(crate) fn exchange(&mut self, i: &Instruction) -> Result<(), Stop> {
        let a = self.get_for_write(i, 0)?;
        let b = self.get_for_write(i, 1)?;
        // The operand in memory first: it alone can fail.
        if i.op1_kind() == OpKind::Memory {
            self.set(i, 1, a)?;
            self.set(i, 0, b)
        } else {
            self.set(i, 0, b)?;
            self.set(i, 1, a)
        }
    }

    /// XADD.
    pub(crate) fn exchange_add(&mut self, i: &Instruction) -> Result<(), Stop> {
        Self::check_lock(i)?;
        let size = self.size(i, 0);
        let a = self.get_for_write(i, 0)?;
        let b = self.get(i, 1)?;
        let (sum, flags) = add(a, b, false, size);
        if i.op0_kind() == OpKind::Memory {
            self.set(i, 0, sum)?;
            self.set(i, 1, a)?;
        } else {
            self.set(i, 1, a)?;
            self.set(i, 0, sum)?;
        }
        self.set_status(flags);
        Ok(())
    }

    /// CMPXCHG, which writes its destination whether or not it was equal.
    pub(crate) fn compare_exchange(&mut self, i: &Instruction) -> Result<(), Stop> {
        Self::check_lock(i)?;
        let size = self.size(i, 0);
        let found = self.get_for_write(i, 0)?;
        let (_, flags) = subtract(self.gpr(Gpr::Rax), found, false, size);
        if flags & flag::ZF != 0 {
            let value = self.get(i, 1)?;
            self.set(i, 0, value)?;
        } else {
            if i.op0_kind() == OpKind::Memory {
                self.set(i, 0, found)?;
            }
            self.set_gpr(Gpr::Rax, size, found);
        }
        self.set_status(flags);
        Ok(())
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(crate) fn compare_exchange_pair(&mut self, i: &Instruction) -> Result<(), Stop> {
        let half = if i.mnemonic() == Mnemonic::Cmpxchg16b { 8 } else { 4 };
        if i.op0_kind() != OpKind::Memory {
            return Err(UD);
        }
        let linear = self.address(i, half * 2, Access::Write)?;
        if half == 8 && !linear.is_multiple_of(16) {
            return Err(GP);
        }
        let mut bytes = [0; 16];
        let place = bytes.get_mut(..half * 2).ok_or(Stop::Unknown)?;
        self.load_bytes(linear, place, Access::Write)?;
        let all = u128::from_le_bytes(bytes);
        let (low, high) = (all as u64 & mask(half), (all >> (half * 8)) as u64 & mask(half));
        let equal = low == self.gpr(Gpr::Rax) & mask(half) && high == self.gpr(Gpr::Rdx) & mask(half);
        if equal {
            let value = u128::from(self.gpr(Gpr::Rcx) & mask(half)) << (half * 8)
                | u128::from(self.gpr(Gpr::Rbx) & mask(half));
            bytes = value.to_le_bytes();
        }
        self.store_bytes(linear, bytes.get(..half * 2).unwrap_or(&[]), Access::Write)?;
        if !equal {
            self.set_gpr(Gpr::Rax, half, low);
            self.set_gpr(Gpr::Rdx, half, high);
        }
        self.set_flag(flag::ZF, equal);
        Ok(())
    }

    /// `SETcc`.
    pub(crate) fn set_condition(&mut self, i: &Instruction) -> Result<(), Stop> {
        let holds = self.holds(i.condition_code());
        self.set(i, 0, u64::from(holds))
    }

    /// `CMOVcc`: the source is read, and a 32-bit destination's upper half cleared, whether or not it moves.
    pub(crate) fn move_condition(&mut self, i: &Instruction) -> Result<(), Stop> {
        let value = self.get(i, 1)?;
        let kept = self.get(i, 0)?;
        let holds = self.holds(i.condition_code());
        self.set(i, 0, if holds { value } else { kept })
    }

    /// Whether a condition holds (SDM 1, appendix B).
    pub(crate) const fn holds(&self, condition: ConditionCode) -> bool {
        let less = self.test(flag::SF) != self.test(flag::OF);
        match condition {
            ConditionCode::None => true,
            ConditionCode::o => self.test(flag::OF),
            ConditionCode::no => !self.test(flag::OF),
            ConditionCode::b => self.test(flag::CF),
            ConditionCode::ae => !self.test(flag::CF),
            ConditionCode::e => self.test(flag::ZF),
            ConditionCode::ne => !self.test(flag::ZF),
            ConditionCode::be => self.test(flag::CF | flag::ZF),
            ConditionCode::a => !self.test(flag::CF | flag::ZF),
            ConditionCode::s => self.test(flag::SF),
            ConditionCode::ns => !self.test(flag::SF),
            ConditionCode::p => self.test(flag::PF),
            ConditionCode::np => !self.test(flag::PF),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || self.test(flag::ZF),
            ConditionCode::g => !less && !self.test(flag::ZF),
        }
    }

    /// LAHF, SAHF and the instructions that set one flag.
    pub(crate) fn flags(&mut self, i: &Instruction) -> Result<(), Stop> {
        match i.mnemonic() {
            Mnemonic::Lahf => {
                let flags = self.state.rflags & 0xd5 | 2;
                self.set_register(Register::AH, flags);
            }
            Mnemonic::Sahf => {
                self.state.rflags = self.state.rflags & !0xd5 | self.register(Register::AH) & 0xd5;
            }
            Mnemonic::Clc => self.set_flag(flag::CF, false),
            Mnemonic::Stc => self.set_flag(flag::CF, true),
            Mnemonic::Cmc => self.state.rflags ^= flag::CF,
            Mnemonic::Cld => self.set_flag(flag::DF, false),
            Mnemonic::Std => self.set_flag(flag::DF, true),
            Mnemonic::Salc => {
                let value = if self.test(flag::CF) { 0xff } else { 0 };
                self.set_gpr(Gpr::Rax, 1, value);
            }
            _ => return Err(Stop::Unknown),
        }
        Ok(())
    }

    /// BOUND: #BR outside.
    pub(crate) fn bound(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let index = extend(self.get(i, 0)?, size);
        // Two accesses: between them the offset may wrap.
        let offset = self.offset(i);
        let second = offset.wrapping_add(size as u64) & mask(4);
        let linear = self.linear(self.segment_of(i), offset, size as u64, Access::Read)?;
        let low = extend(self.load(linear, size, Access::Read)?, size);
        let linear = self.linear(self.segment_of(i), second, size as u64, Access::Read)?;
        let high = extend(self.load(linear, size, Access::Read)?, size);
        if index < low || index > high { Err(Stop::Fault(Fault::plain(vector::BR))) } else { Ok(()) }
    }
}
