//! The kernel of a simulated domain: memory, hypercalls, event dispatch, the shipped executor.
//!
//! It stands where `trunnion-guest` stands on a real machine, and implements the front ends' [`Platform`]. Structures of
//! hypercalls lie in the domain's own memory behind page tables that the kernel has built there, registers are set as the
//! convention wants, and the call goes through the core's exit handling.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker};

use trunnion_frontends::platform::{Argument, Gfns, NotMapped, OutOfMemory, Platform, RawCall};
use trunnion_guest::executor::{Executor, Spawner};
use trunnion_hypervisor::exit;
use trunnion_hypervisor::seam::{Context, Exit, Instruction, Machine, Verdict};
use trunnion_hypervisor::vcpu::Running;
use trunnion_hypervisor::walk::Remembered;
use trunnion_protocol::address::{Gfn, Gpa, Gva, Mfn, PAGE_SIZE};
use trunnion_protocol::control::Gpr;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::event::selected_words;
use trunnion_protocol::hypercall::hvm::{self, Callback, Param, ParamArgument};
use trunnion_protocol::hypercall::memory::{self, AddToPhysmap, Space};
use trunnion_protocol::hypercall::{Hypercall, event, sched, vcpu as vcpu_call};
use trunnion_protocol::id::{DomainId, Port, VcpuId, Virq};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::shared_info::{PENDING, mask, vcpu};

use super::machine::{Domain, Host, Program, SimContext, install, uninstall};
use super::shared::Shared;

/// Pages that a hypercall's structures are put into.
const SCRATCH: usize = 4;
/// The vector of upcalls.
const UPCALL: u8 = 0xf3;
/// Most pages of one allocation.
const RUN: usize = 64;
/// Re-executions of one hypercall that are still bounded work.
const CONTINUATIONS: u32 = 100_000;
/// Where free guest-physical space begins: 3 GiB.
const HOLES: u64 = 0xc0000;

#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    fired: bool,
    life: u32,
}

/// RAM that the kernel gives out.
struct Ram {
    first: u64,
    free: Vec<bool>,
}

impl Ram {
    fn take(&mut self, count: usize, good: impl Fn(u64) -> bool) -> Option<u64> {
        let mut from = 0;
        while from + count <= self.free.len() {
            match self.free[from..from + count].iter().rposition(|free| !free) {
                Some(used) => from += used + 1,
                None if !good(self.first + from as u64) => from += 1,
                None => {
                    self.free[from..from + count].fill(false);
                    return Some(self.first + from as u64);
                }
            }
        }
        None
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
    context: SimContext,
    last: RefCell<Remembered>,
    memory: Arc<[SharedPage]>,
    /// What pages show once the domain has lost them.
    graveyard: Rc<[SharedPage]>,
    dead: Rc<Cell<bool>>,
    doomed: Cell<bool>,
    waits: Cell<bool>,
    ram: Rc<RefCell<Ram>>,
    holes: Cell<u64>,
    scratch: Cell<u64>,
    info: Cell<Option<usize>>,
    slots: RefCell<Vec<Slot>>,
    lost: RefCell<Vec<Port>>,
    timer: Cell<Port>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    executor: RefCell<Executor>,
    /// Adds tasks.
    pub spawner: Spawner,
}

impl Kernel {
    /// A kernel for the domain's first vCPU, with `pages` frames of RAM from `first` on for its own use. It runs once
    /// [`Kernel::boot`] has been called and the vCPU is up.
    pub fn new(
        host: &Arc<Host>,
        domain: &Arc<Domain>,
        shared: &Rc<Shared>,
        first: u64,
        pages: usize,
    ) -> Rc<Self> {
        let context = {
            let mut body = domain.vcpus[0].body.lock();
            body.as_mut().expect("the vCPU has not run yet").context.clone()
        };
        let executor = Executor::new();
        let kernel = Rc::new(Self {
            host: Arc::clone(host),
            domain: Arc::clone(domain),
            shared: Rc::clone(shared),
            context,
            last: RefCell::new(Remembered::new()),
            memory: Arc::clone(host.machine.memory()),
            graveyard: (0..RUN).map(|_| SharedPage::zeroed()).collect(),
            dead: Rc::default(),
            doomed: Cell::new(false),
            waits: Cell::new(false),
            ram: Rc::new(RefCell::new(Ram { first, free: vec![true; pages] })),
            holes: Cell::new(HOLES),
            scratch: Cell::new(0),
            info: Cell::new(None),
            slots: RefCell::default(),
            lost: RefCell::default(),
            timer: Cell::new(Port(0)),
            sleepers: RefCell::default(),
            spawner: executor.spawner(),
            executor: RefCell::new(executor),
        });
        install(kernel.context.id(), Rc::clone(&kernel) as Rc<dyn Program>);
        kernel
    }

