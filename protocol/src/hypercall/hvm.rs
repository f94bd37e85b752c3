//! `hvm_op` (34): argument 1 is the [`Op`], argument 2 a pointer to its structure.

use crate::address::{Gfn, Gpa};
use crate::id::{DomainId, VcpuId};
use crate::layout::Fixed;

closed! {
    /// What to do (`hvm/hvm_op.h`).
    pub enum Op: u32 {
        /// Sets a [`Param`]: [`ParamArgument`].
        #[doc(alias = "HVMOP_set_param")]
        SetParam = 0,
        /// Reads a [`Param`]: [`ParamArgument`].
        #[doc(alias = "HVMOP_get_param")]
        GetParam = 1,
        /// Drops the domain's cached translations.
        #[doc(alias = "HVMOP_flush_tlbs")]
        FlushTlbs = 5,
        /// A page table goes away: [`PagetableDying`]. Of use only to shadow paging.
        #[doc(alias = "HVMOP_pagetable_dying")]
        PagetableDying = 9,
        /// Writes the system time in nanoseconds (`u64`).
        #[doc(alias = "HVMOP_get_time")]
        GetTime = 10,
        /// What a frame is: [`GetMemType`].
        #[doc(alias = "HVMOP_get_mem_type")]
        GetMemType = 15,
        /// The vector by which events reach a vCPU: [`UpcallVector`].
        #[doc(alias = "HVMOP_set_evtchn_upcall_vector")]
        SetEvtchnUpcallVector = 23,
        /// Requests to a monitor.
        #[doc(alias = "HVMOP_guest_request_vm_event")]
        GuestRequestVmEvent = 24,
        /// Alternative physical maps.
        #[doc(alias = "HVMOP_altp2m")]
        Altp2m = 25,
    }
}

closed! {
    /// A number that belongs to a domain (`hvm/params.h`). One that is not set reads as 0.
    pub enum Param: u32 {
        /// How events reach the guest: [`Callback`].
        #[doc(alias = "HVM_PARAM_CALLBACK_IRQ")]
        CallbackIrq = 0,
        /// Frame of the xenstore ring.
        #[doc(alias = "HVM_PARAM_STORE_PFN")]
        StorePfn = 1,
        /// Port of the xenstore ring.
        #[doc(alias = "HVM_PARAM_STORE_EVTCHN")]
        StoreEvtchn = 2,
        /// Frame of the synchronous request page.
        #[doc(alias = "HVM_PARAM_IOREQ_PFN")]
        IoreqPfn = 5,
        /// Frame of the buffered request page.
        #[doc(alias = "HVM_PARAM_BUFIOREQ_PFN")]
        BufioreqPfn = 6,
        /// Viridian features.
        #[doc(alias = "HVM_PARAM_VIRIDIAN")]
        Viridian = 9,
        /// How missed timer ticks are made up for.
        #[doc(alias = "HVM_PARAM_TIMER_MODE")]
        TimerMode = 10,
        /// Whether there is an HPET.
        #[doc(alias = "HVM_PARAM_HPET_ENABLED")]
        HpetEnabled = 11,
        /// Address of the identity page table.
        #[doc(alias = "HVM_PARAM_IDENT_PT")]
        IdentPt = 12,
        /// ACPI sleep state.
        #[doc(alias = "HVM_PARAM_ACPI_S_STATE")]
        AcpiSState = 14,
        /// Task segment for virtual-8086 emulation.
        #[doc(alias = "HVM_PARAM_VM86_TSS")]
        Vm86Tss = 15,
        /// Whether periodic timers are aligned.
        #[doc(alias = "HVM_PARAM_VPT_ALIGN")]
        VptAlign = 16,
        /// Frame of the console ring.
        #[doc(alias = "HVM_PARAM_CONSOLE_PFN")]
        ConsolePfn = 17,
        /// Port of the console ring.
        #[doc(alias = "HVM_PARAM_CONSOLE_EVTCHN")]
        ConsoleEvtchn = 18,
        /// Which ACPI port addresses are in use.
        #[doc(alias = "HVM_PARAM_ACPI_IOPORTS_LOCATION")]
        AcpiIoportsLocation = 19,
        /// Frame of the paging ring.
        #[doc(alias = "HVM_PARAM_PAGING_RING_PFN")]
        PagingRingPfn = 27,
        /// Frame of the monitor ring.
        #[doc(alias = "HVM_PARAM_MONITOR_RING_PFN")]
        MonitorRingPfn = 28,
        /// Frame of the sharing ring.
        #[doc(alias = "HVM_PARAM_SHARING_RING_PFN")]
        SharingRingPfn = 29,
        /// What a triple fault means: a [`ShutdownReason`](super::sched::ShutdownReason), by default a reboot.
        #[doc(alias = "HVM_PARAM_TRIPLE_FAULT_REASON")]
        TripleFaultReason = 31,
        /// First frame for device-model servers.
        #[doc(alias = "HVM_PARAM_IOREQ_SERVER_PFN")]
        IoreqServerPfn = 32,
        /// Frames for device-model servers.
        #[doc(alias = "HVM_PARAM_NR_IOREQ_SERVER_PAGES")]
        NrIoreqServerPages = 33,
        /// Address of the generation id.
        #[doc(alias = "HVM_PARAM_VM_GENERATION_ID_ADDR")]
        VmGenerationIdAddr = 34,
        /// Alternative physical maps.
        #[doc(alias = "HVM_PARAM_ALTP2M")]
        Altp2m = 35,
        /// Width of the FPU's instruction pointer.
        #[doc(alias = "HVM_PARAM_X87_FIP_WIDTH")]
        X87FipWidth = 36,
        /// Task segment for virtual-8086 emulation, with its size.
        #[doc(alias = "HVM_PARAM_VM86_TSS_SIZED")]
        Vm86TssSized = 37,
        /// Machine-check features.
        #[doc(alias = "HVM_PARAM_MCA_CAP")]
        McaCap = 38,
    }
}

