//! A small shell on the console, and the toolstack's requests to end.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use trunnion_frontends::store::Transaction;
use trunnion_guest::executor::Spawner;
use trunnion_protocol::hypercall::sched::ShutdownReason;

use crate::disk;
use crate::kernel::{Guest, tell_time};

/// Longest line.
const LINE: usize = 200;

const HELP: &str = "help                 this list\r\n\
time                 the clocks\r\n\
ls [PATH]            names below a node of the store\r\n\
read PATH            a value of the store\r\n\
write PATH VALUE     sets a value (the guest owns data/)\r\n\
disk                 checks the disks again\r\n\
poweroff, reboot     end the guest\r\n\
crash                ends it the hard way";

/// Serves the console until the guest is to end.
pub(crate) async fn run(_spawner: Spawner, guest: &'static Guest) -> ShutdownReason {
    guest.say("type `help` for what there is").await;
    let mut typed = pin!(typed(guest));
    let mut asked = pin!(asked(guest));
    poll_fn(|context| match typed.as_mut().poll(context) {
        Poll::Ready(reason) => Poll::Ready(reason),
        Poll::Pending => asked.as_mut().poll(context),
    })
    .await
}

/// Waits until the toolstack asks the guest to end (`control/shutdown`).
async fn asked(guest: &Guest) -> ShutdownReason {
    for feature in ["control/feature-poweroff", "control/feature-reboot"] {
        let _ = guest.store.write(Transaction::NONE, feature, b"1").await;
    }
    let Ok(mut watch) = guest.store.watch("control/shutdown").await else {
        return core::future::pending().await;
    };
    loop {
        if watch.changed().await.is_err() {
            return core::future::pending().await;
        }
        let reason = match guest.value("control/shutdown").await.as_deref() {
            Ok("poweroff" | "halt") => ShutdownReason::PowerOff,
            Ok("reboot") => ShutdownReason::Reboot,
            _ => continue,
        };
        // The empty value says that the request was seen.
        let _ = guest.store.write(Transaction::NONE, "control/shutdown", b"").await;
        return reason;
    }
}

async fn typed(guest: &'static Guest) -> ShutdownReason {
    let end = Cell::new(None);
    loop {
        guest.console.write(b"demo> ").await;
        let line = line(guest).await;
        let boxed: core::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(perform(guest, &line, &end));
        boxed.await;
        if let Some(reason) = end.get() {
            return reason;
        }
    }
}

/// A line with echo and backspace.
async fn line(guest: &Guest) -> String {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        guest.console.read(&mut byte).await;
        match byte[0] {
            b'\r' | b'\n' => {
                guest.console.write(b"\r\n").await;
                return line;
            }
            0x08 | 0x7f if line.pop().is_some() => guest.console.write(b"\x08 \x08").await,
            byte @ 0x20..0x7f if line.len() < LINE => {
                line.push(char::from(byte));
                guest.console.write(&[byte]).await;
            }
            _ => {}
        }
    }
}

async fn perform(guest: &'static Guest, line: &str, end: &Cell<Option<ShutdownReason>>) {
    let mut words = line.splitn(3, ' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (None, ..) => {}
        (Some("help"), ..) => guest.say(HELP).await,
        (Some("time"), ..) => tell_time(guest).await,
        (Some("ls"), path, _) => list(guest, path.unwrap_or(".")).await,
        (Some("read"), Some(path), _) => match guest.value(path).await {
            Ok(value) => guest.say(&value).await,
            Err(error) => guest.say(&format!("{path}: {error}")).await,
        },
        (Some("write"), Some(path), value) => {
            let value = value.unwrap_or_default().as_bytes();
            if let Err(error) = guest.store.write(Transaction::NONE, path, value).await {
                guest.say(&format!("{path}: {error}")).await;
            }
        }
        (Some("disk"), ..) => {
            if let Err(error) = Box::pin(disk::check_all(guest)).await {
                guest.say(&error).await;
            }
        }
        (Some("poweroff"), ..) => end.set(Some(ShutdownReason::PowerOff)),
        (Some("reboot"), ..) => end.set(Some(ShutdownReason::Reboot)),
        (Some("crash"), ..) => panic!("the user asked for it"),
        (Some(word), ..) => guest.say(&format!("{word}: unknown, or words are missing; try `help`")).await,
    }
}

async fn list(guest: &Guest, path: &str) {
    // The guest's own folder is the relative empty path, which the store does not take as such.
    let home = match guest.value("domid").await {
        Ok(domid) if path == "." => format!("/local/domain/{domid}"),
        _ => String::from(path),
    };
    let mut bytes = alloc::vec![0; 4096];
    match guest.store.list(Transaction::NONE, &home, &mut bytes).await {
        Ok(names) => {
            for name in names {
                guest.say(name).await;
            }
        }
        Err(error) => guest.say(&format!("{home}: {error}")).await,
    }
}
