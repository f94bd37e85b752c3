//! For tests: a machine made of vectors, and a world of one dom0 and some guests on it whose exits a test invents.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use alloc::sync::Arc;
use trunnion_protocol::address::{Gfn, Mfn};
use trunnion_protocol::control::{Gpr, VcpuState};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::page::Opcode;
use trunnion_protocol::id::VcpuId;
use trunnion_protocol::shared::SharedPage;

use crate::create::{self, Wanted};
use crate::domain::Domain;
use crate::exit;
use crate::frames::FrameKind;
use crate::host::Host;
use crate::life;
use crate::memory;
use crate::seam::{
    BootInfo, CodeMode, Context, Cpu, CpuidResult, EntryFormat, Event, Exit, FrameRange, HostInterrupt,
    HostTime, Interruptibility, Machine, Message, NoSuchLine, OutOfHeap, Verdict,
};
use crate::second_level::tests::NPT;
use crate::second_level::{Kind, Rights, Run};
use crate::vcpu::Running;

/// A machine without instructions.
pub(crate) struct FakeMachine {
    memory: Vec<SharedPage>,
    pub(crate) time: AtomicU64,
    interrupts: Mutex<VecDeque<HostInterrupt>>,
}

impl Machine for FakeMachine {
    type Context = FakeContext;

    fn page(&self, frame: Mfn) -> Option<&SharedPage> {
        self.memory.get(usize::try_from(frame.0).ok()?)
    }
    fn format(&self) -> &'static EntryFormat {
        &NPT
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
        HostTime(self.time.fetch_add(100, Ordering::Relaxed))
    }
    fn tsc(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }
    fn tsc_khz(&self) -> u64 {
        1_000_000
    }
    fn tsc_is_stable(&self) -> bool {
        true
    }
    fn wall_clock_base(&self) -> u64 {
        1_600_000_000_000_000_000
    }
    fn kick(&self, _: Cpu) {}
    fn arm(&self, _: Option<HostTime>) {}
    fn idle(&self) {}
    fn take_interrupt(&self) -> Option<HostInterrupt> {
        self.interrupts.lock().unwrap().pop_front()
    }
    fn cpuid(&self, leaf: u32, _: u32) -> CpuidResult {
        match leaf {
            0 => CpuidResult { eax: 0xd, ..CpuidResult::default() },
            0x8000_0000 => CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() },
            _ => CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        }
    }
    fn new_context(&self, _: bool) -> Result<FakeContext, OutOfHeap> {
        Ok(FakeContext::default())
    }
    fn enter(&self, _: &mut FakeContext, _: Mfn, _: u64) -> Exit {
        Exit::Interrupt
    }
    fn message(&self, slot: u8) -> Message {
        Message { address: 0xfee0_0000, data: u32::from(slot) }
    }
    fn route_line(&self, line: u32, _: u8) -> Result<(), NoSuchLine> {
        if line < 16 { Ok(()) } else { Err(NoSuchLine) }
    }
    fn unmask_line(&self, _: u32) {}
    fn console(&self, _: &[u8]) {}
    fn power_off(&self, ok: bool) -> ! {
        panic!("power off, {ok}")
    }
}

/// Registers in a structure.
#[derive(Default)]
pub(crate) struct FakeContext {
    pub(crate) state: VcpuState,
    pub(crate) event: Option<Event>,
    pub(crate) long: bool,
    pub(crate) cpl: u8,
    pub(crate) bytes: Vec<u8>,
}

impl FakeContext {
    /// The registers of a call without arguments.
    pub(crate) fn set_gprs(&mut self, call: Hypercall) {
        self.state.gpr = [0; 16];
        self.state.gpr[Gpr::Rax as usize] = u64::from(call.number());
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
    fn set_rip(&mut self, value: u64) {
        self.state.rip = value;
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
        self.cpl
    }
    fn mode(&self) -> CodeMode {
        if self.long { CodeMode::Bits64 } else { CodeMode::Bits32 }
    }
    fn code_base(&self) -> u64 {
        0
    }
    fn interruptibility(&self) -> Interruptibility {
        Interruptibility {
            interrupts_enabled: self.state.rflags & 0x200 != 0,
            event_set: self.event.is_some(),
            ..Interruptibility::default()
        }
    }
    fn inject(&mut self, event: Event) {
        self.event = Some(event);
    }
    fn set_interrupt_window(&mut self, _: bool) {}
    fn set_nmi_window(&mut self, _: bool) {}
    fn set_tsc_offset(&mut self, _: u64) {}
    fn msr(&self, msr: u32) -> Option<u64> {
        (msr == 0x277).then_some(self.state.pat)
    }
    fn set_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        (msr == 0x277).then(|| self.state.pat = value)
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
            4 => self.state.cr4 = value,
            _ => {}
        }
    }
    fn instruction_bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn save(&self) -> VcpuState {
        self.state
    }
    fn load(&mut self, state: &VcpuState) {
        self.state = *state;
    }
    fn switch_in(&mut self) {}
    fn switch_out(&mut self) {}
}

/// A domain of the world.
pub(crate) type Guest = Arc<Domain<FakeMachine>>;

