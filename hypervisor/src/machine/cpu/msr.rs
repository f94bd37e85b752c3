//! Model-specific registers by name (SDM volume 4, APM volume 2 appendix A).

/// Local APIC base and mode.
pub const APIC_BASE: u32 = 0x1b;
/// VMX lock and permission.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// SYSENTER's code segment.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER's stack pointer.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER's entry.
pub const SYSENTER_EIP: u32 = 0x176;
/// Branch and single-step debugging.
pub const DEBUGCTL: u32 = 0x1d9;
/// Page attribute table.
pub const PAT: u32 = 0x277;
/// First of the VMX capability registers.
pub const VMX_BASIC: u32 = 0x480;
/// First register of the x2APIC.
pub const X2APIC: u32 = 0x800;
/// Long mode, SYSCALL, no-execute, SVM.
pub const EFER: u32 = 0xc000_0080;
/// SYSCALL's segments.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL's 64-bit entry.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL's compatibility-mode entry.
pub const CSTAR: u32 = 0xc000_0083;
/// SYSCALL's flag mask.
pub const SFMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;
/// What SWAPGS puts into the base of GS.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP and RDPID return.
pub const TSC_AUX: u32 = 0xc000_0103;
/// SVM's lock and permission (APM 15.30.1).
pub const VM_CR: u32 = 0xc001_0114;
/// The host save area (APM 15.30.4).
pub const VM_HSAVE_PA: u32 = 0xc001_0117;

/// EFER: long mode enable.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: no-execute enable.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER: SVM enable.
pub const EFER_SVME: u64 = 1 << 12;

/// Reads a register.
pub fn read(msr: u32) -> u64 {
    // SAFETY: reading changes nothing; the callers name registers whose feature they have found in CPUID, so it does not fault.
    unsafe { x86_64::registers::model_specific::Msr::new(msr).read() }
}

/// Writes a register.
///
/// # Safety
/// The register exists, the value is legal in it, and the change keeps the running code, its stack and its tables valid.
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { x86_64::registers::model_specific::Msr::new(msr).write(value) }
}
