//! The machine made of vectors: [`Machine`] and [`Context`] for the shipped core.
//!
//! Memory is a slice of shared pages, a CPU is a queue of interrupts and a deadline, and entering a guest means polling
//! the [`Program`] that runs on the context. A guest's hypercalls are encoded in its own memory and registers and go
//! through the core's exit handling, in the middle of its turn.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use trunnion_hypervisor::seam::{
    CodeMode, Context, Cpu, CpuidResult, EntryFormat, Event, Exit, HostInterrupt, HostTime, Interruptibility,
    Machine, Message, NoSuchLine, OutOfHeap,
};
use trunnion_protocol::address::Mfn;
use trunnion_protocol::control::{Gpr, VcpuState};
use trunnion_protocol::hypercall::page::Opcode;
use trunnion_protocol::shared::SharedPage;

/// The host that the simulation runs.
pub type Host = trunnion_hypervisor::host::Host<SimMachine>;
/// One of its domains.
pub type Domain = trunnion_hypervisor::domain::Domain<SimMachine>;
/// One of their vCPUs.
pub type Vcpu = trunnion_hypervisor::vcpu::Vcpu<SimMachine>;

/// What runs in a guest.
pub trait Program {
    /// One entry: the guest runs for a while, and leaves for this reason.
    fn turn(&self) -> Exit;
}

thread_local! {
    /// Programs by the context that they run on.
    static PROGRAMS: RefCell<BTreeMap<u64, Rc<dyn Program>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Lets a program run on a context.
pub fn install(context: u64, program: Rc<dyn Program>) {
    PROGRAMS.with_borrow_mut(|programs| programs.insert(context, program));
}

/// Takes the program of a context away.
pub fn uninstall(context: u64) {
    let program = PROGRAMS.with_borrow_mut(|programs| programs.remove(&context));
    drop(program);
}

/// Nested paging's entries (APM 15.25.5).
static FORMAT: EntryFormat = EntryFormat {
    table: 7,
    leaf: 5,
    device_leaf: 0x1d,
    write: 2,
    execute: 0,
    no_execute: 1 << 63,
    large: 1 << 7,
    present_mask: 1,
    largest_leaf: 2,
};

#[derive(Default)]
struct CpuState {
    interrupts: VecDeque<HostInterrupt>,
    deadline: Option<HostTime>,
}

/// The machine.
pub struct SimMachine {
    memory: Arc<[SharedPage]>,
    cpus: Vec<Mutex<CpuState>>,
    this: AtomicU32,
    now: AtomicU64,
    contexts: AtomicU64,
    /// So many contexts from now on cannot be made, counted down; 0 is none.
    refused_contexts: AtomicU32,
}

/// Frames for a machine: those of the thread's last one, since a thread has one world at a time. What they hold is of no
/// account: the core scrubs a frame before anybody gets it.
fn memory(frames: usize) -> Arc<[SharedPage]> {
    thread_local! {
        static LAST: RefCell<Option<Arc<[SharedPage]>>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some(memory) if memory.len() == frames => Arc::clone(memory),
        _ => {
            let memory: Arc<[SharedPage]> = (0..frames).map(|_| SharedPage::zeroed()).collect();
            *last = Some(Arc::clone(&memory));
            memory
        }
    })
}

impl SimMachine {
    /// A machine with so many frames and CPUs.
    pub fn new(frames: usize, cpus: u32) -> Self {
        Self {
            memory: memory(frames),
            cpus: (0..cpus).map(|_| Mutex::default()).collect(),
            this: AtomicU32::new(0),
            now: AtomicU64::new(1_000_000),
            contexts: AtomicU64::new(1),
            refused_contexts: AtomicU32::new(0),
        }
    }

    /// All frames.
    pub fn memory(&self) -> &Arc<[SharedPage]> {
        &self.memory
    }

