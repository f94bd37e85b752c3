//! A world: one host with the shipped core, dom0 with the shipped store, back ends and builder, guests with the shipped
//! front ends; a seed decides who runs next and what goes wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use trunnion_hypervisor::create;
use trunnion_hypervisor::fake::audit::audit;
use trunnion_hypervisor::fake::faults;
use trunnion_hypervisor::frames::FrameKind;
use trunnion_hypervisor::life;
use trunnion_hypervisor::run::{CpuLoop, Step};
use trunnion_hypervisor::seam::{BootInfo, Cpu, FrameRange, HostInterrupt};
use trunnion_hypervisor::second_level::{Kind as LeafKind, Rights, Run};
use trunnion_hypervisor::start;
use trunnion_hypervisor::vcpu::VcpuRef;
use trunnion_protocol::address::{Gfn, Mfn};
use trunnion_protocol::control::{Audit, VcpuState};
use trunnion_protocol::id::{DomainId, Virq};

use super::backend::{Back, Mapped};
use super::check;
use super::control::set_dom0;
use super::disk::Disk;
use super::guests::{self, Guest, Kind};
use super::kernel::Kernel;
use super::machine::{Host, SimMachine};
use super::nets::Nets;
use super::planted::Bug;
use super::shared::{Faults, Shared, Struck, Tales};
use super::store::StoreHandle;
use super::toolstack::Toolstack;

/// log2 of dom0's pages.
const DOM0_ORDER: u32 = 9;
/// Frames of the host.
const FRAMES: u64 = 7168;
/// Steps after which a world that is still busy is one that does not get on.
const STEPS: u64 = 400_000;

/// Folders that belong to no one domain: whoever comes first makes them, and they stay.
const FOLDERS: [&str; 5] = [
    "/libxl",
    "/vm",
    "/local/domain/0/backend/vbd",
    "/local/domain/0/backend/vif",
    "/local/domain/0/backend/console",
];

/// What dom0 has once it is up.
struct Dom0 {
    store: StoreHandle,
    data: u32,
}

/// What is there when nothing is going on.
#[derive(PartialEq, Debug)]
struct Rest {
    audit: Audit,
    free: u64,
    ports: u64,
    paths: Vec<String>,
}

/// A world.
pub struct World {
    seed: u64,
    shared: Rc<Shared>,
    host: Arc<Host>,
    loops: Vec<CpuLoop<SimMachine>>,
    dom0: Rc<Kernel>,
    up: Rc<std::cell::RefCell<Option<Dom0>>>,
    mapped: Rc<Mapped>,
    guests: Vec<Rc<Guest>>,
    kinds: Vec<Kind>,
    faults: Faults,
    bug: Option<Bug>,
    seen: BTreeMap<u64, u64>,
    leak: bool,
    fails_at: u32,
    nets: Option<Rc<Nets>>,
    frames: u64,
}

/// How a world ended well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Frames that guests have heard.
    pub frames: u64,
    /// Faults that struck.
    pub struck: Struck,
    /// What came of a back end that lies.
    pub tales: Tales,
}

/// How a world went wrong.
#[derive(Debug)]
pub struct Failure {
    /// The seed, which replays it.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// What is wrong.
    pub what: String,
    /// The last events.
    pub story: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {:#x}, step {}: {}", self.seed, self.step, self.what)?;
        write!(f, "the last events:\n{}", self.story)
    }
}

impl World {
    /// A world with dom0 alone.
    pub fn new(seed: u64) -> Self {
        let shared = Rc::new(Shared::new(seed));
        let cpus = 1 + shared.below(3) as u32;
        let ram = [FrameRange { start: Mfn(0), end: Mfn(FRAMES) }];
        let free = [FrameRange { start: Mfn(512), end: Mfn(FRAMES) }];
        let boot = BootInfo {
            free: &free,
            ram: &ram,
            device_windows: &[],
            bundle: FrameRange::default(),
            bundle_bytes: 0,
            dom0_image: &[],
            dom0_memory: 0,
            command_line: "",
            rsdp: 0,
            log: &[],
            hypervisor_bytes: 0,
        };
        let host =
            Arc::new(Host::new(SimMachine::new(FRAMES as usize, cpus), &boot).expect("the heap has room"));
        let dom0 = make_dom0(&host, &shared);
        set_dom0(Some(Rc::clone(&dom0)));
        let mapped = Rc::new(Mapped::default());
        Self {
            seed,
            shared,
            host,
            loops: (0..cpus).map(|cpu| CpuLoop::new(Cpu(cpu))).collect(),
            dom0,
            up: Rc::default(),
            mapped,
            guests: Vec::new(),
            kinds: Vec::new(),
            faults: Faults::none(),
            bug: None,
            seen: BTreeMap::new(),
            leak: false,
            fails_at: 0,
            nets: None,
            frames: 0,
        }
    }