impl Param {
    /// Indices from here on do not exist.
    #[doc(alias = "HVM_NR_PARAMS")]
    pub const COUNT: u32 = 39;

    /// True for the parameters that a guest may read of itself.
    pub const fn guest_may_read(self) -> bool {
        self.guest_may_write() || matches!(self, Self::StorePfn | Self::ConsolePfn | Self::Altp2m)
    }

    /// True for the parameters that a guest may set for itself.
    pub const fn guest_may_write(self) -> bool {
        matches!(
            self,
            Self::CallbackIrq
                | Self::StoreEvtchn
                | Self::Vm86Tss
                | Self::ConsoleEvtchn
                | Self::AcpiIoportsLocation
                | Self::VmGenerationIdAddr
                | Self::X87FipWidth
                | Self::Vm86TssSized
        )
    }
}

/// The value of [`Param::CallbackIrq`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[doc(alias = "HVM_PARAM_CALLBACK_TYPE")]
pub enum Callback {
    /// No upcall.
    Off,
    /// A global system interrupt, driven by vCPU 0's pending flag. Linux sets 1 as a mere mark when each vCPU has its own
    /// vector.
    Gsi(u64),
    /// A PCI interrupt pin.
    Pci {
        /// Domain (segment).
        domain: u16,
        /// Bus.
        bus: u16,
        /// Device and function.
        devfn: u8,
        /// Pin, 0 to 3.
        pin: u8,
    },
    /// A vector on every vCPU, past the local APIC and without end-of-interrupt.
    Vector(u8),
}

impl Callback {
    /// Reads a parameter value; `None` for a kind that does not exist.
    pub const fn decode(value: u64) -> Option<Self> {
        match (value >> 56, value) {
            (_, 0) => Some(Self::Off),
            (0, _) => Some(Self::Gsi(value)),
            (1, _) => Some(Self::Pci {
                domain: (value >> 32) as u16,
                bus: (value >> 16) as u16,
                devfn: (value >> 8) as u8,
                pin: value as u8 & 3,
            }),
            (2, _) => Some(Self::Vector(value as u8)),
            _ => None,
        }
    }

    /// The parameter value.
    pub const fn encode(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Gsi(number) => number & ((1 << 56) - 1),
            Self::Pci { domain, bus, devfn, pin } => {
                1 << 56 | (domain as u64) << 32 | (bus as u64) << 16 | (devfn as u64) << 8 | (pin as u64 & 3)
            }
            Self::Vector(vector) => 2 << 56 | vector as u64,
        }
    }
}

/// Vectors below this are refused for upcalls.
pub const FIRST_UPCALL_VECTOR: u8 = 0x10;

closed! {
    /// What a frame is ([`GetMemType`]).
    pub enum MemType: u16 {
        /// Memory.
        #[doc(alias = "HVMMEM_ram_rw")]
        Ram = 0,
        /// Memory that the guest can only read.
        #[doc(alias = "HVMMEM_ram_ro")]
        RamReadOnly = 1,
        /// Anything else: accesses go to the device model.
        #[doc(alias = "HVMMEM_mmio_dm")]
        Mmio = 2,
    }
}

crate::layout! {
    /// A parameter and its value.
    #[doc(alias = "xen_hvm_param")]
    pub struct ParamArgument: 16, 16 {
        /// Whose.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// A [`Param`].
        pub index: u32 = 4, 4;
        /// In for set, out for get.
        pub value: u64 = 8, 8;
    }

    /// A page table that goes away.
    #[doc(alias = "xen_hvm_pagetable_dying")]
    pub struct PagetableDying: 16, 16 {
        /// Whose.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Its address.
        pub gpa: Gpa = 8, 8;
    }

    /// A question about a frame.
    #[doc(alias = "xen_hvm_get_mem_type")]
    pub struct GetMemType: 16, 16 {
        /// Whose.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Out: a [`MemType`].
        #[doc(alias = "mem_type")]
        pub kind: u16 = 2, 2;
        /// Which frame.
        #[doc(alias = "pfn")]
        pub gfn: Gfn as Fixed = 8, 8;
    }

    /// The vector by which events reach a vCPU.
    #[doc(alias = "xen_hvm_evtchn_upcall_vector")]
    pub struct UpcallVector: 8, 8 {
        /// The vCPU.
        pub vcpu: VcpuId = 0, 0;
        /// From [`FIRST_UPCALL_VECTOR`].
        pub vector: u8 = 4, 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks() {
        for callback in [
            Callback::Off,
            Callback::Gsi(1),
            Callback::Pci { domain: 1, bus: 2, devfn: 3, pin: 1 },
            Callback::Vector(0xf3),
        ] {
            assert_eq!(Callback::decode(callback.encode()), Some(callback));
        }
        assert_eq!(Callback::Vector(0xf3).encode(), 0x0200_0000_0000_00f3);
        assert_eq!(Callback::decode(3 << 56), None);
    }
}
