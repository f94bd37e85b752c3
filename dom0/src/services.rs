//! dom0's services: each owns its state, does a bounded amount of work each time it is polled, and talks to the others by
//! calls on handles.

pub mod console;
pub mod foreign;
pub mod grants;
pub mod store;

use trunnion_guest::executor::Spawner;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;

/// dom0's main function.
pub async fn run(_spawner: Spawner, start: StartInfo) -> ShutdownReason {
    log::info!("dom0 starts memory={} modules={}", start.memory_bytes(), start.modules.len());
    ShutdownReason::PowerOff
}
