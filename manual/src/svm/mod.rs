//! VMRUN's checks (APM volume 2, 15.5.1 and 15.20).

pub mod fields;
pub mod paging;
#[cfg(test)]
mod tests;

use super::{Diagnosis, HOST_WORDS, first_broken, is_pat, rules};
use crate::svm::fields::{self as field, Field, Snapshot, second};

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
    /// As numbered words behind those of a block, for [`write_state`](super::write_state).
    pub fn words(&self) -> impl Iterator<Item = (u32, u64)> {
        (HOST_WORDS..).zip([self.asids.into(), self.address_bits.into(), self.efer, self.cr4])
    }

    /// From those words.
    pub(crate) fn of(word: impl Fn(u32) -> u64) -> Self {
        Self {
            asids: word(HOST_WORDS) as u32,
            address_bits: word(HOST_WORDS + 1) as u8,
            efer: word(HOST_WORDS + 2),
            cr4: word(HOST_WORDS + 3),
        }
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
    fn get<T: Copy>(&self, field: Field<T>) -> u64 {
        self.block.get(field)
    }

    const fn fits(&self, address: u64) -> bool {
        address >> self.host.address_bits == 0
    }

    fn is_long(&self) -> bool {
        self.get(field::EFER) & 1 << 8 != 0 && self.get(field::CR0) & 1 << 31 != 0
    }

    fn is_nested(&self) -> bool {
        self.get(field::NESTED) & 1 != 0
    }
}

const fn is_event(event: u64) -> bool {
    event & field::EVENT_VALID != 0
}

const fn is_exception(event: u64) -> bool {
    is_event(event) && event & field::EVENT_TYPE == field::EVENT_EXCEPTION
}

/// Names the rule that a block breaks.
pub fn diagnose(view: &View) -> Diagnosis {
    first_broken(&[STATE, CONTROLS], view)
}

rules! {
    /// The guest's state.
    pub const STATE;
    "APM 15.5.1" {
        EFER: "SVME is set", |v, efer| efer & 1 << 12 != 0;
        EFER: "no reserved bit is set", |v, efer| efer & !v.host.efer == 0;
        CR0: "NW is clear when CD is clear", |v, cr0| cr0 >> 29 & 3 != 1;
        CR0: "the upper half is zero", |v, cr0| cr0 >> 32 == 0;
        CR3: "bits above the physical address are zero", |v, cr3| !v.is_long() || v.fits(cr3 & !(1 << 63));
        CR4: "no reserved bit is set", |v, cr4| cr4 & !v.host.cr4 == 0;
        CR4: "CET needs CR0.WP", |v, cr4| cr4 & 1 << 23 == 0 || v.get(field::CR0) & 1 << 16 != 0;
        DR6 DR7: "bits 32 to 63 are zero", |v, dr| dr >> 32 == 0;
        CR4: "PAE is set in long mode with paging", |v, cr4| !v.is_long() || cr4 & 1 << 5 != 0;
        CR0: "PE is set in long mode with paging", |v, cr0| !v.is_long() || cr0 & 1 != 0;
        CS_ATTRIBUTES: "L and D are not both set in long mode", |v, cs| !v.is_long() || cs >> 9 & 3 != 3;
    }
    "APM 15.25.4" {
        PAT: "each byte is a memory type", |v, pat| !v.is_nested() || is_pat(pat);
    }
}

rules! {
    /// The controls.
    pub const CONTROLS;
    "APM 15.5.1" {
        INTERCEPT_2: "VMRUN is intercepted", |v, word| word & u64::from(second::VMRUN) != 0;
        ASID: "it is not zero", |v, asid| asid != 0;
        ASID: "it is below the processor's number of address spaces", |v, asid| asid < v.host.asids.into();
    }
    "APM 15.10.1" {
        IO_MAP: "the map ends below the highest physical address", |v, map| v.fits(map.saturating_add(0x2fff));
    }
    "APM 15.11" {
        MSR_MAP: "the map is below the highest physical address", |v, map| v.fits(map.saturating_add(0x1fff));
    }
    "APM 15.25.4" {
        NESTED_CR3: "bits above the physical address are zero", |v, root| !v.is_nested() || v.fits(root);
    }
    "APM 15.20" {
        INJECT: "the type is one of 0, 2, 3 and 4", |v, e| !is_event(e) || matches!(e >> 8 & 7, 0 | 2 | 3 | 4);
        INJECT: "an exception's vector is below 32 and not that of NMIs",
            |v, e| !is_exception(e) || e as u8 != 2 && e as u8 <= 31;
        INJECT: "#BR is not injected in 64-bit mode, nor is #OF", |v, e| {
            let wide = v.is_long() && v.get(field::CS_ATTRIBUTES) & 1 << 9 != 0;
            !wide || !is_exception(e) || !matches!(e as u8, 4 | 5)
        };
    }
}
