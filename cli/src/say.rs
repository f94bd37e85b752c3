//! Lines for people, on stderr: progress and failures.

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

fn line(text: &str) {
    let end = if RAW.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
    let text = text.replace('\n', end);
    let _ = write!(std::io::stderr(), "trunnion: {text}{end}");
}
