//! An endless loop with interrupts off: others must keep their share of the processor, and destroying it must work.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
fn run(_start_info: u32) {
    say!("SPINNING");
    runtime::interrupts_off();
    loop {
        core::hint::spin_loop();
    }
}
