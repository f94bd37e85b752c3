//! What a domain has done, as the hypervisor counts it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

closed! {
    /// The ways out of a guest, in words both vendors share. The order is that of [`DomainCounters::exits`].
    pub enum ExitKind: u32 {
        /// The hypercall instruction.
        Hypercall = 0,
        /// CPUID.
        Cpuid = 1,
        /// RDMSR or WRMSR.
        Msr = 2,
        /// IN, OUT, INS, OUTS.
        Port = 3,
        /// Second-level translation fault.
        Memory = 4,
        /// Access to a control register.
        ControlRegister = 5,
        /// Access to a debug register.
        DebugRegister = 6,
        /// XSETBV.
        Xsetbv = 7,
        /// HLT.
        Halt = 8,
        /// PAUSE, too often.
        Pause = 9,
        /// An exception that the hypervisor wants to see.
        Exception = 10,
        /// Triple fault.
        TripleFault = 11,
        /// Task switch.
        TaskSwitch = 12,
        /// A physical interrupt.
        Interrupt = 13,
        /// The guest can take an interrupt now.
        InterruptWindow = 14,
        /// The guest can take an NMI now.
        NmiWindow = 15,
        /// Preemption timer.
        Timer = 16,
        /// The page-modification log is full.
        DirtyLogFull = 17,
        /// Shutdown condition other than a triple fault, INIT among them.
        Shutdown = 18,
        /// The processor refused the entry.
        EntryRefused = 19,
        /// Anything else.
        Unknown = 20,
    }
}

impl ExitKind {
    /// How many there are.
    pub const COUNT: usize = 21;
    /// Names, in order, as reports print them.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "hypercall",
        "cpuid",
        "msr",
        "port",
        "memory",
        "control_register",
        "debug_register",
        "xsetbv",
        "halt",
        "pause",
        "exception",
        "triple_fault",
        "task_switch",
        "interrupt",
        "interrupt_window",
        "nmi_window",
        "timer",
        "dirty_log_full",
        "shutdown",
        "entry_refused",
        "unknown",
    ];
}

/// One kind of exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitTally {
    /// How often.
    pub count: u64,
    /// TSC ticks spent in the hypervisor, together.
    pub cycles: u64,
    /// TSC ticks of the longest.
    pub longest: u64,
}

/// All counters of a domain, summed over its vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainCounters {
    /// By [`ExitKind`].
    pub exits: [ExitTally; ExitKind::COUNT],
    /// Hypercalls by number.
    pub hypercalls: [u64; 64],
    /// Events sent by the domain.
    pub events_sent: u64,
    /// Upcalls delivered to it.
    pub events_delivered: u64,
    /// Grants it has mapped.
    pub grants_mapped: u64,
    /// Grants it has unmapped.
    pub grants_unmapped: u64,
    /// Grant copies it has made.
    pub grants_copied: u64,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
}

impl Default for DomainCounters {
    fn default() -> Self {
        Self {
            exits: [ExitTally::default(); ExitKind::COUNT],
            hypercalls: [0; 64],
            events_sent: 0,
            events_delivered: 0,
            grants_mapped: 0,
            grants_unmapped: 0,
            grants_copied: 0,
            cpu_ns: 0,
        }
    }
}
