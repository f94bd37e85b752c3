//! Building a domain: a [`Plan`] carried out as a transaction. Every step that has an effect says what undoes it; when one fails, what was done is
//! undone in reverse, and the host is as it was. A domain that was built keeps the same list, and ends by it.

mod host;
mod steps;
mod undo;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use host::{DiskRefusal, DiskSource, Host, ModelParts, POPULATE_MAX, WRITE_MAX};
pub use undo::Domain;

use crate::plan::Plan;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::planted::{self, Bug};

/// A file that is not in dom0: its pieces are fetched from the tool when they are needed, so that dom0 never holds the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The tool's number for it.
    pub file: u32,
    /// Bytes.
    pub size: u64,
}

/// Where the content of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File<'a> {
    /// In dom0's memory.
    Here(&'a [u8]),
    /// With the tool.
    Streamed(Stream),
}

impl File<'_> {
    /// Its bytes.
    pub const fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Streamed(stream) => stream.size,
        }
    }
}

impl Default for File<'_> {
    fn default() -> Self {
        Self::Here(&[])
    }
}

/// The files that a plan speaks of.
#[derive(Clone, Debug, Default)]
pub struct Files<'a> {
    /// The kernel's ELF.
    pub kernel: File<'a>,
    /// The RAM disk.
    pub ramdisk: File<'a>,
    /// The firmware of an emulated PC.
    pub firmware: File<'a>,
    /// The firmware of its screen.
    pub screen: File<'a>,
    /// Where the content of its floppy drive is.
    pub floppy: Option<DiskSource<'a>>,
    /// Where each disk's content is, in the plan's order; none for an empty drive.
    pub disks: Vec<Option<DiskSource<'a>>>,
}

/// A step of building.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making the empty domain.
    Create,
    /// Weight and cap.
    Schedule,
    /// Giving it memory.
    Populate,
    /// Telling the hypervisor the memory map.
    MemoryMap,
    /// Loading kernel, RAM disk and tables.
    Load,
    /// Opening the event channels of store and console.
    Ports,
    /// Setting the parameters by which the guest finds them.
    Params,
    /// Granting their ring pages.
    Grants,
    /// Setting up the first vCPU.
    State,
    /// Joining the console.
    Console,
    /// Writing a group of store nodes.
    Store(String),
    /// Joining the store's ring.
    Introduce,
    /// Starting a disk's back end and waiting until it is ready for the guest.
    Disk(String),
    /// Starting a network port's back end.
    Nic(String),
    /// Starting its device model.
    Model,
    /// Letting it run.
    Unpause,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("making the domain"),
            Self::Schedule => f.write_str("setting weight and cap"),
            Self::Populate => f.write_str("giving it memory"),
            Self::MemoryMap => f.write_str("setting its memory map"),
            Self::Load => f.write_str("loading it"),
            Self::Ports => f.write_str("opening its event channels"),
            Self::Params => f.write_str("setting its parameters"),
            Self::Grants => f.write_str("granting its ring pages"),
            Self::State => f.write_str("setting up its first vCPU"),
            Self::Console => f.write_str("joining its console"),
            Self::Store(group) => write!(f, "writing its store nodes ({group})"),
            Self::Introduce => f.write_str("joining its store ring"),
            Self::Disk(name) => write!(f, "attaching disk {name}"),
            Self::Nic(address) => write!(f, "attaching network port {address}"),
            Self::Model => f.write_str("starting its device model"),
            Self::Unpause => f.write_str("starting it"),
        }
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The hypervisor or the store said so.
    Errno(Errno),
    /// The tool did not send a file.
    Stream(Errno),
    /// A disk cannot be served.
    Disk(DiskRefusal),
    /// The plan and the files do not belong together.
    Files,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => f.write_str(errno.name()),
            Self::Stream(errno) => write!(f, "the tool did not send a file whole ({})", errno.name()),
            Self::Disk(refusal) => fmt::Display::fmt(refusal, f),
            Self::Files => f.write_str("the files are not those that were planned with"),
        }
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// A failed build, of which nothing is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where it stopped.
    pub step: Step,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.step, self.cause)
    }
}

/// Builds a domain, paused, with its devices ready. On failure everything is given back before this returns.
pub async fn build<H: Host>(plan: Plan, files: &Files<'_>, host: &H) -> Result<Domain, Error> {
    let mut domain = Domain::nothing(plan);
    match steps::all(&mut domain, files, host).await {
        Ok(()) => Ok(domain),
        Err(error) if planted::is(Bug::ForgottenUndo) => Err(error),
        Err(error) => {
            domain.end(host).await;
            Err(error)
        }
    }
}
