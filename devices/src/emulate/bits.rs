//! Single bits and scans (SDM 2, BT and kin, BSF, BSR, LZCNT, TZCNT, POPCNT).

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::cpu::{Cpu, extend, flag, mask};
use super::fault::Stop;
use super::machine::Machine;
use super::paging::Access;

impl<M: Machine> Cpu<'_, M> {
    /// BT, BTS, BTR, BTC. A bit offset in a register reaches beyond the operand in memory.
    pub(crate) fn bit(&mut self, i: &Instruction) -> Result<(), Stop> {
        Self::check_lock(i)?;
        let size = self.size(i, 0);
        let bit = self.get(i, 1)?;
        let shift = bit & (size as u64 * 8 - 1);
        let stores = i.mnemonic() != Mnemonic::Bt;
        let access = if stores { Access::Write } else { Access::Read };
        let place = if i.op0_kind() == OpKind::Memory {
            let mut offset = self.offset(i);
            if i.op1_kind() == OpKind::Register {
                let bytes = size as i64;
                let ahead = (extend(bit, size) >> 3) & !(bytes - 1);
                let wide = if self.bits == 64 { 8 } else { 4 };
                offset = offset.wrapping_add(ahead as u64) & mask(address_size(i, wide));
            }
            Some(self.linear(self.segment_of(i), offset, size as u64, access)?)
        } else {
            None
        };
        let value = match place {
            Some(linear) => self.load(linear, size, access)?,
            None => self.get(i, 0)?,
        };
        let changed = match i.mnemonic() {
            Mnemonic::Bts => value | 1 << shift,
            Mnemonic::Btr => value & !(1 << shift),
            Mnemonic::Btc => value ^ 1 << shift,
            _ => value,
        };
        if stores {
            match place {
                Some(linear) => self.store(linear, size, changed, access)?,
                None => self.set(i, 0, changed)?,
            }
        }
        self.set_flag(flag::CF, value >> shift & 1 != 0);
        Ok(())
    }

    /// BSF, BSR, LZCNT, TZCNT, POPCNT.
    pub(crate) fn scan(&mut self, i: &Instruction) -> Result<(), Stop> {
        let size = self.size(i, 0);
        let width = size as u64 * 8;
        let value = self.get(i, 1)?;
        let lead = u64::from(value.leading_zeros()).wrapping_sub(64 - width);
        let trail = if value == 0 { width } else { u64::from(value.trailing_zeros()) };
        let name = i.mnemonic();
        match name {
            Mnemonic::Bsf | Mnemonic::Bsr => {
                self.set_flag(flag::ZF, value == 0);
                if value != 0 {
                    let found = if name == Mnemonic::Bsf { trail } else { width - 1 - lead };
                    self.set(i, 0, found)?;
                }
            }
            Mnemonic::Popcnt => {
                self.set(i, 0, u64::from(value.count_ones()))?;
                self.set_status(if value == 0 { flag::ZF } else { 0 });
            }
            _ => {
                let count = if name == Mnemonic::Lzcnt { lead } else { trail };
                self.set(i, 0, count)?;
                self.set_flag(flag::CF, value == 0);
                self.set_flag(flag::ZF, count == 0);
            }
        }
        Ok(())
    }
}

/// Bytes of the addresses that a memory operand is computed with.
pub(crate) fn address_size(i: &Instruction, wide: usize) -> usize {
    use iced_x86::Register;
    if i.memory_base() != Register::None {
        match i.memory_base().size() {
            0 => wide,
            size => size,
        }
    } else if i.memory_index() != Register::None {
        i.memory_index().size()
    } else {
        match i.memory_displ_size() {
            2 => 2,
            4 => 4,
            _ => wide,
        }
    }
}
