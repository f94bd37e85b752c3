//! The privileged domain's control calls: how dom0 builds, watches and ends domains.
//!
//! This interface is private to Trunnion: a guest never meets it, and both sides are built from one revision
//! ([`REVISION`]). It is one hypercall, number [`CALL`] (`__HYPERVISOR_arch_0`), with the operation in the first argument
//! and a pointer to that operation's structure in the second; the caller is 64-bit code. The hypervisor answers with 0 or a
//! negated [`Errno`](crate::errno::Errno), and writes the structure back when it has output fields.
//! Every operation needs dom0's authority; any other caller gets `EPERM`.
//!
//! Operations that Xen's public ABI already has are not repeated here. With the target domain in their `domid` field, dom0
//! uses `XENMEM_populate_physmap`, `XENMEM_set_memory_map`, `EVTCHNOP_alloc_unbound`, `HVMOP_set_param`/`get_param` and
//! `SCHEDOP_remote_shutdown` on any domain.
//!
//! dom0 is mapped one to one: foreign frames and granted frames appear in it at the guest-physical address equal to their
//! machine address.

mod counters;
mod model;
mod vcpu;

pub use counters::{DomainCounters, ExitKind, ExitTally};
pub use model::{
    ANSWER_OFFSET, ANSWER_STATE, Answer, FORCED, ModelAnswer, ModelSignal, NO_VECTOR, REQUEST_STATE, Request,
    RequestKind, SetModel, SignalKind, answer_flags, model_flags,
};
pub use vcpu::{Gpr, Segment, Table, VcpuState};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of the hypercall.
pub const CALL: u32 = 48;
/// Revision of this interface; [`HostInfo::revision`] must agree.
pub const REVISION: u32 = 1;
/// Bytes of a domain's name, padded with zeroes.
pub const NAME_BYTES: usize = 64;

closed! {
    /// The operations, each with its structure.
    pub enum Operation: u64 {
        /// [`HostInfo`], output.
        HostInfo = 0,
        /// [`CreateDomain`]: a paused domain with no memory and vCPUs that are down.
        CreateDomain = 1,
        /// [`DomainRef`]: ends a domain and returns its memory. Frames that others still map stay with the zombie
        /// until they are returned; the call continues itself until the rest is done.
        DestroyDomain = 2,
        /// [`DomainInfo`]: the domain with the lowest number at or above [`DomainInfo::domain`]; `ENOENT` past the last.
        DomainInfo = 3,
        /// [`DomainRef`]: one more reason not to run. Returns when no vCPU of it is in guest mode.
        Pause = 4,
        /// [`DomainRef`]: one reason less; `EINVAL` when there is none.
        Unpause = 5,
        /// [`VcpuStateCall`]: loads a vCPU that does not run and brings it up.
        SetVcpuState = 6,
        /// [`Charge`]: time that dom0 worked for a domain counts as that domain's own.
        Charge = 7,
        /// [`MapForeign`]: makes another domain's frames reachable by dom0.
        MapForeign = 8,
        /// [`UnmapForeign`]: gives such frames back.
        UnmapForeign = 9,
        /// [`SeedGrant`]: fills a reserved grant entry of a domain that is being built.
        SeedGrant = 10,
        /// [`MapPirq`]: a physical interrupt for dom0, by message or by line.
        MapPirq = 11,
        /// [`PirqRef`]: releases one.
        UnmapPirq = 12,
        /// [`PirqRef`]: end of interrupt for one that is signalled by line: unmasks it.
        UnmaskPirq = 13,
        /// [`CountersCall`]: what a domain has done.
        Counters = 14,
        /// [`ReadText`]: bytes of the hypervisor's log.
        ReadLog = 15,
        /// [`ReadText`]: the last crash report of a domain.
        CrashReport = 16,
        /// [`Scheduling`]: weight and cap.
        SetScheduling = 17,
        /// [`Audit`]: recomputes what is in use by walking every table.
        Audit = 18,
        /// [`PowerOff`]: ends the platform. Does not return.
        PowerOff = 19,
        /// [`SetModel`]: gives a domain a device model.
        SetModel = 20,
        /// [`ModelAnswer`]: a vCPU's request is answered.
        ModelAnswer = 21,
        /// [`ModelSignal`]: an interrupt from an emulated device.
        ModelSignal = 22,
        /// [`VcpuInfo`]: what one vCPU does; `ENOENT` when the domain has no such vCPU.
        VcpuInfo = 23,
        /// [`DebugKey`]: writes part of what the hypervisor knows of a domain to its log; `EINVAL` for an unknown key.
        DebugKey = 24,
    }
}

