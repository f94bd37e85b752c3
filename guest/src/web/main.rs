//! A web server in one kernel: this project's network front end below, smoltcp's TCP above.
//!
//! On the command line: `ip=10.0.2.50/24` and `gateway=10.0.2.2` for a fixed address (else DHCP), `requests=N` to power
//! off after N pages. The page on port 80 says who serves it and how often it was read.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod server;

#[cfg(target_os = "none")]
use server::main;

#[cfg(target_os = "none")]
trunnion_guest::entry!(main);

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this binary is a guest: build it for x86_64-unknown-none, or run `trunnion`");
}
