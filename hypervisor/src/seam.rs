//! The seam between the core and the hardware.
//!
//! Everything above it is ordinary code that host tests and the simulation run; everything below it is instructions and
//! registers. [`Machine`] is what the core asks of the host, [`Context`] is one vCPU's registers, [`Exit`] is what made it
//! leave guest mode. The vendor folders (`machine/vmx`, `machine/svm`) implement both and decide nothing.
//!
//! A context belongs to the physical CPU that runs it, from the moment it is taken from its vCPU until it is put back; no
//! lock is held in between.

use crate::prelude::*;
pub use trunnion_manual::paging::EntryFormat;

/// A physical CPU, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cpu(pub u32);

/// Nanoseconds since the hypervisor's clock began, close to power-on. The same clock as a guest's system time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HostTime(pub u64);

impl HostTime {
    /// Of what has no time set; later than any other.
    pub const NEVER: Self = Self(u64::MAX);
}

/// What the core needs of the hardware. Implemented on x86-64, once for each vendor, and by the simulation.
pub trait Machine: Sync + Sized + 'static {
    /// One vCPU's registers and control block.
    type Context: Context;

    /// A page of host memory. The caller holds a reference to the frame in the frame table, so that it means what the
    /// caller thinks; `None` for a number that is no RAM of this host.
    fn page(&self, frame: Mfn) -> Option<&SharedPage>;

    /// The entry format of second-level tables on this host.
    fn format(&self) -> &'static EntryFormat;

    /// The vendor's hypercall instruction, for the hypercall page.
    fn opcode(&self) -> Opcode;

    /// The physical CPU that executes this.
    fn this_cpu(&self) -> Cpu;

    /// Physical CPUs that run domains.
    fn cpus(&self) -> u32;

    /// The clock.
    fn now(&self) -> HostTime;

    /// The host's time-stamp counter, and its frequency.
    fn tsc(&self) -> u64;

    /// TSC ticks in a millisecond, calibrated against a hardware timer; never 0.
    fn tsc_khz(&self) -> u64;

    /// Whether the TSC never changes its rate and agrees between CPUs.
    fn tsc_is_stable(&self) -> bool;

    /// Nanoseconds since 1970 at [`HostTime`] 0, from the battery clock.
    fn wall_clock_base(&self) -> u64;

    /// Makes `cpu` leave guest mode (or its idle halt) soon. A kick of the CPU that executes this does nothing.
    fn kick(&self, cpu: Cpu);

    /// Sets this CPU's one timer; `None` disarms it. A deadline that has passed fires at once.
    fn arm(&self, deadline: Option<HostTime>);

    /// Waits, with interrupts let through, until one has been taken. Returns at once when one is already noted.
    fn idle(&self);

    /// The next noted interrupt of this CPU, oldest first.
    fn take_interrupt(&self) -> Option<HostInterrupt>;

    /// What the host's processor answers to CPUID.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;

    /// A context for a new vCPU, in no valid state yet: [`Context::load`] follows. `hardware` opens the host's I/O
    /// ports, save those the hypervisor owns itself, to it (dom0).
    fn new_context(&self, hardware: bool) -> Result<Self::Context, OutOfHeap>;

    /// Enters guest mode, and returns at the next exit. `root` is the second-level table; `epoch` changes whenever
    /// translations were taken out of it, and the context forgets what it remembered of another epoch.
    fn enter(&self, context: &mut Self::Context, root: Mfn, epoch: u64) -> Exit;

    /// The address and data of a message that arrives at this host as [`HostInterrupt::Device`] with `slot`.
    /// Slots are 0 to [`DEVICE_SLOTS`] - 1.
    fn message(&self, slot: u8) -> Message;

    /// Routes an interrupt line to a slot, masked; `Err` when there is no such line.
    fn route_line(&self, line: u32, slot: u8) -> Result<(), NoSuchLine>;

    /// Lets a line's interrupt come once more. It is masked again when it comes.
    fn unmask_line(&self, line: u32);

    /// Writes to the hypervisor's console. Does not add a line end.
    fn console(&self, text: &[u8]);

    /// Takes bytes that were typed on the hypervisor's console; says how many.
    fn typed(&self, into: &mut [u8]) -> usize;

    /// Ends the machine. `ok` says whether the platform ended as wanted.
    fn power_off(&self, ok: bool) -> !;
}

