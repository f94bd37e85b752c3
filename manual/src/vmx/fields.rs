//! The control structure: encodings of its fields (SDM 3, appendix B), and the bits of its controls (chapter 24).

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $encoding;)*

        /// All of them.
        pub const ALL: &[u32] = &[$($encoding),*];
    };
}

fields! {
    /// Tag of the guest's translations.
    VPID = 0x0000;
    /// ES selector.
    GUEST_ES = 0x0800;
    /// CS selector.
    GUEST_CS = 0x0802;
    /// SS selector.
    GUEST_SS = 0x0804;
    /// DS selector.
    GUEST_DS = 0x0806;
    /// FS selector.
    GUEST_FS = 0x0808;
    /// GS selector.
    GUEST_GS = 0x080a;
    /// LDTR selector.
    GUEST_LDTR = 0x080c;
    /// TR selector.
    GUEST_TR = 0x080e;
    /// Host ES selector.
    HOST_ES = 0x0c00;
    /// Host CS selector.
    HOST_CS = 0x0c02;
    /// Host SS selector.
    HOST_SS = 0x0c04;
    /// Host DS selector.
    HOST_DS = 0x0c06;
    /// Host FS selector.
    HOST_FS = 0x0c08;
    /// Host GS selector.
    HOST_GS = 0x0c0a;
    /// Host TR selector.
    HOST_TR = 0x0c0c;
    /// I/O bitmap A.
    IO_BITMAP_A = 0x2000;
    /// I/O bitmap B.
    IO_BITMAP_B = 0x2002;
    /// MSR bitmaps.
    MSR_BITMAPS = 0x2004;
    /// Added to the TSC.
    TSC_OFFSET = 0x2010;
    /// EPT pointer.
    EPT_POINTER = 0x201a;
    /// Guest-physical address of an EPT violation.
    GUEST_PHYSICAL = 0x2400;
    /// VMCS link pointer.
    LINK_POINTER = 0x2800;
    /// Guest IA32_DEBUGCTL.
    GUEST_DEBUGCTL = 0x2802;
    /// Guest IA32_PAT.
    GUEST_PAT = 0x2804;
    /// Guest IA32_EFER.
    GUEST_EFER = 0x2806;
    /// Guest PDPTE 0.
    GUEST_PDPTE0 = 0x280a;
    /// Guest PDPTE 1.
    GUEST_PDPTE1 = 0x280c;
    /// Guest PDPTE 2.
    GUEST_PDPTE2 = 0x280e;
    /// Guest PDPTE 3.
    GUEST_PDPTE3 = 0x2810;
    /// Host IA32_PAT.
    HOST_PAT = 0x2c00;
    /// Host IA32_EFER.
    HOST_EFER = 0x2c02;
    /// Pin-based controls.
    PIN_CONTROLS = 0x4000;
    /// Primary processor-based controls.
    PROCESSOR_CONTROLS = 0x4002;
    /// Exception bitmap.
    EXCEPTION_BITMAP = 0x4004;
    /// Page-fault error code mask.
    PAGE_FAULT_MASK = 0x4006;
    /// Page-fault error code match.
    PAGE_FAULT_MATCH = 0x4008;
    /// CR3 targets.
    CR3_TARGETS = 0x400a;
    /// Exit controls.
    EXIT_CONTROLS = 0x400c;
    /// MSRs stored at exits.
    EXIT_STORE_COUNT = 0x400e;
    /// MSRs loaded at exits.
    EXIT_LOAD_COUNT = 0x4010;
    /// Entry controls.
    ENTRY_CONTROLS = 0x4012;
    /// MSRs loaded at entries.
    ENTRY_LOAD_COUNT = 0x4014;
    /// The event of the next entry.
    ENTRY_EVENT = 0x4016;
    /// Its error code.
    ENTRY_ERROR = 0x4018;
    /// The length of the instruction that raised it.
    ENTRY_LENGTH = 0x401a;
    /// Secondary processor-based controls.
    SECONDARY_CONTROLS = 0x401e;
    /// PAUSE loop: longest gap inside it.
    PAUSE_GAP = 0x4020;
    /// PAUSE loop: how long until an exit.
    PAUSE_WINDOW = 0x4022;
    /// Instruction error.
    INSTRUCTION_ERROR = 0x4400;
    /// Exit reason.
    EXIT_REASON = 0x4402;
    /// The event that made the guest leave.
    EXIT_EVENT = 0x4404;
    /// Its error code.
    EXIT_ERROR = 0x4406;
    /// The event whose delivery the exit cut off.
    VECTORING_EVENT = 0x4408;
    /// Its error code.
    VECTORING_ERROR = 0x440a;
    /// Length of the instruction that made the guest leave.
    EXIT_LENGTH = 0x440c;
    /// ES limit.
    GUEST_ES_LIMIT = 0x4800;
    /// CS limit.
    GUEST_CS_LIMIT = 0x4802;
    /// SS limit.
    GUEST_SS_LIMIT = 0x4804;
    /// DS limit.
    GUEST_DS_LIMIT = 0x4806;
    /// FS limit.
    GUEST_FS_LIMIT = 0x4808;
    /// GS limit.
    GUEST_GS_LIMIT = 0x480a;
    /// LDTR limit.
    GUEST_LDTR_LIMIT = 0x480c;
    /// TR limit.
    GUEST_TR_LIMIT = 0x480e;
    /// GDTR limit.
    GUEST_GDTR_LIMIT = 0x4810;
    /// IDTR limit.
    GUEST_IDTR_LIMIT = 0x4812;
    /// ES access rights.
    GUEST_ES_RIGHTS = 0x4814;
    /// CS access rights.
    GUEST_CS_RIGHTS = 0x4816;
    /// SS access rights.
    GUEST_SS_RIGHTS = 0x4818;
    /// DS access rights.
    GUEST_DS_RIGHTS = 0x481a;
    /// FS access rights.
    GUEST_FS_RIGHTS = 0x481c;
    /// GS access rights.
    GUEST_GS_RIGHTS = 0x481e;
    /// LDTR access rights.
    GUEST_LDTR_RIGHTS = 0x4820;
    /// TR access rights.
    GUEST_TR_RIGHTS = 0x4822;
    /// What holds interrupts.
    INTERRUPTIBILITY = 0x4824;
    /// Active, halted, shut down, waiting for SIPI.
    ACTIVITY = 0x4826;
    /// Guest IA32_SYSENTER_CS.
    GUEST_SYSENTER_CS = 0x482a;
    /// Ticks of the preemption timer until the guest is left.
    PREEMPTION_TIMER = 0x482e;
    /// Host IA32_SYSENTER_CS.
    HOST_SYSENTER_CS = 0x4c00;
    /// Bits of CR0 that the host owns.
    CR0_MASK = 0x6000;
    /// Bits of CR4 that the host owns.
    CR4_MASK = 0x6002;
    /// What the guest reads for the owned bits of CR0.
    CR0_SHADOW = 0x6004;
    /// What the guest reads for the owned bits of CR4.
    CR4_SHADOW = 0x6006;
    /// Exit qualification.
    QUALIFICATION = 0x6400;
    /// Linear address of the exit.
    GUEST_LINEAR = 0x640a;
    /// Guest CR0.
    GUEST_CR0 = 0x6800;
    /// Guest CR3.
    GUEST_CR3 = 0x6802;
    /// Guest CR4.
    GUEST_CR4 = 0x6804;
    /// ES base.
    GUEST_ES_BASE = 0x6806;
    /// CS base.
    GUEST_CS_BASE = 0x6808;
    /// SS base.
    GUEST_SS_BASE = 0x680a;
    /// DS base.
    GUEST_DS_BASE = 0x680c;
    /// FS base.
    GUEST_FS_BASE = 0x680e;
    /// GS base.
    GUEST_GS_BASE = 0x6810;
    /// LDTR base.
    GUEST_LDTR_BASE = 0x6812;
    /// TR base.
    GUEST_TR_BASE = 0x6814;
    /// GDTR base.
    GUEST_GDTR_BASE = 0x6816;
    /// IDTR base.
    GUEST_IDTR_BASE = 0x6818;
    /// Guest DR7.
    GUEST_DR7 = 0x681a;
    /// Guest RSP.
    GUEST_RSP = 0x681c;
    /// Guest RIP.
    GUEST_RIP = 0x681e;
    /// Guest RFLAGS.
    GUEST_RFLAGS = 0x6820;
    /// Debug exceptions that wait.
    PENDING_DEBUG = 0x6822;
    /// Guest IA32_SYSENTER_ESP.
    GUEST_SYSENTER_ESP = 0x6824;
    /// Guest IA32_SYSENTER_EIP.
    GUEST_SYSENTER_EIP = 0x6826;
    /// Host CR0.
    HOST_CR0 = 0x6c00;
    /// Host CR3.
    HOST_CR3 = 0x6c02;
    /// Host CR4.
    HOST_CR4 = 0x6c04;
    /// Host FS base.
    HOST_FS_BASE = 0x6c06;
    /// Host GS base.
    HOST_GS_BASE = 0x6c08;
    /// Host TR base.
    HOST_TR_BASE = 0x6c0a;
    /// Host GDTR base.
    HOST_GDTR_BASE = 0x6c0c;
    /// Host IDTR base.
    HOST_IDTR_BASE = 0x6c0e;
    /// Host IA32_SYSENTER_ESP.
    HOST_SYSENTER_ESP = 0x6c10;
    /// Host IA32_SYSENTER_EIP.
    HOST_SYSENTER_EIP = 0x6c12;
    /// Host RSP.
    HOST_RSP = 0x6c14;
    /// Host RIP.
    HOST_RIP = 0x6c16;
}

