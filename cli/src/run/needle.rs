//! When a run reached a point that measurements are about.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// When something was seen, in wall time since the machine was started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    /// dom0 was ready.
    pub ready: Option<Duration>,
    /// The text that was waited for was on a console.
    pub shown: Option<Duration>,
    /// Processor time that the emulator had used at the first.
    pub ready_cpu: Duration,
    /// And at the second.
    pub shown_cpu: Duration,
}

/// Looks for a text in what consoles say.
pub(crate) struct Needle {
    text: String,
    marks: Arc<Mutex<Marks>>,
    seen: Vec<u8>,
}

impl Needle {
    /// Looks for `text`, and keeps the times in `marks`.
    pub(crate) fn new(text: &str, marks: Arc<Mutex<Marks>>) -> Self {
        Self { text: text.into(), marks, seen: Vec::new() }
    }

    /// dom0 is ready.
    pub(crate) fn ready(&self, after: Duration, cpu: Duration) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        (marks.ready, marks.ready_cpu) = (Some(after), cpu);
    }

    /// More of a console; the text may come in pieces.
    pub(crate) fn console(&mut self, bytes: &[u8], after: Duration, cpu: impl Fn() -> Duration) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.shown.is_none() {
            self.seen.extend_from_slice(bytes);
            if self.seen.windows(self.text.len()).any(|window| window == self.text.as_bytes()) {
                (marks.shown, marks.shown_cpu) = (Some(after), cpu());
            }
            let keep = self.seen.len().saturating_sub(self.text.len());
            self.seen.drain(..keep);
        }
    }
}