/// Device interrupts that can be routed at one time.
pub const DEVICE_SLOTS: u8 = 64;

/// One answer of CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// An interrupt of the host that was taken, on the CPU that took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostInterrupt {
    /// The timer set by [`Machine::arm`].
    Timer,
    /// [`Machine::kick`].
    Kick,
    /// A device; the slot it was routed to.
    Device(u8),
}

/// A message-signalled interrupt as a device is programmed with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Where the device writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// The hypervisor's own heap is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfHeap;

impl From<OutOfHeap> for Errno {
    fn from(_: OutOfHeap) -> Self {
        Self::NoMem
    }
}

/// A slice on the heap, or the news that the heap is used up.
pub fn boxed<T>(length: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, OutOfHeap> {
    let mut slice = Vec::new();
    slice.try_reserve_exact(length).map_err(|_| OutOfHeap)?;
    slice.resize_with(length, make);
    Ok(slice.into_boxed_slice())
}

/// Whether the heap has room for a value: it is asked before what cannot fail, an `Arc` or a `Box`, is made.
pub fn has_room_for<T>() -> Result<(), OutOfHeap> {
    // An `Arc` has two counters beside its value.
    Vec::<u8>::new().try_reserve_exact(size_of::<T>() + 64).map_err(|_| OutOfHeap)
}

/// No such interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchLine;

/// How a guest's code is being executed right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeMode {
    /// Real or virtual-8086 mode: 16-bit.
    Real,
    /// Protected or compatibility mode with 16-bit default.
    Bits16,
    /// Protected or compatibility mode with 32-bit default.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// What the guest's processor can take right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interruptibility {
    /// RFLAGS.IF.
    pub interrupts_enabled: bool,
    /// STI or MOV SS holds interrupts for one instruction.
    pub shadow: bool,
    /// An NMI handler runs.
    pub nmi_blocked: bool,
    /// An event is already set for the next entry, because its delivery was cut off by the last exit or because
    /// [`Context::inject`] was called.
    pub event_set: bool,
}

/// An event for the guest's next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An external interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// An exception, with its error code if that vector has one.
    Exception(u8, Option<u32>),
}

/// One vCPU's registers, read lazily from and written lazily to the control block. They are there between
/// [`Context::switch_in`] and [`Context::switch_out`]; before, a state can be loaded and nothing else be asked.
pub trait Context: Send {
    /// A general-purpose register.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets one.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Bytes of the instruction that left the guest, where the processor says it.
    fn length(&self) -> Option<u8>;
    /// Sets the instruction pointer. Also ends an interrupt shadow, as completing an instruction does.
    fn set_rip(&mut self, value: u64);
    /// Flags.
    fn rflags(&self) -> u64;
    /// CR0 as the guest sees it.
    fn cr0(&self) -> u64;
    /// CR3.
    fn cr3(&self) -> u64;
    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64;
    /// EFER as the guest sees it.
    fn efer(&self) -> u64;
    /// Sets EFER after a checked write.
    fn set_efer(&mut self, value: u64);
    /// Sets CR2, before a page fault is injected.
    fn set_cr2(&mut self, value: u64);
    /// Privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// Code mode.
    fn mode(&self) -> CodeMode;
    /// Base of the code segment, 0 in 64-bit mode.
    fn code_base(&self) -> u64;
    /// What can be taken now.
    fn interruptibility(&self) -> Interruptibility;
    /// Sets the event of the next entry. The caller has checked [`Context::interruptibility`].
    fn inject(&mut self, event: Event);

