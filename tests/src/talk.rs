//! Conversations: a command that goes on while a test types and listens, such as `console`, or a shell at a terminal.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A command that goes on; killed when dropped.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    heard: Arc<Mutex<String>>,
}

impl Talk {
    /// Starts a command whose stdin and stdout are kept.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the command starts");
        let mut out = child.stdout.take().expect("stdout is a pipe");
        let heard = Arc::new(Mutex::new(String::new()));
        let keep = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                keep.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { child, heard }
    }

    /// What was heard so far.
    pub fn heard(&self) -> String {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Types bytes.
    pub fn say(&mut self, words: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(words.as_bytes()).and_then(|()| stdin.flush()).expect("the command still listens");
    }

    /// Waits until a text was heard.
    pub fn wait_for(&self, text: &str, limit: Duration) {
        let begin = Instant::now();
        while !self.heard().contains(text) {
            assert!(begin.elapsed() < limit, "`{text}` did not come; heard:\n{}", self.heard());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
