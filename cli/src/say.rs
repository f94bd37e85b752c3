//! Lines for people: progress and failures on stderr, answers on stdout.

use crate::failure::Failure;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the terminal is in raw mode, where a new line does not begin at the left by itself.
static RAW: AtomicBool = AtomicBool::new(false);

/// Says whether the terminal is in raw mode.
pub(crate) fn raw(raw: bool) {
    RAW.store(raw, Ordering::Relaxed);
}

/// One progress line a stage.
pub(crate) fn progress(text: &str) {
    line(text);
}

/// Something that the user should know, and that stops nothing.
pub(crate) fn warning(text: &str) {
    line(&format!("warning: {text}"));
}

/// The last line of a command that failed.
pub(crate) fn failure(failure: &Failure) {
    line(failure.message());
}

/// A line of a verb's answer, on stdout.
macro_rules! out {
    ($($words:tt)*) => {
        $crate::say::text(&(format!($($words)*) + "\n"))
    };
}
pub(crate) use out;

/// A verb's answer, on stdout. Who reads it may leave early (`| head`): then there is nothing more to do.
pub(crate) fn text(text: &str) {
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        let quiet = error.kind() == std::io::ErrorKind::BrokenPipe;
        if !quiet {
            line(&format!("the answer cannot be written: {error}"));
        }
        std::process::exit(i32::from(!quiet));
    }
}

fn line(text: &str) {
    let end = if RAW.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
    let text = text.replace('\n', end);
    let _ = write!(std::io::stderr(), "trunnion: {text}{end}");
}
