//! What a measurement used: the guest stops between two of them, and everybody's figures are taken while it waits.
//!
//! The guest's script has [`STOP`] before the first measurement and after each. A thread that is attached to the guest's console answers
//! it, as somebody at a keyboard would.

use super::linux::Tally;
use crate::control::ask::Ask;
use crate::control::client::Client;
use std::io::{BufRead, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Line of a script at which the guest waits.
pub(super) const STOP: &str = "echo MEASURED; read word </dev/console\n";
const SAID: &[u8] = b"MEASURED";
/// How often the console is tried until the guest is there.
const RETRY: Duration = Duration::from_millis(100);

/// A run that is followed.
pub(super) struct Fence {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Tally>>,
}

impl Fence {
    /// Follows the guest `measuring` of the run that is about to begin.
    pub(super) fn start(instance: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (instance, seen) = (instance.to_string(), Arc::clone(&over));
        Self { over, thread: thread::spawn(move || follow(&instance, &seen).unwrap_or_default()) }
    }

    /// What all domains had used at each stop, in order.
    pub(super) fn end(self) -> Vec<Tally> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_default()
    }
}

/// Waits for the guest's console. `None` when the run is over before it is there.
fn attach(instance: &str, over: &AtomicBool) -> Option<Client> {
    let console = || Ask::Console { domain: "measuring".into(), replay: true };
    while !over.load(Ordering::SeqCst) {
        if let Ok(mut client) = Client::connect(instance)
            && client.ask(&console()).is_ok()
        {
            return Some(client);
        }
        thread::sleep(RETRY);
    }
    None
}

fn follow(instance: &str, over: &AtomicBool) -> Option<Vec<Tally>> {
    let (mut reader, mut writer) = attach(instance, over)?.into_parts();
    let mut asking = Client::connect(instance).ok()?;
    // Whoever serves the console may keep it open when the run is over.
    writer.set_read_timeout(Some(RETRY)).ok()?;
    let (mut marks, mut line) = (Vec::new(), Vec::new());
    loop {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            // What came of the line stays in it.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                continue;
            }
            Err(_) => break,
        }
        if line.trim_ascii() == SAID {
            // A stop without figures still counts: the others keep their places.
            marks.push(asking.ask(&Ask::Summary).map(|summary| Tally::of(&summary)).unwrap_or_default());
            let _ = writer.write_all(b"\n");
        }
        line.clear();
    }
    Some(marks)
}