    /// The domain's number.
    pub fn id(&self) -> DomainId {
        self.domain.id
    }

    /// Switches to long mode with paging, places the shared info page, asks for upcalls. To be called on the vCPU's
    /// first turn.
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
        self.context.change(|state| {
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
        self.with(Hypercall::MemoryOp, memory::Op::AddToPhysmap.number().into(), &mut add)?;
        self.info.set(Some(self.frame(gfn).ok_or(Errno::Fault)?.0 as usize));
        let callback = Callback::Vector(UPCALL).encode();
        let mut argument =
            ParamArgument { domain: DomainId::SELF, index: Param::CallbackIrq.number(), value: callback };
        self.with(Hypercall::HvmOp, hvm::Op::SetParam.number().into(), &mut argument)?;
        let mut bind = event::BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
        self.with(Hypercall::EventChannelOp, event::Op::BindVirq.number().into(), &mut bind)?;
        self.timer.set(bind.port);
        Ok(())
    }

    /// The machine frame behind one of the domain's frames.
    pub fn frame(&self, gfn: Gfn) -> Option<Mfn> {
        self.domain.memory.lock().tables.lookup(&self.host.machine, gfn).map(|leaf| leaf.mfn)
    }

    /// The page behind one of the domain's frames.
    pub fn page(&self, gfn: Gfn) -> Option<&SharedPage> {
        self.memory.get(self.frame(gfn)?.0 as usize)
    }

    /// Memory of the host by frame number: what dom0 finds at the address equal to it.
    pub const fn host_memory(&self) -> &Arc<[SharedPage]> {
        &self.memory
    }

    fn take_pages(&self, count: usize) -> Option<u64> {
        if count == 0 || count > RUN {
            return None;
        }
        let adjacent = |first: u64| {
            let frame = |index: u64| self.frame(Gfn(first + index)).map(|mfn| mfn.0);
            frame(0).is_some_and(|mfn| (0..count as u64).all(|index| frame(index) == Some(mfn + index)))
        };
        self.ram.borrow_mut().take(count, adjacent)
    }

    fn take_holes(&self, count: u64) -> Gfn {
        Gfn(self.holes.replace(self.holes.get() + count))
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
        uninstall(self.context.id());
        let tasks = self.executor.replace(Executor::new());
        self.slots.borrow_mut().clear();
        self.sleepers.borrow_mut().clear();
        drop(tasks);
    }

    /// A hypercall with plain register values.
    pub fn raw(&self, number: u32, arguments: [u64; 5]) -> i64 {
        if self.dead.get() || !self.domain.may_run() {
            return Errno::Srch.into();
        }
        self.context.change(|state| {
            state.gpr[Gpr::Rax as usize] = number.into();
            for (register, value) in
                [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::R10, Gpr::R8].into_iter().zip(arguments)
            {
                state.gpr[register as usize] = value;
            }
        });
        for _ in 0..CONTINUATIONS {
            let before = self.context.rip();
            let verdict = self.leave(Exit::Instruction(Instruction::Hypercall, Some(3)));
            if verdict == Verdict::Wait {
                self.waits.set(true);
            }
            if self.context.rip() != before || !self.domain.may_run() {
                let result = self.context.gpr(Gpr::Rax) as i64;
                self.shared.note(self.id().0, "hypercall", [number.into(), arguments[0], result as u64]);
                return result;
            }
        }
        self.shared.complain(format!("domain {}: hypercall {number} does not get on", self.id()));
        Errno::Io.into()
    }

    /// Leaves guest mode for a reason, and has the core deal with it.
    fn leave(&self, exit: Exit) -> Verdict {
        let mut context = self.context.clone();
        let mut last = self.last.borrow_mut();
        let mut running = Running {
            host: &self.host,
            domain: &self.domain,
            vcpu: &self.domain.vcpus[0],
            context: &mut context,
            last: &mut last,
        };
        exit::handle(&mut running, exit)
    }

    /// A hypercall with an operation and a structure, as the front ends make it.
    pub fn with<T: Layout>(&self, number: Hypercall, operation: u64, value: &mut T) -> Result<u64, Errno> {
        let mut bytes = T::ZEROED;
        value.encode(Width::W64, bytes.as_mut()).ok_or(Errno::Inval)?;
        let mut arguments = [Argument::Value(operation), Argument::Memory(bytes.as_mut())];
        let result = self.hypercall(RawCall { number: number.number(), arguments: &mut arguments });
        *value = T::decode(Width::W64, bytes.as_ref()).ok_or(Errno::Inval)?;
        Errno::from_return(result)
    }

    /// Puts bytes into the scratch pages at an offset; their address.
    pub fn lend(&self, offset: usize, bytes: &[u8]) -> Option<Gva> {
        self.each(offset, bytes.len(), |page, at, range| page.copy_in(at, &bytes[range]).ok())?;
        Some(Gva((self.scratch.get() << 12) + offset as u64))
    }

    /// Takes bytes back from there.
    pub fn back(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let length = into.len();
        self.each(offset, length, |page, at, range| page.copy_out(at, &mut into[range]).ok())
    }

    fn each(
        &self,
        offset: usize,
        length: usize,
        mut copy: impl FnMut(&SharedPage, usize, std::ops::Range<usize>) -> Option<()>,
    ) -> Option<()> {
        if offset + length > SCRATCH * PAGE_SIZE {
            return None;
        }
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let count = (length - done).min(PAGE_SIZE - at % PAGE_SIZE);
            let page = self.page(Gfn(self.scratch.get() + (at / PAGE_SIZE) as u64))?;
            copy(page, at % PAGE_SIZE, done..done + count)?;
            done += count;
        }
        Some(())
    }

