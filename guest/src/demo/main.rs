//! The demo guest: a kernel of two screens on this project's front ends. It greets on its PV console, reads the store,
//! fills its PV disk with a pattern and verifies it, tells the time, and powers off; without `headless` or `trunnion.demo=1` on
//! its command line it then offers a small shell first. With `trunnion.demo=endless` it checks its disks until somebody ends it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod shell;

#[cfg(target_os = "none")]
use kernel::main;

#[cfg(target_os = "none")]
trunnion_guest::entry!(main);

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this binary is a guest: build it for x86_64-unknown-none, or run `trunnion`");
}
