//! dom0's image: the runtime's entry point, and nothing else.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use trunnion_guest::{executor::Spawner, start::StartInfo};
#[cfg(target_os = "none")]
use trunnion_protocol::hypercall::sched::ShutdownReason;

#[cfg(target_os = "none")]
trunnion_guest::entry!(main);

#[cfg(target_os = "none")]
async fn main(spawner: Spawner, start: StartInfo) -> ShutdownReason {
    trunnion_dom0::services::run(spawner, start).await
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this binary is dom0's kernel: build it for x86_64-unknown-none, or run `trunnion`");
}
