//! The user's terminal in raw mode, and the key that leaves it.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

/// Ctrl-]: leaves a console, as in `xl console` and telnet.
pub(crate) const LEAVE: u8 = 0x1d;

/// How the terminal was before it was put into raw mode, for ends of the process that drop nothing.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in raw mode; as it was before when this is dropped.
pub(crate) struct Raw(());

impl Raw {
    /// Puts the terminal on stdin into raw mode; `None` when stdin is none.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it is in raw mode.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// What was typed, up to the key that leaves; `true` when that key was among it.
pub(crate) fn typed(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == LEAVE) {
        Some(at) => (bytes.get(..at).unwrap_or_default(), true),
        None => (bytes, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leave_key_ends_what_was_typed() {
        assert_eq!(typed(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(typed(b"ls\x1dmore"), (&b"ls"[..], true));
    }
}