/// Pin-based controls.
pub mod pin {
    /// Physical interrupts leave the guest.
    pub const INTERRUPT: u32 = 1;
    /// NMIs leave the guest.
    pub const NMI: u32 = 1 << 3;
    /// NMI blocking is the guest's.
    pub const VIRTUAL_NMI: u32 = 1 << 5;
    /// The preemption timer.
    pub const TIMER: u32 = 1 << 6;
    /// Posted interrupts.
    pub const POSTED: u32 = 1 << 7;

    /// What this hypervisor always sets.
    pub const ALWAYS: u32 = INTERRUPT | NMI;
}

/// Primary processor-based controls.
pub mod primary {
    /// Exit when the guest can take an interrupt.
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    /// Offset of the TSC.
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    /// HLT.
    pub const HLT: u32 = 1 << 7;
    /// MWAIT.
    pub const MWAIT: u32 = 1 << 10;
    /// RDPMC.
    pub const RDPMC: u32 = 1 << 11;
    /// MOV to CR8.
    pub const CR8_LOAD: u32 = 1 << 19;
    /// MOV from CR8.
    pub const CR8_STORE: u32 = 1 << 20;
    /// TPR shadow.
    pub const TPR_SHADOW: u32 = 1 << 21;
    /// Exit when the guest can take an NMI.
    pub const NMI_WINDOW: u32 = 1 << 22;
    /// Ports, by the bitmaps.
    pub const IO_BITMAPS: u32 = 1 << 25;
    /// MSRs, by the bitmaps.
    pub const MSR_BITMAPS: u32 = 1 << 28;
    /// MONITOR.
    pub const MONITOR: u32 = 1 << 29;
    /// The secondary controls count.
    pub const SECONDARY: u32 = 1 << 31;

