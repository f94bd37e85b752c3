//! Rules for the host-state area (SDM 3, 26.2.2 to 26.2.4), and for the guest's but for its segments (26.3.1).

use super::View;
use crate::vmx::fields::{self as field, entry, exit, pin, secondary};
use crate::{is_canonical, is_pat, rules};

const PE: u64 = 1;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const IF: u64 = 1 << 9;

impl View {
    fn exits_with(&self, bits: u32) -> bool {
        self.has(field::EXIT_CONTROLS, bits)
    }

    fn enters_with(&self, bits: u32) -> bool {
        self.has(field::ENTRY_CONTROLS, bits)
    }

    /// Under PAE paging with EPT, the directory pointers come from the structure.
    fn loads_pointers(&self) -> bool {
        let (cr0, cr4) = (self.get(field::GUEST_CR0), self.get(field::GUEST_CR4));
        cr0 & PG != 0 && cr4 & PAE != 0 && !self.is_long() && self.second(secondary::EPT)
    }
}

rules! {
    /// The host's rules, in the manual's order.
    pub(super) const HOST;
    "SDM 26.2.2" {
        HOST_CR0: "CR0 has the bits that VMX fixes", |v, x| v.host.cr0.allows(x);
        HOST_CR4: "CR4 has the bits that VMX fixes", |v, x| v.host.cr4.allows(x);
        HOST_CR3: "it is inside the physical address width", |v, x| v.fits(x);
        HOST_SYSENTER_ESP HOST_SYSENTER_EIP: "it is canonical", |v, x| is_canonical(x);
        HOST_PAT: "each byte is a memory type", |v, x| !v.exits_with(exit::LOAD_PAT) || is_pat(x);
        HOST_EFER: "LMA and LME agree with the host's address-space size",
            |v, x| !v.exits_with(exit::LOAD_EFER) || v.exits_with(exit::HOST_64) == (x & (LME | LMA) == LME | LMA);
    }
    "SDM 26.2.3" {
        HOST_ES HOST_CS HOST_SS HOST_DS HOST_FS HOST_GS HOST_TR: "RPL and TI are zero", |v, x| x & 7 == 0;
        HOST_CS HOST_TR: "the selector is not null", |v, x| x != 0;
        HOST_FS_BASE HOST_GS_BASE HOST_TR_BASE HOST_GDTR_BASE HOST_IDTR_BASE: "the base is canonical",
            |v, x| is_canonical(x);
    }
    "SDM 26.2.4" {
        EXIT_CONTROLS: "the host's address-space size is set: this hypervisor is 64-bit code",
            |v, _| v.exits_with(exit::HOST_64);
        HOST_CR4: "PAE is set", |v, x| x & PAE != 0;
        HOST_RIP: "it is canonical", |v, x| is_canonical(x);
    }
}

