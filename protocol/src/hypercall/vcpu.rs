//! `vcpu_op` (24): argument 1 is the [`Op`], argument 2 the vCPU's number, argument 3 a pointer or null.
//!
//! A number that the domain does not have is [`Errno::NoEnt`].

use crate::address::{Gfn, Gpa, Gva};
use crate::control::{Segment, VcpuState};
use crate::errno::Errno;
use crate::layout::Fixed;

closed! {
    /// What to do (`vcpu.h`).
    pub enum Op: u32 {
        /// Sets a stopped vCPU's registers: [`HvmContext32`] or [`HvmContext64`].
        #[doc(alias = "VCPUOP_initialise")]
        Initialise = 0,
        /// Starts it.
        #[doc(alias = "VCPUOP_up")]
        Up = 1,
        /// Stops it. The last one to stop powers the domain off.
        #[doc(alias = "VCPUOP_down")]
        Down = 2,
        /// Returns 1 if it runs, 0 if it is stopped.
        #[doc(alias = "VCPUOP_is_up")]
        IsUp = 3,
        /// Writes a [`Runstate`](crate::shared_info::Runstate) to the pointer.
        #[doc(alias = "VCPUOP_get_runstate_info")]
        GetRunstateInfo = 4,
        /// Keeps a [`Runstate`](crate::shared_info::Runstate) current at [`AreaVirtual`].
        #[doc(alias = "VCPUOP_register_runstate_memory_area")]
        RegisterRunstateMemoryArea = 5,
        /// A timer that repeats: [`PeriodicTimer`].
        #[doc(alias = "VCPUOP_set_periodic_timer")]
        SetPeriodicTimer = 6,
        /// Stops it; always succeeds.
        #[doc(alias = "VCPUOP_stop_periodic_timer")]
        StopPeriodicTimer = 7,
        /// A timer that fires once, on the calling vCPU only: [`SingleshotTimer`].
        #[doc(alias = "VCPUOP_set_singleshot_timer")]
        SetSingleshotTimer = 8,
        /// Stops it; the calling vCPU only.
        #[doc(alias = "VCPUOP_stop_singleshot_timer")]
        StopSingleshotTimer = 9,
        /// Moves the vCPU's info structure out of the shared info page: [`RegisterVcpuInfo`].
        #[doc(alias = "VCPUOP_register_vcpu_info")]
        RegisterVcpuInfo = 10,
        /// A non-maskable interrupt.
        #[doc(alias = "VCPUOP_send_nmi")]
        SendNmi = 11,
        /// Physical identity, for pinned domains.
        #[doc(alias = "VCPUOP_get_physid")]
        GetPhysid = 12,
        /// A second copy of the vCPU's time at [`AreaVirtual`]; address 0 takes it back.
        #[doc(alias = "VCPUOP_register_vcpu_time_memory_area")]
        RegisterVcpuTimeMemoryArea = 13,
        /// As number 5, at [`AreaPhysical`].
        #[doc(alias = "VCPUOP_register_runstate_phys_area")]
        RegisterRunstatePhysArea = 14,
        /// As number 13, at [`AreaPhysical`].
        #[doc(alias = "VCPUOP_register_vcpu_time_phys_area")]
        RegisterVcpuTimePhysArea = 15,
    }
}

/// [`SingleshotTimer::flags`]: fail with `ETIME` if the time has passed. Linux does not need it to be honoured.
#[doc(alias = "VCPU_SSHOTTMR_future")]
pub const SINGLESHOT_FUTURE: u32 = 1;

crate::layout! {
    /// Where a vCPU's info structure goes. It may not cross a page, and a second call fails.
    #[doc(alias = "vcpu_register_vcpu_info")]
    pub struct RegisterVcpuInfo: 16, 16 {
        /// The page.
        #[doc(alias = "mfn")]
        pub gfn: Gfn as Fixed = 0, 0;
        /// Offset in the page.
        pub offset: u32 = 8, 8;
    }

    /// An address in the guest's own address space.
    #[doc(alias = "vcpu_register_runstate_memory_area")]
    #[doc(alias = "vcpu_register_time_memory_area")]
    pub struct AreaVirtual: 8, 8 {
        /// The address. In the 32-bit form the pointer takes the first four of eight bytes.
        #[doc(alias = "addr")]
        pub address: Gva = 0, 0;
    }

    /// A guest-physical address; all ones takes the area back.
    pub struct AreaPhysical: 8, 8 {
        /// The address.
        #[doc(alias = "addr.p")]
        pub address: Gpa = 0, 0;
    }

    /// A timer that repeats.
    #[doc(alias = "vcpu_set_periodic_timer")]
    pub struct PeriodicTimer: 8, 8 {
        /// Nanoseconds, at least a million.
        pub period_ns: u64 = 0, 0;
    }

    /// A timer that fires once. A time that has passed fires at once.
    #[doc(alias = "vcpu_set_singleshot_timer")]
    pub struct SingleshotTimer: 16, 12 {
        /// When: nanoseconds of the system time.
        #[doc(alias = "timeout_abs_ns")]
        pub deadline_ns: u64 = 0, 0;
        /// [`SINGLESHOT_FUTURE`] or 0.
        pub flags: u32 = 8, 8;
    }

    /// Registers of a vCPU that starts in 32-bit mode ([`MODE_32`]).
    #[doc(alias = "vcpu_hvm_x86_32")]
    pub struct HvmContext32: 128, 128 {
        /// [`MODE_32`].
        pub mode: u32 = 0, 0;
        /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
        pub registers: [u32; 8] = 8, 8;
        /// Instruction pointer.
        pub eip: u32 = 40, 40;
        /// Flags.
        pub eflags: u32 = 44, 44;
        /// Control register 0.
        pub cr0: u32 = 48, 48;
        /// Control register 3.
        pub cr3: u32 = 52, 52;
        /// Control register 4.
        pub cr4: u32 = 56, 56;
        /// Extended features.
        pub efer: u64 = 64, 64;
        /// Bases of CS, DS, SS, ES, TR.
        pub bases: [u32; 5] = 72, 72;
        /// Limits of CS, DS, SS, ES, TR.
        pub limits: [u32; 5] = 92, 92;
        /// Access rights of CS, DS, SS, ES, TR: bits 7:0 and 15:12 of a descriptor's high word, packed to 12 bits.
        pub rights: [u16; 5] = 112, 112;
    }

    /// Registers of a vCPU that starts in 64-bit mode ([`MODE_64`]), with flat segments.
    #[doc(alias = "vcpu_hvm_x86_64")]
    pub struct HvmContext64: 128, 128 {
        /// [`MODE_64`].
        pub mode: u32 = 0, 0;
        /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI.
        pub registers: [u64; 8] = 8, 8;
        /// Instruction pointer.
        pub rip: u64 = 72, 72;
        /// Flags.
        pub rflags: u64 = 80, 80;
        /// Control register 0.
        pub cr0: u64 = 88, 88;
        /// Control register 3.
        pub cr3: u64 = 96, 96;
        /// Control register 4.
        pub cr4: u64 = 104, 104;
        /// Extended features.
        pub efer: u64 = 112, 112;
    }
}