/// One host with dom0, in which tests make guests.
pub(crate) struct World {
    pub(crate) host: Host<FakeMachine>,
    pub(crate) dom0: Guest,
    /// dom0's memory: frames from here on, [`World::DOM0_PAGES`] of them.
    pub(crate) dom0_memory: Mfn,
}

impl World {
    /// Pages of dom0.
    pub(crate) const DOM0_PAGES: u64 = 64;

    /// A host with so many frames.
    pub(crate) fn new(frames: usize) -> Self {
        let all = [FrameRange { start: Mfn(0), end: Mfn(frames as u64) }];
        let free = [FrameRange { start: Mfn(1), end: Mfn(frames as u64) }];
        let machine = FakeMachine {
            memory: (0..frames).map(|_| SharedPage::zeroed()).collect(),
            time: AtomicU64::new(1_000_000),
            interrupts: Mutex::default(),
        };
        let boot = BootInfo {
            free: &free,
            ram: &all,
            device_windows: &[],
            bundle: FrameRange::default(),
            bundle_bytes: 0,
            dom0_image: (0, 0),
            dom0_memory: 0,
            command_line: "",
            rsdp: 0,
            hypervisor_bytes: 0,
        };
        let host = Host::new(machine, &boot).unwrap();
        let wanted = Wanted {
            id: Some(trunnion_protocol::id::DomainId::DOM0),
            vcpus: 1,
            max_pages: u64::MAX,
            uuid: [0; 16],
            name: create::name("dom0"),
            privileged: true,
        };
        let dom0 = create::create(&host, &wanted).unwrap();
        let run = host.allocate(6, dom0.id, FrameKind::Ram).unwrap();
        let mut pool = host.table_pool(dom0.id);
        let leaf = Run {
            gfn: Gfn(run.start.0),
            mfn: run.start,
            count: Self::DOM0_PAGES,
            rights: Rights::all(),
            kind: Kind::Ram,
        };
        {
            let mut memory = dom0.memory.lock();
            memory.tables.map(&host.machine, &mut pool, leaf).unwrap();
            memory.tables.prepare(&host.machine, &mut pool, Gfn(0), frames as u64).unwrap();
        }
        Self { host, dom0, dom0_memory: run.start }
    }

    /// A guest with memory at its frames 0 to `pages` - 1, of one vCPU that is up.
    pub(crate) fn guest(&self, pages: u64) -> Guest {
        let wanted = Wanted {
            id: None,
            vcpus: 2,
            max_pages: pages + 16,
            uuid: [1; 16],
            name: create::name("guest"),
            privileged: false,
        };
        let guest = create::create(&self.host, &wanted).unwrap();
        for page in 0..pages {
            memory::populate(&self.host, &guest, Gfn(page), 0).unwrap();
        }
        guest
    }

    /// The frame behind a guest's page.
    pub(crate) fn frame(&self, guest: &Guest, gfn: u64) -> Option<Mfn> {
        guest.memory.lock().tables.lookup(&self.host.machine, Gfn(gfn)).map(|leaf| leaf.mfn)
    }

    /// A guest's page.
    pub(crate) fn page(&self, guest: &Guest, gfn: u64) -> &SharedPage {
        self.host.machine.page(self.frame(guest, gfn).unwrap()).unwrap()
    }

    /// Works for a vCPU as its CPU does between an exit and the next entry.
    pub(crate) fn run<R>(
        &self,
        guest: &Guest,
        vcpu: u32,
        work: impl FnOnce(&mut Running<'_, FakeMachine>) -> R,
    ) -> R {
        let vcpu = guest.vcpu(VcpuId(vcpu)).unwrap();
        let mut body = vcpu.body.lock().take().unwrap();
        let result = {
            let body = &mut *body;
            work(&mut Running {
                host: &self.host,
                domain: guest,
                vcpu,
                context: &mut body.context,
                last: &mut body.last,
            })
        };
        *vcpu.body.lock() = Some(body);
        result
    }

    /// A hypercall by 64-bit code with paging off, repeated as long as it continues itself.
    pub(crate) fn call(&self, guest: &Guest, call: Hypercall, arguments: &[u64]) -> i64 {
        self.run(guest, 0, |running| {
            running.context.long = true;
            running.context.cpl = 0;
            running.context.state.rip = 0x1000;
            running.context.state.cr0 = 0x11;
            running.context.set_gpr(Gpr::Rax, u64::from(call.number()));
            for (register, &value) in
                [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8].into_iter().zip(arguments)
            {
                running.context.set_gpr(register, value);
            }
            for _ in 0..10_000 {
                let verdict = exit::handle(running, Exit::Hypercall { length: Some(3) });
                if running.context.rip() != 0x1000 {
                    return running.context.gpr(Gpr::Rax) as i64;
                }
                assert_eq!(verdict, Verdict::Resume, "a call that continues itself");
            }
            panic!("a hypercall that never ends");
        })
    }

    /// Destroys a guest, step by step. What others still hold stays.
    pub(crate) fn destroy(&self, guest: Guest) {
        for _ in 0..1000 {
            if life::destroy_step(&self.host, &guest).unwrap() {
                drop(guest);
                return;
            }
        }
        panic!("a destruction that never ends");
    }
}
