//! What building needs of dom0: the control hypercalls, and dom0's own services. Real: hypercalls and tasks. Simulated: calls into the core and its neighbours.

use super::{Cause, File, Stream};
use crate::config::Nic;
use crate::plan::{Group, Pc, Plan, PlannedDisk};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::control::VcpuState;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::hypercall::memory::Region;
use trunnion_protocol::id::{DomainId, GrantRef, Port, VcpuId};

/// dom0, as the builder sees it. The hypercalls return at once; services may take their time.
#[allow(async_fn_in_trait, reason = "the executor is single-threaded, so no bound on the futures is wanted")]
pub trait Host {
    /// Makes an empty paused domain with the plan's name, identity, vCPUs and limit (`CreateDomain`).
    fn create(&self, plan: &Plan) -> Result<DomainId, Errno>;
    /// Ends a domain and gives its memory back (`DestroyDomain`).
    fn destroy(&self, domain: DomainId) -> Result<(), Errno>;
    /// Sets weight and cap (`SetScheduling`).
    fn set_scheduling(&self, domain: DomainId, weight: u32, cap: u32) -> Result<(), Errno>;
    /// Gives a domain zeroed memory at frames, 2^`order` pages each (`XENMEM_populate_physmap`). Returns how many of the frames
    /// got it; fewer than asked for means that there is no more of that size. At most [`POPULATE_MAX`] frames.
    fn populate(&self, domain: DomainId, order: u32, frames: &[Gfn]) -> Result<usize, Errno>;
    /// Sets what `XENMEM_memory_map` answers (`XENMEM_set_memory_map`).
    fn set_memory_map(&self, domain: DomainId, map: &[Region]) -> Result<(), Errno>;
    /// Writes bytes into a domain's memory (`MapForeign`, copy, `UnmapForeign`). At most [`WRITE_MAX`] bytes.
    fn write(&self, domain: DomainId, address: Gpa, bytes: &[u8]) -> Result<(), Errno>;
    /// Opens a port of a domain for dom0 (`EVTCHNOP_alloc_unbound`).
    fn open_port(&self, domain: DomainId) -> Result<Port, Errno>;
    /// Sets a parameter (`HVMOP_set_param`).
    fn set_param(&self, domain: DomainId, param: Param, value: u64) -> Result<(), Errno>;
    /// Grants a frame to dom0 under a reserved reference (`SeedGrant`).
    fn seed_grant(&self, domain: DomainId, reference: GrantRef, frame: Gfn) -> Result<(), Errno>;
    /// Loads a vCPU and brings it up (`SetVcpuState`).
    fn set_state(&self, domain: DomainId, vcpu: VcpuId, state: &VcpuState) -> Result<(), Errno>;
    /// Takes one reason not to run away (`Unpause`).
    fn unpause(&self, domain: DomainId) -> Result<(), Errno>;
    /// Adds a reason not to run (`Pause`).
    fn pause(&self, domain: DomainId) -> Result<(), Errno>;

