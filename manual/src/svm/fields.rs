//! The control block: where each field is (APM volume 2, appendix B), and what the bits that are used mean.

use core::marker::PhantomData;

/// One field of a VMCB: its offset, and its width as that of an integer.
#[derive(Clone, Copy)]
pub struct Field<T> {
    /// Bytes from the start of the block.
    pub offset: usize,
    width: PhantomData<T>,
}

impl<T> Field<T> {
    /// The field at an offset.
    ///
    /// # Panics
    /// When it is outside of the block.
    pub const fn at(offset: usize) -> Self {
        assert!(offset + size_of::<T>() <= 4096);
        Self { offset, width: PhantomData }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $int:ty = $offset:literal;)*) => {
        $($(#[$doc])* pub const $name: Field<$int> = Field::at($offset);)*
    };
}

fields! {
    /// Intercepts of control register accesses: reads in bits 0-15, writes in 16-31.
    INTERCEPT_CR: u32 = 0x000;
    /// Intercepts of debug register accesses.
    INTERCEPT_DR: u32 = 0x004;
    /// Intercepts of exceptions.
    INTERCEPT_EXCEPTIONS: u32 = 0x008;
    /// First word of intercepted events and instructions.
    INTERCEPT_1: u32 = 0x00c;
    /// Second word.
    INTERCEPT_2: u32 = 0x010;
    /// Cycles between PAUSEs that count as one loop.
    PAUSE_THRESHOLD: u16 = 0x03c;
    /// PAUSEs in a loop before an exit.
    PAUSE_COUNT: u16 = 0x03e;
    /// Address of the I/O permission map.
    IO_MAP: u64 = 0x040;
    /// Address of the MSR permission map.
    MSR_MAP: u64 = 0x048;
    /// Added to the TSC.
    TSC_OFFSET: u64 = 0x050;
    /// Address space identifier.
    ASID: u32 = 0x058;
    /// What to flush at the entry.
    TLB_CONTROL: u32 = 0x05c;
    /// Virtual interrupts: [`V_IRQ`] and its kin.
    VIRTUAL_INTERRUPT: u64 = 0x060;
    /// Bit 0: interrupt shadow.
    SHADOW: u64 = 0x068;
    /// Why the guest left.
    EXIT_CODE: u64 = 0x070;
    /// Details of the exit.
    EXIT_INFO_1: u64 = 0x078;
    /// More details.
    EXIT_INFO_2: u64 = 0x080;
    /// The event whose delivery the exit cut off.
    EXIT_INTERRUPT: u64 = 0x088;
    /// Bit 0: nested paging.
    NESTED: u64 = 0x090;
    /// The event to deliver at the entry.
    INJECT: u64 = 0x0a8;
    /// Root of the nested tables.
    NESTED_CR3: u64 = 0x0b0;
    /// Which parts of the block are unchanged.
    CLEAN: u64 = 0x0c0;
    /// The address behind the intercepted instruction.
    NEXT_RIP: u64 = 0x0c8;
    /// Selector of ES, then attributes, limit and base; the other segments follow each other.
    ES: u16 = 0x400;
    /// Attributes of CS.
    CS_ATTRIBUTES: u16 = 0x412;
    /// Current privilege level.
    CPL: u8 = 0x4cb;
    /// EFER.
    EFER: u64 = 0x4d0;
    /// CR4.
    CR4: u64 = 0x548;
    /// CR3.
    CR3: u64 = 0x550;
    /// CR0.
    CR0: u64 = 0x558;
    /// DR7.
    DR7: u64 = 0x560;
    /// DR6.
    DR6: u64 = 0x568;
    /// RFLAGS.
    RFLAGS: u64 = 0x570;
    /// RIP.
    RIP: u64 = 0x578;
    /// RSP.
    RSP: u64 = 0x5d8;
    /// RAX.
    RAX: u64 = 0x5f8;
    /// STAR.
    STAR: u64 = 0x600;
    /// LSTAR.
    LSTAR: u64 = 0x608;
    /// CSTAR.
    CSTAR: u64 = 0x610;
    /// SFMASK.
    SFMASK: u64 = 0x618;
    /// KERNEL_GS_BASE.
    KERNEL_GS_BASE: u64 = 0x620;
    /// SYSENTER_CS.
    SYSENTER_CS: u64 = 0x628;
    /// SYSENTER_ESP.
    SYSENTER_ESP: u64 = 0x630;
    /// SYSENTER_EIP.
    SYSENTER_EIP: u64 = 0x638;
    /// CR2.
    CR2: u64 = 0x640;
    /// The guest's PAT, under nested paging.
    PAT: u64 = 0x668;
}

/// Segment registers in the block, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names of the manual")]
pub enum Place {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Gdtr,
    Ldtr,
    Idtr,
    Tr,
}

impl Place {
    const fn start(self) -> usize {
        0x400 + 16 * self as usize
    }

    /// The selector.
    pub const fn selector(self) -> Field<u16> {
        Field::at(self.start())
    }

    /// The attributes.
    pub const fn attributes(self) -> Field<u16> {
        Field::at(self.start() + 2)
    }

    /// The limit.
    pub const fn limit(self) -> Field<u32> {
        Field::at(self.start() + 4)
    }

    /// The base.
    pub const fn base(self) -> Field<u64> {
        Field::at(self.start() + 8)
    }
}

/// In [`VIRTUAL_INTERRUPT`]: a virtual interrupt is pending.
pub const V_IRQ: u64 = 1 << 8;
/// In [`VIRTUAL_INTERRUPT`]: its priority, here the highest.
pub const V_PRIORITY: u64 = 0xf << 16;
/// In [`VIRTUAL_INTERRUPT`]: the TPR does not hold it.
pub const V_IGNORE_TPR: u64 = 1 << 20;
/// In [`VIRTUAL_INTERRUPT`]: the host's IF rules physical interrupts, the guest's the virtual ones.
pub const V_MASKING: u64 = 1 << 24;

/// In [`INJECT`] and [`EXIT_INTERRUPT`]: the field holds an event.
pub const EVENT_VALID: u64 = 1 << 31;
/// An error code stands in the upper half.
pub const EVENT_ERROR: u64 = 1 << 11;
/// Event type: external interrupt.
pub const EVENT_INTERRUPT: u64 = 0;
/// Event type: NMI.
pub const EVENT_NMI: u64 = 2 << 8;
/// Event type: exception.
pub const EVENT_EXCEPTION: u64 = 3 << 8;
/// Event type: INT n.
pub const EVENT_SOFTWARE: u64 = 4 << 8;
/// The bits of the type.
pub const EVENT_TYPE: u64 = 7 << 8;

/// Intercepts in [`INTERCEPT_1`].
pub mod first {
    /// Physical interrupts.
    pub const INTR: u32 = 1;
    /// NMIs.
    pub const NMI: u32 = 1 << 1;
    /// INIT.
    pub const INIT: u32 = 1 << 3;
    /// The guest can take a virtual interrupt.
    pub const VINTR: u32 = 1 << 4;
    /// RDPMC.
    pub const RDPMC: u32 = 1 << 15;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// RSM.
    pub const RSM: u32 = 1 << 19;
    /// IRET.
    pub const IRET: u32 = 1 << 20;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// PAUSE, by the filter.
    pub const PAUSE: u32 = 1 << 23;
    /// HLT.
    pub const HLT: u32 = 1 << 24;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// Ports, by the map.
    pub const IO: u32 = 1 << 27;
    /// MSRs, by the map.
    pub const MSR: u32 = 1 << 28;
    /// Task switches.
    pub const TASK: u32 = 1 << 29;
    /// Legacy FPU errors.
    pub const FERR: u32 = 1 << 30;
    /// Triple faults.
    pub const SHUTDOWN: u32 = 1 << 31;
    /// What every guest has.
    pub const ALWAYS: u32 =
        INTR | NMI | INIT | RDPMC | CPUID | RSM | INVD | HLT | INVLPGA | IO | MSR | TASK | FERR | SHUTDOWN;
}

/// Intercepts in [`INTERCEPT_2`].
pub mod second {
    /// VMRUN, which must always be intercepted.
    pub const VMRUN: u32 = 1;
    /// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    pub const EXTENSION: u32 = 0x7f;
    /// WBINVD.
    pub const WBINVD: u32 = 1 << 9;
    /// MONITOR and MWAIT, armed or not.
    pub const MONITOR: u32 = 7 << 10;
    /// XSETBV.
    pub const XSETBV: u32 = 1 << 13;
    /// RDPRU.
    pub const RDPRU: u32 = 1 << 14;
    /// What every guest has.
    pub const ALWAYS: u32 = EXTENSION | WBINVD | MONITOR | XSETBV | RDPRU;
}

/// A copy of a control block, for the entry checker.
pub struct Snapshot(pub [u8; 4096]);

impl Snapshot {
    /// A field's value.
    pub fn get<T: Copy>(&self, field: Field<T>) -> u64 {
        let bytes = self.0.get(field.offset..field.offset + size_of::<T>()).unwrap_or_default();
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Changes a field.
    #[cfg(test)]
    pub fn set<T: Copy + Into<u64>>(&mut self, field: Field<T>, value: T) {
        let bytes = value.into().to_le_bytes();
        self.0[field.offset..][..size_of::<T>()].copy_from_slice(&bytes[..size_of::<T>()]);
    }
}
