//! `trunnion-xenstored`: the store as a host program, on a Unix socket.
//!
//! It follows the conventions of Xen's tools (`XENSTORED_PATH`, `XENSTORED_RUNDIR`), so that `xenstore-ls` and the
//! others work against it, and it can play a machine from files for conformance tests (`NOXEN_DIR`).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
mod clients;
#[cfg(not(target_os = "none"))]
mod machine;
#[cfg(not(target_os = "none"))]
mod options;
#[cfg(not(target_os = "none"))]
mod program;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    program::run()
}

/// There is no such program on bare metal, where dom0 links the library; this lets a build of the whole package pass.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