    /// Gives dom0's other tasks a turn.
    async fn breathe(&self);
    /// Fetches exactly `length` bytes of a file, at most [`WRITE_MAX`], from the tool. `ETIMEDOUT` when nothing comes for a while.
    async fn fetch(&self, stream: Stream, offset: u64, length: usize) -> Result<Vec<u8>, Errno>;
    /// Joins the console ring at a frame, whose port in the domain is given.
    async fn attach_console(&self, domain: DomainId, name: &str, frame: Gfn, port: Port)
    -> Result<(), Errno>;
    /// Reads the console to its last byte, then leaves its ring. The log stays.
    async fn detach_console(&self, domain: DomainId);
    /// Writes nodes with their permissions in one transaction.
    async fn write_nodes(&self, domain: DomainId, group: &Group) -> Result<(), Errno>;
    /// Removes a node with all below it; it need not be there.
    async fn remove_node(&self, path: &str) -> Result<(), Errno>;
    /// Joins the store ring at a frame, whose port in the domain is given (INTRODUCE).
    async fn introduce(&self, domain: DomainId, frame: Gfn, port: Port) -> Result<(), Errno>;
    /// Leaves it, and forgets what belongs to the domain's connection (RELEASE).
    async fn release(&self, domain: DomainId);
    /// Starts the back end of a disk whose nodes are written, and returns when it is in state 2 (`InitWait`): some guests do
    /// not wait for that themselves. A refusal leaves nothing behind.
    async fn attach_disk(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        source: Option<DiskSource<'_>>,
    ) -> Result<(), DiskRefusal>;
    /// Stops it. Returns when no request is under way and nothing of the guest is mapped any more.
    async fn detach_disk(&self, domain: DomainId, disk: &PlannedDisk);
    /// Starts the back end of a network port whose nodes are written, and returns when it is in state 2. An error leaves
    /// nothing behind.
    async fn attach_nic(&self, domain: DomainId, number: u32, nic: &Nic) -> Result<(), Errno> {
        let _ = (domain, number, nic);
        Err(Errno::OpNotSupp)
    }
    /// Stops it. Returns when nothing of the guest is held any more.
    async fn detach_nic(&self, domain: DomainId, number: u32) {
        let _ = (domain, number);
    }
    /// Starts the device model of a domain whose disks and network ports are attached. After an error too, it is stopped and
    /// forgotten.
    async fn attach_model(
        &self,
        domain: DomainId,
        parts: ModelParts<'_>,
        floppy: Option<DiskSource<'_>>,
    ) -> Result<(), Cause> {
        let _ = (domain, parts, floppy);
        Err(Errno::OpNotSupp.into())
    }
    /// Stops it. Returns when no request is under way and nothing of the guest is mapped any more.
    async fn detach_model(&self, domain: DomainId) {
        let _ = domain;
    }
    /// Takes back what the hypervisor kept of the model until the domain was destroyed.
    fn forget_model(&self, domain: DomainId) {
        let _ = domain;
    }
}

/// What a device model is made of.
pub struct ModelParts<'a> {
    /// The machine.
    pub pc: &'a Pc,
    /// Its network ports.
    pub nics: &'a [Nic],
    /// vCPUs there can be.
    pub vcpus: u32,
    /// Its number.
    pub uuid: [u8; 16],
    /// The firmware of its screen.
    pub screen: Vec<u8>,
}

/// Where a disk's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskSource<'a> {
    /// A virtio disk, by serial number.
    Device(&'a str),
    /// What a RAM disk starts with.
    Memory(File<'a>),
}

/// Most frames of one [`Host::populate`].
pub const POPULATE_MAX: usize = 512;
/// Most bytes of one [`Host::write`].
pub const WRITE_MAX: usize = 1 << 20;

/// Why a disk cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskRefusal {
    /// dom0 has no such disk.
    Missing {
        /// Its path in the configuration.
        target: String,
    },
    /// Another domain has it, and one of them writes.
    InUse {
        /// Its path in the configuration.
        target: String,
        /// Who.
        by: DomainId,
    },
    /// It can only be read, and writing was asked for.
    ReadOnly {
        /// Its path in the configuration.
        target: String,
    },
    /// Its size is no multiple of 512 bytes, or is 0.
    Size {
        /// Its path in the configuration.
        target: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// No memory for a RAM disk.
    NoMemory {
        /// Its path in the configuration.
        target: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The back end could not be started.
    Failed(Errno),
}

impl fmt::Display for DiskRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { target } => write!(f, "dom0 has no disk for `{target}`"),
            Self::InUse { target, by } => {
                write!(f, "`{target}` is in use by domain {by}, and a disk that is written has one user")
            }
            Self::ReadOnly { target } => write!(f, "`{target}` can only be read; ask for `ro`"),
            Self::Size { target, bytes } => {
                write!(f, "`{target}` has {bytes} bytes; a disk has a multiple of 512, and not 0")
            }
            Self::NoMemory { target, bytes } => {
                write!(f, "dom0 has no memory for `{target}` of {bytes} bytes")
            }
            Self::Failed(errno) => write!(f, "its back end did not start: {}", errno.name()),
        }
    }
}
