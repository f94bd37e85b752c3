//! VMRUN's checks (APM volume 2, 15.5.1 and 15.20).

#[cfg(test)]
mod tests;

use super::{first_broken, is_pat, rules, when};
use crate::machine::svm::control::{self as field, Place, Snapshot, second};
use crate::seam::Diagnosis;

/// What the rules need to know of the processor.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Address spaces; identifiers are below this.
    pub asids: u32,
    /// Bits of a physical address.
    pub address_bits: u8,
    /// EFER bits that exist.
    pub efer: u64,
    /// CR4 bits that exist.
    pub cr4: u64,
}

impl Host {
    /// The processor this runs on.
    #[cfg(target_os = "none")]
    pub fn of_this_cpu() -> Self {
        use crate::machine::cpu::cpuid;
        let address_bits =
            if cpuid(0x8000_0000, 0).eax >= 0x8000_0008 { cpuid(0x8000_0008, 0).eax as u8 } else { 36 };
        // EFER: SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE and the newer ones below bit 22.
        Self { asids: cpuid(0x8000_000a, 0).ebx, address_bits, efer: 0x003f_fd01, cr4: 0x0fff_ffff }
    }

    const fn fits(&self, address: u64) -> bool {
        address >> self.address_bits == 0
    }
}

/// A control block and the processor that refused it.
pub struct View {
    /// The block.
    pub block: Snapshot,
    /// The processor.
    pub host: Host,
}

impl View {
    fn cr0(&self) -> u64 {
        self.block.get(field::CR0)
    }

    fn efer(&self) -> u64 {
        self.block.get(field::EFER)
    }

    fn is_long(&self) -> bool {
        self.efer() & 1 << 8 != 0 && self.cr0() & 1 << 31 != 0
    }

    fn event(&self) -> Option<u64> {
        Some(self.block.get(field::INJECT)).filter(|event| event & field::EVENT_VALID != 0)
    }
}

/// Names the rule that a block breaks.
pub fn diagnose(view: &View) -> Diagnosis {
    first_broken(&[STATE, CONTROLS], view, view.block.get(field::EXIT_CODE))
}

rules! {
    /// The guest's state.
    pub const STATE;
    "EFER", "SVME is set", "APM 15.5.1" => |v| when(v.efer() & 1 << 12 == 0, v.efer());
    "EFER", "no reserved bit is set", "APM 15.5.1" => |v| when(v.efer() & !v.host.efer != 0, v.efer());
    "CR0", "NW is clear when CD is clear", "APM 15.5.1" => |v| when(v.cr0() >> 29 & 3 == 1, v.cr0());
    "CR0", "bits 32 to 63 are zero", "APM 15.5.1" => |v| when(v.cr0() >> 32 != 0, v.cr0());
    "CR3", "bits above the physical address are zero", "APM 15.5.1" =>
        |v| { let cr3: u64 = v.block.get(field::CR3); when(v.is_long() && !v.host.fits(cr3 & !(1 << 63)), cr3) };
    "CR4", "no reserved bit is set", "APM 15.5.1" =>
        |v| { let cr4: u64 = v.block.get(field::CR4); when(cr4 & !v.host.cr4 != 0, cr4) };
    "CR4", "CET needs CR0.WP", "APM 15.5.1" =>
        |v| { let cr4: u64 = v.block.get(field::CR4); when(cr4 & 1 << 23 != 0 && v.cr0() & 1 << 16 == 0, cr4) };
    "DR6", "bits 32 to 63 are zero", "APM 15.5.1" =>
        |v| { let dr6: u64 = v.block.get(field::DR6); when(dr6 >> 32 != 0, dr6) };
    "DR7", "bits 32 to 63 are zero", "APM 15.5.1" =>
        |v| { let dr7: u64 = v.block.get(field::DR7); when(dr7 >> 32 != 0, dr7) };
    "CR4", "PAE is set in long mode with paging", "APM 15.5.1" =>
        |v| { let cr4: u64 = v.block.get(field::CR4); when(v.is_long() && cr4 & 1 << 5 == 0, cr4) };
    "CR0", "PE is set in long mode with paging", "APM 15.5.1" => |v| when(v.is_long() && v.cr0() & 1 == 0, v.cr0());
    "CS attributes", "L and D are not both set in long mode", "APM 15.5.1" =>
        |v| { let cs: u16 = v.block.get(Place::Cs.attributes()); when(v.is_long() && cs >> 9 & 3 == 3, cs.into()) };
    "G_PAT", "each byte is a memory type", "APM 15.25.4" =>
        |v| { let pat: u64 = v.block.get(field::PAT); when(v.block.get(field::NESTED) & 1 != 0 && !is_pat(pat),
            pat) };
}

rules! {
    /// The controls.
    pub const CONTROLS;
    "VMRUN intercept", "it is set", "APM 15.5.1" =>
        |v| { let word: u32 = v.block.get(field::INTERCEPT_2); when(word & second::VMRUN == 0, word.into()) };
    "guest ASID", "it is not zero", "APM 15.5.1" => |v| when(v.block.get(field::ASID) == 0, 0);
    "guest ASID", "it is below the processor's number of address spaces", "APM 15.5.1" =>
        |v| { let asid: u32 = v.block.get(field::ASID); when(asid >= v.host.asids, asid.into()) };
    "IOPM_BASE_PA", "the map ends below the highest physical address", "APM 15.10.1" =>
        |v| { let map: u64 = v.block.get(field::IO_MAP); when(!v.host.fits(map.saturating_add(0x2fff)), map) };
    "MSRPM_BASE_PA", "the map ends below the highest physical address", "APM 15.11" =>
        |v| { let map: u64 = v.block.get(field::MSR_MAP); when(!v.host.fits(map.saturating_add(0x1fff)), map) };
    "N_CR3", "bits above the physical address are zero", "APM 15.25.4" =>
        |v| { let root: u64 = v.block.get(field::NESTED_CR3); when(v.block.get(field::NESTED) & 1 != 0 &&
            !v.host.fits(root), root) };
    "EVENTINJ", "the type is one of 0, 2, 3 and 4", "APM 15.20" =>
        |v| v.event().and_then(|e| when(!matches!(e >> 8 & 7, 0 | 2 | 3 | 4), e));
    "EVENTINJ", "an exception's vector is below 32 and not that of NMIs", "APM 15.20" =>
        |v| v.event().and_then(|e| when(e >> 8 & 7 == 3 && (e as u8 == 2 || e as u8 > 31), e));
    "EVENTINJ", "#BR is not injected in 64-bit mode, nor is #OF", "APM 15.20" =>
        |v| { let cs: u16 = v.block.get(Place::Cs.attributes()); let wide = v.is_long() && cs & 1 << 9 != 0;
            v.event().and_then(|e| when(wide && e >> 8 & 7 == 3 && matches!(e as u8, 4 | 5), e)) };
}
