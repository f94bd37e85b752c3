//! Shifts and rotations (SDM 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD). OF after shifts by more than one, which the
//! manual leaves undefined, is what the last step would give.

use iced_x86::{Instruction, Mnemonic};

use super::arithmetic::result_flags;
use super::cpu::{Cpu, extend, flag, mask, sign};
use super::fault::Stop;
use super::machine::Machine;

impl<M: Machine> Cpu<'_, M> {
    /// SHL, SHR, SAR.
    pub(crate) fn shift(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let count = self.get(i, 1)? as u32 & if size == 8 { 63 } else { 31 };
        let a = self.get_for_write(i, 0)?;
        if count == 0 {
            return self.set(i, 0, a);
        }
        // The step before the last tells what is shifted out.
        let (value, carry, overflow) = match i.mnemonic() {
            Mnemonic::Shr => {
                let before = a.checked_shr(count - 1).unwrap_or(0);
                (before >> 1, before & 1 != 0, a & sign(size) != 0 && count == 1)
            }
            Mnemonic::Sar => {
                let before = extend(a, size) >> (count - 1).min(63);
                ((before >> 1) as u64, before & 1 != 0, false)
            }
            _ => {
                let before = a.checked_shl(count - 1).unwrap_or(0);
                let carry = before & sign(size) != 0;
                let value = before << 1;
                (value, carry, (value & sign(size) != 0) != carry)
            }
        };
        let value = value & mask(size);
        self.set(i, 0, value)?;
        let mut flags = result_flags(value, size);
        if carry {
            flags |= flag::CF;
        }
        if overflow {
            flags |= flag::OF;
        }
        self.set_status(flags);
        Ok(())
    }

    /// ROL, ROR, RCL, RCR: only CF and OF change.
    pub(crate) fn rotate(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let width = size as u32 * 8;
        let count = self.get(i, 1)? as u32 & if size == 8 { 63 } else { 31 };
        let mut value = self.get_for_write(i, 0)?;
        if count == 0 {
            return self.set(i, 0, value);
        }
        let name = i.mnemonic();
        let through = matches!(name, Mnemonic::Rcl | Mnemonic::Rcr);
        let left = matches!(name, Mnemonic::Rol | Mnemonic::Rcl);
        let steps = if through { count % (width + 1) } else { count % width };
        let mut carry = self.test(flag::CF);
        for _ in 0..steps {
            let out = value & if left { sign(size) } else { 1 } != 0;
            let fill = if through { carry } else { out };
            value = if left {
                value << 1 & mask(size) | u64::from(fill)
            } else {
                value >> 1 | if fill { sign(size) } else { 0 }
            };
            carry = out;
        }
        if !through {
            // Also of a whole turn.
            carry = value & if left { 1 } else { sign(size) } != 0;
        }
        self.set(i, 0, value)?;
        let top = value & sign(size) != 0;
        let overflow = if left { top != carry } else { top != (value & (sign(size) >> 1) != 0) };
        self.set_flag(flag::CF, carry);
        self.set_flag(flag::OF, overflow);
        Ok(())
    }

    /// SHLD and SHRD. A count beyond 16 of a 16-bit operand, which the manual leaves undefined, goes on into the first
    /// operand again.
    pub(crate) fn double_shift(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let width = size as u32 * 8;
        let count = self.get(i, 2)? as u32 & if size == 8 { 63 } else { 31 };
        let a = self.get_for_write(i, 0)?;
        let b = self.get(i, 1)?;
        if count == 0 {
            return self.set(i, 0, a);
        }
        let (a, b) = (u128::from(a), u128::from(b));
        let (value, carry) = if i.mnemonic() == Mnemonic::Shld {
            let all = if width == 16 { a << 32 | b << 16 | a } else { a << width | b };
            let all_width = if width == 16 { 48 } else { 2 * width };
            (all >> (all_width - width - count), all >> (all_width - count) & 1 != 0)
        } else {
            let all = if width == 16 { a << 32 | b << 16 | a } else { b << width | a };
            (all >> count, all >> (count - 1) & 1 != 0)
        };
        let value = value as u64 & mask(size);
        self.set(i, 0, value)?;
        let mut flags = result_flags(value, size);
        if carry {
            flags |= flag::CF;
        }
        if (value ^ a as u64) & sign(size) != 0 {
            flags |= flag::OF;
        }
        self.set_status(flags);
        Ok(())
    }
}