    /// Reads bytes of the domain's memory.
    pub fn peek(&self, at: Gpa, into: &mut [u8]) -> bool {
        let mut done = 0;
        while done < into.len() {
            let here = at.0 + done as u64;
            let offset = here as usize % PAGE_SIZE;
            let count = (into.len() - done).min(PAGE_SIZE - offset);
            let copied =
                self.page(Gfn(here >> 12)).map(|page| page.copy_out(offset, &mut into[done..done + count]));
            if !matches!(copied, Some(Ok(()))) {
                return false;
            }
            done += count;
        }
        true
    }

    /// The start-of-day value of a register.
    pub fn register(&self, register: Gpr) -> u64 {
        self.context.gpr(register)
    }

    fn slot<R>(&self, port: Port, act: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let mut slots = self.slots.borrow_mut();
        let index = port.0 as usize;
        if index >= 4096 {
            return None;
        }
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        slots.get_mut(index).map(act)
    }

    /// Marks a port as having fired, and wakes who waits.
    fn fire(&self, port: Port) {
        let waker = self.slot(port, |slot| {
            slot.fired = true;
            slot.waker.clone()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
        if port == self.timer.get() {
            self.wake_sleepers();
        }
    }

    /// Hears one port's events.
    pub fn listener(self: &Rc<Self>, port: Port) -> Listener {
        let life = self.slot(port, |slot| slot.life).unwrap_or(0);
        Listener { kernel: Rc::clone(self), port, life }
    }

    /// Closes a port; its listeners end.
    pub fn close(&self, port: Port) -> Result<(), Errno> {
        let waker = self.slot(port, |slot| {
            slot.life = slot.life.wrapping_add(1);
            slot.fired = false;
            slot.waker.take()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
        let mut argument = event::PortArgument { port };
        self.with(Hypercall::EventChannelOp, event::Op::Close.number().into(), &mut argument).map(drop)
    }

    /// Notifies the other end.
    pub fn send(&self, port: Port) {
        let mut argument = event::PortArgument { port };
        let operation = event::Op::Send.number().into();
        let _ = self.with(Hypercall::EventChannelOp, operation, &mut argument);
        if self.shared.permille(self.shared.faults.get().doubled) {
            self.shared.strike(|struck| struck.doubled += 1);
            let _ = self.with(Hypercall::EventChannelOp, operation, &mut argument);
        }
    }

    /// Kicks that were lost come again. True if there were any.
    pub fn kick_again(&self) -> bool {
        let lost = std::mem::take(&mut *self.lost.borrow_mut());
        for &port in &lost {
            self.fire(port);
        }
        !lost.is_empty() && !self.dead.get()
    }

    /// Whether tasks are ready.
    pub fn is_ready(&self) -> bool {
        self.executor.borrow().is_ready()
    }

    /// The domain's own CPU, to wake it after something outside has woken a task: a kick, as a physical interrupt would.
    pub fn poke(&self) {
        if !self.dead.get() && self.is_ready() && self.timer.get() != Port(0) {
            let vcpu = &self.domain.vcpus[0];
            trunnion_hypervisor::events::raise_virq(&self.host, &self.domain, vcpu, Virq::TIMER);
        }
    }

    fn upcall_waits(&self) -> bool {
        self.info
            .get()
            .and_then(|info| self.memory.get(info)?.word_at(vcpu::UPCALL))
            .is_some_and(|word| word.load(Ordering::Acquire) & vcpu::UPCALL_PENDING_BYTE != 0)
    }

    /// The receiver's steps of [`trunnion_protocol::event`], for vCPU 0.
    fn dispatch(&self) {
        const WIDTH: Width = Width::W64;
        let Some(page) = self.info.get().and_then(|info| self.memory.get(info)) else { return };
        if let Some(word) = page.word_at(vcpu::UPCALL) {
            word.fetch_and(!vcpu::UPCALL_PENDING_BYTE, Ordering::AcqRel);
        }
        let faults = self.shared.faults.get();
        for half in 0..2 {
            let Some(selector) = page.word_at(vcpu::pending_sel(WIDTH) + half * 4) else { continue };
            let mut selected = selector.swap(0, Ordering::AcqRel);
            while selected != 0 {
                let bit = selected.trailing_zeros() + half as u32 * 32;
                selected &= selected - 1;
                let (first, count) = selected_words(bit, WIDTH);
                for index in first..first + count {
                    let (Some(pending), Some(masked)) =
                        (page.word_at(PENDING + index * 4), page.word_at(mask(WIDTH) + index * 4))
                    else {
                        continue;
                    };
                    let mut ready = pending.load(Ordering::Acquire) & !masked.load(Ordering::Acquire);
                    pending.fetch_and(!ready, Ordering::AcqRel);
                    while ready != 0 {
                        let port = Port(index as u32 * 32 + ready.trailing_zeros());
                        ready &= ready - 1;
                        if self.shared.permille(faults.lost) {
                            self.shared.strike(|struck| struck.lost += 1);
                            self.shared.note(self.id().0, "lost event, port", [port.0.into(), 0, 0]);
                            self.lost.borrow_mut().push(port);
                        } else {
                            self.shared.note(self.id().0, "event, port", [port.0.into(), 0, 0]);
                            self.fire(port);
                        }
                    }
                }
            }
        }
        if self.shared.permille(faults.spurious) {
            self.shared.strike(|struck| struck.spurious += 1);
            let count = self.slots.borrow().len() as u64;
            self.fire(Port(self.shared.below(count.max(1)) as u32));
        }
        if !self.lost.borrow().is_empty() && self.shared.permille(200) {
            self.kick_again();
        }
    }

    /// System time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.host.machine.now().0
    }

    /// Waits for a time.
    pub async fn sleep(&self, ns: u64) {
        let deadline = self.now_ns().saturating_add(ns);
        let key = (deadline, self.shared.bits());
        poll_fn(|context: &mut TaskContext<'_>| {
            if self.now_ns() >= deadline {
                self.sleepers.borrow_mut().remove(&key);
                return Poll::Ready(());
            }
            self.sleepers.borrow_mut().insert(key, context.waker().clone());
            self.arm();
            Poll::Pending
        })
        .await;
    }

    fn arm(&self) {
        let Some((deadline, _)) = self.sleepers.borrow().keys().next().copied() else { return };
        let timer = vcpu_call::SingleshotTimer { deadline_ns: deadline, flags: 0 };
        let mut bytes = vcpu_call::SingleshotTimer::ZEROED;
        if timer.encode(Width::W64, bytes.as_mut()).is_none() {
            return;
        }
        if let Some(address) = self.lend(0, bytes.as_ref()) {
            let operation = vcpu_call::Op::SetSingleshotTimer.number().into();
            self.raw(Hypercall::VcpuOp.number(), [operation, 0, address.0, 0, 0]);
        }
    }

    fn wake_sleepers(&self) {
        let now = self.now_ns();
        loop {
            let due = self.sleepers.borrow().keys().next().copied().filter(|(deadline, _)| *deadline <= now);
            let Some(key) = due else { break };
            let waker = self.sleepers.borrow_mut().remove(&key);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.arm();
    }

    /// Leaves the CPU to whoever the world chooses next.
    fn interrupted(&self) -> Exit {
        self.host.cpu(self.host.machine.this_cpu()).queue.pick_again();
        Exit::Interrupt
    }
}

impl Program for Kernel {
    fn turn(&self) -> Exit {
        if self.doomed.get() {
            self.shared.note(self.id().0, "dies", [0; 3]);
            self.bury();
            return Exit::TripleFault;
        }
        self.context.take_event();
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
        if !self.waits.replace(false) && (self.is_ready() || self.upcall_waits()) {
            return self.interrupted();
        }
        self.context.change(|state| {
            state.gpr[Gpr::Rax as usize] = Hypercall::SchedOp.number().into();
            state.gpr[Gpr::Rdi as usize] = sched::Op::Block.number().into();
            state.gpr[Gpr::Rsi as usize] = 0;
        });
        Exit::Instruction(Instruction::Hypercall, Some(3))
    }
}

/// Hears the events of one port, as long as it is open.
#[derive(Clone)]
pub struct Listener {
    kernel: Rc<Kernel>,
    port: Port,
    life: u32,
}

impl Listener {
    /// The port.
    pub const fn port(&self) -> Port {
        self.port
    }

    /// Ready with `true` when an event came since the last time, with `false` for ever once the port is closed.
    pub fn poll_next(&self, context: &TaskContext<'_>) -> Poll<bool> {
        self.kernel
            .slot(self.port, |slot| {
                if slot.life != self.life {
                    return Poll::Ready(false);
                }
                if std::mem::take(&mut slot.fired) {
                    return Poll::Ready(true);
                }
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            })
            .unwrap_or(Poll::Ready(false))
    }

    /// Waits for an event; false once the port is closed.
    pub async fn next(&self) -> bool {
        poll_fn(|context| self.poll_next(context)).await
    }
}

/// Pages of a domain that somebody shares.
pub struct Pages {
    memory: Arc<[SharedPage]>,
    graveyard: Rc<[SharedPage]>,
    dead: Rc<Cell<bool>>,
    first: usize,
    count: usize,
    own: Option<(Rc<RefCell<Ram>>, u64)>,
}

impl AsRef<[SharedPage]> for Pages {
    fn as_ref(&self) -> &[SharedPage] {
        let (memory, first) =
            if self.dead.get() { (&*self.graveyard, 0) } else { (&*self.memory, self.first) };
        memory.get(first..first + self.count).unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some((ram, gfn)) = self.own.take() {
            let mut ram = ram.borrow_mut();
            let at = (gfn - ram.first) as usize;
            ram.free[at..at + self.count].fill(true);
        }
    }
}

impl Kernel {
    fn pages_at(&self, first: usize, count: usize, own: Option<u64>) -> Pages {
        Pages {
            memory: Arc::clone(&self.memory),
            graveyard: Rc::clone(&self.graveyard),
            dead: Rc::clone(&self.dead),
            first,
            count,
            own: own.map(|gfn| (Rc::clone(&self.ram), gfn)),
        }
    }
}

impl Platform for Kernel {
    type Pages = Pages;

    fn pages(&self, count: usize) -> Result<(Pages, Gfns), OutOfMemory> {
        if self.dead.get() {
            return Err(OutOfMemory);
        }
        let first = self.take_pages(count).ok_or(OutOfMemory)?;
        let mfn = self.frame(Gfn(first)).ok_or(OutOfMemory)?;
        let pages = self.pages_at(mfn.0 as usize, count, Some(first));
        pages.as_ref().iter().for_each(SharedPage::fill_zero);
        Ok((pages, Gfns::new(Gfn(first), count)))
    }

    fn hypercall(&self, call: RawCall<'_, '_>) -> i64 {
        if self.dead.get() {
            return Errno::Srch.into();
        }
        let mut registers = [0; 5];
        let mut offset = 0;
        for (register, argument) in registers.iter_mut().zip(call.arguments.iter()) {
            *register = match argument {
                Argument::Value(value) => *value,
                Argument::Memory(bytes) => {
                    let Some(address) = self.lend(offset, bytes) else { return Errno::Fault.into() };
                    offset += bytes.len().next_multiple_of(16);
                    address.0
                }
            };
        }
        let result = self.raw(call.number, registers);
        let mut offset = 0;
        for argument in call.arguments.iter_mut() {
            if let Argument::Memory(bytes) = argument {
                let _ = self.back(offset, bytes);
                offset += bytes.len().next_multiple_of(16);
            }
        }
        result
    }

    fn map(&self, gfn: Gfn) -> Result<Pages, NotMapped> {
        let mfn = self.frame(gfn).filter(|_| !self.dead.get()).ok_or(NotMapped)?;
        Ok(self.pages_at(mfn.0 as usize, 1, None))
    }

    fn holes(&self, count: usize) -> Result<Gfns, OutOfMemory> {
        Ok(Gfns::new(self.take_holes(count as u64), count))
    }

    fn on_event(&self, port: Port, waker: &Waker) {
        self.slot(port, |slot| slot.waker = Some(waker.clone()));
    }
}
