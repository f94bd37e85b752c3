//! Rules for the control fields (SDM 3, 26.2.1).

use super::View;
use crate::rules;
use crate::vmx::fields::{self as field, entry, exit, pin, primary, secondary};

impl View {
    fn pin(&self, bits: u32) -> bool {
        self.has(field::PIN_CONTROLS, bits)
    }

    fn first(&self, bits: u32) -> bool {
        self.has(field::PROCESSOR_CONTROLS, bits)
    }

    /// The walk's depth, memory type and flags of an EPT pointer are there on this processor.
    fn ept_has(&self, bit: u32) -> bool {
        self.host.ept & 1 << bit != 0
    }
}

const fn is_event(event: u64) -> bool {
    event as u32 & field::EVENT_VALID != 0
}

const fn kind(event: u64) -> u64 {
    event >> 8 & 7
}

rules! {
    /// The rules, in the manual's order.
    pub(super) const RULES;
    "SDM 26.2.1.1" {
        PIN_CONTROLS: "reserved bits are as IA32_VMX_PINBASED_CTLS says", |v, x| v.host.controls[0].allows(x);
        PROCESSOR_CONTROLS: "reserved bits are as IA32_VMX_PROCBASED_CTLS says", |v, x| v.host.controls[1].allows(x);
        SECONDARY_CONTROLS: "reserved bits are as IA32_VMX_PROCBASED_CTLS2 says",
            |v, x| !v.first(primary::SECONDARY) || v.host.controls[2].allows(x);
        CR3_TARGETS: "they are at most 4", |v, x| x <= 4;
        IO_BITMAP_A IO_BITMAP_B: "each is page aligned and inside the physical address width",
            |v, x| !v.first(primary::IO_BITMAPS) || v.is_page(x);
        MSR_BITMAPS: "it is page aligned and inside the physical address width",
            |v, x| !v.first(primary::MSR_BITMAPS) || v.is_page(x);
        PIN_CONTROLS: "virtual NMIs need NMI exiting", |v, _| !v.pin(pin::VIRTUAL_NMI) || v.pin(pin::NMI);
        PROCESSOR_CONTROLS: "NMI-window exiting needs virtual NMIs",
            |v, _| !v.first(primary::NMI_WINDOW) || v.pin(pin::VIRTUAL_NMI);
        SECONDARY_CONTROLS: "the APIC's x2APIC mode, registers and delivery need the TPR shadow",
            |v, _| v.first(primary::TPR_SHADOW) || !v.second(secondary::VIRTUAL_X2APIC)
                && !v.second(secondary::APIC_REGISTERS) && !v.second(secondary::INTERRUPT_DELIVERY);
        SECONDARY_CONTROLS: "virtual x2APIC mode excludes virtual APIC accesses",
            |v, _| !v.second(secondary::VIRTUAL_X2APIC | secondary::VIRTUAL_APIC);
        SECONDARY_CONTROLS: "virtual-interrupt delivery needs external-interrupt exiting",
            |v, _| !v.second(secondary::INTERRUPT_DELIVERY) || v.pin(pin::INTERRUPT);
        PIN_CONTROLS: "posted interrupts need virtual-interrupt delivery and acknowledgement at exits",
            |v, _| !v.pin(pin::POSTED)
                || v.second(secondary::INTERRUPT_DELIVERY) && v.has(field::EXIT_CONTROLS, exit::ACKNOWLEDGE);
        VPID: "it is not zero", |v, x| !v.second(secondary::VPID) || x != 0;
        EPT_POINTER: "the memory type is supported",
            |v, x| !v.second(secondary::EPT) || x & 7 == 0 && v.ept_has(8) || x & 7 == 6 && v.ept_has(14);
        EPT_POINTER: "the walk has four levels", |v, x| !v.second(secondary::EPT) || x >> 3 & 7 == 3;
        EPT_POINTER: "accessed and dirty flags are on only where they are supported",
            |v, x| !v.second(secondary::EPT) || x & 1 << 6 == 0 || v.ept_has(21);
        EPT_POINTER: "reserved bits are zero", |v, x| !v.second(secondary::EPT) || x & 0xf80 == 0 && v.fits(x);
        SECONDARY_CONTROLS: "the page-modification log needs EPT",
            |v, _| !v.second(secondary::PML) || v.second(secondary::EPT);
        SECONDARY_CONTROLS: "an unrestricted guest needs EPT",
            |v, _| !v.second(secondary::UNRESTRICTED) || v.second(secondary::EPT);
    }
    "SDM 26.2.1.2" {
        EXIT_CONTROLS: "reserved bits are as IA32_VMX_EXIT_CTLS says", |v, x| v.host.controls[3].allows(x);
        EXIT_CONTROLS: "saving the preemption timer needs the timer",
            |v, x| x as u32 & exit::SAVE_TIMER == 0 || v.pin(pin::TIMER);
    }
    "SDM 26.2.1.3" {
        ENTRY_CONTROLS: "reserved bits are as IA32_VMX_ENTRY_CTLS says", |v, x| v.host.controls[4].allows(x);
        ENTRY_CONTROLS: "SMM and dual-monitor treatment are for SMM alone",
            |v, x| x as u32 & (entry::SMM | entry::END_DUAL_MONITOR) == 0;
        ENTRY_EVENT: "the type is not reserved", |v, e| !is_event(e) || !matches!(kind(e), 1 | 7);
        ENTRY_EVENT: "an NMI has vector 2, an exception one below 32", |v, e| {
            !is_event(e) || kind(e) != 2 && kind(e) != 3 || kind(e) == 2 && e as u8 == 2 || kind(e) == 3 && e as u8 <= 31
        };
        ENTRY_EVENT: "bits 12 to 30 are zero", |v, e| !is_event(e) || e & 0x7fff_f000 == 0;
        ENTRY_EVENT: "an error code comes exactly with the exceptions that have one, in protected mode", |v, e| {
            let has = kind(e) == 3 && v.is_protected() && matches!(e as u8, 8 | 10..=14 | 17);
            !is_event(e) || (e as u32 & field::EVENT_ERROR != 0) == has
        };
        ENTRY_ERROR: "bits 16 to 31 are zero",
            |v, x| !v.has(field::ENTRY_EVENT, field::EVENT_VALID | field::EVENT_ERROR) || x >> 16 == 0;
        ENTRY_LENGTH: "it is 1 to 15 for software events", |v, x| {
            let event = v.get(field::ENTRY_EVENT);
            !is_event(event) || !matches!(kind(event), 4..=6) || matches!(x, 1..=15)
        };
    }
}