    /// What this hypervisor always sets.
    pub const ALWAYS: u32 = TSC_OFFSETTING | INSTRUCTIONS | IO_BITMAPS | MSR_BITMAPS | SECONDARY;
    /// The instructions that always leave the guest.
    const INSTRUCTIONS: u32 = HLT | MWAIT | RDPMC | CR8_LOAD | CR8_STORE | MONITOR;
}

/// Secondary processor-based controls.
pub mod secondary {
    /// Virtual APIC accesses.
    pub const VIRTUAL_APIC: u32 = 1;
    /// EPT.
    pub const EPT: u32 = 1 << 1;
    /// RDTSCP works.
    pub const RDTSCP: u32 = 1 << 3;
    /// x2APIC virtualisation.
    pub const VIRTUAL_X2APIC: u32 = 1 << 4;
    /// VPID.
    pub const VPID: u32 = 1 << 5;
    /// WBINVD.
    pub const WBINVD: u32 = 1 << 6;
    /// Real mode and protected mode without paging.
    pub const UNRESTRICTED: u32 = 1 << 7;
    /// APIC register virtualisation.
    pub const APIC_REGISTERS: u32 = 1 << 8;
    /// Virtual interrupt delivery.
    pub const INTERRUPT_DELIVERY: u32 = 1 << 9;
    /// PAUSE loops.
    pub const PAUSE_LOOP: u32 = 1 << 10;
    /// INVPCID works.
    pub const INVPCID: u32 = 1 << 12;
    /// Page-modification log.
    pub const PML: u32 = 1 << 17;
}

