//! The figures of a run: `summary.json`, field by field. The names are those of the file, so that a tool can serialise these
//! types to JSON as they are. Times are nanoseconds since power-on.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// All figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The platform's own.
    pub platform: Platform,
    /// What dom0 itself has done.
    pub dom0: Activity,
    /// Every domain since power-on, also those that are gone, in the order of creation.
    pub domains: Vec<Domain>,
}

/// How the platform's run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformOutcome {
    /// As asked.
    #[default]
    Ok,
    /// Stopped by a time limit.
    Timeout,
    /// The hypervisor or dom0 failed.
    Failed,
}

/// Figures of the platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// How it went; the tool knows it.
    pub outcome: PlatformOutcome,
    /// Name of the machine; the tool knows it.
    pub machine: String,
    /// All memory of the machine.
    pub memory_bytes: u64,
    /// Held by the hypervisor.
    pub hypervisor_bytes: u64,
    /// Held by dom0.
    pub dom0_bytes: u64,
    /// When the hypervisor started dom0.
    pub hypervisor_ready_ns: u64,
    /// When dom0 was ready.
    pub dom0_ready_ns: u64,
    /// Free memory when dom0 was ready.
    pub free_bytes_at_start: u64,
    /// Free memory now.
    pub free_bytes_at_end: u64,
    /// What is missing against the tables as they were when dom0 was ready.
    pub leaks: Leaks,
}

/// Things that did not come back; negative numbers count as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaks {
    /// Frames of memory.
    pub frames: i64,
    /// Mapped grants.
    pub grants: i64,
    /// Event channels of dom0.
    pub ports: i64,
    /// Nodes of the store.
    pub store_nodes: i64,
}

/// How a domain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It powered itself off.
    Poweroff,
    /// It asked to be started again.
    Reboot,
    /// It is suspended.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog ran out.
    Watchdog,
    /// It was destroyed by request.
    Destroyed,
    /// It has not ended.
    #[default]
    Running,
}

/// Figures of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its number.
    pub domid: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// More about that, for people.
    pub detail: String,
    /// When building began.
    pub create_begin_ns: u64,
    /// When it began to run; 0 when it never did.
    pub unpaused_ns: u64,
    /// When it ended; 0 while it runs.
    pub ended_ns: u64,
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Ways out of the guest by kind.
    pub exits: Counts,
    /// Time in the hypervisor by kind, in TSC ticks.
    pub exit_cycles: Counts,
    /// The longest of each kind, in TSC ticks.
    pub exit_cycles_max: Counts,
    /// Hypercalls by name.
    pub hypercalls: Counts,
    /// Event channels.
    pub events: Events,
    /// Its use of other domains' grants.
    pub grants: Grants,
    /// In the order of the configuration.
    pub disks: Vec<Disk>,
    /// In the order of the configuration.
    pub nics: Vec<Nic>,
}

/// What a domain has done, as the hypervisor counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Time on a CPU.
    pub cpu_ns: u64,
    /// Ways out of the domain by kind.
    pub exits: Counts,
    /// Hypercalls by name.
    pub hypercalls: Counts,
    /// Event channels.
    pub events: Events,
    /// Its use of other domains' grants.
    pub grants: Grants,
}

/// Events of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// By it.
    pub sent: u64,
    /// To it.
    pub delivered: u64,
}

/// What a domain has done with grants of others. A guest that only has front ends does nothing here: back ends map its grants, in dom0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Mappings made.
    pub mapped: u64,
    /// Mappings ended.
    pub unmapped: u64,
    /// Copies made.
    pub copied: u64,
}

/// Which way a device's traffic takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DevicePath {
    /// Split driver.
    #[default]
    Pv,
    /// Device model.
    Emulated,
}

/// Figures of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Name in the guest.
    pub vdev: String,
    /// Its way.
    pub path: DevicePath,
    /// Requests.
    pub reads: u64,
    /// Bytes.
    pub read_bytes: u64,
    /// Requests.
    pub writes: u64,
    /// Bytes.
    pub write_bytes: u64,
    /// Requests.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Figures of a network port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Address.
    pub mac: String,
    /// Its way.
    pub path: DevicePath,
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
