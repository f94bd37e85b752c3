//! A machine made of vectors: what host tests and the simulation run the core on.
//!
//! Guest code is a Rust closure, a [`Script`]: each entry calls it with the vCPU's registers, and it returns the exit. Time
//! stands still unless a test moves it.

pub mod audit;
pub mod faults;
pub(crate) mod order;

use core::cell::Cell;
use std::boxed::Box;
use std::collections::VecDeque;
use std::string::String;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use trunnion_protocol::address::Mfn;
use trunnion_protocol::control::{Gpr, VcpuState};
use trunnion_protocol::hypercall::page::Opcode;
use trunnion_protocol::shared::SharedPage;

use crate::seam::{
    BootInfo, CodeMode, Context, Cpu, CpuidResult, EntryFormat, Event, Exit, FrameRange, HostInterrupt,
    HostTime, Interruptibility, Machine, Message, NoSuchLine, OutOfHeap,
};

/// Guest code: what the vCPU does until its next exit.
pub type Script = Box<dyn FnMut(&mut FakeContext) -> Exit + Send>;

/// Memory of the machine, time, interrupts, console.
pub struct FakeMachine {
    pages: Vec<SharedPage>,
    now: AtomicU64,
    armed: AtomicU64,
    interrupts: Mutex<VecDeque<HostInterrupt>>,
    scripts: Mutex<Vec<(u64, Script)>>,
    contexts: AtomicU64,
    console: Mutex<String>,
    keyboard: Mutex<VecDeque<u8>>,
    /// Contexts that can still be made; for running out.
    pub heap_left: AtomicU64,
}

static FORMAT: EntryFormat = trunnion_manual::svm::paging::format(true);

/// Ticks of the fake TSC in a nanosecond: one, so the two clocks agree.
const TSC_KHZ: u64 = 1_000_000;
/// Unix time at the fake machine's start, in nanoseconds.
pub const WALL_CLOCK: u64 = 1_700_000_000_000_000_000;

impl FakeMachine {
    /// A machine with `frames` frames of RAM.
    pub fn new(frames: usize) -> Self {
        Self {
            pages: (0..frames).map(|_| SharedPage::zeroed()).collect(),
            now: AtomicU64::new(1_000_000),
            armed: AtomicU64::new(u64::MAX),
            interrupts: Mutex::new(VecDeque::new()),
            scripts: Mutex::new(Vec::new()),
            contexts: AtomicU64::new(0),
            console: Mutex::new(String::new()),
            keyboard: Mutex::new(VecDeque::new()),
            heap_left: AtomicU64::new(u64::MAX),
        }
    }

    /// What a boot of this machine with no bundle says: frame 0 is reserved.
    pub fn boot_ranges(&self) -> [FrameRange; 2] {
        let end = Mfn(self.pages.len() as u64);
        [FrameRange { start: Mfn(0), end }, FrameRange { start: Mfn(1), end }]
    }

    /// The boot information of [`FakeMachine::boot_ranges`].
    pub fn boot(ranges: &[FrameRange; 2]) -> BootInfo<'_> {
        let [ram, free] = ranges;
        BootInfo {
            free: core::slice::from_ref(free),
            ram: core::slice::from_ref(ram),
            device_windows: &[],
            bundle: FrameRange::default(),
            bundle_bytes: 0,
            dom0_image: &[],
            dom0_memory: 0,
            command_line: "",
            rsdp: 0,
            log: &[],
            hypervisor_bytes: 0,
        }
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::SeqCst);
    }

    /// When the timer is to fire.
    pub fn armed(&self) -> Option<HostTime> {
        let armed = self.armed.load(Ordering::SeqCst);
        (armed != u64::MAX).then_some(HostTime(armed))
    }

    /// A device or the timer interrupts.
    pub fn interrupt(&self, interrupt: HostInterrupt) {
        if let Ok(mut interrupts) = self.interrupts.lock() {
            interrupts.push_back(interrupt);
        }
    }

    /// The code of the vCPU whose context was made as number `context`, from 0.
    pub fn script(&self, context: u64, script: Script) {
        if let Ok(mut scripts) = self.scripts.lock() {
            scripts.retain(|(number, _)| *number != context);
            scripts.push((context, script));
        }
    }

    /// Contexts made so far: the number the next one gets.
    pub fn contexts(&self) -> u64 {
        self.contexts.load(Ordering::SeqCst)
    }

    /// Somebody types on the console.
    pub fn press(&self, keys: &[u8]) {
        if let Ok(mut keyboard) = self.keyboard.lock() {
            keyboard.extend(keys);
        }
    }

    /// What was written to the console.
    pub fn console_text(&self) -> String {
        self.console.lock().map(|text| text.clone()).unwrap_or_default()
    }
}

