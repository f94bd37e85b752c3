//! What dom0 answers.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bytes of a screen in one reply.
pub const SCREEN_CHUNK: usize = 32 * 1024;

/// A positive answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// To [`super::Request::Hello`].
    Hello {
        /// dom0's [`super::VERSION`].
        version: u16,
        /// Whether dom0's devices and services are up.
        ready: bool,
    },
    /// A domain was built.
    Created {
        /// Its number.
        domid: u16,
        /// Its name.
        name: String,
        /// What the configuration deserves to be told, one text each.
        warnings: Vec<String>,
    },
    /// To [`super::Request::List`].
    Domains(Vec<DomainInfo>),
    /// To [`super::Request::Info`].
    Info(HostInfo),
    /// Part of the hypervisor's log.
    Dmesg {
        /// The text.
        text: Vec<u8>,
        /// Where to go on; the same as asked for when there is no more.
        next: u64,
    },
    /// To [`super::Request::VcpuList`].
    Vcpus(Vec<VcpuInfo>),
    /// A value of the store.
    Value(Vec<u8>),
    /// Names of a node's children.
    Names(Vec<String>),
    /// Whether a node exists.
    Exists(bool),
    /// Part of the store's tree.
    Tree {
        /// Nodes, parents before children.
        nodes: Vec<StoreNode>,
        /// Where to go on, if there is more.
        next: Option<u32>,
    },
    /// To [`super::Request::Summary`].
    Summary(super::Summary),
    /// What the shell printed.
    Text(String),
    /// Disks and other devices that dom0 found.
    Devices(Vec<DeviceInfo>),
    /// Network ports of a domain.
    Nics(Vec<NicInfo>),
    /// Some lines of a screen, three bytes a pixel: red, green, blue.
    Screen {
        /// Pixels in a line.
        width: u32,
        /// Lines of the whole.
        height: u32,
        /// At most [`SCREEN_CHUNK`] bytes, whole lines; none behind the end.
        data: Vec<u8>,
    },
    /// The characters of a screen.
    ScreenText {
        /// From the top; none in a graphics mode.
        lines: Vec<String>,
    },
    /// Disks of a domain.
    Disks(Vec<DiskInfo>),
    /// How domains share the processors.
    Scheduling(Vec<SchedulingInfo>),
}

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainState {
    /// A vCPU is on a CPU or wants one.
    Running,
    /// All vCPUs wait.
    Blocked,
    /// Stopped by the toolstack.
    Paused,
    /// It ended and is kept (`preserve`), or its pages are still in use.
    Shutdown,
    /// It crashed and is kept.
    Crashed,
    /// It is being torn down.
    Dying,
}

/// A domain, as `xl list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Number.
    pub domid: u16,
    /// Name.
    pub name: String,
    /// Identity in lower-case hex with dashes.
    pub uuid: String,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// vCPUs that are online.
    pub vcpus: u32,
    /// What it does.
    pub state: DomainState,
    /// Time on a CPU, in nanoseconds.
    pub cpu_ns: u64,
    /// Time since it ran first, in nanoseconds; 0 before.
    pub up_ns: u64,
}

/// A domain's share of the processors, as `xl sched-credit` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulingInfo {
    /// Domain number.
    pub domid: u16,
    /// Domain name.
    pub name: String,
    /// Share of the processor against others; 256 is the default.
    pub weight: u32,
    /// Most per cent of one processor; 0 is no limit.
    pub cap: u32,
}

/// A vCPU, as `xl vcpu-list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Domain number.
    pub domid: u16,
    /// Domain name.
    pub name: String,
    /// Number in the domain.
    pub vcpu: u32,
    /// Where it runs or ran last; none when it is offline.
    pub cpu: Option<u32>,
    /// `running`, `runnable`, `blocked`, `paused`, `offline`.
    pub state: String,
    /// Time on a CPU, in nanoseconds.
    pub cpu_ns: u64,
}

/// Facts of the host, as `xl info` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Version of the platform.
    pub version: String,
    /// Virtualisation in use: `vmx` or `svm`, with the features that were picked.
    pub hardware: String,
    /// Physical CPUs in use.
    pub cpus: u32,
    /// Frequency of the clock in kHz.
    pub tsc_khz: u64,
    /// All memory in bytes.
    pub memory_bytes: u64,
    /// Memory for more domains in bytes.
    pub free_bytes: u64,
    /// The hypervisor's own memory in bytes.
    pub hypervisor_bytes: u64,
    /// dom0's memory in bytes.
    pub dom0_bytes: u64,
    /// Time since power-on in nanoseconds.
    pub uptime_ns: u64,
}

/// A node of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreNode {
    /// Whole path.
    pub path: String,
    /// Value.
    pub value: Vec<u8>,
    /// As `n0`, `r1`.
    pub permissions: Vec<String>,
}

/// A device of dom0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// `disk`, `net`, `console`, `ram-disk`.
    pub kind: String,
    /// Serial number of a disk, address of a network port.
    pub name: String,
    /// Size of a disk in bytes.
    pub bytes: u64,
    /// Domains that use it.
    pub users: Vec<u16>,
}

/// A network port of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicInfo {
    /// Its number in the domain.
    pub number: u32,
    /// Address.
    pub mac: String,
    /// Bridge.
    pub bridge: String,
    /// Whether the guest uses it.
    pub connected: bool,
    /// Packets to the guest.
    pub rx_packets: u64,
    /// Bytes to the guest.
    pub rx_bytes: u64,
    /// Packets from the guest.
    pub tx_packets: u64,
    /// Bytes from the guest.
    pub tx_bytes: u64,
    /// Packets that were dropped, both ways.
    pub dropped: u64,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its number, as the guest and the store have it.
    pub number: u32,
    /// Its name.
    pub vdev: String,
    /// The image's path, as it was given; empty for a drive without a disc.
    pub target: String,
    /// The virtio disk that holds the content, by serial number; none when it is in dom0's memory.
    pub device: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The guest may not write.
    pub read_only: bool,
    /// The guest sees a CD-ROM.
    pub cdrom: bool,
    /// Whether the guest uses it.
    pub connected: bool,
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes that they moved.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes that they moved.
    pub write_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// A refusal: a stable code for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// What went wrong, for whom, and what would help.
    pub message: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of failure. Numbers are positions: new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// dom0 does not know this request: the two sides are of different versions.
    UnknownRequest,
    /// There is no such verb.
    UnknownVerb,
    /// The other side speaks another version.
    Version,
    /// Bytes that are no message.
    Malformed,
    /// There is no such domain.
    NoSuchDomain,
    /// A domain of that name exists.
    NameTaken,
    /// The configuration is wrong; the message has file, line and column.
    Configuration,
    /// A kernel or RAM disk cannot be used.
    Image,
    /// A file that the configuration names was not brought.
    MissingFile,
    /// Not enough memory; the message says how much is needed.
    NoMemory,
    /// A disk is missing, in use, or cannot be written.
    Disk,
    /// Building stopped at a step; everything was given back.
    Build,
    /// The domain is in a state in which this cannot be done.
    State,
    /// The store refused; the message begins with its error name.
    Store,
    /// The channel is in use, or not open.
    Channel,
    /// The request is known and cannot be done on this machine or in this version.
    Unsupported,
    /// dom0 is not ready yet.
    NotReady,
    /// Too much of something: uploads, channels, watches, requests.
    Limit,
    /// The hypervisor refused.
    Hypervisor,
}
