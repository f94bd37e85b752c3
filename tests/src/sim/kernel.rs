//! The kernel of a simulated domain: memory, hypercalls, event dispatch, the shipped executor.
//!
//! It stands where `trunnion-guest` stands on a real machine, and implements the front ends' `Platform`. Structures of
//! hypercalls lie in the domain's own memory behind page tables that the kernel has built there, registers are set as the
//! convention wants, and the call goes through the core's exit handling.

mod calls;
mod clock;
mod events;
mod memory;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use trunnion_guest::executor::{Executor, Spawner};
use trunnion_hypervisor::seam::{Context, Exit, Machine};
use trunnion_hypervisor::walk::Remembered;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::Gpr;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::{self, Callback, Param, ParamArgument};
use trunnion_protocol::hypercall::memory::{self as physmap, AddToPhysmap, Space};
use trunnion_protocol::hypercall::vcpu::{self as vcpu_call, HvmContext64, MODE_64};
use trunnion_protocol::hypercall::{Hypercall, event, sched};
use trunnion_protocol::id::{DomainId, Port, VcpuId, Virq};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;

pub use events::Listener;
pub use memory::Pages;

use events::Slot;
use memory::{RUN, Ram, SCRATCH};

use super::machine::{Domain, Host, Program, SimContext, Vcpu, install, uninstall};
use super::shared::Shared;

/// The vector of upcalls.
const UPCALL: u8 = 0xf3;
/// Where free guest-physical space begins: 3 GiB.
const HOLES: u64 = 0xc0000;

/// The kernel's side of a vCPU.
struct Side {
    context: SimContext,
    last: RefCell<Remembered>,
    /// A call of its turn has put it to sleep.
    waits: Cell<bool>,
}

/// What runs on a vCPU: its kernel's turn.
struct Turns(Rc<Kernel>, usize);

impl Program for Turns {
    fn turn(&self) -> Exit {
        self.0.current.set(self.1);
        self.0.turn()
    }
}

/// The kernel.
pub struct Kernel {
    /// The host below.
    pub host: Arc<Host>,
    /// The domain that it runs in.
    pub domain: Arc<Domain>,
    /// The world around.
    pub shared: Rc<Shared>,
    sides: Vec<Side>,
    /// The vCPU whose turn it is.
    current: Cell<usize>,
    memory: Arc<[SharedPage]>,
    /// What pages show once the domain has lost them.
    graveyard: Rc<[SharedPage]>,
    dead: Rc<Cell<bool>>,
    doomed: Cell<bool>,
    ram: Rc<RefCell<Ram>>,
    holes: Cell<u64>,
    scratch: Cell<u64>,
    info: Cell<Option<usize>>,
    slots: RefCell<Vec<Slot>>,
    lost: RefCell<Vec<Port>>,
    timers: RefCell<Vec<Port>>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    executor: RefCell<Executor>,
    /// Adds tasks.
    pub spawner: Spawner,
}

impl Kernel {
    /// A kernel for all vCPUs of a domain, with `pages` frames of RAM from `first` on for its own use. It runs once
    /// [`Kernel::boot`] has been called and the first vCPU is up.
    pub fn new(
        host: &Arc<Host>,
        domain: &Arc<Domain>,
        shared: &Rc<Shared>,
        first: u64,
        pages: usize,
    ) -> Rc<Self> {
        let side = |vcpu: &Vcpu| {
            let mut body = vcpu.body.lock();
            let context = body.as_mut().expect("the vCPU has not run yet").context.clone();
            Side { context, last: RefCell::new(Remembered::new()), waits: Cell::new(false) }
        };
        let executor = Executor::new();
        let kernel = Rc::new(Self {
            host: Arc::clone(host),
            domain: Arc::clone(domain),
            shared: Rc::clone(shared),
            sides: domain.vcpus.iter().map(side).collect(),
            current: Cell::new(0),
            memory: Arc::clone(host.machine.memory()),
            graveyard: (0..RUN).map(|_| SharedPage::zeroed()).collect(),
            dead: Rc::default(),
            doomed: Cell::new(false),
            ram: Rc::new(RefCell::new(Ram { first, free: vec![true; pages] })),
            holes: Cell::new(HOLES),
            scratch: Cell::new(0),
            info: Cell::new(None),
            slots: RefCell::default(),
            lost: RefCell::default(),
            timers: RefCell::default(),
            sleepers: RefCell::default(),
            spawner: executor.spawner(),
            executor: RefCell::new(executor),
        });
        for (index, side) in kernel.sides.iter().enumerate() {
            install(side.context.id(), Rc::new(Turns(Rc::clone(&kernel), index)));
        }
        kernel
    }

    /// The domain's number.
    pub fn id(&self) -> DomainId {
        self.domain.id
    }

    fn side(&self) -> &Side {
        &self.sides[self.current.get()]
    }