    /// Adds a guest.
    #[must_use]
    pub fn domain(mut self, kind: Kind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Lets things go wrong.
    #[must_use]
    pub const fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Plants a known mistake.
    #[must_use]
    pub fn plant(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Makes one allocation of a frame fail: so many after dom0 is up.
    #[must_use]
    pub const fn fail_allocation(mut self, number: u32) -> Self {
        self.fails_at = number;
        self
    }

    /// Loses a frame in the end, to see that this shows.
    #[must_use]
    pub const fn leak(mut self) -> Self {
        self.leak = true;
        self
    }

    /// Runs until everybody has done everything, with every check after every step.
    pub fn run_until_idle(mut self) -> Result<Report, Failure> {
        if let Some(Bug::Part(bug)) = self.bug {
            trunnion_protocol::planted::plant(Some(bug));
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.run()));
        trunnion_protocol::planted::plant(None);
        // A fault that did not come is not the next world's.
        faults::fail_after(0);
        let what = match result {
            Ok(Ok(())) => {
                return Ok(Report {
                    steps: self.shared.step.get(),
                    requests: self.shared.answered.get(),
                    frames: self.frames,
                    struck: self.shared.struck.get(),
                    tales: self.shared.tales.get(),
                });
            }
            Ok(Err(what)) => what,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                format!("panic: {}", text.unwrap_or("without a text"))
            }
        };
        Err(Failure { seed: self.seed, step: self.shared.step.get(), what, story: self.shared.story() })
    }

    fn run(&mut self) -> Result<(), String> {
        self.boot()?;
        let before = self.at_rest()?;
        self.shared.faults.set(self.faults);
        faults::fail_after(self.fails_at);
        self.release();
        self.work()?;
        self.shared.faults.set(Faults::none());
        self.work()?;
        if let Some(guest) = self.guests.iter().find(|guest| !guest.done.get()) {
            return Err(format!(
                "{} waits for ever; open requests: {}",
                guest.name,
                guest.outcome.open.get()
            ));
        }
        if let Some(nets) = &self.nets {
            nets.close()?;
            self.frames = nets.wire.heard();
        }
        if self.leak {
            let _ = self.host.frames.allocate(0, DomainId(77), FrameKind::Ram);
        }
        let after = self.at_rest()?;
        if before != after {
            let lost: Vec<_> = after.paths.iter().filter(|path| !before.paths.contains(path)).collect();
            return Err(format!(
                "not everything came back: {:?} {} ports {} before, {:?} {} ports {} after, new nodes {lost:?}",
                before.audit, before.free, before.ports, after.audit, after.free, after.ports
            ));
        }
        Ok(())
    }

