//! A virtual CPU as the core knows it, and [`Running`], the handle of code that works for one right now.

use core::ops::Deref;

use crate::local::Local;
use crate::model::Question;
use crate::prelude::*;
use crate::report::Trail;
use crate::schedule::State;
use crate::time::Areas;
use crate::timers::VcpuTimers;
use crate::walk::{self, Paging, Remembered};

/// What one physical CPU at a time has of a vCPU.
pub struct Body<M: Machine> {
    /// Registers.
    pub context: M::Context,
    /// The last walk through its page tables.
    pub last: Remembered,
}

/// One virtual CPU.
pub struct Vcpu<M: Machine> {
    /// Its number in the domain.
    pub id: VcpuId,
    /// Its registers; `None` while a physical CPU has them.
    pub body: Lock<Option<Box<Body<M>>>>,
    /// What it does. Changed under its CPU's queue lock, read by anyone.
    pub state: State,
    /// Machine address of its info structure, in the shared info page or where the guest registered it.
    pub info: AtomicU64,
    /// The guest has registered it; the frame's reference belongs to this vCPU.
    pub info_registered: AtomicBool,
    /// The vector of upcalls through its local interrupt controller; 0 is none.
    pub upcall_vector: AtomicU32,
    /// Ports of the virtual interrupts bound to this vCPU; 0 is none.
    pub virqs: [AtomicU32; Virq::COUNT as usize],
    /// The port it polls, 0 for none, [`POLL_MANY`] for several.
    pub polled: AtomicU32,
    /// Its timers.
    pub timers: Lock<VcpuTimers>,
    /// Its local interrupt controller, and NMIs.
    pub local: Lock<Local>,
    /// Something changed that may have to be injected, or that a wake-up should look at; or a window is open.
    pub attention: AtomicBool,
    /// The vCPU stops instead of waiting for an event; set before [`Verdict::Wait`].
    pub going_down: AtomicBool,
    /// It was given a state once, so that `VCPUOP_up` can start it.
    pub started: AtomicBool,
    /// INIT has come, and no start-up IPI yet.
    pub waits_for_startup: AtomicBool,
    /// A window is open: an exit was asked for.
    pub window: AtomicBool,
    /// Areas that follow its run state and its clock.
    pub areas: Lock<Areas>,
    /// Its last exits, for crash reports.
    pub trail: Trail,
    /// What it has done.
    pub tally: Tally,
    /// It waits for its device model; set before [`Vcpu::attention`].
    pub asks: AtomicBool,
    /// For what.
    pub question: Lock<Question>,
}

/// [`Vcpu::polled`]: more than one port.
pub const POLL_MANY: u32 = u32::MAX;

impl<M: Machine> Vcpu<M> {
    /// A vCPU that is down, with its info structure in the shared info page.
    pub fn new(id: VcpuId, apic_id: u8, context: M::Context, info: u64) -> Self {
        let body = Box::new(Body { context, last: Remembered::new() });
        Self {
            id,
            body: Lock::new(Rank::Vcpu, Some(body)),
            state: State::default(),
            info: AtomicU64::new(info),
            info_registered: AtomicBool::new(false),
            upcall_vector: AtomicU32::new(0),
            virqs: [const { AtomicU32::new(0) }; Virq::COUNT as usize],
            polled: AtomicU32::new(0),
            timers: Lock::new(Rank::Timers, VcpuTimers::default()),
            local: Lock::new(Rank::Local, Local::new(apic_id)),
            attention: AtomicBool::new(true),
            going_down: AtomicBool::new(false),
            started: AtomicBool::new(false),
            waits_for_startup: AtomicBool::new(true),
            window: AtomicBool::new(false),
            areas: Lock::new(Rank::Local, Areas::default()),
            trail: Trail::default(),
            tally: Tally::default(),
            asks: AtomicBool::new(false),
            question: Lock::new(Rank::Local, Question::default()),
        }
    }

    /// Frame and offset of its info structure.
    pub fn info_place(&self) -> (Mfn, usize) {
        let address = self.info.load(Ordering::Acquire);
        (Mfn(address >> PAGE_SHIFT), address as usize & ((1 << PAGE_SHIFT) - 1))
    }

    /// The port of a virtual interrupt.
    pub fn virq(&self, virq: Virq) -> Option<Port> {
        let port = self.virqs.get(virq.0 as usize)?.load(Ordering::Acquire);
        (port != 0).then_some(Port(port))
    }
}

/// Counters of one vCPU. Only the CPU that runs it writes them; others read what may be a moment old.
#[derive(Default)]
pub struct Tally {
    exits: [[Counter; 3]; ExitKind::COUNT],
    hypercalls: [[Counter; 32]; 2],
    /// Events it sent.
    pub sent: Counter,
    /// Upcalls it took.
    pub delivered: Counter,
    /// Grants it mapped.
    pub mapped: Counter,
    /// Grants it unmapped.
    pub unmapped: Counter,
    /// Grant copies it made.
    pub copied: Counter,
    /// Nanoseconds it ran.
    pub ran: Counter,
}

