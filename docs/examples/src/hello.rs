//! The smallest guest: says hello on its console, and powers off.
#![cfg_attr(target_os = "none", no_std, no_main)]

use trunnion_frontends::console::Console;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;

async fn guest(_: Spawner, _: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&Kernel) else { return ShutdownReason::Crash };
    console.write(b"hello from a Rust guest\r\n").await;
    console.flush().await;
    ShutdownReason::PowerOff
}

trunnion_guest::entry!(guest);
