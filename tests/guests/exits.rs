//! What entries, exits and the instructions around them cost on a machine, measured without a hypervisor below (`trunnion bench exits`).
//!
//! A guest of a few instructions notes the clock and leaves; both ways are timed by themselves. A line `COST name samples min median max` a
//! row, in ticks of the TSC, which are instructions when the emulator counts those. What registers a hypervisor saves and loads on the way is
//! part of it: fourteen each way.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "the program owns its machine: nothing else runs there")]
#[allow(unreachable_pub, missing_docs, reason = "a module of a binary")]
mod bare;

#[cfg(not(target_os = "none"))]
fn main() {}
