//! A guest that reads random bytes from another: waits for its device, reads, and says what it got.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::Device;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_vrng::front::Entropy;
use trunnion_vrng::wire::CLASS;

static KERNEL: Kernel = Kernel;
/// What is read, unless the command line says `bytes=N`; 0 is until the device goes away.
const BYTES: u64 = 64 * 1024;

async fn run(start: &StartInfo, console: &Console<'_, Kernel>) -> Result<(), Error> {
    let say = async |line: &str| console.write(format!("{line}\r\n").as_bytes()).await;
    let store = Store::new(&KERNEL)?;
    let grants = GrantTable::new(&KERNEL, 1)?;
    say("vrng: waiting for a device (xl device-attach NAME class=vrng backend=NAME)").await;
    let mut attached = store.watch("device").await?;
    let path = format!("device/{CLASS}/0/backend");
    while store.read_text::<128>(Transaction::NONE, &path).await.is_err() {
        attached.changed().await?;
    }
    attached.end().await?;
    let mut entropy = Entropy::connect(&grants, Device::open(&store, CLASS, "0").await?).await?;
    say("vrng: connected").await;
    let wanted = start.option("bytes").and_then(|text| text.parse().ok()).unwrap_or(BYTES);
    let (mut read, mut ones, mut piece) = (0, 0, [0; 1024]);
    let ended = loop {
        if let Err(error) = entropy.fill(&mut piece).await {
            break Err(error);
        }
        read += piece.len() as u64;
        ones += piece.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        if wanted != 0 && read >= wanted {
            break Ok(());
        }
    };
    say(&format!("vrng: {read} bytes, {} of 1000 bits are set", ones * 125 / read.max(1))).await;
    match ended {
        Ok(()) => say("vrng: closing").await,
        Err(error) => say(&format!("vrng: {error}")).await,
    }
    entropy.close().await?;
    say("vrng: done").await;
    Ok(())
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let ended = run(&start, &console).await;
    if let Err(error) = &ended {
        console.write(format!("vrng: failed: {error}\r\n").as_bytes()).await;
    }
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
