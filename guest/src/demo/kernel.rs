//! What the demo guest does from its start to its end.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_guest::{clock, memory};
use trunnion_protocol::hypercall::sched::ShutdownReason;

use crate::{disk, shell};

/// Frames of the grant table: 1,024 pages can be shared at once.
const GRANT_FRAMES: usize = 2;

/// The platform that all front ends share.
static PLATFORM: Kernel = Kernel;

/// What the guest has.
pub(crate) struct Guest {
    pub(crate) console: Console<'static, Kernel>,
    pub(crate) store: Store<'static, Kernel>,
    pub(crate) grants: GrantTable<'static, Kernel>,
    pub(crate) start: StartInfo,
}

impl Guest {
    /// Prints a line on the console.
    pub(crate) async fn say(&self, line: &str) {
        self.console.write(line.as_bytes()).await;
        self.console.write(b"\r\n").await;
    }

    /// A value of the store as text.
    pub(crate) async fn value(&self, path: &str) -> Result<String, Error> {
        let text = self.store.read_text::<256>(Transaction::NONE, path).await?;
        Ok(String::from(text.as_str()))
    }
}

pub(crate) async fn main(spawner: Spawner, start: StartInfo) -> ShutdownReason {
    match connect(start) {
        Ok(guest) => Box::pin(run(spawner, Box::leak(Box::new(guest)))).await,
        Err(error) => {
            log::error!("no console, store or grants: {error}");
            ShutdownReason::Crash
        }
    }
}

fn connect(start: StartInfo) -> Result<Guest, Error> {
    Ok(Guest {
        console: Console::primary(&PLATFORM)?,
        store: Store::new(&PLATFORM)?,
        grants: GrantTable::new(&PLATFORM, GRANT_FRAMES)?,
        start,
    })
}

async fn run(spawner: Spawner, guest: &'static Guest) -> ShutdownReason {
    let headless = guest.start.has_option("headless") || guest.start.has_option("trunnion.demo=1");
    guest.say("Trunnion demo guest: a Rust kernel on the project's own front ends").await;
    guest
        .say(&format!(
            "memory: {} MiB, command line: \"{}\"",
            guest.start.memory_bytes() >> 20,
            guest.start.command_line
        ))
        .await;
    tell_store(guest).await;
    tell_time(guest).await;
    let mut disks = Box::pin(disk::check_all(guest)).await;
    while disks.is_ok() && guest.start.has_option("trunnion.demo=endless") {
        disks = Box::pin(disk::check_all(guest)).await;
    }
    let (used, free) = memory::heap_usage();
    guest.say(&format!("heap: {} KiB used, {} KiB free", used >> 10, free >> 10)).await;
    let reason = match disks {
        Ok(()) if headless => ShutdownReason::PowerOff,
        Ok(()) => shell::run(spawner, guest).await,
        Err(error) => {
            guest.say(&format!("FAILED: {error}")).await;
            ShutdownReason::Crash
        }
    };
    guest
        .say(if reason == ShutdownReason::PowerOff {
            "demo: all is well, powering off"
        } else {
            "demo: ending"
        })
        .await;
    guest.console.flush().await;
    reason
}

async fn tell_store(guest: &Guest) {
    for path in ["name", "domid", "vm"] {
        match guest.value(path).await {
            Ok(value) => guest.say(&format!("store: {path} = {value}")).await,
            Err(error) => guest.say(&format!("store: {path}: {error}")).await,
        }
    }
    // The guest owns this folder; a value goes there and back.
    let path = "data/demo";
    let outcome = async {
        guest.store.write(Transaction::NONE, path, b"written by the guest").await?;
        guest.value(path).await
    };
    match outcome.await {
        Ok(value) => guest.say(&format!("store: {path} = {value}")).await,
        Err(error) => guest.say(&format!("store: {path}: {error}")).await,
    }
}

pub(crate) async fn tell_time(guest: &Guest) {
    let before = clock::now();
    clock::sleep(core::time::Duration::from_millis(10)).await;
    let slept = clock::now().saturating_sub(before);
    guest
        .say(&format!(
            "time: {:.3} s since power-on, {} s since 1970; a sleep of 10 ms took {:.3} ms",
            clock::now().as_secs_f64(),
            clock::unix_time().as_secs(),
            slept.as_secs_f64() * 1e3
        ))
        .await;
}