    /// Chooses the CPU that executes from now on.
    pub fn switch_to(&self, cpu: u32) {
        self.this.store(cpu, Ordering::Relaxed);
    }

    /// Lets time pass; timers that are due are noted.
    pub fn advance(&self, ns: u64) {
        let now = HostTime(self.now.fetch_add(ns, Ordering::Relaxed) + ns);
        for cpu in &self.cpus {
            let mut cpu = lock(cpu);
            if cpu.deadline.is_some_and(|deadline| deadline <= now) {
                cpu.deadline = None;
                cpu.interrupts.push_back(HostInterrupt::Timer);
            }
        }
    }

    /// The earliest deadline of any CPU.
    pub fn next_deadline(&self) -> Option<HostTime> {
        self.cpus.iter().filter_map(|cpu| lock(cpu).deadline).min()
    }

    /// Whether an interrupt is noted that nobody has taken.
    pub fn is_interrupted(&self) -> bool {
        self.cpus.iter().any(|cpu| !lock(cpu).interrupts.is_empty())
    }

    /// A device's interrupt arrives at a CPU.
    pub fn interrupt(&self, cpu: u32, interrupt: HostInterrupt) {
        if let Some(mut state) = self.cpu(Cpu(cpu))
            && !state.interrupts.contains(&interrupt)
        {
            state.interrupts.push_back(interrupt);
        }
    }

    /// The next context cannot be made.
    pub fn refuse_context(&self) {
        self.refused_contexts.store(1, Ordering::Relaxed);
    }

    fn cpu(&self, cpu: Cpu) -> Option<MutexGuard<'_, CpuState>> {
        self.cpus.get(cpu.0 as usize).map(lock)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Machine for SimMachine {
    type Context = SimContext;

    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        self.memory.get(usize::try_from(frame.0).ok()?)
    }
    fn format(&self) -> &'static EntryFormat {
        &FORMAT
    }
    fn opcode(&self) -> Opcode {
        Opcode::Vmmcall
    }
    fn this_cpu(&self) -> Cpu {
        Cpu(self.this.load(Ordering::Relaxed))
    }
    fn cpus(&self) -> u32 {
        self.cpus.len() as u32
    }
    fn now(&self) -> HostTime {
        HostTime(self.now.load(Ordering::Relaxed))
    }
    fn tsc(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn tsc_khz(&self) -> u64 {
        1_000_000
    }
    fn tsc_is_stable(&self) -> bool {
        true
    }
    fn wall_clock_base(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn kick(&self, cpu: Cpu) {
        if let Some(mut state) = self.cpu(cpu)
            && !state.interrupts.contains(&HostInterrupt::Kick)
        {
            state.interrupts.push_back(HostInterrupt::Kick);
        }
    }
    fn arm(&self, deadline: Option<HostTime>) {
        let now = self.now();
        if let Some(mut state) = self.cpu(self.this_cpu()) {
            state.deadline = deadline;
            if deadline.is_some_and(|deadline| deadline <= now) {
                state.deadline = None;
                state.interrupts.push_back(HostInterrupt::Timer);
            }
        }
    }
    fn idle(&self) {}
    fn take_interrupt(&self) -> Option<HostInterrupt> {
        self.cpu(self.this_cpu())?.interrupts.pop_front()
    }
    fn cpuid(&self, _: u32, _: u32) -> CpuidResult {
        CpuidResult::default()
    }
    fn new_context(&self, _: bool) -> Result<SimContext, OutOfHeap> {
        if self.refused_contexts.swap(0, Ordering::Relaxed) != 0 {
            return Err(OutOfHeap);
        }
        let id = self.contexts.fetch_add(1, Ordering::Relaxed);
        Ok(SimContext { id, registers: Arc::default() })
    }
    fn enter(&self, context: &mut SimContext, _root: Mfn, _epoch: u64) -> Exit {
        let program = PROGRAMS.with_borrow(|programs| programs.get(&context.id).cloned());
        match program {
            Some(program) => program.turn(),
            None => Exit::Unknown(context.id),
        }
    }
    fn message(&self, slot: u8) -> Message {
        Message { address: 0xfee0_0000, data: u32::from(slot) }
    }
    fn route_line(&self, _: u32, _: u8) -> Result<(), NoSuchLine> {
        Err(NoSuchLine)
    }
    fn unmask_line(&self, _: u32) {}
    fn console(&self, _: &[u8]) {}
    fn typed(&self, _: &mut [u8]) -> usize {
        0
    }
    fn power_off(&self, ok: bool) -> ! {
        panic!("the machine was powered off, ok: {ok}")
    }
}

/// The registers of a context.
#[derive(Default)]
struct Registers {
    state: VcpuState,
    event: Option<Event>,
    window: bool,
}

/// One vCPU's registers. A copy names the same registers: the running program has one.
#[derive(Clone)]
pub struct SimContext {
    id: u64,
    registers: Arc<Mutex<Registers>>,
}

impl SimContext {
    /// Names the context.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Changes the state as the guest itself does.
    pub fn change(&self, change: impl FnOnce(&mut VcpuState)) {
        change(&mut lock(&self.registers).state);
    }

    /// Takes the interrupt that was injected.
    pub fn take_event(&self) -> Option<Event> {
        lock(&self.registers).event.take()
    }

    fn get(&self) -> MutexGuard<'_, Registers> {
        lock(&self.registers)
    }
}

