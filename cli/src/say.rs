//! Lines for people, on stderr: progress and failures.

use crate::failure::Failure;
use std::io::Write;

/// One progress line a stage.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "trunnion: {text}");
}

/// Something that the user should know, and that stops nothing.
pub(crate) fn warning(text: &str) {
    let _ = writeln!(std::io::stderr(), "trunnion: warning: {text}");
}

/// The last line of a command that failed.
pub(crate) fn failure(failure: &Failure) {
    let _ = writeln!(std::io::stderr(), "trunnion: {}", failure.message());
}