    /// dom0 comes up: store, interrupts, disks.
    fn boot(&mut self) -> Result<(), String> {
        let (kernel, up) = (Rc::clone(&self.dom0), Rc::clone(&self.up));
        let disks: Vec<_> = self
            .kinds
            .iter()
            .map(|kind| {
                let sectors = kind.load().map_or(64, |load| load.sectors());
                Disk::new(&self.shared, &self.host, &self.mapped, sectors)
            })
            .collect();
        let port = self.kinds.iter().any(|kind| kind.load().is_some_and(|load| load.frames != 0));
        for (number, (kind, disk)) in self.kinds.iter().zip(&disks).enumerate() {
            self.guests.push(Guest::new(number, *kind, Rc::clone(disk), port));
        }
        let guests = self.guests.clone();
        let bug = self.bug;
        self.dom0.spawner.spawn(async move {
            let up_now = async {
                kernel.boot()?;
                let store = StoreHandle::start(&kernel);
                if let Some(Bug::Store(bug)) = bug {
                    store.with(|store| store.plant(bug));
                }
                for folder in FOLDERS {
                    store.client().with(|client, store| client.mkdir(store, 0, folder))?;
                }
                let (port, data) = kernel.bind_device()?;
                let ended = kernel.bind_virq(Virq::DOM_EXC)?;
                let listener = kernel.listener(port);
                kernel.spawner.spawn(async move {
                    while listener.next().await {
                        disks.iter().for_each(|disk| disk.interrupt());
                    }
                });
                let listener = kernel.listener(ended);
                kernel.spawner.spawn(async move {
                    while listener.next().await {
                        guests.iter().for_each(|guest| guest.ended.raise());
                    }
                });
                Ok::<_, trunnion_protocol::errno::Errno>(Dom0 { store, data })
            };
            match up_now.await {
                Ok(dom0) => *up.borrow_mut() = Some(dom0),
                Err(error) => kernel.shared.complain(format!("dom0 cannot boot: {error}")),
            }
        });
        self.work()?;
        if self.up.borrow().is_some() { Ok(()) } else { Err("dom0 does not come up".into()) }
    }

    /// Starts the guests.
    fn release(&mut self) {
        let up = self.up.borrow();
        let Some(Dom0 { store, .. }) = up.as_ref() else { return };
        let back = Back { kernel: Rc::clone(&self.dom0), mapped: Rc::clone(&self.mapped) };
        let tools = Rc::new(Toolstack::new(&self.dom0, store, &back, self.bug));
        self.nets = Some(Rc::clone(&tools.nets));
        for guest in &self.guests {
            tools.add_disk(&guest.name, &guest.disk);
            let work = guests::live(Rc::clone(&self.dom0), Rc::clone(&tools), Rc::clone(guest));
            self.dom0.spawner.spawn(work);
        }
        self.wake_dom0();
    }

    /// Lets dom0 look at its tasks, as an interrupt of a device would.
    fn wake_dom0(&self) {
        let data = self.up.borrow().as_ref().map_or(0, |up| up.data);
        self.host.machine.interrupt(0, HostInterrupt::Device(data as u8));
    }

    fn at_rest(&mut self) -> Result<Rest, String> {
        let paths = self.up.borrow().as_ref().map(|up| up.store.paths()).unwrap_or_default();
        // Looking has woken the store's pump.
        self.wake_dom0();
        self.work()?;
        Ok(Rest {
            audit: audit(&self.host),
            free: self.host.frames.free_frames(),
            ports: self.dom0.domain.ports.in_use(),
            paths,
        })
    }

    /// Runs until nothing moves any more.
    fn work(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        loop {
            let step = self.shared.step.get() + 1;
            self.shared.step.set(step);
            if step > STEPS {
                return Err("it does not come to an end".into());
            }
            let moved = self.step();
            self.check(step)?;
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet > 8 * self.loops.len() && !self.anything_left() {
                return Ok(());
            }
        }
    }

    /// One step: a CPU, a device, or a fault. False when nothing came of it.
    fn step(&mut self) -> bool {
        let faults = self.shared.faults.get();
        self.host.machine.advance(self.shared.below(20_000));
        for guest in &self.guests {
            let due = guest.dies_at.get().is_some_and(|at| at <= self.shared.step.get());
            if due && let Some(kernel) = guest.kernel.borrow().as_ref() {
                guest.dies_at.set(None);
                self.shared.strike(|struck| struck.deaths += 1);
                kernel.doom();
                kernel.poke();
            }
        }
        if self.shared.permille(faults.clock) {
            self.shared.strike(|struck| struck.clock += 1);
            let jump = self.shared.below(3_600_000_000_000);
            self.shared.note(0, "clock jumps, ns", [jump, 0, 0]);
            self.host.machine.advance(jump);
        }
        if self.shared.permille(faults.memory) && faults.memory != 0 {
            let after = 1 + self.shared.below(30) as u32;
            faults::fail_after(after);
            self.shared.strike(|struck| struck.memory += 1);
        }
        if self.shared.permille(250) && self.device() {
            return true;
        }
        let cpu = self.shared.below(self.loops.len() as u64) as usize;
        self.host.machine.switch_to(cpu as u32);
        self.loops[cpu].step(&self.host) == Step::Ran
    }

