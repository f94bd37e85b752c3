//! The checks of VMLAUNCH and VMRESUME (SDM volume 3, 26.2 and 26.3).

use alloc::vec::Vec;

use super::{Rule, first_broken};
use crate::seam::Diagnosis;

/// What the rules need to know of the processor.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Capabilities of the pin-based, primary, secondary, exit and entry controls: must-be-one bits in the low half, may-be-one
    /// bits in the high half.
    pub controls: [u64; 5],
    /// Bits that CR0 must have and may have.
    pub cr0: (u64, u64),
    /// Bits that CR4 must have and may have.
    pub cr4: (u64, u64),
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept: u64,
    /// Bits of a physical address.
    pub address_bits: u8,
}

impl Host {
    /// The processor this runs on.
    #[cfg(target_os = "none")]
    pub fn of_this_cpu() -> Self {
        use crate::machine::cpu::{cpuid, msr};
        let read = |index: u32| msr::read(msr::VMX_BASIC + index);
        let plus = if read(0) & 1 << 55 != 0 { 12 } else { 0 };
        let address_bits =
            if cpuid(0x8000_0000, 0).eax >= 0x8000_0008 { cpuid(0x8000_0008, 0).eax as u8 } else { 36 };
        Self {
            controls: [read(1 + plus), read(2 + plus), read(11), read(3 + plus), read(4 + plus)],
            cr0: (read(6), read(7)),
            cr4: (read(8), read(9)),
            ept: read(12),
            address_bits,
        }
    }
}

/// A copy of a control structure, and the processor that refused it.
pub struct View {
    /// Fields and their values.
    pub values: Vec<(u32, u64)>,
    /// The processor.
    pub host: Host,
}

/// Names the rule that a structure breaks. `code` is the processor's instruction error or exit reason.
pub fn diagnose(view: &View, code: u64) -> Diagnosis {
    let tables: &[&[Rule<View>]] = &[];
    first_broken(tables, view, code)
}
