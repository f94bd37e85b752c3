//! `trunnion console`.

use crate::console::terminal::{Raw, restore, typed};
use crate::control::ask::Ask;
use crate::control::client::Client;
use crate::failure::{Failure, Result, Status};
use crate::say;
use clap::Args;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Attach this terminal to a domain's console; Ctrl-] leaves
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trunnion console debian
  trunnion console rust --replay
  trunnion console debian </dev/null   # shows, and types nothing")]
pub(crate) struct Arguments {
    /// Name or id
    pub(crate) domain: String,
    /// Print what the console said before
    #[arg(long)]
    pub(crate) replay: bool,
}

/// Attaches to `domain` until the user leaves or the console ends. The domain lives on.
pub(crate) fn attach(mut client: Client, domain: &str, replay: bool) -> Result<Status> {
    client.ask(&Ask::Console { domain: domain.to_string(), replay })?;
    let (mut reader, mut writer) = client.into_parts();
    let raw = Raw::enter();
    if raw.is_some() {
        say::raw(true);
        say::progress(&format!("this is the console of {domain}; Ctrl-] leaves"));
        end_by_signal()?;
    }
    let interactive = raw.is_some();
    let left = Arc::new(AtomicBool::new(false));
    let leaving = Arc::clone(&left);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            let (bytes, leaves) = typed(buffer.get(..count).unwrap_or_default());
            let leaves = leaves && interactive;
            leaving.store(leaves, Ordering::Relaxed);
            if writer.write_all(bytes).is_err() || leaves {
                let _ = writer.shutdown(Shutdown::Both);
                return;
            }
        }
    });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        let mut out = std::io::stdout().lock();
        if out.write_all(buffer.get(..count).unwrap_or_default()).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    drop(raw);
    say::raw(false);
    if interactive {
        say::progress(if left.load(Ordering::Relaxed) {
            "left the console; the domain runs on"
        } else {
            "the console has ended"
        });
    }
    Ok(Status::Done)
}

/// A signal ends this process, and leaves the terminal as it was.
fn end_by_signal() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::platform(format!("cannot hear signals: {e}")))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            restore();
            std::process::exit(i32::from(Status::Interrupted.code()));
        }
    });
    Ok(())
}
