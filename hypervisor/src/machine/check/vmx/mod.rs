//! The checks of VMLAUNCH and VMRESUME (SDM volume 3, 26.2 and 26.3).

mod controls;
mod guest;
mod host;
mod segments;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use super::{first_broken, when};
use crate::machine::vmx::control::{self as field, entry, primary};
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

impl View {
    /// A field's value; 0 for one that is not in the copy.
    pub fn get(&self, field: u32) -> u64 {
        self.values.iter().find(|value| value.0 == field).map_or(0, |value| value.1)
    }

    fn has(&self, field: u32, bits: u32) -> bool {
        self.get(field) as u32 & bits == bits
    }

    /// Whether a bit of the secondary controls is in force.
    fn second(&self, bit: u32) -> bool {
        self.has(field::PROCESSOR_CONTROLS, primary::SECONDARY) && self.has(field::SECONDARY_CONTROLS, bit)
    }

    fn fits(&self, address: u64) -> bool {
        address >> self.host.address_bits == 0
    }

    fn is_long(&self) -> bool {
        self.has(field::ENTRY_CONTROLS, entry::LONG_MODE)
    }

    fn is_v86(&self) -> bool {
        self.get(field::GUEST_RFLAGS) & 1 << 17 != 0
    }

    fn is_protected(&self) -> bool {
        self.get(field::GUEST_CR0) & 1 != 0
    }

    fn event(&self) -> Option<u32> {
        Some(self.get(field::ENTRY_EVENT) as u32).filter(|event| event & field::EVENT_VALID != 0)
    }

    /// The value of a control word, when it breaks its capability.
    fn outside(&self, field: u32, capability: usize) -> Option<u64> {
        let value = self.get(field) as u32;
        let capability = self.host.controls.get(capability).copied().unwrap_or(!0 << 32);
        let (must, may) = (capability as u32, (capability >> 32) as u32);
        when(value & must != must || value & !may != 0, value.into())
    }
}

/// Names the rule that a structure breaks. `code` is the processor's instruction error or exit reason.
pub fn diagnose(view: &View, code: u64) -> Diagnosis {
    first_broken(&[controls::RULES, host::RULES, guest::RULES, segments::RULES], view, code)
}