    fn device(&self) -> bool {
        let busy: Vec<_> = self.guests.iter().filter(|guest| guest.disk.in_flight() != 0).collect();
        if busy.is_empty() {
            return false;
        }
        let guest = busy[self.shared.below(busy.len() as u64) as usize];
        guest.disk.progress();
        self.wake_dom0();
        true
    }

    /// When nobody runs: what was lost comes again, devices finish, time passes until the next timer.
    fn anything_left(&mut self) -> bool {
        faults::fail_after(0);
        let kernels: Vec<_> = self.guests.iter().filter_map(|guest| guest.kernel.borrow().clone()).collect();
        let mut found = false;
        for kernel in kernels.iter().chain([&self.dom0]) {
            if kernel.kick_again() {
                kernel.poke();
                found = true;
            }
        }
        if found || self.device() || self.host.machine.is_interrupted() {
            return true;
        }
        if let Some(deadline) = self.host.machine.next_deadline() {
            let now = self.dom0.now_ns();
            self.host.machine.advance(deadline.0.saturating_sub(now));
            return true;
        }
        // A hostile guest may have put itself to sleep for good: the toolstack's user loses patience. A liar does not sleep; it
        // waits for others, and once there are none it is no longer wanted.
        let alone = self.guests.iter().all(|guest| guest.kind.load().is_none() || guest.done.get());
        let lingers = |guest: &&Rc<Guest>| {
            (matches!(guest.kind, Kind::Hostile(_)) || matches!(guest.kind, Kind::Liar) && alone)
                && guest.id.get().is_some()
                && !guest.condemned.get()
                && !guest.done.get()
        };
        if let Some(guest) = self.guests.iter().find(lingers) {
            guest.condemned.set(true);
            guest.ended.raise();
            self.wake_dom0();
            return true;
        }
        false
    }

    fn check(&mut self, step: u64) -> Result<(), String> {
        if let Some(text) = self.shared.complaint() {
            return Err(text);
        }
        let busy = !self.mapped.0.borrow().is_empty();
        if step.is_multiple_of(4) || busy && step.is_multiple_of(2) {
            check::ports(&self.host)?;
            let hostile = self.guests.iter().filter(|guest| matches!(guest.kind, Kind::Hostile(_)));
            let hostile: Vec<_> = hostile.filter_map(|guest| guest.id.get()).collect();
            check::grants(&self.host, &self.mapped, &hostile)?;
        }
        check::translations(&self.dom0, &mut self.seen, self.mapped.frames().into_iter())?;
        if step.is_multiple_of(32) {
            check::frames(&self.host)?;
        }
        if step.is_multiple_of(128) {
            check::tables(&self.host)?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for guest in &self.guests {
            let kernel = guest.kernel.borrow_mut().take();
            if let Some(kernel) = kernel {
                kernel.bury();
            }
        }
        self.dom0.bury();
        set_dom0(None);
        *self.up.borrow_mut() = None;
    }
}

/// dom0 as the core makes it, without an image: memory one to one, the authority, one vCPU.
fn make_dom0(host: &Arc<Host>, shared: &Rc<Shared>) -> Rc<Kernel> {
    let domain = create::dom0(host, FRAMES).expect("a fresh host has room for dom0");
    let run = host.allocate(DOM0_ORDER, DomainId::DOM0, FrameKind::Ram).expect("a fresh host has memory");
    let first = run.start.0;
    {
        let mut memory = domain.memory.lock();
        let pool = host.table_pool(domain.id);
        let run = Run {
            gfn: Gfn(first),
            mfn: Mfn(first),
            count: 1 << DOM0_ORDER,
            rights: Rights::all(),
            kind: LeafKind::Ram,
        };
        memory.tables.map(&pool, run).expect("a fresh host has tables");
    }
    let name = VcpuRef { domain: domain.clone(), index: 0 };
    start::load(host, &name, &VcpuState::pvh(first as u32, 0), true).expect("the vCPU is down");
    let kernel = Kernel::new(host, &domain, shared, first, 1 << DOM0_ORDER);
    life::unpause(host, &domain).expect("the domain is paused");
    kernel
}
