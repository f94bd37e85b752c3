//! A domain: its vCPUs, memory, ports, grants and state.

use crate::authority::Control;
use crate::granting::Grants;
use crate::memory::Memory;
use crate::model::Model;
use crate::policy::cpuid::Cpuid;
use crate::prelude::*;

/// A domain. Shared by reference count: the list of domains, run queues and calls that work on it.
pub struct Domain<M: Machine> {
    /// Its number.
    pub id: DomainId,
    /// Name, padded with zeroes.
    pub name: [u8; NAME_BYTES],
    /// UUID.
    pub uuid: [u8; 16],
    /// The right to make control calls: dom0's.
    pub control: Option<Control>,
    /// Its vCPUs; the number never changes.
    pub vcpus: Box<[Vcpu<M>]>,
    /// Root of its second-level tables.
    pub root: Mfn,
    /// Counts up when translations are taken out of the tables; a context that runs with an older number forgets what
    /// it remembers.
    pub epoch: AtomicU64,
    /// Counts up when those were to memory that remembered walks through its page tables use.
    pub walks: AtomicU64,
    /// Physical map.
    pub memory: Lock<Memory>,
    /// The physical map is one to one: dom0's.
    pub direct: bool,
    /// Limit of its memory, in pages.
    pub max_pages: u64,
    /// The shared info page: its first reference belongs to the domain.
    pub shared_info: Mfn,
    /// Set while shared info and vCPU info have the 32-bit form.
    pub narrow: AtomicBool,
    /// Event channels.
    pub ports: Ports,
    /// Its grant table, and its mappings of others' grants.
    pub grants: Grants,
    /// Parameters.
    pub params: [AtomicU64; Param::COUNT as usize],
    /// The vector of upcalls past the local interrupt controllers; 0 is none.
    pub callback: AtomicU32,
    /// Pause, shutdown, death.
    pub life: Lock<Life>,
    /// Why its vCPUs may not run now: bits of [`stop`].
    pub stopped: AtomicU32,
    /// What it sees of its processor.
    pub cpuid: Cpuid,
    /// The bits of CR4 it may set.
    pub cr4_allowed: u64,
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// `VMASST_TYPE_runstate_update_flag`.
    pub runstate_flag: AtomicBool,
    /// Where the shared info page is in the domain's map. Taken before the memory lock.
    pub shared_place: Lock<Option<Gfn>>,
    /// What it prints for debugging.
    pub debug: Lock<DebugLine>,
    /// Share of the processor against others.
    pub weight: AtomicU32,
    /// Most per cent of one processor; 0 is no limit.
    pub cap: AtomicU32,
    /// Who emulates its devices.
    pub model: spin::Once<Model>,
}

/// Bits of [`Domain::stopped`].
pub mod stop {
    /// Paused by dom0.
    pub const PAUSED: u32 = 1;
    /// Shut down or crashed.
    pub const SHUTDOWN: u32 = 2;
    /// Being destroyed.
    pub const DYING: u32 = 4;
}

impl<M: Machine> Domain<M> {
    /// The form of the shared info page and the vCPU info structures.
    pub fn width(&self) -> Width {
        if self.narrow.load(Ordering::Relaxed) { Width::W32 } else { Width::W64 }
    }

    /// One of its vCPUs.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu<M>> {
        self.vcpus.get(id.0 as usize)
    }

    /// Its name, as text.
    pub fn name(&self) -> &str {
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        self.name.get(..length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("?")
    }

    /// What a triple fault means to it.
    pub fn triple_fault_reason(&self) -> ShutdownReason {
        self.params
            .get(Param::TripleFaultReason.number() as usize)
            .and_then(|param| ShutdownReason::from_number(param.load(Ordering::Relaxed) as u32))
            .unwrap_or(ShutdownReason::Reboot)
    }

    /// True for the domain with the hardware.
    pub fn is_privileged(&self) -> bool {
        self.control.is_some()
    }

    /// True while nothing keeps its vCPUs from running.
    pub fn may_run(&self) -> bool {
        self.stopped.load(Ordering::Acquire) == 0
    }
}
