//! A running `trunnion-xenstored` and a plain client of its socket, for the tests of the program.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod ring;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trunnion_protocol::store::{Header, Kind};

/// The program, in a directory of its own; stopped when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// Starts it on a socket.
    pub(crate) fn start() -> Self {
        Self::spawn(|command, directory| {
            command.env("XENSTORED_PATH", directory.join("socket"));
        })
    }

    /// Starts it on a machine of files.
    pub(crate) fn machine() -> Self {
        Self::spawn(|command, directory| {
            command.env("NOXEN_DIR", directory);
        })
    }

    fn spawn(prepare: impl FnOnce(&mut Command, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunnion-xenstored"));
        for name in ["XENSTORED_PATH", "XENSTORED_RUNDIR", "NOXEN_DIR"] {
            command.env_remove(name);
        }
        prepare(&mut command, directory.path());
        let socket = directory.path().join("socket");
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let daemon = Self { child, directory, socket };
        wait("the daemon's socket", || UnixStream::connect(&daemon.socket).is_ok());
        daemon
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for the end; the result says whether it was a good one.
    pub(crate) fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    pub(crate) fn client(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, requests: 0, events: Vec::new() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so, at most 20 seconds.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A client of the socket.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    requests: u32,
    pub(crate) events: Vec<Vec<u8>>,
}

impl Client {
    /// Sends a request and returns the reply's payload, or the error's name. Events on the way are kept.
    pub(crate) fn ask(&mut self, kind: Kind, tx_id: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.requests += 1;
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header { kind: kind.number(), req_id: self.requests, tx_id, len };
        self.stream.write_all(&[&header.to_bytes()[..], payload].concat()).unwrap();
        loop {
            let (reply, payload) = self.receive();
            if reply.kind == Kind::WatchEvent.number() {
                self.events.push(payload);
                continue;
            }
            assert_eq!((reply.req_id, reply.tx_id), (self.requests, tx_id));
            if reply.kind == Kind::Error.number() {
                return Err(String::from_utf8(payload).unwrap().trim_end_matches('\0').to_owned());
            }
            assert_eq!(reply.kind, kind.number());
            return Ok(payload);
        }
    }

    /// The next watch event.
    pub(crate) fn event(&mut self) -> Vec<u8> {
        if self.events.is_empty() {
            let (header, payload) = self.receive();
            assert_eq!((header.kind, header.req_id, header.tx_id), (Kind::WatchEvent.number(), 0, 0));
            return payload;
        }
        self.events.remove(0)
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut bytes = [0; Header::SIZE];
        self.stream.read_exact(&mut bytes).unwrap();
        let header = Header::from_bytes(&bytes);
        let mut payload = vec![0; header.len as usize];
        self.stream.read_exact(&mut payload).unwrap();
        (header, payload)
    }
}
