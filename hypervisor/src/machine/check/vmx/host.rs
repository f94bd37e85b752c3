//! Rules for the host-state area (SDM 3, 26.2.2 to 26.2.4).

use super::View;
use crate::machine::check::{Rule, is_canonical, is_pat, when};
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

/// The rules, in the manual's order.
pub(super) const RULES: &[Rule<View>] = &[
    Rule {
        field: "host CR0",
        rule: "it has the bits that VMX fixes",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_CR0);
            when(value & v.host.cr0.0 != v.host.cr0.0 || value & !v.host.cr0.1 != 0, value)
        },
    },
    Rule {
        field: "host CR4",
        rule: "it has the bits that VMX fixes",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_CR4);
            when(value & v.host.cr4.0 != v.host.cr4.0 || value & !v.host.cr4.1 != 0, value)
        },
    },
    Rule {
        field: "host CR3",
        rule: "it is inside the physical address width",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_CR3);
            when(!v.fits(value), value)
        },
    },
    Rule {
        field: "host IA32_SYSENTER_ESP",
        rule: "it is canonical",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_SYSENTER_ESP);
            when(!is_canonical(value), value)
        },
    },
    Rule {
        field: "host IA32_SYSENTER_EIP",
        rule: "it is canonical",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_SYSENTER_EIP);
            when(!is_canonical(value), value)
        },
    },
    Rule {
        field: "host IA32_PAT",
        rule: "each byte is a memory type",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_PAT);
            when(v.has(field::EXIT_CONTROLS, exit::LOAD_PAT) && !is_pat(value), value)
        },
    },
    Rule {
        field: "host IA32_EFER",
        rule: "LMA and LME agree with the host's address-space size",
        section: "SDM 26.2.2",
        broken: |v| {
            let value = v.get(field::HOST_EFER);
            when(
                v.has(field::EXIT_CONTROLS, exit::LOAD_EFER)
                    && v.has(field::EXIT_CONTROLS, exit::HOST_64) != (value & 0x500 == 0x500),
                value,
            )
        },
    },
    Rule {
        field: "host segment selectors",
        rule: "RPL and TI are zero",
        section: "SDM 26.2.3",
        broken: |v| {
            DATA_SELECTORS
                .iter()
                .chain(&[field::HOST_CS, field::HOST_TR])
                .find_map(|f| when(v.get(*f) & 7 != 0, v.get(*f)))
        },
    },
    Rule {
        field: "host CS selector",
        rule: "it is not null",
        section: "SDM 26.2.3",
        broken: |v| {
            let value = v.get(field::HOST_CS);
            when(value == 0, value)
        },
    },
    Rule {
        field: "host TR selector",
        rule: "it is not null",
        section: "SDM 26.2.3",
        broken: |v| {
            let value = v.get(field::HOST_TR);
            when(value == 0, value)
        },
    },
    Rule {
        field: "host segment bases",
        rule: "they are canonical",
        section: "SDM 26.2.3",
        broken: |v| BASES.iter().find_map(|f| when(!is_canonical(v.get(*f)), v.get(*f))),
    },
    Rule {
        field: "host address-space size",
        rule: "it is set: this hypervisor is 64-bit code",
        section: "SDM 26.2.4",
        broken: |v| {
            let value = v.get(field::EXIT_CONTROLS);
            when(!v.has(field::EXIT_CONTROLS, exit::HOST_64), value)
        },
    },
    Rule {
        field: "host CR4",
        rule: "PAE is set",
        section: "SDM 26.2.4",
        broken: |v| {
            let value = v.get(field::HOST_CR4);
            when(value & 1 << 5 == 0, value)
        },
    },
    Rule {
        field: "host RIP",
        rule: "it is canonical",
        section: "SDM 26.2.4",
        broken: |v| {
            let value = v.get(field::HOST_RIP);
            when(!is_canonical(value), value)
        },
    },
];
