//! A small host with dom0, and guests with 2 MiB each. Paging is off, so guest pointers are guest-physical.

use std::sync::Arc;

use trunnion_protocol::address::{Gfn, Gpa, Mfn, PAGE_SIZE};
use trunnion_protocol::control::{CreateDomain, Gpr, Operation, VcpuState};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::layout::{Layout, Width};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::create;
use crate::domain::Domain;
use crate::exit;
use crate::fake::{FakeContext, FakeMachine};
use crate::host::Host;
use crate::run::CpuLoop;
use crate::seam::{Cpu, Exit, Machine, Verdict};
use crate::vcpu::{Body, Running, VcpuRef};
use crate::{life, memory, start};

pub(super) type Guest = Arc<Domain<FakeMachine>>;

/// Guest-physical address that tests use for arguments.
pub(super) const AT: u64 = 0x1000;
/// And a second one.
pub(super) const OTHER: u64 = 0x2000;
/// Pages of a guest.
pub(super) const PAGES: u64 = 512;

pub(super) struct World {
    pub(super) host: Host<FakeMachine>,
    pub(super) dom0: Guest,
    /// First address of dom0's memory.
    pub(super) base: u64,
    pub(super) cpu: std::sync::Mutex<CpuLoop<FakeMachine>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_frames(8192)
    }

    pub(super) fn with_frames(frames: usize) -> Self {
        let machine = FakeMachine::new(frames);
        let ranges = machine.boot_ranges();
        let host = Host::new(machine, &FakeMachine::boot(&ranges)).unwrap();
        let dom0 = create::dom0(&host, 1 << 20).unwrap();
        let runs = dom0.give_memory(&host, 2 << 20).unwrap();
        let base = runs[0].start.address().0;
        let world = Self { host, dom0, base, cpu: std::sync::Mutex::new(CpuLoop::with_exits(Cpu(0), 4)) };
        world.load(&world.dom0, 0, &long_mode());
        world
    }

    fn load(&self, domain: &Guest, vcpu: u32, state: &VcpuState) {
        start::load(&self.host, &VcpuRef { domain: domain.clone(), index: vcpu }, state, true).unwrap();
    }

    /// A guest with memory and its first vCPU up, in 64-bit mode, still paused.
    pub(super) fn guest(&self, vcpus: u32) -> Guest {
        self.guest_of(vcpus, 1024)
    }

    /// As [`World::guest`], with a limit of its memory in pages.
    pub(super) fn guest_of(&self, vcpus: u32, max_pages: u64) -> Guest {
        let wanted = CreateDomain {
            domain: 0,
            flags: 0,
            vcpus,
            max_pages,
            uuid: [7; 16],
            name: create::name("guest"),
        };
        let domain = create::create(&self.host, &wanted).unwrap();
        while domain.map(&self.host).populate(Gfn(0), 9) == Err(Errno::Restart) {}
        assert_eq!(self.host.frames.owned(domain.id), PAGES as u32);
        self.load(&domain, 0, &long_mode());
        domain
    }

    pub(super) fn unpause(&self, domain: &Guest) {
        life::unpause(&self.host, domain).unwrap();
    }

    /// Lets an exit happen on a vCPU, as the run loop does.
    pub(super) fn exit(
        &self,
        domain: &Guest,
        vcpu: usize,
        exit: impl FnOnce(&mut FakeContext) -> Exit,
    ) -> Verdict {
        let vcpu = &domain.vcpus[vcpu];
        let mut body = vcpu.body.lock().take().expect("the registers are there");
        let Body { context, last } = &mut *body;
        let exit = exit(context);
        let mut running = Running { host: &self.host, domain, vcpu, context, last };
        let verdict = exit::handle(&mut running, &exit);
        *vcpu.body.lock() = Some(body);
        verdict
    }

    /// Makes a hypercall on vCPU 0 until it is done.
    pub(super) fn call(&self, domain: &Guest, call: Hypercall, arguments: &[u64]) -> Result<u64, Errno> {
        self.call_on(domain, 0, call, arguments).0
    }

    pub(super) fn call_on(
        &self,
        domain: &Guest,
        vcpu: usize,
        call: Hypercall,
        arguments: &[u64],
    ) -> (Result<u64, Errno>, Verdict) {
        let rip = self.register(domain, vcpu, |state| state.rip);
        let mut verdict = self.exit(domain, vcpu, |context| context.hypercall(call.number(), arguments));
        for _ in 0..100_000 {
            if self.register(domain, vcpu, |state| state.rip) != rip {
                let value = self.register(domain, vcpu, |state| state.gpr[Gpr::Rax as usize]);
                let value = if self.is_narrow(domain, vcpu) { i64::from(value as i32) } else { value as i64 };
                return (Errno::from_return(value), verdict);
            }
            verdict = self.exit(domain, vcpu, |_| Exit::Hypercall);
        }
        panic!("{call:?} does not end");
    }

    fn is_narrow(&self, domain: &Guest, vcpu: usize) -> bool {
        self.register(domain, vcpu, |state| state.efer >> 10 & 1 == 0)
    }

    pub(super) fn register<R>(
        &self,
        domain: &Guest,
        vcpu: usize,
        get: impl FnOnce(&mut VcpuState) -> R,
    ) -> R {
        get(&mut domain.vcpus[vcpu].body.lock().as_mut().unwrap().context.state)
    }

    /// Makes a hypercall with one structure at the usual place; gives the structure afterwards.
    pub(super) fn with<T: Layout>(
        &self,
        domain: &Guest,
        call: Hypercall,
        op: u32,
        argument: T,
    ) -> Result<T, Errno> {
        let at = self.at(domain);
        self.put(domain, at, &argument);
        self.call(domain, call, &[u64::from(op), at])?;
        Ok(self.get(domain, at))
    }

    /// A control call of dom0 with its structure.
    pub(super) fn control<T: IntoBytes + FromBytes + Immutable>(
        &self,
        operation: Operation,
        argument: &T,
    ) -> Result<T, Errno> {
        let at = self.at(&self.dom0);
        self.write(&self.dom0, at, argument.as_bytes());
        self.call(&self.dom0, Hypercall::Arch0, &[operation.number(), at])?;
        let mut value = T::new_zeroed();
        self.read(&self.dom0, at, value.as_mut_bytes());
        Ok(value)
    }

    /// Where a domain's tests keep arguments.
    pub(super) fn at(&self, domain: &Guest) -> u64 {
        if domain.is_privileged() { self.base + AT } else { AT }
    }

    pub(super) fn width(&self, domain: &Guest) -> Width {
        if self.is_narrow(domain, 0) { Width::W32 } else { Width::W64 }
    }

    pub(super) fn put<T: Layout>(&self, domain: &Guest, at: u64, value: &T) {
        let mut bytes = T::ZEROED;
        let width = self.width(domain);
        value.encode(width, bytes.as_mut()).unwrap();
        self.write(domain, at, &bytes.as_ref()[..T::size(width)]);
    }

    pub(super) fn get<T: Layout>(&self, domain: &Guest, at: u64) -> T {
        let mut bytes = T::ZEROED;
        let width = self.width(domain);
        self.read(domain, at, &mut bytes.as_mut()[..T::size(width)]);
        T::decode(width, bytes.as_ref()).unwrap()
    }

    pub(super) fn mfn(&self, domain: &Guest, gfn: Gfn) -> Option<Mfn> {
        memory::lookup(&self.host, domain, gfn).map(|(held, _)| held.mfn())
    }

    pub(super) fn write(&self, domain: &Guest, at: u64, bytes: &[u8]) {
        let mut at = at;
        for chunk in bytes.chunks(64) {
            for (offset, byte) in chunk.iter().enumerate() {
                let gpa = Gpa(at + offset as u64);
                let mfn = self.mfn(domain, gpa.frame()).expect("memory");
                self.host.machine.page(mfn).unwrap().copy_in(gpa.page_offset(), &[*byte]).unwrap();
            }
            at += chunk.len() as u64;
        }
    }

    pub(super) fn read(&self, domain: &Guest, at: u64, into: &mut [u8]) {
        for (offset, byte) in into.iter_mut().enumerate() {
            let gpa = Gpa(at + offset as u64);
            let mfn = self.mfn(domain, gpa.frame()).expect("memory");
            let mut one = [0];
            self.host.machine.page(mfn).unwrap().copy_out(gpa.page_offset(), &mut one).unwrap();
            *byte = one[0];
        }
    }

    /// A 32-bit word of the shared info page.
    pub(super) fn shared(&self, domain: &Guest, offset: usize) -> u32 {
        self.host.machine.page(domain.shared_info).unwrap().load(offset).unwrap()
    }

    pub(super) fn set_shared(&self, domain: &Guest, offset: usize, value: u32) {
        self.host.machine.page(domain.shared_info).unwrap().store(offset, &value).unwrap();
    }

    /// Turns of the run loop, waiting when it is idle; at most `turns`.
    pub(super) fn run(&self, turns: usize) {
        let mut cpu = self.cpu.lock().unwrap();
        for _ in 0..turns {
            if cpu.step(&self.host) == crate::run::Step::Idle {
                cpu.idle(&self.host);
            }
        }
        cpu.unload();
    }

    /// Ends a domain and checks that nothing is left of it.
    pub(super) fn destroy(&self, domain: Guest) {
        let id = domain.id;
        drop(domain);
        let reference = trunnion_protocol::control::DomainRef { domain: id.0, pad: [0; 3] };
        self.control(Operation::DestroyDomain, &reference).unwrap();
        assert!(self.host.domain(id).is_none(), "{id} is gone");
        assert_eq!(self.host.frames.all_owned(id), 0);
    }
}

/// 64-bit code with paging off, which no processor has, but which spares tests page tables.
pub(super) fn long_mode() -> VcpuState {
    let mut state = VcpuState::pvh(0x10_0000, 0);
    state.efer = 1 << 10 | 1 << 8;
    state.cs.attributes = 0xa9b;
    state.rflags = 0x202;
    state
}

/// A page number as an address.
pub(super) const fn page(number: u64) -> u64 {
    number * PAGE_SIZE as u64
}