    /// Switches to long mode with paging, places the shared info page, asks for upcalls, starts the other vCPUs. To be
    /// called on the first vCPU's first turn.
    pub fn boot(&self) -> Result<(), Errno> {
        let take = |count| self.take_pages(count).ok_or(Errno::NoMem);
        let (root, scratch) = (take(2)?, take(SCRATCH)?);
        self.scratch.set(scratch);
        // One entry in the root; eight leaves of 1 GiB.
        let tables = [root, root + 1].map(|gfn| self.page(Gfn(gfn)).ok_or(Errno::Fault));
        let [top, next] = tables;
        let _ = top?.store(0, &((root + 1) << 12 | 3));
        for gigabyte in 0..8u64 {
            let _ = next?.store(gigabyte as usize * 8, &(gigabyte << 30 | 0x83));
        }
        self.side().context.change(|state| {
            state.cr3 = root << 12;
            state.cr4 |= 1 << 5;
            state.efer |= 1 << 8 | 1 << 10;
            state.cr0 |= 1 << 31;
            state.rflags |= 1 << 9;
        });
        let gfn = self.take_holes(1);
        let mut add = AddToPhysmap {
            domain: DomainId::SELF,
            size: 0,
            space: Space::SharedInfo.number(),
            index: 0,
            gfn,
        };
        self.with(Hypercall::MemoryOp, physmap::Op::AddToPhysmap.number().into(), &mut add)?;
        self.info.set(Some(self.frame(gfn).ok_or(Errno::Fault)?.0 as usize));
        let callback = Callback::Vector(UPCALL).encode();
        let mut argument =
            ParamArgument { domain: DomainId::SELF, index: Param::CallbackIrq.number(), value: callback };
        self.with(Hypercall::HvmOp, hvm::Op::SetParam.number().into(), &mut argument)?;
        for vcpu in 0..self.sides.len() as u32 {
            let mut bind = event::BindVirq { virq: Virq::TIMER, vcpu: VcpuId(vcpu), port: Port(0) };
            self.with(Hypercall::EventChannelOp, event::Op::BindVirq.number().into(), &mut bind)?;
            self.timers.borrow_mut().push(bind.port);
        }
        (1..self.sides.len() as u64).try_for_each(|vcpu| self.start_vcpu(vcpu, root << 12))
    }

    /// Starts another vCPU in the first one's address space.
    fn start_vcpu(&self, vcpu: u64, cr3: u64) -> Result<(), Errno> {
        let state = HvmContext64 {
            mode: MODE_64,
            rflags: 1 << 9 | 2,
            cr0: 1 << 31 | 1,
            cr3,
            cr4: 1 << 5,
            efer: 1 << 8 | 1 << 10,
            ..HvmContext64::default()
        };
        let mut bytes = HvmContext64::ZEROED;
        state.encode(Width::W64, bytes.as_mut()).ok_or(Errno::Inval)?;
        let address = self.lend(0, bytes.as_ref()).ok_or(Errno::Fault)?;
        for (operation, argument) in [(vcpu_call::Op::Initialise, address.0), (vcpu_call::Op::Up, 0)] {
            let number = Hypercall::VcpuOp.number();
            Errno::from_return(self.raw(number, [operation.number().into(), vcpu, argument, 0, 0]))?;
        }
        Ok(())
    }

    /// Whether the domain has ended for this kernel.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Makes the domain's next turn its last: it ends by a triple fault, wherever its tasks are.
    pub fn doom(&self) {
        self.doomed.set(true);
    }

    /// Ends the kernel: its tasks are dropped, what they hold is no longer the domain's memory.
    pub fn bury(&self) {
        if self.dead.replace(true) {
            return;
        }
        self.sides.iter().for_each(|side| uninstall(side.context.id()));
        let tasks = self.executor.replace(Executor::new());
        self.slots.borrow_mut().clear();
        self.sleepers.borrow_mut().clear();
        drop(tasks);
    }

    /// The first vCPU's start-of-day value of a register.
    pub fn register(&self, register: Gpr) -> u64 {
        self.sides[0].context.gpr(register)
    }

    /// Leaves the CPU to whoever the world chooses next.
    fn interrupted(&self) -> Exit {
        self.host.cpu(self.host.machine.this_cpu()).queue.pick_again();
        Exit::Interrupt
    }

    fn turn(&self) -> Exit {
        if self.doomed.get() {
            self.shared.note(self.id().0, "dies", [0; 3]);
            self.bury();
            return Exit::TripleFault;
        }
        self.side().context.take_event();
        let late = self.is_ready() && self.shared.permille(self.shared.faults.get().delayed);
        if late {
            self.shared.strike(|struck| struck.delayed += 1);
        } else if self.upcall_waits() {
            self.dispatch();
        }
        let tasks = 1 + self.shared.below(3) as usize;
        self.executor.borrow_mut().poll(tasks);
        if !self.domain.may_run() {
            self.bury();
            return self.interrupted();
        }
        if !self.side().waits.replace(false) && (self.is_ready() || self.upcall_waits()) {
            return self.interrupted();
        }
        self.side().context.change(|state| {
            state.gpr[Gpr::Rax as usize] = Hypercall::SchedOp.number().into();
            state.gpr[Gpr::Rdi as usize] = sched::Op::Block.number().into();
            state.gpr[Gpr::Rsi as usize] = 0;
        });
        Exit::Hypercall
    }
}
