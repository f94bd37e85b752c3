//! The breakpoint registers. The host sets no breakpoint, and in the host DR7 enables none, so they are the guest's.

use core::arch::asm;

/// DR0 to DR3.
pub fn read() -> [u64; 4] {
    let (dr0, dr1, dr2, dr3);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", out(reg) dr0, out(reg) dr1, options(nomem, nostack));
        asm!("mov {}, dr2", "mov {}, dr3", out(reg) dr2, out(reg) dr3, options(nomem, nostack));
    }
    [dr0, dr1, dr2, dr3]
}

/// Sets them.
pub fn write([dr0, dr1, dr2, dr3]: [u64; 4]) {
    // SAFETY: no breakpoint is enabled while host code runs.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", in(reg) dr0, in(reg) dr1, options(nomem, nostack));
        asm!("mov dr2, {}", "mov dr3, {}", in(reg) dr2, in(reg) dr3, options(nomem, nostack));
    }
}