impl Machine for FakeMachine {
    type Context = FakeContext;

    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        self.pages.get(usize::try_from(frame.0).ok()?)
    }
    fn format(&self) -> &'static EntryFormat {
        &FORMAT
    }
    fn opcode(&self) -> Opcode {
        Opcode::Vmmcall
    }
    fn this_cpu(&self) -> Cpu {
        Cpu(0)
    }
    fn cpus(&self) -> u32 {
        1
    }
    fn now(&self) -> HostTime {
        HostTime(self.now.load(Ordering::SeqCst))
    }
    fn tsc(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }
    fn tsc_khz(&self) -> u64 {
        TSC_KHZ
    }
    fn tsc_is_stable(&self) -> bool {
        true
    }
    fn wall_clock_base(&self) -> u64 {
        WALL_CLOCK
    }
    fn kick(&self, _: Cpu) {}
    fn arm(&self, deadline: Option<HostTime>) {
        self.armed.store(deadline.map_or(u64::MAX, |deadline| deadline.0), Ordering::SeqCst);
    }
    /// Time jumps to the timer's deadline, as on an emulator that does not sleep.
    fn idle(&self) {
        if let Some(deadline) = self.armed() {
            self.now.fetch_max(deadline.0, Ordering::SeqCst);
            self.armed.store(u64::MAX, Ordering::SeqCst);
            self.interrupt(HostInterrupt::Timer);
        }
    }
    fn take_interrupt(&self) -> Option<HostInterrupt> {
        if self.armed().is_some_and(|deadline| deadline <= self.now()) {
            self.armed.store(u64::MAX, Ordering::SeqCst);
            return Some(HostInterrupt::Timer);
        }
        self.interrupts.lock().ok()?.pop_front()
    }
    fn cpuid(&self, leaf: u32, _: u32) -> CpuidResult {
        // A small AMD processor with long mode and no-execute.
        match leaf {
            0 => CpuidResult { eax: 1, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
            1 => CpuidResult { eax: 0x0080_0f12, ebx: 0, ecx: 0, edx: 0x078b_fbff },
            0x8000_0000 => CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() },
            0x8000_0001 => CpuidResult { edx: 0x2810_0800, ..CpuidResult::default() },
            0x8000_0008 => CpuidResult { eax: 0x3028, ..CpuidResult::default() },
            _ => CpuidResult::default(),
        }
    }
    fn new_context(&self, _: bool) -> Result<FakeContext, OutOfHeap> {
        self.heap_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .map_err(|_| OutOfHeap)?;
        Ok(FakeContext::new(self.contexts.fetch_add(1, Ordering::SeqCst)))
    }
    fn enter(&self, context: &mut FakeContext, _: Mfn, _: u64) -> Exit {
        if let Some(Event::Interrupt(vector)) = context.event.take() {
            context.taken.push(vector);
            context.state.rflags &= !IF;
        }
        // The script is taken out while it runs, so that it can be replaced from inside.
        let script = self.scripts.lock().ok().and_then(|mut scripts| {
            let at = scripts.iter().position(|(number, _)| *number == context.number)?;
            Some(scripts.swap_remove(at))
        });
        let Some((number, mut script)) = script else { return Exit::Halt };
        let exit = script(context);
        if let Ok(mut scripts) = self.scripts.lock()
            && !scripts.iter().any(|(other, _)| *other == number)
        {
            scripts.push((number, script));
        }
        exit
    }
    fn message(&self, slot: u8) -> Message {
        Message { address: 0xfee0_0000, data: 0x30 + u32::from(slot) }
    }
    fn route_line(&self, line: u32, _: u8) -> Result<(), NoSuchLine> {
        if line < 24 { Ok(()) } else { Err(NoSuchLine) }
    }
    fn unmask_line(&self, _: u32) {}
    fn console(&self, text: &[u8]) {
        if let Ok(mut console) = self.console.lock() {
            console.push_str(&String::from_utf8_lossy(text));
        }
    }
    fn typed(&self, into: &mut [u8]) -> usize {
        let Ok(mut keyboard) = self.keyboard.lock() else { return 0 };
        let count = into.len().min(keyboard.len());
        for (to, from) in into.iter_mut().zip(keyboard.drain(..count)) {
            *to = from;
        }
        count
    }
    fn power_off(&self, ok: bool) -> ! {
        panic!("the machine is off, as wanted: {ok}")
    }
}

const IF: u64 = 1 << 9;

/// Registers as plain data.
pub struct FakeContext {
    /// All of them.
    pub state: VcpuState,
    /// The event of the next entry.
    pub event: Option<Event>,
    /// Vectors that the guest took, in order.
    pub taken: Vec<u8>,
    /// An interrupt window is asked for.
    pub window: Cell<bool>,
    /// What the processor says of instructions.
    pub length: Option<u8>,
    number: u64,
    tsc_offset: u64,
}

