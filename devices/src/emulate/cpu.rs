//! One instruction at work: the registers, the machine, and operands by name.

use iced_x86::{Instruction, OpKind, Register};
use trunnion_protocol::control::{Gpr, Segment, VcpuState};

use super::fault::{Stop, UD};
use super::machine::Machine;
use super::paging::Access;

/// Status flags (SDM 1, 3.4.3).
pub(crate) mod flag {
    pub(crate) const CF: u64 = 1;
    pub(crate) const PF: u64 = 1 << 2;
    pub(crate) const AF: u64 = 1 << 4;
    pub(crate) const ZF: u64 = 1 << 6;
    pub(crate) const SF: u64 = 1 << 7;
    pub(crate) const TF: u64 = 1 << 8;
    pub(crate) const IF: u64 = 1 << 9;
    pub(crate) const DF: u64 = 1 << 10;
    pub(crate) const OF: u64 = 1 << 11;
    pub(crate) const IOPL: u64 = 3 << 12;
    pub(crate) const NT: u64 = 1 << 14;
    pub(crate) const RF: u64 = 1 << 16;
    pub(crate) const VM: u64 = 1 << 17;
    pub(crate) const AC: u64 = 1 << 18;
    pub(crate) const ID: u64 = 1 << 21;
    /// The six that arithmetic sets.
    pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

pub(crate) struct Cpu<'a, M> {
    pub(crate) state: &'a mut VcpuState,
    pub(crate) machine: &'a mut M,
    /// 16, 32 or 64: how the code segment says that instructions are read.
    pub(crate) bits: u32,
    /// Where the next instruction begins, relative to the code segment.
    pub(crate) next: u64,
    /// The processor waits for an interrupt after this instruction.
    pub(crate) halted: bool,
    /// REP has more iterations to do.
    pub(crate) again: bool,
    /// The registers are right as they are, also after a fault.
    pub(crate) kept: bool,
}

/// All ones in an operand of so many bytes.
pub(crate) const fn mask(size: usize) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The sign bit of an operand of so many bytes.
pub(crate) const fn sign(size: usize) -> u64 {
    mask(size) & !(mask(size) >> 1)
}

/// A number of so many bytes, sign-extended.
pub(crate) const fn extend(value: u64, size: usize) -> i64 {
    match size {
        1 => value as i8 as i64,
        2 => value as i16 as i64,
        4 => value as i32 as i64,
        _ => value as i64,
    }
}

/// How instructions are read: 16, 32 or 64 bits.
pub(crate) const fn bits(state: &VcpuState) -> u32 {
    if state.efer >> 10 & 1 != 0 && state.cs.attributes >> 9 & 1 != 0 {
        64
    } else if state.cs.attributes >> 10 & 1 != 0 {
        32
    } else {
        16
    }
}

