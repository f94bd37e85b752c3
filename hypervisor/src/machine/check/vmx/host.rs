//! Rules for the host-state area (SDM 3, 26.2.2 to 26.2.4).

use super::View;
use crate::machine::check::{is_canonical, is_pat, rules, when};
use crate::machine::vmx::control::{self as field, exit};

/// Selectors of the host without CS and TR.
const DATA_SELECTORS: [u32; 5] =
    [field::HOST_ES, field::HOST_SS, field::HOST_DS, field::HOST_FS, field::HOST_GS];
const BASES: [u32; 5] = [
    field::HOST_FS_BASE,
    field::HOST_GS_BASE,
    field::HOST_TR_BASE,
    field::HOST_GDTR_BASE,
    field::HOST_IDTR_BASE,
];

rules! {
    /// The rules, in the manual's order.
    pub(super) const RULES;
    "host CR0", "it has the bits that VMX fixes", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_CR0); when(value & v.host.cr0.0 != v.host.cr0.0 || value &
            !v.host.cr0.1 != 0, value) };
    "host CR4", "it has the bits that VMX fixes", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_CR4); when(value & v.host.cr4.0 != v.host.cr4.0 || value &
            !v.host.cr4.1 != 0, value) };
    "host CR3", "it is inside the physical address width", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_CR3); when(!v.fits(value), value) };
    "host IA32_SYSENTER_ESP", "it is canonical", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_SYSENTER_ESP); when(!is_canonical(value), value) };
    "host IA32_SYSENTER_EIP", "it is canonical", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_SYSENTER_EIP); when(!is_canonical(value), value) };
    "host IA32_PAT", "each byte is a memory type", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_PAT); when(v.has(field::EXIT_CONTROLS, exit::LOAD_PAT) &&
            !is_pat(value), value) };
    "host IA32_EFER", "LMA and LME agree with the host's address-space size", "SDM 26.2.2" =>
        |v| { let value = v.get(field::HOST_EFER); when(v.has(field::EXIT_CONTROLS, exit::LOAD_EFER) &&
            v.has(field::EXIT_CONTROLS, exit::HOST_64) != (value & 0x500 == 0x500), value) };
    "host segment selectors", "RPL and TI are zero", "SDM 26.2.3" =>
        |v| { DATA_SELECTORS.iter().chain(&[field::HOST_CS, field::HOST_TR]).find_map(|f| when(v.get(*f) & 7 != 0,
            v.get(*f))) };
    "host CS selector", "it is not null", "SDM 26.2.3" =>
        |v| { let value = v.get(field::HOST_CS); when(value == 0, value) };
    "host TR selector", "it is not null", "SDM 26.2.3" =>
        |v| { let value = v.get(field::HOST_TR); when(value == 0, value) };
    "host segment bases", "they are canonical", "SDM 26.2.3" =>
        |v| BASES.iter().find_map(|f| when(!is_canonical(v.get(*f)), v.get(*f)));
    "host address-space size", "it is set: this hypervisor is 64-bit code", "SDM 26.2.4" =>
        |v| { let value = v.get(field::EXIT_CONTROLS); when(!v.has(field::EXIT_CONTROLS, exit::HOST_64), value) };
    "host CR4", "PAE is set", "SDM 26.2.4" =>
        |v| { let value = v.get(field::HOST_CR4); when(value & 1 << 5 == 0, value) };
    "host RIP", "it is canonical", "SDM 26.2.4" =>
        |v| { let value = v.get(field::HOST_RIP); when(!is_canonical(value), value) };
}