/// A domain, and padding to eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainRef {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// What the hypervisor says of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HostInfo {
    /// [`REVISION`] of the hypervisor.
    pub revision: u32,
    /// Physical CPUs that run domains.
    pub cpus: u32,
    /// Bytes of RAM in the machine.
    pub memory_bytes: u64,
    /// Bytes free for domains.
    pub free_bytes: u64,
    /// Bytes the hypervisor holds: image, heap, tables that belong to no domain.
    pub hypervisor_bytes: u64,
    /// Bytes given to dom0, without the bundle.
    pub dom0_bytes: u64,
    /// Nanoseconds from power-on until the hypervisor was ready to start dom0.
    pub ready_ns: u64,
    /// TSC ticks in a millisecond.
    pub tsc_khz: u64,
    /// Bit 0: VMX, bit 1: SVM, bit 2: the TSC is invariant.
    pub features: u64,
}

/// Input and output of [`Operation::CreateDomain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateDomain {
    /// Wanted number, or 0 for any that is free; on return the number given.
    pub domain: u16,
    /// 0: none is defined, and others are refused.
    pub flags: u16,
    /// vCPUs, 1 to 32.
    pub vcpus: u32,
    /// Limit of its memory in pages.
    pub max_pages: u64,
    /// UUID, as `XENVER_guest_handle` reports it.
    pub uuid: [u8; 16],
    /// Name, for the log and crash reports.
    pub name: [u8; NAME_BYTES],
}

/// Input and output of [`Operation::DomainInfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInfo {
    /// Lowest wanted number; on return the domain's.
    pub domain: u16,
    /// Bits of [`domain_state`].
    pub state: u16,
    /// Why it shut down (`SHUTDOWN_*`), when it has.
    pub shutdown_reason: u32,
    /// vCPUs it has.
    pub vcpus: u32,
    /// vCPUs that are up.
    pub online_vcpus: u32,
    /// Pages it owns.
    pub pages: u64,
    /// Limit in pages.
    pub max_pages: u64,
    /// Nanoseconds of processor time, all vCPUs together.
    pub cpu_ns: u64,
    /// Nanoseconds since power-on when it first ran; 0 before.
    pub first_run_ns: u64,
    /// Nanoseconds since power-on when it shut down or crashed; 0 before.
    pub ended_ns: u64,
    /// UUID.
    pub uuid: [u8; 16],
    /// Name.
    pub name: [u8; NAME_BYTES],
}

/// Bits of [`DomainInfo::state`].
pub mod domain_state {
    /// Some vCPU runs or waits for a processor.
    pub const RUNNABLE: u16 = 1;
    /// Paused by dom0.
    pub const PAUSED: u16 = 2;
    /// Shut down or crashed; the reason says which.
    pub const SHUTDOWN: u16 = 4;
    /// Being destroyed, or a zombie that waits for its frames.
    pub const DYING: u16 = 8;
}

/// Input of [`Operation::SetVcpuState`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuStateCall {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// Which vCPU.
    pub vcpu: u32,
    /// Its state.
    pub state: VcpuState,
}

/// Most frames one [`Operation::MapForeign`] or [`Operation::UnmapForeign`] takes.
pub const FOREIGN_MAX: u32 = 512;

/// Input of [`Operation::MapForeign`]. All frames are mapped, or none (`ENOENT` when one has no RAM).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapForeign {
    /// Owner of the frames.
    pub domain: u16,
    /// Bit 0: also for writing.
    pub flags: u16,
    /// Frames, 1 to [`FOREIGN_MAX`].
    pub count: u32,
    /// First guest frame number.
    pub gfn: u64,
    /// Address of `count` u64, filled with the machine frame numbers, at which the frames now are in dom0.
    pub frames: u64,
}

