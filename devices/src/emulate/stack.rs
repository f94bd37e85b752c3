//! The stack (SDM 2, PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::control::Gpr;

use super::cpu::{Cpu, flag, mask};
use super::fault::{GP, Stop, UD};
use super::machine::Machine;
use super::paging::Access;

impl<M: Machine> Cpu<'_, M> {
    /// Bytes of the stack pointer: by the stack segment's size.
    pub(crate) const fn stack_size(&self) -> usize {
        if self.bits == 64 {
            8
        } else if self.state.ss.attributes >> 10 & 1 != 0 {
            4
        } else {
            2
        }
    }

    pub(crate) const fn stack_pointer(&self) -> u64 {
        self.gpr(Gpr::Rsp) & mask(self.stack_size())
    }

    /// Bytes that an instruction pushes or pops when it says nothing else: by its operand size.
    fn operand_size(&self, i: &Instruction) -> usize {
        let wide = i.stack_pointer_increment().unsigned_abs() as usize;
        let many = match i.mnemonic() {
            Mnemonic::Pusha | Mnemonic::Pushad | Mnemonic::Popa | Mnemonic::Popad => 8,
            _ => 1,
        };
        wide / many
    }

    /// Pushes a value, when the instruction does nothing else that can fail afterwards.
    pub(crate) fn push(&mut self, value: u64, size: usize) -> Result<(), Stop> {
        let to = self.stack_pointer().wrapping_sub(size as u64) & mask(self.stack_size());
        let linear = self.linear(Register::SS, to, size as u64, Access::Write)?;
        self.store(linear, size, value, Access::Write)?;
        let wide = self.stack_size();
        self.set_gpr(Gpr::Rsp, wide, to);
        Ok(())
    }

    /// Checks that `count` values can be pushed, and pushes none.
    pub(crate) fn probe_push(&mut self, count: u64, size: usize) -> Result<(), Stop> {
        let wide = mask(self.stack_size());
        for n in 1..=count {
            let to = self.stack_pointer().wrapping_sub(n.wrapping_mul(size as u64)) & wide;
            let linear = self.linear(Register::SS, to, size as u64, Access::Write)?;
            self.probe(linear, size, Access::Write)?;
        }
        Ok(())
    }

    /// What is on the stack, `skip` bytes further up.
    pub(crate) fn peek(&mut self, skip: u64, size: usize) -> Result<u64, Stop> {
        let from = self.stack_pointer().wrapping_add(skip) & mask(self.stack_size());
        let linear = self.linear(Register::SS, from, size as u64, Access::Read)?;
        self.load(linear, size, Access::Read)
    }

    /// Moves the stack pointer up.
    pub(crate) fn release(&mut self, bytes: u64) {
        let to = self.stack_pointer().wrapping_add(bytes);
        let wide = self.stack_size();
        self.set_gpr(Gpr::Rsp, wide, to);
    }

    /// PUSH.
    pub(crate) fn push_operand(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size(i);
        let value = self.get(i, 0)?;
        self.push(value, size)
    }

    /// POP. A memory operand is addressed with the stack pointer as it is afterwards.
    pub(crate) fn pop_operand(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size(i);
        let value = self.peek(0, size)?;
        if i.op0_kind() == OpKind::Register {
            let to = i.op0_register();
            if to.is_segment_register() {
                self.load_segment(to, value as u16)?;
                self.release(size as u64);
                if to == Register::SS {
                    self.state.interruptibility |= 2;
                }
                return Ok(());
            }
            self.release(size as u64);
            return self.set(i, 0, value);
        }
        // On a fault the caller takes the registers back.
        self.release(size as u64);
        self.set(i, 0, value)
    }

    /// PUSHA and PUSHAD.
    pub(crate) fn push_all(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size(i);
        self.probe_push(8, size)?;
        let registers = self.state.gpr;
        for value in registers.into_iter().take(8) {
            self.push(value, size)?;
        }
        Ok(())
    }

    /// POPA and POPAD: the stack pointer among the values is skipped.
    pub(crate) fn pop_all(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size(i);
        let mut values = [0; 8];
        for (n, value) in values.iter_mut().rev().enumerate() {
            *value = self.peek(n as u64 * size as u64, size)?;
        }
        for (which, value) in Gpr::ALL.into_iter().zip(values) {
            if which as usize != Gpr::Rsp as usize {
                self.set_gpr(which, size, value);
            }
        }
        self.release(8 * size as u64);
        Ok(())
    }

    /// PUSHF and its wider forms.
    pub(crate) fn push_flags(&mut self, i: &Instruction) -> Result<(), Stop> {
        if self.test(flag::VM) && self.state.rflags & flag::IOPL != flag::IOPL {
            return Err(GP);
        }
        let size = self.operand_size(i);
        let value = self.state.rflags & !(flag::VM | flag::RF);
        self.push(value, size)
    }

    /// POPF and its wider forms.
    pub(crate) fn pop_flags(&mut self, i: &Instruction) -> Result<(), Stop> {
        if self.test(flag::VM) && self.state.rflags & flag::IOPL != flag::IOPL {
            return Err(GP);
        }
        let size = self.operand_size(i);
        let value = self.peek(0, size)?;
        self.release(size as u64);
        self.set_flags(value, size);
        Ok(())
    }

    /// Flags from the stack, those that the privilege level may change.
    pub(crate) const fn set_flags(&mut self, value: u64, size: usize) {
        let mut change = flag::STATUS | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID;
        let privileged = self.state.cr0 & 1 == 0 || self.cpl() == 0;
        if privileged {
            change |= flag::IOPL;
        }
        if privileged || self.cpl() as u64 <= (self.state.rflags & flag::IOPL) >> 12 {
            change |= flag::IF;
        }
        if size == 2 {
            change &= 0xffff;
        }
        self.state.rflags = (self.state.rflags & !change | value & change) & !flag::RF | 2;
    }

    /// ENTER.
    pub(crate) fn enter(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size_of_frame(i);
        let bytes = u64::from(i.immediate16());
        let level = i.immediate8_2nd() & 31;
        self.probe_push(u64::from(level) + 1, size)?;
        // So has the frame's last byte to be writable, before anything is written.
        let below = (u64::from(level) + 1).wrapping_mul(size as u64).wrapping_add(bytes);
        let to = self.stack_pointer().wrapping_sub(below) & mask(self.stack_size());
        let linear = self.linear(Register::SS, to, 1, Access::Write)?;
        self.probe(linear, 1, Access::Write)?;
        // The outer frames' pointers have to be readable as well.
        let wide = mask(self.stack_size());
        let old = self.gpr(Gpr::Rbp);
        let mut frame = old;
        let outer = usize::from(level.saturating_sub(1));
        for _ in 0..outer {
            frame = frame.wrapping_sub(size as u64) & wide;
            let linear = self.linear(Register::SS, frame, size as u64, Access::Read)?;
            self.probe(linear, size, Access::Read)?;
        }
        self.push(old, size)?;
        let top = self.stack_pointer();
        frame = old;
        for _ in 0..outer {
            // One by one: the frames may overlap what is pushed.
            frame = frame.wrapping_sub(size as u64) & wide;
            let linear = self.linear(Register::SS, frame, size as u64, Access::Read)?;
            let value = self.load(linear, size, Access::Read)?;
            self.push(value, size)?;
        }
        if level > 0 {
            self.push(top, size)?;
        }
        self.set_gpr(Gpr::Rbp, size, top);
        let wide = self.stack_size();
        self.set_gpr(Gpr::Rsp, wide, to);
        Ok(())
    }

    /// LEAVE.
    pub(crate) fn leave(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.operand_size_of_frame(i);
        let wide = self.stack_size();
        let frame = self.gpr(Gpr::Rbp) & mask(wide);
        let linear = self.linear(Register::SS, frame, size as u64, Access::Read)?;
        let value = self.load(linear, size, Access::Read)?;
        self.set_gpr(Gpr::Rsp, wide, frame.wrapping_add(size as u64));
        self.set_gpr(Gpr::Rbp, size, value);
        Ok(())
    }

    fn operand_size_of_frame(&self, i: &Instruction) -> usize {
        use iced_x86::Code;
        match i.code() {
            Code::Enterw_imm16_imm8 | Code::Leavew => 2,
            Code::Enterd_imm16_imm8 | Code::Leaved => 4,
            _ => 8,
        }
    }

    /// RET, near.
    pub(crate) fn near_return(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = near_size(i)?;
        let to = self.peek(0, size)?;
        self.jump(to)?;
        let extra = if i.op_count() == 1 { u64::from(i.immediate16()) } else { 0 };
        self.release(size as u64 + extra);
        Ok(())
    }
}

/// Bytes that a near return pops.
fn near_size(i: &Instruction) -> Result<usize, Stop> {
    use iced_x86::Code;
    Ok(match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        Code::Retnq | Code::Retnq_imm16 => 8,
        _ => return Err(UD),
    })
}
