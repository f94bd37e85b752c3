//! The control server on the network, for whoever has the token: the first line of a connection is the token, each further one
//! is carried out as dom0's [shell] has it. The answer is text, and its last line is `ok` or says what failed.
//!
//! Here is what a connection is without the network under it; [`Remote`] carries lines to the toolstack.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use trunnion_guest::executor::Spawner;

use super::platform::Dom0;
use crate::control::Failure;
use crate::devices::interrupt::Signal;
use crate::domains::Toolstack;
use crate::shell;

/// The TCP port of the server.
pub const PORT: u16 = 7070;
/// Connections at a time.
pub const CONNECTIONS: usize = 2;
/// How long a connection may wait with the token.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a line.
const LINE: usize = 1024;

/// One connection.
#[derive(Debug, Default)]
pub struct Session {
    line: Vec<u8>,
    /// The token has come.
    known: bool,
    /// A line is being carried out.
    busy: bool,
    /// Nothing more is heard.
    over: bool,
    answer: VecDeque<u8>,
}

impl Session {
    /// Whether more bytes are to be heard now.
    pub const fn listens(&self) -> bool {
        !self.busy && !self.over
    }

    /// Whether the token has come.
    pub const fn is_known(&self) -> bool {
        self.known
    }

    /// Whether no answer is to come, and none waits to be sent.
    pub fn is_idle(&self) -> bool {
        !self.busy && self.answer.is_empty()
    }

    /// Whether nothing more is to come from this side.
    pub fn is_over(&self) -> bool {
        self.over && self.is_idle()
    }

    /// Hears bytes up to the end of a line; how many they were, and the line if it is to be carried out.
    pub fn hear(&mut self, token: &str, bytes: &[u8]) -> (usize, Option<String>) {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.line.extend(bytes.iter().take(end.unwrap_or(bytes.len())));
        if self.line.len() > LINE {
            self.refuse("the line is too long");
            return (bytes.len(), None);
        }
        if end.is_none() {
            return (taken, None);
        }
        let line = core::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if !self.known {
            self.known = is_same(line, token.as_bytes());
            if self.known {
                self.answer(Ok(String::new()));
            } else {
                self.refuse("this is not the token");
            }
            return (taken, None);
        }
        self.busy = true;
        (taken, Some(String::from_utf8_lossy(line).into_owned()))
    }

    fn refuse(&mut self, why: &str) {
        self.over = true;
        self.line.clear();
        self.answer.extend(format!("failed: {why}\n").bytes());
    }

    /// The answer to a line has come.
    pub fn answer(&mut self, result: Result<String, Failure>) {
        self.busy = false;
        match result {
            Ok(text) => self.answer.extend(text.bytes().chain(*b"ok\n")),
            Err(failure) => self.answer.extend(format!("failed: {}\n", failure.message).bytes()),
        }
    }

    /// Bytes of answers; what was sent is taken away.
    pub fn send(&mut self, send: impl FnOnce(&[u8]) -> usize) -> bool {
        let sent = send(self.answer.as_slices().0);
        self.answer.drain(..sent.min(self.answer.len()));
        sent != 0
    }
}

/// Compares in a time that tells nothing of where two texts differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differ = given.iter().zip(token).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && !token.is_empty() && core::hint::black_box(differ) == 0
}

/// The way from connections to the toolstack.
pub struct Remote {
    /// What opens it.
    pub token: String,
    toolstack: Rc<Toolstack<Dom0>>,
    spawner: Spawner,
    answered: Rc<Signal>,
}

impl Remote {
    /// For a token; without one nobody is heard.
    pub fn new(token: &str, toolstack: &Rc<Toolstack<Dom0>>, spawner: &Spawner) -> Option<Self> {
        (!token.is_empty()).then(|| Self {
            token: token.into(),
            toolstack: Rc::clone(toolstack),
            spawner: spawner.clone(),
            answered: Rc::default(),
        })
    }

    /// Raised when an answer has come.
    pub fn answered(&self) -> &Signal {
        &self.answered
    }

    /// Carries out a line of a connection.
    pub fn ask(&self, session: &Rc<RefCell<Session>>, line: String) {
        let (toolstack, session) = (Rc::clone(&self.toolstack), Rc::clone(session));
        let answered = Rc::clone(&self.answered);
        self.spawner.spawn(async move {
            let result = shell::run(&toolstack, &line).await;
            session.borrow_mut().answer(result);
            answered.raise();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Code;

    const TOKEN: &str = "0123456789abcdef";

    fn sent(session: &mut Session) -> String {
        let mut text = Vec::new();
        while session.send(|bytes| {
            text.extend(bytes.iter().take(7));
            bytes.len().min(7)
        }) {}
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn nothing_is_done_without_the_token() {
        for wrong in ["\n", "list\n", "0123456789abcdeF\n", "0123456789abcdef0\n", "0123456789abcde\n"] {
            let mut session = Session::default();
            assert_eq!(session.hear(TOKEN, wrong.as_bytes()), (wrong.len(), None));
            assert!(!session.listens() && !session.is_known() && !session.is_over(), "{wrong}");
            assert_eq!(sent(&mut session), "failed: this is not the token\n");
            assert!(session.is_over());
        }
        let mut session = Session::default();
        assert_eq!(session.hear("", b"\n"), (1, None));
        assert!(!session.is_known(), "no token opens nothing");
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        let mut session = Session::default();
        let bytes = b"0123456789abcdef\r\nlist\nhelp\n";
        assert_eq!(session.hear(TOKEN, &bytes[..5]), (5, None));
        assert_eq!(session.hear(TOKEN, &bytes[5..]), (13, None));
        assert!(session.is_known());
        assert_eq!(session.hear(TOKEN, &bytes[18..]), (5, Some("list".into())));
        assert!(!session.listens());
        session.answer(Ok("a domain\n".into()));
        assert_eq!(session.hear(TOKEN, &bytes[23..]), (5, Some("help".into())));
        session.answer(Err(Failure::new(Code::State, "not now")));
        assert_eq!(sent(&mut session), "ok\na domain\nok\nfailed: not now\n");
        assert!(session.listens() && !session.is_over());
    }

    #[test]
    fn a_line_without_end_ends_the_connection() {
        let mut session = Session::default();
        let heard = (0..100).take_while(|_| session.listens() && session.hear(TOKEN, &[b'x'; 100]).0 == 100);
        assert_eq!(heard.count(), 11);
        assert_eq!(sent(&mut session), "failed: the line is too long\n");
    }
}
