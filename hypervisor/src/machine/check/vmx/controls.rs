//! Rules for the control fields (SDM 3, 26.2.1).

use super::View;
use crate::machine::check::{rules, when};
use crate::machine::vmx::control::{self as field, entry, exit, pin, primary, secondary};

rules! {
    /// The rules, in the manual's order.
    pub(super) const RULES;
    "pin-based controls", "reserved bits are as IA32_VMX_PINBASED_CTLS says", "SDM 26.2.1.1" =>
        |v| v.outside(field::PIN_CONTROLS, 0);
    "primary processor-based controls", "reserved bits are as IA32_VMX_PROCBASED_CTLS says", "SDM 26.2.1.1" =>
        |v| v.outside(field::PROCESSOR_CONTROLS, 1);
    "secondary processor-based controls", "reserved bits are as IA32_VMX_PROCBASED_CTLS2 says", "SDM 26.2.1.1" =>
        |v| { if v.has(field::PROCESSOR_CONTROLS, primary::SECONDARY) { v.outside(field::SECONDARY_CONTROLS, 2) }
            else { None } };
    "CR3-target count", "it is at most 4", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::CR3_TARGETS); when(value > 4, value) };
    "I/O-bitmap address A", "it is page aligned and inside the physical address width", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::IO_BITMAP_A); when(v.has(field::PROCESSOR_CONTROLS, primary::IO_BITMAPS) &&
            (value & 0xfff != 0 || !v.fits(value)), value) };
    "I/O-bitmap address B", "it is page aligned and inside the physical address width", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::IO_BITMAP_B); when(v.has(field::PROCESSOR_CONTROLS, primary::IO_BITMAPS) &&
            (value & 0xfff != 0 || !v.fits(value)), value) };
    "MSR-bitmap address", "it is page aligned and inside the physical address width", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::MSR_BITMAPS); when(v.has(field::PROCESSOR_CONTROLS, primary::MSR_BITMAPS) &&
            (value & 0xfff != 0 || !v.fits(value)), value) };
    "virtual NMIs", "it needs NMI exiting", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::PIN_CONTROLS); when(v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI) &&
            !v.has(field::PIN_CONTROLS, pin::NMI), value) };
    "NMI-window exiting", "it needs virtual NMIs", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::PROCESSOR_CONTROLS); when(v.has(field::PROCESSOR_CONTROLS,
            primary::NMI_WINDOW) && !v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI), value) };
    "APIC virtualization", "x2APIC mode, registers and delivery need the TPR shadow", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::SECONDARY_CONTROLS); when(!v.has(field::PROCESSOR_CONTROLS,
            primary::TPR_SHADOW) && (v.second(secondary::VIRTUAL_X2APIC) || v.second(secondary::APIC_REGISTERS) ||
            v.second(secondary::INTERRUPT_DELIVERY)), value) };
    "virtualize x2APIC mode", "it excludes virtual APIC accesses", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::SECONDARY_CONTROLS); when(v.second(secondary::VIRTUAL_X2APIC) &&
            v.second(secondary::VIRTUAL_APIC), value) };
    "virtual-interrupt delivery", "it needs external-interrupt exiting", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::SECONDARY_CONTROLS); when(v.second(secondary::INTERRUPT_DELIVERY) &&
            !v.has(field::PIN_CONTROLS, pin::INTERRUPT), value) };
    "process posted interrupts", "it needs virtual-interrupt delivery and acknowledgement at exits", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::PIN_CONTROLS); when(v.has(field::PIN_CONTROLS, pin::POSTED) &&
            !(v.second(secondary::INTERRUPT_DELIVERY) && v.has(field::EXIT_CONTROLS, exit::ACKNOWLEDGE)), value) };
    "VPID", "it is not zero", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::VPID); when(v.second(secondary::VPID) && value == 0, value) };
    "EPTP", "the memory type is supported", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::EPT_POINTER); when(v.second(secondary::EPT) && !(value & 7 == 0 &&
            v.host.ept & 1 << 8 != 0 || value & 7 == 6 && v.host.ept & 1 << 14 != 0), value) };
    "EPTP", "the walk has four levels", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::EPT_POINTER); when(v.second(secondary::EPT) && value >> 3 & 7 != 3, value) };
    "EPTP", "accessed and dirty flags are on only where they are supported", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::EPT_POINTER); when(v.second(secondary::EPT) && value & 1 << 6 != 0 &&
            v.host.ept & 1 << 21 == 0, value) };
    "EPTP", "reserved bits are zero", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::EPT_POINTER); when(v.second(secondary::EPT) && (value & 0xf80 != 0 ||
            !v.fits(value)), value) };
    "enable PML", "it needs EPT", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::SECONDARY_CONTROLS); when(v.second(secondary::PML) &&
            !v.second(secondary::EPT), value) };
    "unrestricted guest", "it needs EPT", "SDM 26.2.1.1" =>
        |v| { let value = v.get(field::SECONDARY_CONTROLS); when(v.second(secondary::UNRESTRICTED) &&
            !v.second(secondary::EPT), value) };
    "VM-exit controls", "reserved bits are as IA32_VMX_EXIT_CTLS says", "SDM 26.2.1.2" =>
        |v| v.outside(field::EXIT_CONTROLS, 3);
    "save VMX-preemption timer", "it needs the timer", "SDM 26.2.1.2" =>
        |v| { let value = v.get(field::EXIT_CONTROLS); when(v.has(field::EXIT_CONTROLS, exit::SAVE_TIMER) &&
            !v.has(field::PIN_CONTROLS, pin::TIMER), value) };
    "VM-entry controls", "reserved bits are as IA32_VMX_ENTRY_CTLS says", "SDM 26.2.1.3" =>
        |v| v.outside(field::ENTRY_CONTROLS, 4);
    "VM-entry controls", "SMM and dual-monitor treatment are for SMM alone", "SDM 26.2.1.3" =>
        |v| { let value = v.get(field::ENTRY_CONTROLS); when(value as u32 & (entry::SMM | entry::END_DUAL_MONITOR)
            != 0, value) };
    "VM-entry interruption information", "the type is not reserved", "SDM 26.2.1.3" =>
        |v| v.event().and_then(|e| when(matches!(e >> 8 & 7, 1 | 7), e.into()));
    "VM-entry interruption information", "an NMI has vector 2, an exception one below 32", "SDM 26.2.1.3" =>
        |v| { v.event().and_then(|e| { when(e >> 8 & 7 == 2 && e & 0xff != 2 || e >> 8 & 7 == 3 && e & 0xff > 31,
            e.into()) }) };
    "VM-entry interruption information", "bits 12 to 30 are zero", "SDM 26.2.1.3" =>
        |v| v.event().and_then(|e| when(e & 0x7fff_f000 != 0, e.into()));
    "VM-entry interruption information", "an error code is delivered exactly with the exceptions that have one, in protected mode", "SDM 26.2.1.3" =>
        |v| { v.event().and_then(|e| { let has = e >> 8 & 7 == 3 && v.is_protected() && matches!(e & 0xff, 8 |
            10..=14 | 17); when((e & field::EVENT_ERROR != 0) != has, e.into()) }) };
    "VM-entry exception error code", "bits 16 to 31 are zero", "SDM 26.2.1.3" =>
        |v| { let value = v.get(field::ENTRY_ERROR); when(v.event().is_some_and(|e| e & field::EVENT_ERROR != 0) &&
            value >> 16 != 0, value) };
    "VM-entry instruction length", "it is 1 to 15 for software events", "SDM 26.2.1.3" =>
        |v| { let value = v.get(field::ENTRY_LENGTH); when(v.event().is_some_and(|e| matches!(e >> 8 & 7, 4..=6))
            && !(1..=15).contains(&value), value) };
}