/// Exit controls.
pub mod exit {
    /// DR7 and DEBUGCTL are saved.
    pub const SAVE_DEBUG: u32 = 1 << 2;
    /// The host is in 64-bit mode.
    pub const HOST_64: u32 = 1 << 9;
    /// The interrupt is acknowledged and its vector stored.
    pub const ACKNOWLEDGE: u32 = 1 << 15;
    /// The guest's PAT is saved.
    pub const SAVE_PAT: u32 = 1 << 18;
    /// The host's PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 19;
    /// The guest's EFER is saved.
    pub const SAVE_EFER: u32 = 1 << 20;
    /// The host's EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 21;
    /// The preemption timer is saved.
    pub const SAVE_TIMER: u32 = 1 << 22;

    /// What this hypervisor always sets.
    pub const ALWAYS: u32 = SAVE_DEBUG | HOST_64 | ACKNOWLEDGE | SAVE_PAT | LOAD_PAT | SAVE_EFER | LOAD_EFER;
}

/// Entry controls.
pub mod entry {
    /// DR7 and DEBUGCTL are loaded.
    pub const LOAD_DEBUG: u32 = 1 << 2;
    /// The guest is in long mode.
    pub const LONG_MODE: u32 = 1 << 9;
    /// The guest is in SMM.
    pub const SMM: u32 = 1 << 10;
    /// Dual-monitor treatment ends.
    pub const END_DUAL_MONITOR: u32 = 1 << 11;
    /// The guest's PAT is loaded.
    pub const LOAD_PAT: u32 = 1 << 14;
    /// The guest's EFER is loaded.
    pub const LOAD_EFER: u32 = 1 << 15;

    /// What this hypervisor always sets.
    pub const ALWAYS: u32 = LOAD_DEBUG | LOAD_PAT | LOAD_EFER;
}

/// In the event fields: it holds an event.
pub const EVENT_VALID: u32 = 1 << 31;
/// An error code goes with it.
pub const EVENT_ERROR: u32 = 1 << 11;
/// Bits of its type.
pub const EVENT_TYPE: u32 = 7 << 8;
/// Type: external interrupt.
pub const EVENT_INTERRUPT: u32 = 0;
/// Type: NMI.
pub const EVENT_NMI: u32 = 2 << 8;
/// Type: hardware exception.
pub const EVENT_EXCEPTION: u32 = 3 << 8;

/// In the access rights: the segment cannot be used.
pub const UNUSABLE: u32 = 1 << 16;

/// In the interruptibility: STI or MOV SS holds interrupts.
pub const SHADOW: u32 = 3;
/// In the interruptibility: an NMI handler runs.
pub const NMI_BLOCKED: u32 = 1 << 3;

/// Access rights of the VMCS from the neutral attributes (those of a VMCB).
pub const fn rights(attributes: u16) -> u32 {
    let a = attributes as u32;
    if a & 0x80 == 0 { UNUSABLE } else { a & 0xff | (a & 0xf00) << 4 }
}

/// The neutral attributes from access rights.
pub const fn attributes(rights: u32) -> u16 {
    if rights & UNUSABLE != 0 { 0 } else { (rights & 0xff | rights >> 4 & 0xf00) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_survive_the_way_there_and_back() {
        for value in [0xc9b, 0xc93, 0x08b, 0xa9b, 0x082, 0x093] {
            assert_eq!(attributes(rights(value)), value);
        }
        assert_eq!(rights(0), UNUSABLE);
        assert_eq!(rights(0xa9b), 0xa09b);
        assert_eq!(attributes(UNUSABLE | 0x93), 0);
    }
}