/// Input of [`Operation::UnmapForeign`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapForeign {
    /// Frames, 1 to [`FOREIGN_MAX`].
    pub count: u32,
    /// Bit 0: they were mapped for writing.
    pub flags: u32,
    /// Address of `count` u64 machine frame numbers.
    pub frames: u64,
}

/// Input of [`Operation::SeedGrant`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SeedGrant {
    /// The domain whose table it is.
    pub domain: u16,
    /// Who may map it.
    pub to: u16,
    /// A reserved reference, below 8.
    pub reference: u32,
    /// The granted frame.
    pub gfn: u64,
}

/// Input and output of [`Operation::MapPirq`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapPirq {
    /// 0: by message (MSI or MSI-X entry); 1: by line.
    pub kind: u32,
    /// The line (8259 or I/O APIC input as the firmware wrote it in the device's interrupt-line register), for kind 1.
    pub line: u32,
    /// Output: what `EVTCHNOP_bind_pirq` takes.
    pub pirq: u32,
    /// Output for kind 0: data of the message.
    pub data: u32,
    /// Output for kind 0: address of the message.
    pub address: u64,
}

/// A physical interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PirqRef {
    /// Its number.
    pub pirq: u32,
    /// Zero.
    pub pad: u32,
}

/// Input and output of [`Operation::Counters`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CountersCall {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// Output.
    pub counters: DomainCounters,
}

/// Input and output of [`Operation::ReadLog`] and [`Operation::CrashReport`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadText {
    /// Log: byte position since power-on from which to read; on return the position after the last byte read. Bytes that
    /// the ring no longer holds are skipped. Report: the domain.
    pub position: u64,
    /// Address of the buffer.
    pub buffer: u64,
    /// Its size in bytes, at most 4096; on return the bytes written.
    pub length: u64,
}

/// Input of [`Operation::SetScheduling`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scheduling {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// Share of the processor against others, 1 to 65535; 256 is the default.
    pub weight: u32,
    /// Most per cent of one processor; 0 is no limit.
    pub cap: u32,
    /// Zero.
    pub pad2: u32,
}

/// Input and output of [`Operation::VcpuInfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// Which vCPU.
    pub vcpu: u32,
    /// Output: what it does, one of [`activity`].
    pub activity: u32,
    /// Output: the processor it runs on, or would.
    pub cpu: u32,
    /// Output: nanoseconds it ran.
    pub cpu_ns: u64,
    /// Output: the domain's weight, as in [`Scheduling`].
    pub weight: u32,
    /// Output: the domain's cap.
    pub cap: u32,
}

/// What a vCPU does: [`VcpuInfo::activity`].
pub mod activity {
    /// Not started, or stopped.
    pub const DOWN: u32 = 0;
    /// Waits for an event.
    pub const BLOCKED: u32 = 1;
    /// Waits for a processor.
    pub const READY: u32 = 2;
    /// Runs.
    pub const RUNNING: u32 = 3;
    /// Would be ready, but its domain may not run.
    pub const PARKED: u32 = 4;
}

/// Input of [`Operation::DebugKey`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DebugKey {
    /// The key, in ASCII; `h` writes what there is.
    pub key: u32,
    /// The domain of which is written; what is the machine's own is written with dom0.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
}

/// Input of [`Operation::Charge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Charge {
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// Nanoseconds, of which more than [`Charge::MOST`] are forgiven.
    pub ns: u64,
}

impl Charge {
    /// Most that one call charges, in nanoseconds.
    pub const MOST: u64 = 1_000_000_000;
}

/// Output of [`Operation::Audit`]: recomputed from the tables themselves, not from counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Audit {
    /// Frames that are neither free nor reserved nor dom0's own.
    pub frames: u64,
    /// Grant mappings and pins in force, over all domains.
    pub grants: u64,
    /// Ports that are not free, over all domains.
    pub ports: u64,
    /// Frames whose recorded owner or count disagrees with the tables that refer to them.
    pub mismatches: u64,
}

/// Input of [`Operation::PowerOff`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerOff {
    /// 0: as wanted; anything else: dom0 gives up.
    pub status: u32,
    /// Zero.
    pub pad: u32,
}
