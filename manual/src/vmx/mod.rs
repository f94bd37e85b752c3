//! The checks of VMLAUNCH and VMRESUME (SDM volume 3, 26.2 and 26.3).

mod controls;
pub mod fields;
pub mod paging;
mod segments;
mod states;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use super::{Diagnosis, HOST_WORDS, first_broken};
use crate::vmx::fields::{self as field, entry, primary};

/// Bits that a register or a control word must have, and may have.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    /// These are 1.
    pub must: u64,
    /// Others than these are 0.
    pub may: u64,
}

impl Fixed {
    /// As the capability registers of control words have it: what must be 1 in the low half, what may be in the high half.
    pub const fn of_controls(capability: u64) -> Self {
        Self { must: capability & 0xffff_ffff, may: capability >> 32 }
    }

    /// Whether a value has what it must and no more than it may.
    pub const fn allows(self, value: u64) -> bool {
        self.adjust(value) == value
    }

    /// The wanted bits, with those that must be set and without those that must not.
    pub const fn adjust(self, wanted: u64) -> u64 {
        (wanted | self.must) & self.may
    }

    /// Whether all of `bits` may be set.
    pub const fn has(self, bits: u32) -> bool {
        self.may as u32 & bits == bits
    }
}

/// What the rules need to know of the processor.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The pin-based, primary, secondary, exit and entry controls.
    pub controls: [Fixed; 5],
    /// CR0 under VMX.
    pub cr0: Fixed,
    /// CR4 under VMX.
    pub cr4: Fixed,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept: u64,
    /// Bits of a physical address.
    pub address_bits: u8,
}

impl Host {
    /// As numbered words behind those of a structure, for [`write_state`](super::write_state).
    pub fn words(&self) -> impl Iterator<Item = (u32, u64)> {
        let pairs = self.controls.into_iter().chain([self.cr0, self.cr4]);
        let words = pairs.flat_map(|Fixed { must, may }| [must, may]);
        (HOST_WORDS..).zip(words.chain([self.ept, self.address_bits.into()]))
    }

    /// From those words.
    pub(crate) fn of(word: impl Fn(u32) -> u64) -> Self {
        let pair =
            |index: u32| Fixed { must: word(HOST_WORDS + 2 * index), may: word(HOST_WORDS + 2 * index + 1) };
        Self {
            controls: [0, 1, 2, 3, 4].map(pair),
            cr0: pair(5),
            cr4: pair(6),
            ept: word(HOST_WORDS + 14),
            address_bits: word(HOST_WORDS + 15) as u8,
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

    fn is_page(&self, address: u64) -> bool {
        address & 0xfff == 0 && self.fits(address)
    }

    fn is_long(&self) -> bool {
        self.has(field::ENTRY_CONTROLS, entry::LONG_MODE)
    }

    fn is_v86(&self) -> bool {
        self.has(field::GUEST_RFLAGS, 1 << 17)
    }

    fn is_protected(&self) -> bool {
        self.has(field::GUEST_CR0, 1)
    }

    /// Whether an event of a type is to be injected.
    fn injects(&self, kind: u32) -> bool {
        let event = self.get(field::ENTRY_EVENT) as u32;
        event & field::EVENT_VALID != 0 && event & field::EVENT_TYPE == kind
    }
}

/// Names the rule that a structure breaks.
pub fn diagnose(view: &View) -> Diagnosis {
    first_broken(&[controls::RULES, states::HOST, states::GUEST, segments::RULES], view)
}
