//! From linear to guest-physical addresses, through the guest's own tables (SDM 3, chapter 4).

use trunnion_protocol::address::Gpa;

use super::cpu::Cpu;
use super::fault::{Fault, Stop};
use super::machine::Machine;

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Data, read.
    Read,
    /// Data, written (or read in order to be written).
    Write,
    /// Instructions.
    Fetch,
    /// A descriptor table, read as supervisor whatever the privilege level is.
    System,
    /// A descriptor table, written.
    SystemWrite,
}

impl Access {
    pub(crate) const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::SystemWrite)
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// CR0.WP, CR4.PSE, CR4.PAE, CR4.SMEP, CR4.SMAP, EFER.LMA, EFER.NXE, RFLAGS.AC.
const WP: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const AC: u64 = 1 << 18;

impl<M: Machine> Cpu<'_, M> {
    /// Where a linear address is. Marks entries as accessed, and the last as dirty for a write.
    pub(crate) fn translate(&mut self, linear: u64, access: Access) -> Result<u64, Stop> {
        if self.state.cr0 >> 31 & 1 == 0 {
            return Ok(linear & 0xffff_ffff);
        }
        let long = self.state.efer & LMA != 0;
        let wide = long || self.state.cr4 & PAE != 0;
        let (mut table, top) = if long {
            (self.state.cr3 & ADDRESS, 4)
        } else if wide {
            (self.state.cr3 & 0xffff_ffe0, 3)
        } else {
            (self.state.cr3 & 0xffff_f000, 2)
        };
        // Each level narrows what may be done.
        let mut allowed = WRITABLE | USER;
        let mut execute = true;
        for level in (1..=top).rev() {
            let (index, size) = if wide {
                (linear >> (12 + 9 * (level - 1)) & 0x1ff, 8)
            } else {
                (linear >> (12 + 10 * (level - 1)) & 0x3ff, 4)
            };
            let index = if wide && level == 3 && !long { index & 3 } else { index };
            let at = table.wrapping_add(index * size);
            let mut entry = self.physical(at, size as usize)?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, false));
            }
            // The four entries of a PAE directory pointer table carry no permissions.
            if !(wide && level == 3 && !long) {
                allowed &= entry;
                execute &= entry & NO_EXECUTE == 0 || self.state.efer & NXE == 0;
            }
            let leaf = level == 1
                || (entry & LARGE != 0
                    && match level {
                        2 => wide || self.state.cr4 & PSE != 0,
                        3 => long,
                        _ => false,
                    });
            if !leaf {
                if entry & ACCESSED == 0 && !(wide && level == 3 && !long) {
                    entry |= ACCESSED;
                    self.machine.write(Gpa(at), entry.to_le_bytes().get(..size as usize).unwrap_or(&[]))?;
                }
                table = entry & if wide { ADDRESS } else { 0xffff_f000 };
                continue;
            }
            if !self.permits(allowed, execute, access) {
                return Err(self.page_fault(linear, access, true));
            }
            let marks = if access.writes() { ACCESSED | DIRTY } else { ACCESSED };
            if entry & marks != marks {
                entry |= marks;
                self.machine.write(Gpa(at), entry.to_le_bytes().get(..size as usize).unwrap_or(&[]))?;
            }
            let offset_bits = if level == 1 {
                12
            } else if wide {
                12 + 9 * (level - 1)
            } else {
                22
            };
            let offset = (1u64 << offset_bits) - 1;
            let base = if !wide && level == 2 {
                // Bits 13 to 20 are address bits 32 to 39 (SDM 3, table 4-4).
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & ADDRESS & !offset
            };
            return Ok(base | linear & offset);
        }
        Err(Stop::Unknown)
    }

    fn permits(&self, allowed: u64, execute: bool, access: Access) -> bool {
        let system = matches!(access, Access::System | Access::SystemWrite);
        let user_page = allowed & USER != 0;
        let user_mode = self.cpl() == 3 && !system;
        if user_mode && !user_page {
            return false;
        }
        if access == Access::Fetch {
            return execute && !(user_page && !user_mode && self.state.cr4 & SMEP != 0);
        }
        if user_page && !user_mode && self.state.cr4 & SMAP != 0 && (self.state.rflags & AC == 0 || system) {
            return false;
        }
        !access.writes() || allowed & WRITABLE != 0 || (!user_mode && self.state.cr0 & WP == 0)
    }

    fn page_fault(&self, linear: u64, access: Access, present: bool) -> Stop {
        let system = matches!(access, Access::System | Access::SystemWrite);
        let mut error = u32::from(present);
        error |= u32::from(access.writes()) << 1;
        error |= u32::from(self.cpl() == 3 && !system) << 2;
        let names_fetch =
            self.state.efer & NXE != 0 && self.state.cr4 & PAE != 0 || self.state.cr4 & SMEP != 0;
        error |= u32::from(access == Access::Fetch && names_fetch) << 4;
        Stop::Fault(Fault::page(linear, error))
    }

    fn physical(&mut self, at: u64, size: usize) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        if let Some(into) = bytes.get_mut(..size) {
            self.machine.read(Gpa(at), into)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }
}
