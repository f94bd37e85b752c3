//! A fixed piece of work on the processor, measured in instructions: what others do to it shows in how long it takes.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

/// Some hundred slices of the scheduler.
#[cfg(target_os = "none")]
const ROUNDS: u64 = 150_000_000;

#[cfg(target_os = "none")]
fn run(_start_info: u32) {
    say!("WORKING");
    let mut sum = 0u64;
    for round in 0..ROUNDS {
        sum = core::hint::black_box(sum.wrapping_add(round));
    }
    runtime::check_eq("the work is done", sum, ROUNDS * (ROUNDS - 1) / 2);
}
