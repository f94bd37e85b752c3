//! The demo guest.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use trunnion_guest::{executor::Spawner, start::StartInfo};
#[cfg(target_os = "none")]
use trunnion_protocol::hypercall::sched::ShutdownReason;

#[cfg(target_os = "none")]
trunnion_guest::entry!(main);

#[cfg(target_os = "none")]
async fn main(_spawner: Spawner, start: StartInfo) -> ShutdownReason {
    log::info!("hello: {} MiB, command line \"{}\"", start.memory_bytes() >> 20, start.command_line);
    trunnion_guest::clock::sleep(core::time::Duration::from_millis(10)).await;
    log::info!("heap used {:?}", trunnion_guest::memory::heap_usage());
    ShutdownReason::PowerOff
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this binary is a guest: build it for x86_64-unknown-none, or run `trunnion`");
}
