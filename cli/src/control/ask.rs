//! What the other verbs ask the `trunnion run` process: one JSON line each way on its socket; then, for a console, bytes both ways, and for a
//! watch one line a change, and for a screen its pixels.

use crate::failure::{Failure, Status};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A question. Domains are named by name or id.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Create a domain from this file (an absolute path).
    Create { file: PathBuf, paused: bool },
    /// All domains, as a list of [`Row`].
    List,
    /// End a domain at once.
    Destroy { domain: String },
    /// Ask a domain to end by itself.
    Shutdown { domain: String, reboot: bool },
    /// Let it not run, or run again.
    Pause { domain: String, paused: bool },
    /// A device of any class between two domains.
    DeviceAttach { front: String, back: String, class: String, id: u32 },
    /// Take it away.
    DeviceDetach { front: String, class: String, id: u32, force: bool },
    /// The machine, as one object.
    Info,
    /// All figures, as in `summary.json`.
    Summary,
    /// The hypervisor's messages, as text.
    Dmesg,
    /// Attach: after the answer, bytes of the console both ways.
    Console { domain: String, replay: bool },
    /// One operation on the store.
    Store(Store),
    /// The network ports of a domain, as a list.
    Nics { domain: String },
    /// Give a domain a network port, as `vif` has it.
    NicAttach { domain: String, specification: String },
    /// Take one away, by number or address.
    NicDetach { domain: String, nic: String },
    /// vCPUs of a domain or of all, as a list.
    Vcpus { domain: Option<String> },
    /// Give a domain another name.
    Rename { domain: String, name: String },
    /// Press a key of the guest's system request.
    Sysrq { domain: String, key: char },
    /// Ask a domain to do with so much memory.
    Memory { domain: String, kib: u64 },
    /// Ask a domain to use so many vCPUs.
    VcpuCount { domain: String, count: u32 },
    /// Set weight and cap of a domain, as far as they are given; the shares of that or of all, as a list.
    Schedule { domain: Option<String>, weight: Option<u32>, cap: Option<u32> },
    /// Have the hypervisor write parts of its state to its log.
    DebugKeys { keys: String },
    /// The disks of a domain, as a list.
    Blocks { domain: String },
    /// Give a domain a disk, as `disk` has it; a relative path begins at `folder`.
    BlockAttach { domain: String, specification: String, folder: PathBuf },
    /// Take one away, by name or number.
    BlockDetach { domain: String, disk: String, force: bool },
    /// Press a button of an emulated PC: `power`, `reset`, `nmi`, `sleep`.
    Trigger { domain: String, button: String },
    /// Type keys: the scan codes of each.
    Keys { domain: String, keys: Vec<Vec<u8>> },
    /// Put the image `file` (an absolute path) into a CD drive of an emulated PC, or take out what is there.
    Disc { domain: String, drive: String, file: Option<PathBuf> },
    /// Write the screen of an emulated PC to a file (an absolute path); without one, answer with its characters, line by line.
    Screenshot { domain: String, file: Option<PathBuf> },
    /// The screen of an emulated PC: after the answer, a [`Size`], its pixels as bytes: red, green, blue, line by line.
    Screen { domain: String },
    /// Move the mouse of an emulated PC by counts to the right and upwards, with these buttons down: bit 0 left, 1 right, 2 middle.
    Mouse { domain: String, x: i16, y: i16, buttons: u8 },
    /// Watch paths: after the answer, one line (a JSON string) a change.
    Watch { paths: Vec<String> },
}

/// Operations on the store.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Store {
    /// A value, as text; bytes that are not UTF-8 are written as `\xNN`.
    Read { path: String },
    /// The names directly under a path.
    List { path: String },
    /// Set a value.
    Write { path: String, value: String },
    /// Remove a node and all under it.
    Remove { path: String },
    /// Whether a node exists.
    Exists { path: String },
    /// All under a path, as a list of [`Node`], parents first.
    Tree { path: String },
    /// Set the permissions.
    Chmod { path: String, permissions: Vec<String> },
}

/// An answer: a value that the question calls for, or a failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is done.
    Done(serde_json::Value),
    /// It is not, and why.
    Failed { status: u8, message: String },
}

/// A domain in a list.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its name.
    pub name: String,
    /// Its id.
    pub domid: u16,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u32,
    /// `running`, `blocked`, `paused`, `shutdown`, `crashed`, `dying`.
    pub state: String,
    /// Processor time in ns.
    pub cpu_ns: u64,
    /// Time since it ran first, in ns.
    pub up_ns: u64,
}

/// The size of a screen, in pixels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Size {
    pub width: u32,
    pub height: u32,
}

/// A node of the store.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    /// Its whole path.
    pub path: String,
    /// Its value, as text.
    pub value: String,
    /// Such as `n0`, `r1`.
    pub permissions: Vec<String>,
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Answer::Failed { status: failure.status().code(), message: failure.message().to_string() }
    }
}

impl Answer {
    /// The value, or the failure as it was over there.
    pub(crate) fn value(self) -> Result<serde_json::Value, Failure> {
        match self {
            Answer::Done(value) => Ok(value),
            Answer::Failed { status, message } => {
                let status = match status {
                    1 => Status::Domain,
                    2 => Status::Usage,
                    3 => Status::TimeLimit,
                    _ => Status::Platform,
                };
                Err(Failure::new(status, message))
            }
        }
    }
}