/// A number that one CPU counts up. Adding is a load and a store, without a locked instruction.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Notes an exit that took `cycles` in the hypervisor.
    pub fn exit(&self, kind: ExitKind, cycles: u64) {
        if let Some([count, sum, longest]) = self.exits.get(kind.number() as usize) {
            count.add(1);
            sum.add(cycles);
            if cycles > longest.get() {
                longest.0.store(cycles, Ordering::Relaxed);
            }
        }
    }

    /// Notes a hypercall.
    pub fn hypercall(&self, number: u64) {
        if let Some(counter) = self.hypercalls.as_flattened().get(number as usize) {
            counter.add(1);
        }
    }

    /// Adds everything to a domain's counters.
    pub fn add_to(&self, counters: &mut DomainCounters) {
        for (to, [count, sum, longest]) in counters.exits.iter_mut().zip(&self.exits) {
            to.count += count.get();
            to.cycles += sum.get();
            to.longest = to.longest.max(longest.get());
        }
        for (to, from) in counters.hypercalls.iter_mut().zip(self.hypercalls.as_flattened()) {
            *to += from.get();
        }
        counters.events_sent += self.sent.get();
        counters.events_delivered += self.delivered.get();
        counters.grants_mapped += self.mapped.get();
        counters.grants_unmapped += self.unmapped.get();
        counters.grants_copied += self.copied.get();
        counters.cpu_ns += self.ran.get();
    }
}

/// Names one vCPU and keeps its domain alive.
pub struct VcpuRef<M: Machine> {
    /// The domain.
    pub domain: Arc<Domain<M>>,
    /// Which of its vCPUs; below their number.
    pub index: u32,
}

impl<M: Machine> Clone for VcpuRef<M> {
    fn clone(&self) -> Self {
        Self { domain: self.domain.clone(), index: self.index }
    }
}

impl<M: Machine> Deref for VcpuRef<M> {
    type Target = Vcpu<M>;

    fn deref(&self) -> &Vcpu<M> {
        self.domain.vcpus.get(self.index as usize).unwrap_or(&self.domain.vcpus[0])
    }
}

impl<M: Machine> VcpuRef<M> {
    /// True for the same vCPU of the same domain.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.domain, &other.domain) && self.index == other.index
    }
}

/// A vCPU while its CPU works for it: between an exit and the next entry.
pub struct Running<'a, M: Machine> {
    /// The host.
    pub host: &'a Host<M>,
    /// The domain.
    pub domain: &'a Arc<Domain<M>>,
    /// The vCPU.
    pub vcpu: &'a Vcpu<M>,
    /// Its registers, which this CPU has to itself.
    pub context: &'a mut M::Context,
    /// The last walk through its page tables.
    pub last: &'a mut Remembered,
}

impl<M: Machine> Running<'_, M> {
    /// System time.
    pub fn now(&self) -> HostTime {
        self.host.machine.now()
    }

    /// The vCPU, named.
    pub fn name(&self) -> VcpuRef<M> {
        VcpuRef { domain: self.domain.clone(), index: self.vcpu.id.0 }
    }

    /// The guest's memory as its present paging mode shows it to a supervisor, for `work`.
    pub fn with_memory<R>(&mut self, work: impl FnOnce(&mut walk::Memory<'_, DomainSpace<'_, M>>) -> R) -> R {
        let space = DomainSpace { host: self.host, domain: self.domain };
        let paging = Paging::of(self.context);
        work(&mut walk::Memory::new(&space, paging, self.last))
    }

    /// Reads a structure.
    pub fn get<T: Layout>(&mut self, width: Width, from: Gva) -> Result<T, Errno> {
        Ok(self.with_memory(|memory| memory.get(width, from))?)
    }

    /// Writes a structure.
    pub fn put<T: Layout>(&mut self, width: Width, to: Gva, value: &T) -> Result<(), Errno> {
        Ok(self.with_memory(|memory| memory.put(width, to, value))?)
    }

    /// Reads a word of a width.
    pub fn get_word(&mut self, width: Width, from: Gva) -> Result<u64, Errno> {
        Ok(self.with_memory(|memory| memory.get_word(width, from))?)
    }

    /// Reads bytes.
    pub fn read(&mut self, from: Gva, into: &mut [u8]) -> Result<(), Errno> {
        Ok(self.with_memory(|memory| memory.read(from, into))?)
    }

    /// Writes bytes.
    pub fn write(&mut self, to: Gva, bytes: &[u8]) -> Result<(), Errno> {
        Ok(self.with_memory(|memory| memory.write(to, bytes))?)
    }

    /// Reads a plain structure, of one form for all callers.
    pub fn get_plain<T: FromBytes + IntoBytes>(&mut self, from: Gva) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a plain structure.
    pub fn put_plain<T: IntoBytes + Immutable>(&mut self, to: Gva, value: &T) -> Result<(), Errno> {
        self.write(to, value.as_bytes())
    }
}