impl Context for SimContext {
    fn gpr(&self, register: Gpr) -> u64 {
        self.get().state.gpr[register as usize]
    }
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.get().state.gpr[register as usize] = value;
    }
    fn rip(&self) -> u64 {
        self.get().state.rip
    }
    fn length(&self) -> Option<u8> {
        Some(3)
    }
    fn set_rip(&mut self, value: u64) {
        self.get().state.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.get().state.rflags
    }
    fn cr0(&self) -> u64 {
        self.get().state.cr0
    }
    fn cr3(&self) -> u64 {
        self.get().state.cr3
    }
    fn cr4(&self) -> u64 {
        self.get().state.cr4
    }
    fn efer(&self) -> u64 {
        self.get().state.efer
    }
    fn set_efer(&mut self, value: u64) {
        self.get().state.efer = value;
    }
    fn set_cr2(&mut self, value: u64) {
        self.get().state.cr2 = value;
    }
    fn cpl(&self) -> u8 {
        0
    }
    fn mode(&self) -> CodeMode {
        if self.get().state.efer & 1 << 10 != 0 { CodeMode::Bits64 } else { CodeMode::Bits32 }
    }
    fn code_base(&self) -> u64 {
        0
    }
    fn interruptibility(&self) -> Interruptibility {
        let registers = self.get();
        Interruptibility {
            interrupts_enabled: registers.state.rflags & 1 << 9 != 0,
            event_set: registers.event.is_some(),
            ..Interruptibility::default()
        }
    }
    fn inject(&mut self, event: Event) {
        self.get().event = Some(event);
    }
    fn set_windows(&mut self, interrupt: bool, _: bool) {
        self.get().window = interrupt;
    }
    fn set_tsc_offset(&mut self, _: u64) {}
    fn msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn set_msr(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }
    fn xcr0(&self) -> u64 {
        self.get().state.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.get().state.xcr0 = value;
    }
    fn set_control(&mut self, register: u8, value: u64) {
        let state = &mut self.get().state;
        match register {
            0 => state.cr0 = value,
            3 => state.cr3 = value,
            4 => state.cr4 = value,
            _ => {}
        }
    }
    fn save(&self) -> VcpuState {
        self.get().state
    }
    fn load(&mut self, state: &VcpuState) {
        self.get().state = *state;
    }
    fn update(&mut self, state: &VcpuState) {
        self.load(state);
    }
    fn switch_in(&mut self) {}
    fn switch_out(&mut self) {}
}