impl FakeContext {
    fn new(number: u64) -> Self {
        Self {
            state: VcpuState::default(),
            event: None,
            taken: Vec::new(),
            window: Cell::new(false),
            length: Some(3),
            number,
            tsc_offset: 0,
        }
    }

    /// Asks for a hypercall in the convention of the present mode. The exit goes back to the core.
    pub fn hypercall(&mut self, number: u32, arguments: &[u64]) -> Exit {
        self.state.gpr[Gpr::Rax as usize] = u64::from(number);
        let registers = if self.mode() == CodeMode::Bits64 {
            [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8]
        } else {
            [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi, Gpr::Rdi]
        };
        for (index, register) in registers.into_iter().enumerate() {
            self.state.gpr[register as usize] = arguments.get(index).copied().unwrap_or(0);
        }
        Exit::Hypercall
    }
}

impl FakeContext {
    /// Switches between 64-bit and 32-bit code, at a privilege level.
    pub fn set_mode(&mut self, long: bool, cpl: u8) {
        self.state.efer = if long { 1 << 10 } else { 0 };
        self.state.cs.attributes = if long { 0xa9b } else { 0xc9b };
        self.state.cr0 |= 0x11;
        self.state.ss.attributes = 0xc93 | u16::from(cpl & 3) << 5;
    }
}

impl Context for FakeContext {
    fn gpr(&self, register: Gpr) -> u64 {
        self.state.gpr[register as usize]
    }
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.state.gpr[register as usize] = value;
    }
    fn rip(&self) -> u64 {
        self.state.rip
    }
    fn length(&self) -> Option<u8> {
        self.length
    }
    fn set_rip(&mut self, value: u64) {
        self.state.rip = value;
        self.state.interruptibility &= !3;
    }
    fn rflags(&self) -> u64 {
        self.state.rflags
    }
    fn cr0(&self) -> u64 {
        self.state.cr0
    }
    fn cr3(&self) -> u64 {
        self.state.cr3
    }
    fn cr4(&self) -> u64 {
        self.state.cr4
    }
    fn efer(&self) -> u64 {
        self.state.efer
    }
    fn set_efer(&mut self, value: u64) {
        self.state.efer = value;
    }
    fn set_cr2(&mut self, value: u64) {
        self.state.cr2 = value;
    }
    fn cpl(&self) -> u8 {
        (self.state.ss.attributes >> 5 & 3) as u8
    }
    fn mode(&self) -> CodeMode {
        if self.state.efer >> 10 & 1 != 0 && self.state.cs.attributes >> 9 & 1 != 0 {
            CodeMode::Bits64
        } else if self.state.cr0 & 1 == 0 {
            CodeMode::Real
        } else if self.state.cs.attributes >> 10 & 1 != 0 {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        }
    }
    fn code_base(&self) -> u64 {
        if self.mode() == CodeMode::Bits64 { 0 } else { self.state.cs.base }
    }
    fn interruptibility(&self) -> Interruptibility {
        Interruptibility {
            interrupts_enabled: self.state.rflags & IF != 0,
            shadow: self.state.interruptibility & 3 != 0,
            nmi_blocked: self.state.interruptibility & 4 != 0,
            event_set: self.event.is_some(),
        }
    }
    fn inject(&mut self, event: Event) {
        self.event = Some(event);
    }
    fn set_windows(&mut self, interrupt: bool, _: bool) {
        self.window.set(interrupt);
    }
    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }
    fn msr(&self, msr: u32) -> Option<u64> {
        match msr {
            0xc000_0081 => Some(self.state.star),
            0xc000_0082 => Some(self.state.lstar),
            0x277 => Some(self.state.pat),
            _ => None,
        }
    }
    fn set_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let slot = match msr {
            0xc000_0081 => &mut self.state.star,
            0xc000_0082 => &mut self.state.lstar,
            0x277 => &mut self.state.pat,
            _ => return None,
        };
        *slot = value;
        Some(())
    }
    fn xcr0(&self) -> u64 {
        self.state.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.state.xcr0 = value;
    }
    fn set_control(&mut self, register: u8, value: u64) {
        match register {
            0 => self.state.cr0 = value,
            3 => self.state.cr3 = value,
            _ => self.state.cr4 = value,
        }
    }
    fn save(&self) -> VcpuState {
        self.state
    }
    fn load(&mut self, state: &VcpuState) {
        self.state = *state;
        self.event = None;
    }
    fn update(&mut self, state: &VcpuState) {
        self.state = *state;
    }
    fn switch_in(&mut self) {}
    fn switch_out(&mut self) {}
}
