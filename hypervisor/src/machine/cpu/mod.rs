//! The processor as the core finds it: descriptor tables, traps, local APIC, clock, per-CPU data.

pub mod apic;
pub mod clock;
pub mod debug;
pub mod ioapic;
pub mod msr;
pub mod percpu;
pub mod pic;
pub mod port;
pub mod tables;
pub mod trap;

/// One CPUID leaf.
pub fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// The time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: the instruction reads a counter; the host never sets CR4.TSD.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Stops for ever, interrupts off.
pub fn stop() -> ! {
    loop {
        // SAFETY: halting touches no memory, and nothing after it depends on interrupts.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Bits of a physical address.
pub fn address_bits() -> u8 {
    if cpuid(0x8000_0000, 0).eax >= 0x8000_0008 { cpuid(0x8000_0008, 0).eax as u8 } else { 36 }
}
