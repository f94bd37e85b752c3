//! Runtime for a Rust kernel on a Xen-ABI hypervisor: everything between the PVH entry point and `async fn main`.
//!
//! A kernel is a `no_std`, `no_main` binary for `x86_64-unknown-none` that is linked with `image.ld` and names its main
//! function with `entry!`. The runtime enters long mode, applies the image's relocations, parses the start info, maps
//! guest-physical space one to one (an address *is* a guest-physical address), gives the heap all free memory, connects
//! the log to the hypervisor's console, sets up event channels and the clock, and runs the main function's future on a
//! small executor until it ends.
//!
//! One vCPU, no threads, no work in interrupt handlers: the processor takes interrupts only while it waits, and an
//! upcall does nothing but end the wait. Everything therefore runs in one place, `kernel::run`'s loop.
//!
//! What is here: [`start`] (what the domain was started with), [`memory`] (pages, holes, other people's frames),
//! [`hypercall`], [`events`], [`clock`], [`executor`], [`platform`] (the five functions that the front ends want),
//! [`virtqueue`] and [`pci`] (for a domain with devices).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod answers;
pub mod clock;
pub mod console;
pub mod events;
pub mod executor;
pub mod hypercall;
pub mod memory;
pub mod pci;
pub mod platform;
pub mod ports;
pub mod start;
pub mod virtqueue;

/// Names the kernel's main function. On the host there is none: the binary says what it is.
#[cfg(not(target_os = "none"))]
#[macro_export]
macro_rules! entry {
    ($main:ident) => {
        fn main() {
            let _ = $main;
            ::std::println!("this is a guest: build it for x86_64-unknown-none and boot it");
        }
    };
}

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
pub mod kernel;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod traps;
