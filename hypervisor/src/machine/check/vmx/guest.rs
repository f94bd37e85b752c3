//! Rules for the guest-state area but for its segments (SDM 3, 26.3.1).

use super::View;
use crate::machine::check::{is_canonical, is_pat, rules, when};
use crate::machine::vmx::control::{self as field, entry, pin, secondary};

rules! {
    /// The rules, in the manual's order.
    pub(super) const RULES;
    "guest CR0", "it has the bits that VMX fixes; an unrestricted guest may clear PE and PG", "SDM 26.3.1.1" =>
        |v| { let free = if v.second(secondary::UNRESTRICTED) { 0x8000_0001 } else { 0 }; let must = v.host.cr0.0 &
            !free; let value = v.get(field::GUEST_CR0); when(value & must != must || value & !v.host.cr0.1 != 0,
            value) };
    "guest CR0", "PG needs PE", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR0); when(value & 0x8000_0001 == 0x8000_0000, value) };
    "guest CR4", "it has the bits that VMX fixes", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR4); when(value & v.host.cr4.0 != v.host.cr4.0 || value &
            !v.host.cr4.1 != 0, value) };
    "guest IA32_DEBUGCTL", "reserved bits are zero", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_DEBUGCTL); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_DEBUG) &&
            value & !0xffc3 != 0, value) };
    "guest CR0", "PG is set in IA-32e mode", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR0); when(v.is_long() && value & 1 << 31 == 0, value) };
    "guest CR4", "PAE is set in IA-32e mode", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR4); when(v.is_long() && value & 1 << 5 == 0, value) };
    "guest CR4", "PCIDE needs IA-32e mode", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR4); when(!v.is_long() && value & 1 << 17 != 0, value) };
    "guest CR3", "it is inside the physical address width", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_CR3); when(!v.fits(value & !(1 << 63)), value) };
    "guest DR7", "bits 32 to 63 are zero", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_DR7); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_DEBUG) && value >>
            32 != 0, value) };
    "guest IA32_SYSENTER_ESP", "it is canonical", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_SYSENTER_ESP); when(!is_canonical(value), value) };
    "guest IA32_SYSENTER_EIP", "it is canonical", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_SYSENTER_EIP); when(!is_canonical(value), value) };
    "guest IA32_PAT", "each byte is a memory type", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_PAT); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_PAT) &&
            !is_pat(value), value) };
    "guest IA32_EFER", "reserved bits are zero", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_EFER); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_EFER) && value &
            !0xd01 != 0, value) };
    "guest IA32_EFER", "LMA is the IA-32e mode control", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_EFER); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_EFER) && (value &
            1 << 10 != 0) != v.is_long(), value) };
    "guest IA32_EFER", "LMA is LME while paging is on", "SDM 26.3.1.1" =>
        |v| { let value = v.get(field::GUEST_EFER); when(v.has(field::ENTRY_CONTROLS, entry::LOAD_EFER) &&
            v.get(field::GUEST_CR0) & 1 << 31 != 0 && (value >> 10 ^ value >> 8) & 1 != 0, value) };
    "guest GDTR base", "it is canonical", "SDM 26.3.1.3" =>
        |v| { let value = v.get(field::GUEST_GDTR_BASE); when(!is_canonical(value), value) };
    "guest IDTR base", "it is canonical", "SDM 26.3.1.3" =>
        |v| { let value = v.get(field::GUEST_IDTR_BASE); when(!is_canonical(value), value) };
    "guest GDTR limit", "bits 16 to 31 are zero", "SDM 26.3.1.3" =>
        |v| { let value = v.get(field::GUEST_GDTR_LIMIT); when(value >> 16 != 0, value) };
    "guest IDTR limit", "bits 16 to 31 are zero", "SDM 26.3.1.3" =>
        |v| { let value = v.get(field::GUEST_IDTR_LIMIT); when(value >> 16 != 0, value) };
    "guest RIP", "bits 32 to 63 are zero outside 64-bit mode, and it is canonical in it", "SDM 26.3.1.4" =>
        |v| { let wide = v.is_long() && v.has(field::GUEST_CS_RIGHTS, 1 << 13); let value =
            v.get(field::GUEST_RIP); when(if wide { !is_canonical(value) } else { value >> 32 != 0 }, value) };
    "guest RFLAGS", "reserved bits are zero and bit 1 is set", "SDM 26.3.1.4" =>
        |v| { let value = v.get(field::GUEST_RFLAGS); when(value & !0x003f_7fd7 != 0 || value & 2 == 0, value) };
    "guest RFLAGS", "VM is clear in IA-32e mode and outside protected mode", "SDM 26.3.1.4" =>
        |v| { let value = v.get(field::GUEST_RFLAGS); when(v.is_v86() && (v.is_long() || !v.is_protected()), value)
            };
    "guest RFLAGS", "IF is set when an external interrupt is injected", "SDM 26.3.1.4" =>
        |v| { let value = v.get(field::GUEST_RFLAGS); when(v.event().is_some_and(|e| e & field::EVENT_TYPE ==
            field::EVENT_INTERRUPT) && value & 1 << 9 == 0, value) };
    "guest activity state", "it is 0 to 3", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::ACTIVITY); when(value > 3, value) };
    "guest activity state", "it is active while STI or MOV SS holds interrupts", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::ACTIVITY); when(value != 0 && v.get(field::INTERRUPTIBILITY) & 3 != 0,
            value) };
    "guest interruptibility", "reserved bits are zero", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(value & !0x1f != 0, value) };
    "guest interruptibility", "STI and MOV SS do not both hold interrupts", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(value & 3 == 3, value) };
    "guest interruptibility", "STI holds interrupts only with IF set", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(value & 1 != 0 && v.get(field::GUEST_RFLAGS) & 1 <<
            9 == 0, value) };
    "guest interruptibility", "nothing holds an external interrupt that is injected", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(v.event().is_some_and(|e| e & field::EVENT_TYPE ==
            field::EVENT_INTERRUPT) && value & 3 != 0, value) };
    "guest interruptibility", "MOV SS does not hold an NMI that is injected", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(v.event().is_some_and(|e| e & field::EVENT_TYPE ==
            field::EVENT_NMI) && value & 2 != 0, value) };
    "guest interruptibility", "NMIs are not blocked when one is injected with virtual NMIs", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::INTERRUPTIBILITY); when(v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI) &&
            v.event().is_some_and(|e| e & field::EVENT_TYPE == field::EVENT_NMI) && value & 8 != 0, value) };
    "guest pending debug exceptions", "reserved bits are zero", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::PENDING_DEBUG); when(value & !0x1_500f != 0, value) };
    "VMCS link pointer", "it is all ones or the aligned address of a VMCS", "SDM 26.3.1.5" =>
        |v| { let value = v.get(field::LINK_POINTER); when(value != u64::MAX && (value & 0xfff != 0 ||
            !v.fits(value)), value) };
    "guest PDPTEs", "present entries have no reserved bit set", "SDM 26.3.1.6" =>
        |v| { let pae = v.get(field::GUEST_CR0) & 1 << 31 != 0 && v.get(field::GUEST_CR4) & 1 << 5 != 0 &&
            !v.is_long(); (0..4).find_map(|i| { let entry = v.get(field::GUEST_PDPTE0 + 2 * i); when(pae &&
            v.second(secondary::EPT) && entry & 1 != 0 && (entry & 0x1e6 != 0 || !v.fits(entry)), entry) }) };
}