/// Mode word of [`HvmContext32`].
#[doc(alias = "VCPU_HVM_MODE_32B")]
pub const MODE_32: u32 = 0;
/// Mode word of [`HvmContext64`].
#[doc(alias = "VCPU_HVM_MODE_64B")]
pub const MODE_64: u32 = 1;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NX_SCE: u64 = 1 << 11 | 1;
const RFLAGS_VM: u64 = 1 << 17;
const SEGMENT_PRESENT: u16 = 1 << 7;
const SEGMENT_ACCESSED: u16 = 1;
const SEGMENT_BUSY: u16 = 2;

impl HvmContext32 {
    /// The whole of the vCPU; `EINVAL` unless it is in 32-bit protected mode.
    pub fn state(&self) -> Result<VcpuState, Errno> {
        if u64::from(self.cr0) & CR0_PE == 0
            || self.efer & (EFER_LME | EFER_LMA) != 0
            || u64::from(self.eflags) & RFLAGS_VM != 0
        {
            return Err(Errno::Inval);
        }
        // A segment that is loaded has its accessed bit, a task register its busy bit: Xen sets them for the caller too.
        let segment = |index: usize, loaded: u16| Segment {
            selector: 0,
            attributes: match self.rights[index] & 0xfff {
                rights if rights & SEGMENT_PRESENT != 0 => rights | loaded,
                rights => rights,
            },
            limit: self.limits[index],
            base: u64::from(self.bases[index]),
        };
        let data = segment(1, SEGMENT_ACCESSED);
        let mut state = VcpuState {
            rflags: u64::from(self.eflags) | 2,
            cr0: u64::from(self.cr0),
            cr3: u64::from(self.cr3),
            cr4: u64::from(self.cr4),
            efer: self.efer & EFER_NX_SCE,
            cs: segment(0, SEGMENT_ACCESSED),
            ds: data,
            es: segment(3, SEGMENT_ACCESSED),
            fs: data,
            gs: data,
            ss: segment(2, SEGMENT_ACCESSED),
            tr: segment(4, SEGMENT_BUSY),
            ..VcpuState::pvh(self.eip, 0)
        };
        for (to, from) in state.gpr.iter_mut().zip(self.registers) {
            *to = u64::from(from);
        }
        Ok(state)
    }
}

impl HvmContext64 {
    /// The whole of the vCPU, with flat segments; `EINVAL` unless it is in 64-bit mode.
    pub fn state(&self) -> Result<VcpuState, Errno> {
        if self.cr0 & (CR0_PE | CR0_PG) != CR0_PE | CR0_PG
            || self.efer & EFER_LME == 0
            || self.rflags & RFLAGS_VM != 0
        {
            return Err(Errno::Inval);
        }
        let mut state = VcpuState {
            rip: self.rip,
            rflags: self.rflags | 2,
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer & EFER_NX_SCE | EFER_LME | EFER_LMA,
            ..VcpuState::pvh(0, 0)
        };
        for (to, from) in state.gpr.iter_mut().zip(self.registers) {
            *to = from;
        }
        // A 64-bit code segment has L instead of D.
        state.cs.attributes = 0xa9b;
        Ok(state)
    }
}

/// The null address that takes a virtual area back.
pub const NO_AREA: Gva = Gva::NULL;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_is_the_callers() {
        let context = HvmContext32 {
            registers: [1, 2, 3, 4, 5, 6, 7, 8],
            eip: 0x1000,
            cr0: 1,
            bases: [0x10, 0x20, 0x30, 0x40, 0x50],
            limits: [1, 2, 3, 4, 0x67],
            rights: [0xc9a, 0xc92, 0xc92, 0x012, 0x089],
            ..HvmContext32::default()
        };
        let state = context.state().unwrap();
        let got = [state.cs, state.ds, state.ss, state.es, state.tr].map(|s| (s.base, s.limit, s.attributes));
        let wanted =
            [(0x10, 1, 0xc9b), (0x20, 2, 0xc93), (0x30, 3, 0xc93), (0x40, 4, 0x012), (0x50, 0x67, 0x08b)];
        assert_eq!(got, wanted);
        assert_eq!((state.rip, state.gpr[..8].to_vec()), (0x1000, (1..=8).collect()));
        assert_eq!(HvmContext32 { cr0: 0, ..context }.state(), Err(Errno::Inval));
    }
}
