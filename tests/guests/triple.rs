//! A triple fault.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
fn run(_start_info: u32) {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    say!("FAULTING");
    let nothing = [0u64; 2];
    // SAFETY: an empty descriptor table and an exception: the processor shuts down, which is the point.
    unsafe { core::arch::asm!("lidt [{}]", "ud2", in(reg) &raw const nothing) };
}