    /// Asks for exits as soon as an interrupt, or an NMI, can be injected; or no longer does. Where the processor has no such exit
    /// for NMIs, the end of the handler is one anyway.
    fn set_windows(&mut self, interrupt: bool, nmi: bool);
    /// Guest TSC minus host TSC, modulo 2^64.
    fn set_tsc_offset(&mut self, offset: u64);
    /// An MSR that the context keeps itself (see `hypervisor::msr` for the policy); `None` if it is none of them.
    fn msr(&self, msr: u32) -> Option<u64>;
    /// Sets such an MSR; `None` if it is none of them or the value cannot be loaded (#GP).
    fn set_msr(&mut self, msr: u32, value: u64) -> Option<()>;
    /// XCR0 now. It is asked for and not remembered, because QEMU's SVM lets guests execute XSETBV without an exit.
    fn xcr0(&self) -> u64;
    /// Sets XCR0 after a checked XSETBV.
    fn set_xcr0(&mut self, value: u64);
    /// Completes an intercepted access to a control register with a value that was checked.
    fn set_control(&mut self, register: u8, value: u64);
    /// The whole state. Only while this CPU has the vCPU, since some of it is in the processor: between
    /// [`Context::switch_in`] and [`Context::switch_out`].
    fn save(&self) -> VcpuState;
    /// Replaces the whole state.
    fn load(&mut self, state: &VcpuState);
    /// Replaces what an instruction that was carried out elsewhere can change of a vCPU that is switched in: general and control
    /// registers, flags, segments and tables. The event of the next entry stays.
    fn update(&mut self, state: &VcpuState);
    /// Writes the control structure down for who looks for the rule that a refused entry breaks
    /// ([`trunnion_manual::write_state`]). Nothing where no processor refuses.
    fn write_entry_state(&self, _out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }
    /// This CPU is about to run the vCPU: loads what stays in the processor between exits (control block, extended state).
    fn switch_in(&mut self);
    /// This CPU is about to run another vCPU: saves what stays in the processor.
    fn switch_out(&mut self);
}

/// Why a guest left guest mode, in words both vendors share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The hypercall instruction of the processor's vendor. This and the instructions that follow are carried out by the
    /// core; [`Context::length`] says how long they are.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR of the MSR in ECX.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// HLT.
    Halt,
    /// XSETBV with ECX, EDX:EAX.
    Xsetbv,
    /// MOV to a control register: its number, and the value.
    ToControl(u8, u64),
    /// MOV from a control register.
    FromControl(u8, Gpr),
    /// CLTS.
    Clts,
    /// LMSW, with the value.
    Lmsw(u16),
    /// MOV to or from a debug register, which guests do not have: the number.
    Debug(u8),
    /// INVD or WBINVD: skipped.
    Cache,
    /// IN, OUT, INS or OUTS.
    Port(PortAccess),
    /// A guest-physical access that the second-level tables do not allow.
    Memory(SecondLevelFault),
    /// Too many PAUSEs in a row.
    Pause,
    /// An intercepted exception, not yet delivered.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, if the vector has one.
        error: Option<u32>,
        /// Faulting linear address, for a page fault.
        address: Gva,
    },
    /// The guest's processor shut down by a triple fault.
    TripleFault,
    /// A task switch, which is not carried out.
    TaskSwitch,
    /// A physical interrupt came; it is noted for [`Machine::take_interrupt`].
    Interrupt,
    /// The guest can take an interrupt now; the window is closed again.
    InterruptWindow,
    /// The guest can take an NMI now; the window is closed again.
    NmiWindow,
    /// The preemption timer ran out.
    Timer,
    /// The page-modification log is full.
    DirtyLogFull,
    /// Shutdown for another reason (INIT, machine check).
    Shutdown,
    /// The processor refused the state it was given; the vendor's error number. [`Context::write_entry_state`] says more.
    EntryRefused(u64),
    /// An instruction that guests of this platform do not have (VMX or SVM instructions, MONITOR, RSM, …): #UD.
    Forbidden,
    /// A reason the vendor folder does not know; the vendor's code.
    Unknown(u64),
}

