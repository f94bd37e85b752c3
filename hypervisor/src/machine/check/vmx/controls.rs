//! Rules for the control fields (SDM 3, 26.2.1).

use super::View;
use crate::machine::check::{Rule, when};
use crate::machine::vmx::control::{self as field, entry, exit, pin, primary, secondary};

/// The rules, in the manual's order.
pub(super) const RULES: &[Rule<View>] = &[
    Rule {
        field: "pin-based controls",
        rule: "reserved bits are as IA32_VMX_PINBASED_CTLS says",
        section: "SDM 26.2.1.1",
        broken: |v| v.outside(field::PIN_CONTROLS, 0),
    },
    Rule {
        field: "primary processor-based controls",
        rule: "reserved bits are as IA32_VMX_PROCBASED_CTLS says",
        section: "SDM 26.2.1.1",
        broken: |v| v.outside(field::PROCESSOR_CONTROLS, 1),
    },
    Rule {
        field: "secondary processor-based controls",
        rule: "reserved bits are as IA32_VMX_PROCBASED_CTLS2 says",
        section: "SDM 26.2.1.1",
        broken: |v| {
            if v.has(field::PROCESSOR_CONTROLS, primary::SECONDARY) {
                v.outside(field::SECONDARY_CONTROLS, 2)
            } else {
                None
            }
        },
    },
    Rule {
        field: "CR3-target count",
        rule: "it is at most 4",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::CR3_TARGETS);
            when(value > 4, value)
        },
    },
    Rule {
        field: "I/O-bitmap address A",
        rule: "it is page aligned and inside the physical address width",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::IO_BITMAP_A);
            when(
                v.has(field::PROCESSOR_CONTROLS, primary::IO_BITMAPS)
                    && (value & 0xfff != 0 || !v.fits(value)),
                value,
            )
        },
    },
    Rule {
        field: "I/O-bitmap address B",
        rule: "it is page aligned and inside the physical address width",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::IO_BITMAP_B);
            when(
                v.has(field::PROCESSOR_CONTROLS, primary::IO_BITMAPS)
                    && (value & 0xfff != 0 || !v.fits(value)),
                value,
            )
        },
    },
    Rule {
        field: "MSR-bitmap address",
        rule: "it is page aligned and inside the physical address width",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::MSR_BITMAPS);
            when(
                v.has(field::PROCESSOR_CONTROLS, primary::MSR_BITMAPS)
                    && (value & 0xfff != 0 || !v.fits(value)),
                value,
            )
        },
    },
    Rule {
        field: "virtual NMIs",
        rule: "it needs NMI exiting",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::PIN_CONTROLS);
            when(v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI) && !v.has(field::PIN_CONTROLS, pin::NMI), value)
        },
    },
    Rule {
        field: "NMI-window exiting",
        rule: "it needs virtual NMIs",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::PROCESSOR_CONTROLS);
            when(
                v.has(field::PROCESSOR_CONTROLS, primary::NMI_WINDOW)
                    && !v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI),
                value,
            )
        },
    },
    Rule {
        field: "APIC virtualization",
        rule: "x2APIC mode, registers and delivery need the TPR shadow",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::SECONDARY_CONTROLS);
            when(
                !v.has(field::PROCESSOR_CONTROLS, primary::TPR_SHADOW)
                    && (v.second(secondary::VIRTUAL_X2APIC)
                        || v.second(secondary::APIC_REGISTERS)
                        || v.second(secondary::INTERRUPT_DELIVERY)),
                value,
            )
        },
    },
    Rule {
        field: "virtualize x2APIC mode",
        rule: "it excludes virtual APIC accesses",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::SECONDARY_CONTROLS);
            when(v.second(secondary::VIRTUAL_X2APIC) && v.second(secondary::VIRTUAL_APIC), value)
        },
    },
    Rule {
        field: "virtual-interrupt delivery",
        rule: "it needs external-interrupt exiting",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::SECONDARY_CONTROLS);
            when(
                v.second(secondary::INTERRUPT_DELIVERY) && !v.has(field::PIN_CONTROLS, pin::INTERRUPT),
                value,
            )
        },
    },
    Rule {
        field: "process posted interrupts",
        rule: "it needs virtual-interrupt delivery and acknowledgement at exits",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::PIN_CONTROLS);
            when(
                v.has(field::PIN_CONTROLS, pin::POSTED)
                    && !(v.second(secondary::INTERRUPT_DELIVERY)
                        && v.has(field::EXIT_CONTROLS, exit::ACKNOWLEDGE)),
                value,
            )
        },
    },
    Rule {
        field: "VPID",
        rule: "it is not zero",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::VPID);
            when(v.second(secondary::VPID) && value == 0, value)
        },
    },
    Rule {
        field: "EPTP",
        rule: "the memory type is supported",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::EPT_POINTER);
            when(
                v.second(secondary::EPT)
                    && !(value & 7 == 0 && v.host.ept & 1 << 8 != 0
                        || value & 7 == 6 && v.host.ept & 1 << 14 != 0),
                value,
            )
        },
    },
    Rule {
        field: "EPTP",
        rule: "the walk has four levels",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::EPT_POINTER);
            when(v.second(secondary::EPT) && value >> 3 & 7 != 3, value)
        },
    },
    Rule {
        field: "EPTP",
        rule: "accessed and dirty flags are on only where they are supported",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::EPT_POINTER);
            when(v.second(secondary::EPT) && value & 1 << 6 != 0 && v.host.ept & 1 << 21 == 0, value)
        },
    },
    Rule {
        field: "EPTP",
        rule: "reserved bits are zero",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::EPT_POINTER);
            when(v.second(secondary::EPT) && (value & 0xf80 != 0 || !v.fits(value)), value)
        },
    },
    Rule {
        field: "enable PML",
        rule: "it needs EPT",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::SECONDARY_CONTROLS);
            when(v.second(secondary::PML) && !v.second(secondary::EPT), value)
        },
    },
    Rule {
        field: "unrestricted guest",
        rule: "it needs EPT",
        section: "SDM 26.2.1.1",
        broken: |v| {
            let value = v.get(field::SECONDARY_CONTROLS);
            when(v.second(secondary::UNRESTRICTED) && !v.second(secondary::EPT), value)
        },
    },
    Rule {
        field: "VM-exit controls",
        rule: "reserved bits are as IA32_VMX_EXIT_CTLS says",
        section: "SDM 26.2.1.2",
        broken: |v| v.outside(field::EXIT_CONTROLS, 3),
    },
    Rule {
        field: "save VMX-preemption timer",
        rule: "it needs the timer",
        section: "SDM 26.2.1.2",
        broken: |v| {
            let value = v.get(field::EXIT_CONTROLS);
            when(
                v.has(field::EXIT_CONTROLS, exit::SAVE_TIMER) && !v.has(field::PIN_CONTROLS, pin::TIMER),
                value,
            )
        },
    },
    Rule {
        field: "VM-entry controls",
        rule: "reserved bits are as IA32_VMX_ENTRY_CTLS says",
        section: "SDM 26.2.1.3",
        broken: |v| v.outside(field::ENTRY_CONTROLS, 4),
    },
    Rule {
        field: "VM-entry controls",
        rule: "SMM and dual-monitor treatment are for SMM alone",
        section: "SDM 26.2.1.3",
        broken: |v| {
            let value = v.get(field::ENTRY_CONTROLS);
            when(value as u32 & (entry::SMM | entry::END_DUAL_MONITOR) != 0, value)
        },
    },
    Rule {
        field: "VM-entry interruption information",
        rule: "the type is not reserved",
        section: "SDM 26.2.1.3",
        broken: |v| v.event().and_then(|e| when(matches!(e >> 8 & 7, 1 | 7), e.into())),
    },
    Rule {
        field: "VM-entry interruption information",
        rule: "an NMI has vector 2, an exception one below 32",
        section: "SDM 26.2.1.3",
        broken: |v| {
            v.event().and_then(|e| {
                when(e >> 8 & 7 == 2 && e & 0xff != 2 || e >> 8 & 7 == 3 && e & 0xff > 31, e.into())
            })
        },
    },
    Rule {
        field: "VM-entry interruption information",
        rule: "bits 12 to 30 are zero",
        section: "SDM 26.2.1.3",
        broken: |v| v.event().and_then(|e| when(e & 0x7fff_f000 != 0, e.into())),
    },
    Rule {
        field: "VM-entry interruption information",
        rule: "an error code is delivered exactly with the exceptions that have one, in protected mode",
        section: "SDM 26.2.1.3",
        broken: |v| {
            v.event().and_then(|e| {
                let has = e >> 8 & 7 == 3 && v.is_protected() && matches!(e & 0xff, 8 | 10..=14 | 17);
                when((e & field::EVENT_ERROR != 0) != has, e.into())
            })
        },
    },
    Rule {
        field: "VM-entry exception error code",
        rule: "bits 16 to 31 are zero",
        section: "SDM 26.2.1.3",
        broken: |v| {
            let value = v.get(field::ENTRY_ERROR);
            when(v.event().is_some_and(|e| e & field::EVENT_ERROR != 0) && value >> 16 != 0, value)
        },
    },
    Rule {
        field: "VM-entry instruction length",
        rule: "it is 1 to 15 for software events",
        section: "SDM 26.2.1.3",
        broken: |v| {
            let value = v.get(field::ENTRY_LENGTH);
            when(v.event().is_some_and(|e| matches!(e >> 8 & 7, 4..=6)) && !(1..=15).contains(&value), value)
        },
    },
];
