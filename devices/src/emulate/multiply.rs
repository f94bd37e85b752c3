//! Multiplication and division (SDM 2, MUL, IMUL, DIV, IDIV).

use iced_x86::{Instruction, Mnemonic};
use trunnion_protocol::control::Gpr;

use super::cpu::{Cpu, extend, flag, mask};
use super::fault::{DE, Stop};
use super::machine::Machine;

impl<M: Machine> Cpu<'_, M> {
    /// MUL, and IMUL of one, two and three operands.
    pub(crate) fn multiply(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        if i.op_count() == 1 {
            let factor = self.get(i, 0)?;
            let other = self.gpr(Gpr::Rax) & mask(size);
            let (product, fits) = if i.mnemonic() == Mnemonic::Mul {
                let product = u128::from(factor) * u128::from(other);
                (product, product <= u128::from(mask(size)))
            } else {
                let product = i128::from(extend(factor, size)) * i128::from(extend(other, size));
                (product as u128, i128::from(extend(product as u64, size)) == product)
            };
            self.set_wide(size, product);
            self.set_flag(flag::CF | flag::OF, !fits);
            return Ok(());
        }
        let (a, b) = if i.op_count() == 3 { (1, 2) } else { (0, 1) };
        let (a, b) = (self.get(i, a)?, self.get(i, b)?);
        let product = i128::from(extend(a, size)) * i128::from(extend(b, size));
        self.set(i, 0, product as u64)?;
        self.set_flag(flag::CF | flag::OF, i128::from(extend(product as u64, size)) != product);
        Ok(())
    }

    /// DIV and IDIV.
    pub(crate) fn divide(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let divisor = self.get(i, 0)?;
        let dividend = if size == 1 {
            u128::from(self.gpr(Gpr::Rax) & 0xffff)
        } else {
            u128::from(self.gpr(Gpr::Rdx) & mask(size)) << (size * 8)
                | u128::from(self.gpr(Gpr::Rax) & mask(size))
        };
        let (quotient, rest) = if i.mnemonic() == Mnemonic::Div {
            let divisor = u128::from(divisor);
            let (Some(quotient), Some(rest)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
            else {
                return Err(DE);
            };
            if quotient > u128::from(mask(size)) {
                return Err(DE);
            }
            (quotient as u64, rest as u64)
        } else {
            let divisor = i128::from(extend(divisor, size));
            let unused = 128 - size * 16;
            let dividend = (dividend << unused) as i128 >> unused;
            let (Some(quotient), Some(rest)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
            else {
                return Err(DE);
            };
            if i128::from(extend(quotient as u64, size)) != quotient {
                return Err(DE);
            }
            (quotient as u64, rest as u64)
        };
        if size == 1 {
            self.set_gpr(Gpr::Rax, 2, quotient & 0xff | (rest & 0xff) << 8);
        } else {
            self.set_gpr(Gpr::Rax, size, quotient);
            self.set_gpr(Gpr::Rdx, size, rest);
        }
        Ok(())
    }

    /// AX, DX:AX, EDX:EAX or RDX:RAX.
    fn set_wide(&mut self, size: usize, value: u128) {
        if size == 1 {
            self.set_gpr(Gpr::Rax, 2, value as u64);
        } else {
            self.set_gpr(Gpr::Rax, size, value as u64);
            self.set_gpr(Gpr::Rdx, size, (value >> (size * 8)) as u64);
        }
    }
}