rules! {
    /// The guest's rules, in the manual's order.
    pub(super) const GUEST;
    "SDM 26.3.1.1" {
        GUEST_CR0: "it has the bits that VMX fixes; an unrestricted guest may clear PE and PG", |v, x| {
            v.host.cr0.allows(if v.second(secondary::UNRESTRICTED) { x | v.host.cr0.must & (PE | PG) } else { x })
        };
        GUEST_CR0: "PG needs PE", |v, x| x & PG == 0 || x & PE != 0;
        GUEST_CR4: "it has the bits that VMX fixes", |v, x| v.host.cr4.allows(x);
        GUEST_DEBUGCTL: "reserved bits are zero", |v, x| !v.enters_with(entry::LOAD_DEBUG) || x & !0xffc3 == 0;
        GUEST_CR0: "PG is set in IA-32e mode", |v, x| !v.is_long() || x & PG != 0;
        GUEST_CR4: "PAE is set in IA-32e mode", |v, x| !v.is_long() || x & PAE != 0;
        GUEST_CR4: "PCIDE needs IA-32e mode", |v, x| v.is_long() || x & 1 << 17 == 0;
        GUEST_CR3: "it is inside the physical address width", |v, x| v.fits(x & !(1 << 63));
        GUEST_DR7: "bits 32 to 63 are zero", |v, x| !v.enters_with(entry::LOAD_DEBUG) || x >> 32 == 0;
        GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP: "it is canonical", |v, x| is_canonical(x);
        GUEST_PAT: "each byte is a memory type", |v, x| !v.enters_with(entry::LOAD_PAT) || is_pat(x);
        GUEST_EFER: "reserved bits are zero", |v, x| !v.enters_with(entry::LOAD_EFER) || x & !0xd01 == 0;
        GUEST_EFER: "LMA is the IA-32e mode control",
            |v, x| !v.enters_with(entry::LOAD_EFER) || (x & LMA != 0) == v.is_long();
        GUEST_EFER: "LMA is LME while paging is on", |v, x| {
            !v.enters_with(entry::LOAD_EFER) || v.get(field::GUEST_CR0) & PG == 0 || (x & LMA != 0) == (x & LME != 0)
        };
    }
    "SDM 26.3.1.3" {
        GUEST_GDTR_BASE GUEST_IDTR_BASE: "it is canonical", |v, x| is_canonical(x);
        GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT: "bits 16 to 31 are zero", |v, x| x >> 16 == 0;
    }
    "SDM 26.3.1.4" {
        GUEST_RIP: "bits 32 to 63 are zero outside 64-bit mode, and it is canonical in it", |v, x| {
            if v.is_long() && v.has(field::GUEST_CS_RIGHTS, 1 << 13) { is_canonical(x) } else { x >> 32 == 0 }
        };
        GUEST_RFLAGS: "reserved bits are zero and bit 1 is set", |v, x| x & !0x003f_7fd7 == 0 && x & 2 != 0;
        GUEST_RFLAGS: "VM is clear in IA-32e mode and outside protected mode",
            |v, _| !v.is_v86() || !v.is_long() && v.is_protected();
        GUEST_RFLAGS: "IF is set when an external interrupt is injected",
            |v, x| !v.injects(field::EVENT_INTERRUPT) || x & IF != 0;
    }
    "SDM 26.3.1.5" {
        ACTIVITY: "it is 0 to 3", |v, x| x <= 3;
        ACTIVITY: "it is active while STI or MOV SS holds interrupts",
            |v, x| x == 0 || v.get(field::INTERRUPTIBILITY) & 3 == 0;
        INTERRUPTIBILITY: "reserved bits are zero", |v, x| x & !0x1f == 0;
        INTERRUPTIBILITY: "STI and MOV SS do not both hold interrupts", |v, x| x & 3 != 3;
        INTERRUPTIBILITY: "STI holds interrupts only with IF set",
            |v, x| x & 1 == 0 || v.get(field::GUEST_RFLAGS) & IF != 0;
        INTERRUPTIBILITY: "nothing holds an external interrupt that is injected",
            |v, x| !v.injects(field::EVENT_INTERRUPT) || x & 3 == 0;
        INTERRUPTIBILITY: "MOV SS does not hold an NMI that is injected",
            |v, x| !v.injects(field::EVENT_NMI) || x & 2 == 0;
        INTERRUPTIBILITY: "NMIs are not blocked when one is injected with virtual NMIs",
            |v, x| !v.injects(field::EVENT_NMI) || !v.has(field::PIN_CONTROLS, pin::VIRTUAL_NMI) || x & 8 == 0;
        PENDING_DEBUG: "no reserved bit is set", |v, x| x & !0x1_500f == 0;
        LINK_POINTER: "it is all ones or the aligned address of a VMCS", |v, x| x == u64::MAX || v.is_page(x);
    }
    "SDM 26.3.1.6" {
        GUEST_PDPTE0 GUEST_PDPTE1 GUEST_PDPTE2 GUEST_PDPTE3: "a present entry has no reserved bit set",
            |v, x| !v.loads_pointers() || x & 1 == 0 || x & 0x1e6 == 0 && v.fits(x);
    }
}