impl<M: Machine> Cpu<'_, M> {
    /// Whether segments are those of protected mode: not real mode, not virtual-8086 mode.
    pub(crate) const fn protected(&self) -> bool {
        self.state.cr0 & 1 != 0 && self.state.rflags & flag::VM == 0
    }

    /// The current privilege level.
    pub(crate) const fn cpl(&self) -> u8 {
        if self.state.cr0 & 1 == 0 {
            0
        } else if self.state.rflags & flag::VM != 0 {
            3
        } else {
            (self.state.ss.attributes >> 5 & 3) as u8
        }
    }

    pub(crate) const fn segment(&self, name: Register) -> Segment {
        match name {
            Register::ES => self.state.es,
            Register::CS => self.state.cs,
            Register::SS => self.state.ss,
            Register::FS => self.state.fs,
            Register::GS => self.state.gs,
            _ => self.state.ds,
        }
    }

    pub(crate) const fn gpr(&self, which: Gpr) -> u64 {
        self.state.gpr[which as usize]
    }

    pub(crate) const fn gpr_mut(&mut self, which: Gpr) -> &mut u64 {
        &mut self.state.gpr[which as usize]
    }

    /// A general-purpose register of any width.
    pub(crate) fn register(&self, name: Register) -> u64 {
        let value = self.state.gpr[name.full_register().number() & 15];
        match name {
            Register::AH | Register::CH | Register::DH | Register::BH => value >> 8 & 0xff,
            _ => value & mask(name.size()),
        }
    }

    /// Writes one. 32-bit writes clear the upper half, narrower ones keep the rest (SDM 1, 3.4.1.1).
    pub(crate) fn set_register(&mut self, name: Register, value: u64) {
        let full = &mut self.state.gpr[name.full_register().number() & 15];
        *full = match name {
            Register::AH | Register::CH | Register::DH | Register::BH => {
                *full & !0xff00 | (value & 0xff) << 8
            }
            _ => match name.size() {
                1 => *full & !0xff | value & 0xff,
                2 => *full & !0xffff | value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            },
        };
    }

    /// Writes the low bytes of a register, as [`Self::set_register`] does.
    pub(crate) fn set_gpr(&mut self, which: Gpr, size: usize, value: u64) {
        let full = self.gpr_mut(which);
        *full = match size {
            1 => *full & !0xff | value & 0xff,
            2 => *full & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    pub(crate) const fn test(&self, flags: u64) -> bool {
        self.state.rflags & flags != 0
    }

    pub(crate) const fn set_flag(&mut self, flag: u64, on: bool) {
        if on {
            self.state.rflags |= flag;
        } else {
            self.state.rflags &= !flag;
        }
    }

    /// Bytes of an operand.
    pub(crate) fn size(&self, i: &Instruction, operand: u32) -> usize {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                if register.is_segment_register() { 2 } else { register.size() }
            }
            OpKind::Immediate8 => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
            _ => i.memory_size().size(),
        }
    }

    /// The offset of a memory operand in its segment.
    pub(crate) fn offset(&self, i: &Instruction) -> u64 {
        let base = i.memory_base();
        let index = i.memory_index();
        if i.is_ip_rel_memory_operand() {
            return i.ip_rel_memory_address();
        }
        let mut offset = i.memory_displacement64();
        if base != Register::None {
            offset = offset.wrapping_add(self.register(base));
        }
        if index != Register::None {
            offset =
                offset.wrapping_add(self.register(index).wrapping_mul(u64::from(i.memory_index_scale())));
        }
        let size = if base != Register::None {
            base.size()
        } else if index != Register::None {
            index.size()
        } else {
            i.memory_displ_size() as usize
        };
        offset & mask(size)
    }

    /// The segment of a memory operand. In 64-bit code only FS and GS override: the others count for nothing, not even for the
    /// vector of a fault (SDM 1, 3.3.7.1).
    pub(crate) fn segment_of(&self, i: &Instruction) -> Register {
        let segment = i.memory_segment();
        if self.bits != 64 || matches!(segment, Register::FS | Register::GS) {
            return segment;
        }
        match i.memory_base().full_register() {
            Register::RSP | Register::RBP => Register::SS,
            _ => Register::DS,
        }
    }

    /// The linear address of a memory operand.
    pub(crate) fn address(&self, i: &Instruction, size: usize, access: Access) -> Result<u64, Stop> {
        self.linear(self.segment_of(i), self.offset(i), size as u64, access)
    }

    /// Reads an operand; a memory operand that is written later is to be read with [`Self::get_for_write`].
    pub(crate) fn get(&mut self, i: &Instruction, operand: u32) -> Result<u64, Stop> {
        self.get_with(i, operand, Access::Read)
    }

    /// Reads an operand that is written next, so that no fault is left for the write.
    pub(crate) fn get_for_write(&mut self, i: &Instruction, operand: u32) -> Result<u64, Stop> {
        self.get_with(i, operand, Access::Write)
    }

    fn get_with(&mut self, i: &Instruction, operand: u32, access: Access) -> Result<u64, Stop> {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                if register.is_segment_register() {
                    Ok(u64::from(self.segment(register).selector))
                } else if register.is_gpr() {
                    Ok(self.register(register))
                } else {
                    Err(Stop::Unknown)
                }
            }
            OpKind::Memory => {
                let size = self.size(i, operand);
                if size == 0 || size > 8 {
                    return Err(Stop::Unknown);
                }
                let linear = self.address(i, size, access)?;
                self.load(linear, size, access)
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
            | OpKind::Immediate8_2nd => Ok(i.immediate(operand)),
            _ => Err(Stop::Unknown),
        }
    }

    /// Writes an operand. The only effect of an instruction on memory, and the last thing that can fail.
    pub(crate) fn set(&mut self, i: &Instruction, operand: u32, value: u64) -> Result<(), Stop> {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                if !register.is_gpr() {
                    return Err(Stop::Unknown);
                }
                self.set_register(register, value);
                Ok(())
            }
            OpKind::Memory => {
                let size = self.size(i, operand);
                if size == 0 || size > 8 {
                    return Err(Stop::Unknown);
                }
                let linear = self.address(i, size, Access::Write)?;
                self.store(linear, size, value, Access::Write)
            }
            _ => Err(Stop::Unknown),
        }
    }

    /// LOCK is for a memory destination only (SDM 2, LOCK).
    pub(crate) fn check_lock(i: &Instruction) -> Result<(), Stop> {
        if i.has_lock_prefix() && i.op0_kind() != OpKind::Memory { Err(UD) } else { Ok(()) }
    }

    /// Continues elsewhere in the code segment, if its limit allows.
    pub(crate) fn jump(&mut self, to: u64) -> Result<(), Stop> {
        let fault = super::fault::GP;
        let ok =
            if self.bits == 64 { super::memory::canonical(to) } else { to <= u64::from(self.state.cs.limit) };
        if !ok {
            return Err(fault);
        }
        self.next = to;
        Ok(())
    }
}