impl Exit {
    /// Which counter it belongs to.
    pub const fn kind(&self) -> ExitKind {
        match self {
            Self::Hypercall => ExitKind::Hypercall,
            Self::Cpuid => ExitKind::Cpuid,
            Self::Rdmsr | Self::Wrmsr => ExitKind::Msr,
            Self::Halt => ExitKind::Halt,
            Self::Xsetbv => ExitKind::Xsetbv,
            Self::ToControl(..) | Self::FromControl(..) | Self::Clts | Self::Lmsw(_) => {
                ExitKind::ControlRegister
            }
            Self::Debug(_) => ExitKind::DebugRegister,
            Self::Port(_) => ExitKind::Port,
            Self::Memory(_) => ExitKind::Memory,
            Self::Pause => ExitKind::Pause,
            Self::Exception { .. } | Self::Forbidden => ExitKind::Exception,
            Self::TripleFault => ExitKind::TripleFault,
            Self::TaskSwitch => ExitKind::TaskSwitch,
            Self::Interrupt => ExitKind::Interrupt,
            Self::InterruptWindow => ExitKind::InterruptWindow,
            Self::NmiWindow => ExitKind::NmiWindow,
            Self::Timer => ExitKind::Timer,
            Self::DirtyLogFull => ExitKind::DirtyLogFull,
            Self::Shutdown => ExitKind::Shutdown,
            Self::EntryRefused(_) => ExitKind::EntryRefused,
            Self::Cache | Self::Unknown(_) => ExitKind::Unknown,
        }
    }
}

/// A port access as the processor decoded it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// True for IN and INS.
    pub read: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
    /// Instruction length; every processor gives it for port accesses.
    pub length: u8,
}

/// A second-level fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecondLevelFault {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// It was a write.
    pub write: bool,
    /// It was an instruction fetch.
    pub execute: bool,
    /// The address was the guest's own page-table walk, not the final access.
    pub walk: bool,
}

/// What the core decides after an exit. The run loop carries it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Enter the guest again.
    Resume,
    /// The vCPU can go on, but others should be looked at first.
    Reschedule,
    /// The vCPU waits: for an event, a timer, dom0 or for ever. Its run state says for what.
    Wait,
}

/// What the machine hands to the core at boot.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'a> {
    /// Regions of RAM that are free for the core to own: not the image, the heap or the boot tables. Page aligned,
    /// ascending, disjoint; the bundle is *inside* none of them.
    pub free: &'a [FrameRange],
    /// All RAM of the host, for dom0's view of bus addresses and for statistics. Page aligned, ascending.
    pub ram: &'a [FrameRange],
    /// What may be device memory, for dom0: neither RAM nor an interrupt controller is in it.
    pub device_windows: &'a [FrameRange],
    /// The bundle: the module the boot loader gave us.
    pub bundle: FrameRange,
    /// Bytes of the bundle inside that range, from its start.
    pub bundle_bytes: u64,
    /// dom0's ELF inside the bundle.
    pub dom0_image: &'a [u8],
    /// dom0's share of memory in bytes, from the command line; 0 is the default.
    pub dom0_memory: u64,
    /// The command line.
    pub command_line: &'a str,
    /// The firmware's RSDP, machine address, or 0.
    pub rsdp: u64,
    /// What the boot has logged so far.
    pub log: &'a [u8],
    /// Bytes the hypervisor's image, heap and tables hold.
    pub hypervisor_bytes: u64,
}

/// Machine frames `start` to `end` - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameRange {
    /// First frame.
    pub start: Mfn,
    /// One past the last.
    pub end: Mfn,
}
