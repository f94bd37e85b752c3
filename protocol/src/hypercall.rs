//! Hypercalls: numbers, calling convention, and one submodule for each call's operations and structures.
//!
//! # Calling convention
//!
//! | caller's code segment | number | arguments 1 to 5 | result |
//! |---|---|---|---|
//! | 64-bit | RAX | RDI RSI RDX R10 R8 | RAX |
//! | 32-bit, also with paging off | EAX | EBX ECX EDX ESI EDI | EAX |
//!
//! The instruction is `vmcall` on Intel and `vmmcall` on AMD processors, three bytes either way, or a call into the
//! hypercall page ([`page`]). Argument registers may be overwritten, everything else is preserved. The result is a small
//! negative number on failure ([`Errno::from_return`](crate::errno::Errno::from_return)).
//!
//! - The width of the structures follows the caller's code segment at that moment, not its history.
//! - A call from a ring other than 0 returns [`Errno::Perm`](crate::errno::Errno::Perm); an unknown number
//!   [`Errno::NoSys`](crate::errno::Errno::NoSys).
//! - Pointers are guest-virtual, translated by the caller's current paging mode; with paging off they are physical.
//! - A long operation may be continued: the hypervisor leaves the instruction pointer where it is, with changed
//!   arguments, and the guest executes the instruction again without noticing.

pub mod event;
pub mod grant;
pub mod hvm;
pub mod memory;
pub mod misc;
pub mod page;
pub mod sched;
pub mod vcpu;
pub mod version;

closed! {
    /// The hypercalls that exist for a guest with its own page tables (`xen.h`). Numbers that are missing here belong to
    /// guests without nested paging and are not implemented for others.
    pub enum Hypercall: u32 {
        /// Platform operations of the privileged domain.
        #[doc(alias = "__HYPERVISOR_platform_op")]
        PlatformOp = 7,
        /// Memory reservations and the physical map: [`memory`].
        #[doc(alias = "__HYPERVISOR_memory_op")]
        MemoryOp = 12,
        /// Several calls in one: [`misc::MulticallEntry`].
        #[doc(alias = "__HYPERVISOR_multicall")]
        Multicall = 13,
        /// One deadline for the calling vCPU: absolute nanoseconds, 0 cancels. In the 32-bit convention the low and the
        /// high half are two arguments.
        #[doc(alias = "__HYPERVISOR_set_timer_op")]
        SetTimerOp = 15,
        /// Version, features, names: [`version`].
        #[doc(alias = "__HYPERVISOR_xen_version")]
        XenVersion = 17,
        /// The hypervisor's console: [`misc::ConsoleOp`], count, buffer.
        #[doc(alias = "__HYPERVISOR_console_io")]
        ConsoleIo = 18,
        /// Grants: [`grant`].
        #[doc(alias = "__HYPERVISOR_grant_table_op")]
        GrantTableOp = 20,
        /// Optional behaviours of the domain: [`misc::AssistOp`], [`misc::Assist`].
        #[doc(alias = "__HYPERVISOR_vm_assist")]
        VmAssist = 21,
        /// One vCPU: [`vcpu`].
        #[doc(alias = "__HYPERVISOR_vcpu_op")]
        VcpuOp = 24,
        /// Page-table operations; of no use to guests with nested paging.
        #[doc(alias = "__HYPERVISOR_mmuext_op")]
        MmuextOp = 26,
        /// Security module.
        #[doc(alias = "__HYPERVISOR_xsm_op")]
        XsmOp = 27,
        /// Yield, wait, shut down: [`sched`].
        #[doc(alias = "__HYPERVISOR_sched_op")]
        SchedOp = 29,
        /// Event channels: [`event`].
        #[doc(alias = "__HYPERVISOR_event_channel_op")]
        EventChannelOp = 32,
        /// Physical devices, for a domain that owns some.
        #[doc(alias = "__HYPERVISOR_physdev_op")]
        PhysdevOp = 33,
        /// Parameters and upcalls: [`hvm`].
        #[doc(alias = "__HYPERVISOR_hvm_op")]
        HvmOp = 34,
        /// The toolstack's host operations.
        #[doc(alias = "__HYPERVISOR_sysctl")]
        Sysctl = 35,
        /// The toolstack's domain operations.
        #[doc(alias = "__HYPERVISOR_domctl")]
        Domctl = 36,
        /// Messages between domains.
        #[doc(alias = "__HYPERVISOR_argo_op")]
        ArgoOp = 39,
        /// Performance counters.
        #[doc(alias = "__HYPERVISOR_xenpmu_op")]
        XenpmuOp = 40,
        /// The device model's operations.
        #[doc(alias = "__HYPERVISOR_dm_op")]
        DmOp = 41,
        /// The hypervisor's parameter tree.
        #[doc(alias = "__HYPERVISOR_hypfs_op")]
        HypfsOp = 42,
        /// First of eight numbers that are left to a platform for calls of its own.
        #[doc(alias = "__HYPERVISOR_arch_0")]
        Arch0 = 48,
        /// Second of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_1")]
        Arch1 = 49,
        /// Third of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_2")]
        Arch2 = 50,
        /// Fourth of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_3")]
        Arch3 = 51,
        /// Fifth of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_4")]
        Arch4 = 52,
        /// Sixth of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_5")]
        Arch5 = 53,
        /// Seventh of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_6")]
        Arch6 = 54,
        /// Eighth of the platform's own calls.
        #[doc(alias = "__HYPERVISOR_arch_7")]
        Arch7 = 55,
    }
}
