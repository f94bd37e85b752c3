//! Addition, subtraction, logic, and the adjustments of decimal digits (SDM 2, under each name).

use iced_x86::{Instruction, Mnemonic};
use trunnion_protocol::control::Gpr;

use super::cpu::{Cpu, flag, mask, sign};
use super::fault::{DE, Stop};
use super::machine::Machine;

/// Parity, zero and sign of a result.
pub(crate) fn result_flags(value: u64, size: usize) -> u64 {
    let mut flags = 0;
    if (value as u8).count_ones().is_multiple_of(2) {
        flags |= flag::PF;
    }
    if value & mask(size) == 0 {
        flags |= flag::ZF;
    }
    if value & sign(size) != 0 {
        flags |= flag::SF;
    }
    flags
}

/// `a + b + carry` with its flags.
pub(crate) fn add(a: u64, b: u64, carry: bool, size: usize) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let value = a.wrapping_add(b).wrapping_add(u64::from(carry)) & mask(size);
    let mut flags = result_flags(value, size);
    // The carry out of each bit (Hacker's Delight, 2-13).
    let carries = (a & b) | ((a | b) & !value);
    if carries & sign(size) != 0 {
        flags |= flag::CF;
    }
    if carries & 8 != 0 {
        flags |= flag::AF;
    }
    if (a ^ value) & (b ^ value) & sign(size) != 0 {
        flags |= flag::OF;
    }
    (value, flags)
}

/// `a - b - borrow` with its flags.
pub(crate) fn subtract(a: u64, b: u64, borrow: bool, size: usize) -> (u64, u64) {
    let (a, b) = (a & mask(size), b & mask(size));
    let value = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & mask(size);
    let mut flags = result_flags(value, size);
    let borrows = (!a & b) | ((!a | b) & value);
    if borrows & sign(size) != 0 {
        flags |= flag::CF;
    }
    if borrows & 8 != 0 {
        flags |= flag::AF;
    }
    if (a ^ b) & (a ^ value) & sign(size) != 0 {
        flags |= flag::OF;
    }
    (value, flags)
}

impl<M: Machine> Cpu<'_, M> {
    /// Replaces the status flags.
    pub(crate) const fn set_status(&mut self, flags: u64) {
        self.state.rflags = self.state.rflags & !flag::STATUS | flags;
    }

    /// ADD, ADC, SUB, SBB, CMP, AND, OR, XOR, TEST.
    pub(crate) fn binary(&mut self, i: &Instruction) -> Result<(), Stop> {
        Self::check_lock(i)?;
        let name = i.mnemonic();
        let size = self.size(i, 0);
        let stores = !matches!(name, Mnemonic::Cmp | Mnemonic::Test);
        let a = if stores { self.get_for_write(i, 0)? } else { self.get(i, 0)? };
        let b = self.get(i, 1)?;
        let carry = self.test(flag::CF);
        let (value, flags) = match name {
            Mnemonic::Add => add(a, b, false, size),
            Mnemonic::Adc => add(a, b, carry, size),
            Mnemonic::Sub | Mnemonic::Cmp => subtract(a, b, false, size),
            Mnemonic::Sbb => subtract(a, b, carry, size),
            _ => {
                let value = match name {
                    Mnemonic::Or => a | b,
                    Mnemonic::Xor => a ^ b,
                    _ => a & b,
                } & mask(size);
                (value, result_flags(value, size))
            }
        };
        if stores {
            self.set(i, 0, value)?;
        }
        self.set_status(flags);
        Ok(())
    }

    /// INC, DEC, NEG, NOT.
    pub(crate) fn unary(&mut self, i: &Instruction) -> Result<(), Stop> {
        Self::check_lock(i)?;
        let size = self.size(i, 0);
        let a = self.get_for_write(i, 0)?;
        let kept = self.state.rflags & flag::CF;
        let (value, flags) = match i.mnemonic() {
            Mnemonic::Inc => {
                let (value, flags) = add(a, 1, false, size);
                (value, flags & !flag::CF | kept)
            }
            Mnemonic::Dec => {
                let (value, flags) = subtract(a, 1, false, size);
                (value, flags & !flag::CF | kept)
            }
            Mnemonic::Neg => subtract(0, a, false, size),
            _ => (!a & mask(size), self.state.rflags & flag::STATUS),
        };
        self.set(i, 0, value)?;
        self.set_status(flags);
        Ok(())
    }

    /// AAA, AAS, AAD, AAM, DAA, DAS. Flags that the manual leaves undefined are cleared.
    pub(crate) fn decimal(&mut self, i: &Instruction) -> Result<(), Stop> {
        let ax = self.gpr(Gpr::Rax) as u16;
        let [al, ah] = ax.to_le_bytes();
        let (carry, adjust) = (self.test(flag::CF), self.test(flag::AF));
        let low = al & 0xf > 9 || adjust;
        let (value, flags) = match i.mnemonic() {
            name @ (Mnemonic::Aaa | Mnemonic::Aas) => {
                let value = match (low, name == Mnemonic::Aaa) {
                    (true, true) => ax.wrapping_add(0x106),
                    (true, false) => ax.wrapping_sub(0x106),
                    (false, _) => ax,
                } & 0xff0f;
                (value, if low { flag::CF | flag::AF } else { 0 })
            }
            Mnemonic::Aad => {
                let base = i.immediate8();
                let value = al.wrapping_add(ah.wrapping_mul(base));
                (u16::from(value), result_flags(u64::from(value), 1))
            }
            Mnemonic::Aam => {
                let base = i.immediate8();
                let (Some(high), Some(rest)) = (al.checked_div(base), al.checked_rem(base)) else {
                    return Err(DE);
                };
                (u16::from_le_bytes([rest, high]), result_flags(u64::from(rest), 1))
            }
            name => {
                let high = al > 0x99 || carry;
                let change = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
                let (value, borrow) = if name == Mnemonic::Daa {
                    (al.wrapping_add(change), false)
                } else {
                    (al.wrapping_sub(change), low && al < 6)
                };
                let mut flags = result_flags(u64::from(value), 1);
                if high || borrow {
                    flags |= flag::CF;
                }
                if low {
                    flags |= flag::AF;
                }
                (u16::from_le_bytes([value, ah]), flags)
            }
        };
        self.set_gpr(Gpr::Rax, 2, u64::from(value));
        self.set_status(flags);
        Ok(())
    }
}
