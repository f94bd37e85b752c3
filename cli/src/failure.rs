//! What goes wrong, in words that say what, where, why and what to do next; and the exit statuses of the command line.

use std::fmt;
use std::path::Path;

/// The exit status of the command, as the command-line contract lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: every domain ended by power-off, or the verb did its work.
    Done,
    /// 1: a domain crashed or ended otherwise, or the platform refused the verb.
    Domain,
    /// 2: usage, configuration or set-up; nothing was started.
    Usage,
    /// 3: the time limit.
    TimeLimit,
    /// 4: hypervisor, dom0 or emulator failed.
    Platform,
    /// 130: stopped from outside, by Ctrl-C or a termination signal (the shells' convention, 128 + signal number).
    Interrupted,
    /// A status passed through from a program that was run, as it came.
    Raw(u8),
}

impl Status {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::Domain => 1,
            Status::Usage => 2,
            Status::TimeLimit => 3,
            Status::Platform => 4,
            Status::Interrupted => 130,
            Status::Raw(code) => code,
        }
    }
}

/// A failure: a message for people and the status that goes with it.
#[derive(Debug, Clone)]
pub struct Failure {
    status: Status,
    message: String,
}

/// What fallible functions of this package return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with `status`.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Usage, configuration or set-up (status 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Status::Usage, message)
    }

    /// The platform failed (status 4).
    pub fn platform(message: impl Into<String>) -> Self {
        Self::new(Status::Platform, message)
    }

    /// A file or folder could not be used: `doing` is a verb phrase such as "read the kernel".
    pub fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::usage(format!("cannot {doing} {}: {}", path.display(), reason(error)))
    }

    /// The exit status that goes with it.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message, without a newline at its end; the last line is the essence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The operating system's words for `error`, in lower case and without its number.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::from("unknown error"),
    }
}
