//! Instructions of the system (SDM 2, under each name).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use trunnion_protocol::control::{Gpr, Table};

use super::cpu::{Cpu, flag};
use super::fault::{GP, Stop, UD};
use super::machine::Machine;
use super::paging::Access;

/// CR0.PE, CR0.TS, CR0.ET, CR0.NW, CR0.CD, CR0.PG; CR4.PAE; EFER.LME, EFER.LMA.
const PE: u64 = 1;
const TS: u64 = 1 << 3;
const ET: u64 = 1 << 4;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
/// Bits of EFER that exist: SCE, LME, LMA, NXE.
const EFER: u64 = 0xd01;

/// MSRs that are part of a vCPU's state (SDM 4).
mod msr {
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const SFMASK: u32 = 0xc000_0084;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
}

impl<M: Machine> Cpu<'_, M> {
    fn privileged(&self) -> Result<(), Stop> {
        if self.cpl() == 0 { Ok(()) } else { Err(GP) }
    }

    /// HLT, CLI, STI, CLTS, INVD, WBINVD, INVLPG.
    pub(crate) fn control(&mut self, i: &Instruction) -> Result<(), Stop> {
        match i.mnemonic() {
            name @ (Mnemonic::Cli | Mnemonic::Sti) => {
                if self.state.cr0 & PE != 0 && u64::from(self.cpl()) > (self.state.rflags & flag::IOPL) >> 12
                {
                    return Err(GP);
                }
                if name == Mnemonic::Sti && !self.test(flag::IF) {
                    self.state.interruptibility |= 1;
                }
                self.set_flag(flag::IF, name == Mnemonic::Sti);
            }
            Mnemonic::Hlt => {
                self.privileged()?;
                self.halted = true;
            }
            Mnemonic::Clts => {
                self.privileged()?;
                self.state.cr0 &= !TS;
            }
            _ => self.privileged()?,
        }
        Ok(())
    }

    /// LGDT, LIDT, SGDT, SIDT.
    pub(crate) fn table(&mut self, i: &Instruction) -> Result<(), Stop> {
        if i.op0_kind() != OpKind::Memory {
            return Err(UD);
        }
        let base_size = if self.bits == 64 { 8usize } else { 4 };
        let name = i.mnemonic();
        let loads = matches!(name, Mnemonic::Lgdt | Mnemonic::Lidt);
        let access = if loads { Access::Read } else { Access::Write };
        if loads {
            self.privileged()?;
        }
        let linear = self.address(i, base_size + 2, access)?;
        if loads {
            let limit = self.load(linear, 2, access)?;
            let mut base = self.load(linear.wrapping_add(2), base_size, access)?;
            // With a 16-bit operand only 24 bits of the base count.
            if matches!(i.code(), iced_x86::Code::Lgdt_m1632_16 | iced_x86::Code::Lidt_m1632_16) {
                base &= 0xff_ffff;
            }
            let table = Table { base, limit };
            if name == Mnemonic::Lgdt {
                self.state.gdtr = table;
            } else {
                self.state.idtr = table;
            }
            return Ok(());
        }
        let Table { base, limit } = if name == Mnemonic::Sgdt { self.state.gdtr } else { self.state.idtr };
        let all = u128::from(base) << 16 | u128::from(limit & 0xffff);
        self.store_bytes(linear, all.to_le_bytes().get(..base_size + 2).unwrap_or(&[]), access)
    }

    /// SMSW, LMSW, SLDT, STR.
    pub(crate) fn status_word(&mut self, i: &Instruction) -> Result<(), Stop> {
        match i.mnemonic() {
            Mnemonic::Smsw => {
                let value = self.state.cr0;
                self.set(i, 0, value)
            }
            Mnemonic::Lmsw => {
                self.privileged()?;
                let value = self.get(i, 0)?;
                // PE can be set, and not cleared.
                let cr0 = self.state.cr0 & !0xe | value & 0xf;
                self.set_cr0(cr0)
            }
            name => {
                if !self.protected() {
                    return Err(UD);
                }
                let value = if name == Mnemonic::Sldt { self.state.ldtr } else { self.state.tr }.selector;
                self.set(i, 0, u64::from(value))
            }
        }
    }

    /// MOV to a control or debug register.
    pub(crate) fn move_to_system(&mut self, i: &Instruction) -> Result<(), Stop> {
        self.privileged()?;
        let value = self.get(i, 1)?;
        match i.op0_register() {
            Register::CR0 => self.set_cr0(value & 0xffff_ffff),
            Register::CR2 => {
                self.state.cr2 = value;
                Ok(())
            }
            Register::CR3 => {
                self.state.cr3 = value;
                Ok(())
            }
            Register::CR4 => {
                if self.long() && value & PAE == 0 {
                    return Err(GP);
                }
                self.state.cr4 = value;
                Ok(())
            }
            Register::CR8 => Err(Stop::Unknown),
            Register::DR6 | Register::DR4 => {
                self.state.dr6 = value & 0xe00f | 0xffff_0ff0;
                Ok(())
            }
            Register::DR7 | Register::DR5 => {
                self.state.dr7 = value & 0xffff_27ff | 0x400;
                Ok(())
            }
            register if register.is_dr() => {
                let slot = self.state.dr.get_mut(register.number()).ok_or(UD)?;
                *slot = value;
                Ok(())
            }
            _ => Err(Stop::Unknown),
        }
    }

    /// MOV from a control or debug register.
    pub(crate) fn move_from_system(&mut self, i: &Instruction) -> Result<(), Stop> {
        self.privileged()?;
        let value = match i.op1_register() {
            Register::CR0 => self.state.cr0,
            Register::CR2 => self.state.cr2,
            Register::CR3 => self.state.cr3,
            Register::CR4 => self.state.cr4,
            Register::DR6 | Register::DR4 => self.state.dr6,
            Register::DR7 | Register::DR5 => self.state.dr7,
            register if register.is_dr() => self.state.dr.get(register.number()).copied().ok_or(UD)?,
            _ => return Err(Stop::Unknown),
        };
        self.set(i, 0, value)
    }

    /// CR0 with the rules of SDM 3, 2.5, and the change into and out of long mode (10.8.5).
    fn set_cr0(&mut self, value: u64) -> Result<(), Stop> {
        if value & PG != 0 && value & PE == 0 || value & NW != 0 && value & CD == 0 {
            return Err(GP);
        }
        if value & PG != 0 && self.state.cr0 & PG == 0 && self.state.efer & LME != 0 {
            if self.state.cr4 & PAE == 0 || self.state.cs.attributes >> 9 & 1 != 0 {
                return Err(GP);
            }
            self.state.efer |= LMA;
        } else if value & PG == 0 {
            if self.bits == 64 {
                return Err(GP);
            }
            self.state.efer &= !LMA;
        }
        if value & PE == 0 && self.state.cr0 & PE != 0 {
            // Real mode has privilege level 0 whatever the stack segment said.
            self.state.ss.attributes &= !0x60;
        }
        self.state.cr0 = value | ET;
        Ok(())
    }

    /// CPUID, RDTSC, RDTSCP, RDMSR, WRMSR.
    pub(crate) fn identify(&mut self, i: &Instruction) -> Result<(), Stop> {
        match i.mnemonic() {
            Mnemonic::Cpuid => {
                let (leaf, subleaf) = (self.gpr(Gpr::Rax) as u32, self.gpr(Gpr::Rcx) as u32);
                let [eax, ebx, ecx, edx] = self.machine.cpuid(leaf, subleaf);
                for (which, value) in [(Gpr::Rax, eax), (Gpr::Rbx, ebx), (Gpr::Rcx, ecx), (Gpr::Rdx, edx)] {
                    self.set_gpr(which, 4, u64::from(value));
                }
            }
            name @ (Mnemonic::Rdtsc | Mnemonic::Rdtscp) => {
                // CR4.TSD.
                if self.state.cr4 & 4 != 0 && self.cpl() != 0 {
                    return Err(GP);
                }
                let tsc = self.machine.tsc();
                self.set_pair(tsc);
                if name == Mnemonic::Rdtscp {
                    let aux = self.state.tsc_aux;
                    self.set_gpr(Gpr::Rcx, 4, aux);
                }
            }
            Mnemonic::Rdmsr => {
                self.privileged()?;
                let value = self.read_msr(self.gpr(Gpr::Rcx) as u32)?;
                self.set_pair(value);
            }
            _ => {
                self.privileged()?;
                let value = self.gpr(Gpr::Rax) & 0xffff_ffff | self.gpr(Gpr::Rdx) << 32;
                self.write_msr(self.gpr(Gpr::Rcx) as u32, value)?;
            }
        }
        Ok(())
    }

    fn set_pair(&mut self, value: u64) {
        self.set_gpr(Gpr::Rax, 4, value);
        self.set_gpr(Gpr::Rdx, 4, value >> 32);
    }

    /// The place of an MSR in the vCPU's state.
    fn state_msr(&mut self, index: u32) -> Option<&mut u64> {
        let state = &mut *self.state;
        Some(match index {
            msr::SYSENTER_CS => &mut state.sysenter_cs,
            msr::SYSENTER_ESP => &mut state.sysenter_esp,
            msr::SYSENTER_EIP => &mut state.sysenter_eip,
            msr::PAT => &mut state.pat,
            msr::EFER => &mut state.efer,
            msr::STAR => &mut state.star,
            msr::LSTAR => &mut state.lstar,
            msr::CSTAR => &mut state.cstar,
            msr::SFMASK => &mut state.sfmask,
            msr::FS_BASE => &mut state.fs.base,
            msr::GS_BASE => &mut state.gs.base,
            msr::KERNEL_GS_BASE => &mut state.kernel_gs_base,
            msr::TSC_AUX => &mut state.tsc_aux,
            _ => return None,
        })
    }

    fn read_msr(&mut self, index: u32) -> Result<u64, Stop> {
        if let Some(place) = self.state_msr(index) {
            return Ok(*place);
        }
        self.machine.msr_read(index).map_err(|_| GP)
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        let efer = self.state.efer;
        let paging = self.state.cr0 & PG != 0;
        let Some(place) = self.state_msr(index) else {
            return self.machine.msr_write(index, value).map_err(|_| GP);
        };
        let value = match index {
            msr::EFER if value & !EFER != 0 || paging && (value ^ efer) & LME != 0 => return Err(GP),
            msr::EFER => value & !LMA | efer & LMA,
            msr::LSTAR | msr::CSTAR | msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE
                if !super::memory::canonical(value) =>
            {
                return Err(GP);
            }
            _ => value,
        };
        *place = value;
        Ok(())
    }
}
