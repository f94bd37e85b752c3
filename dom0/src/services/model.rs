//! A device model for each guest with an emulated PC: a task that waits for the guest's requests, for time, and for storage and
//! networks.

mod line;
mod memory;
mod outlet;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::device::CharDevice;
use trunnion_devices::board::{Board, Event, Nic, Parts};
use trunnion_devices::e1000::E1000;
use trunnion_devices::ide::Kind;
use trunnion_devices::ne2000::Ne2000;
use trunnion_devices::time::Time;
use trunnion_guest::clock::{self, Sleep};
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::Spawner;
use trunnion_guest::hypercall;
use trunnion_guest::memory::{Pages, pages};
use trunnion_protocol::control::{ModelAnswer, ModelSignal, Operation, SetModel, SignalKind};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::sched::{Op, RemoteShutdown, ShutdownReason};
use trunnion_protocol::id::{DomainId, Port};

use super::console::Consoles;
use super::disks::{Device, Disks};
use super::nets::Nets;
use crate::build::ModelParts;
use crate::config;
use crate::devices::interrupt::Signal;
use crate::model::{Core, Model, firmware};
use line::Line;
use memory::Ram;
use outlet::Outlet;

/// Turns in a row after which others get theirs.
const TURNS: usize = 64;
/// The least time until a timer of the board is looked at again: a guest may set one to any rate.
const RESOLUTION: Duration = Duration::from_micros(50);
/// Bytes that a model takes: the memory of its screen, buffers, tables of the guest's pages.
const ROOM: usize = 6 << 20;
/// Lines that a guest may put into dom0's log by its firmware's ports.
const LINES: u32 = 1000;
/// Longest line of the firmware's log.
const LONGEST: usize = 200;

/// A model that runs, and afterwards what the hypervisor keeps of it.
struct Running {
    stop: Rc<Stop>,
    ended: Rc<Signal>,
    done: Rc<Cell<bool>>,
    /// The request pages: the hypervisor writes to them until the domain is destroyed.
    _pages: Rc<Pages>,
    port: Port,
}

/// The wish that a model ends.
#[derive(Default)]
struct Stop {
    wanted: Cell<bool>,
    signal: Signal,
}

/// All device models.
pub struct Models {
    running: RefCell<BTreeMap<DomainId, Running>>,
    spawner: Spawner,
}

/// What a model serves its guest from.
pub struct Sources<'a> {
    /// The drives' storage.
    pub disks: &'a Disks,
    /// The cards' networks.
    pub nets: &'a Nets,
    /// Where the serial port leads.
    pub consoles: &'a Rc<Consoles>,
    /// What is in the floppy drive.
    pub floppy: Option<Device>,
}

/// The hypervisor, for one guest's model.
struct Hypervisor(DomainId);

impl Core for Hypervisor {
    fn answer(&self, vcpu: u32) {
        let mut call = ModelAnswer { domain: self.0.0, pad: 0, vcpu };
        // A vCPU that was stopped meanwhile (INIT) wants no answer any more.
        if let Err(error) = hypercall::control(Operation::ModelAnswer, &mut call)
            && error != Errno::Srch
        {
            log::error!("an answer is refused: {error} domain={} vcpu={vcpu}", self.0);
        }
    }

    fn signal(&self, kind: SignalKind, address: u64, data: u32) {
        let mut call =
            ModelSignal { domain: self.0.0, kind: kind.number(), address, data, ..ModelSignal::default() };
        // A guest may program vectors and modes that there are not.
        if let Err(error) = hypercall::control(Operation::ModelSignal, &mut call)
            && !matches!(error, Errno::Srch | Errno::Inval)
        {
            log::error!("an interrupt is refused: {error} domain={} kind={kind:?}", self.0);
        }
    }
}

impl Models {
    /// No models yet.
    pub fn new(spawner: Spawner) -> Self {
        Self { running: RefCell::default(), spawner }
    }

    /// Gives a domain that has never run its device model.
    pub fn attach(
        &self,
        domain: DomainId,
        parts: &ModelParts<'_>,
        mut sources: Sources<'_>,
    ) -> Result<(), Errno> {
        // What the board allocates has no way to fail.
        Vec::<u8>::new().try_reserve_exact(ROOM).map_err(|_| Errno::NoMem)?;
        let pages = Rc::new(pages(parts.vcpus as usize).ok_or(Errno::NoMem)?);
        let port = events::alloc_unbound(DomainId::SELF, domain)?;
        let stop = Rc::<Stop>::default();
        let ended = Rc::<Signal>::default();
        let done = Rc::new(Cell::new(true));
        let running = Running {
            stop: Rc::clone(&stop),
            ended: Rc::clone(&ended),
            done: Rc::clone(&done),
            _pages: Rc::clone(&pages),
            port,
        };
        self.running.borrow_mut().insert(domain, running);
        let mut call = SetModel { domain: domain.0, pad: 0, port: port.0, frame: pages.first().0 };
        hypercall::control(Operation::SetModel, &mut call)?;

        let (board, joined) = board(domain, parts, &mut sources);
        let model = Model::new(board, Hypervisor(domain), Shared(pages), parts.pc.memory());
        let task = Task {
            domain,
            model,
            start: clock::now(),
            listener: Listener::new(port),
            sleep: None,
            log: String::new(),
            lines: 0,
        };
        done.set(false);
        self.spawner.spawn(async move {
            task.run(&stop).await;
            for (bridge, id) in joined {
                bridge.leave(id);
            }
            done.set(true);
            ended.raise();
        });
        Ok(())
    }

    /// Stops a model. Returns when no request is under way and nothing of the guest is mapped.
    pub async fn detach(&self, domain: DomainId) {
        let found = self.running.borrow().get(&domain).map(|running| {
            running.stop.wanted.set(true);
            running.stop.signal.raise();
            (Rc::clone(&running.ended), Rc::clone(&running.done))
        });
        let Some((ended, done)) = found else { return };
        while !done.get() {
            ended.next().await;
        }
    }

    /// Takes the port and the pages of a domain back that is gone.
    pub fn forget(&self, domain: DomainId) {
        let Some(running) = self.running.borrow_mut().remove(&domain) else { return };
        if let Err(error) = events::close(running.port) {
            log::error!("a model's port cannot be closed: {error} domain={domain}");
        }
    }
}

/// The request pages, which the registry holds too.
struct Shared(Rc<Pages>);

impl AsRef<[trunnion_protocol::shared::SharedPage]> for Shared {
    fn as_ref(&self) -> &[trunnion_protocol::shared::SharedPage] {
        (*self.0).as_ref()
    }
}

type Joined = Vec<(Rc<Bridge>, PortId)>;

/// The PC with all that is in it.
fn board(domain: DomainId, parts: &ModelParts<'_>, sources: &mut Sources<'_>) -> (Board<Ram>, Joined) {
    let pc = parts.pc;
    let mut joined = Vec::new();
    let mut nics = Vec::new();
    for nic in parts.nics.iter().filter(|nic| nic.emulated) {
        let bridge = sources.nets.bridge(nic.bridge_name());
        let outlet = Outlet::new(Rc::clone(&bridge));
        let way = Some(Rc::<Outlet>::clone(&outlet) as _);
        let (card, inbox) = match nic.model {
            config::Model::E1000 => {
                let card = E1000::new(nic.mac.0, way);
                let inbox = card.inbox();
                (Nic::E1000(card), inbox)
            }
            config::Model::Ne2000 => {
                let card = Ne2000::new(nic.mac.0, way);
                let inbox = card.inbox();
                (Nic::Ne2000(card), inbox)
            }
        };
        let id = bridge.join(inbox, clock::now());
        outlet.joined(id);
        joined.push((bridge, id));
        nics.push(card);
    }
    let line = pc.serial.then(|| sources.consoles.line(domain)).map(|line| {
        let line: Box<dyn CharDevice> = Box::new(Line(line));
        line
    });
    let mut board = Board::new(Parts {
        memory: Ram::new(domain, pc.memory()),
        ram: pc.ram,
        cpus: parts.vcpus as u16,
        epoch: clock::unix_time().as_secs(),
        vga_rom: Some(parts.screen.clone()),
        hpet: pc.hpet,
        platform: pc.platform,
        serial: [line, None],
        nics,
    });
    for drive in &pc.drives {
        let kind = if drive.cdrom { Kind::Cd } else { Kind::Disk };
        let storage = drive.disk.and_then(|number| sources.disks.take_emulated(domain, number));
        let serial = format!("TR{:05}", drive.disk.unwrap_or(0));
        board.ide.attach(usize::from(drive.place >> 1), usize::from(drive.place & 1), kind, storage, &serial);
    }
    if let Some(floppy) = sources.floppy.take() {
        board.insert_floppy(0, Some(floppy));
    }
    firmware::furnish(&mut board, pc);
    (board, joined)
}

/// A model that runs.
struct Task {
    domain: DomainId,
    model: Model<Ram, Hypervisor, Shared>,
    start: Duration,
    listener: Listener,
    sleep: Option<(Duration, Pin<Box<Sleep>>)>,
    /// The line that the firmware is writing.
    log: String,
    /// How many there were.
    lines: u32,
}

impl Task {
    async fn run(mut self, stop: &Stop) {
        poll_fn(|context| self.poll(stop, context)).await;
    }

    fn poll(&mut self, stop: &Stop, context: &mut Context<'_>) -> Poll<()> {
        let _ = stop.signal.poll(context);
        let _ = self.listener.poll_next(context);
        if stop.wanted.get() {
            // Storage still writes to the guest's pages until a request under way has ended.
            self.model.board.ide.poll(&self.model.board.memory, context);
            return if self.model.board.ide.is_busy() { Poll::Pending } else { Poll::Ready(()) };
        }
        // Requests first: it is for them that the task wakes mostly.
        let mut turns = 0;
        while self.model.turn(self.now()) {
            turns += 1;
            if turns == TURNS {
                context.waker().wake_by_ref();
                break;
            }
        }
        let now = self.now();
        self.model.poll(context, now);
        self.report();
        self.rest(context);
        Poll::Pending
    }

    /// The guest's time.
    fn now(&self) -> Time {
        Time(clock::now().saturating_sub(self.start).as_nanos() as u64)
    }

    /// Waits for the next moment at which something happens by itself.
    fn rest(&mut self, context: &mut Context<'_>) {
        let Some(deadline) = self.model.board.deadline() else {
            self.sleep = None;
            return;
        };
        let soonest = clock::now() + RESOLUTION;
        let moment = (self.start + Duration::from_nanos(deadline.0)).max(soonest);
        let sleep = match &mut self.sleep {
            Some((known, sleep)) if *known == moment => sleep,
            other => &mut other.insert((moment, Box::pin(clock::sleep_until(moment)))).1,
        };
        if sleep.as_mut().poll(context).is_ready() {
            self.sleep = None;
            context.waker().wake_by_ref();
        }
    }

    /// Carries out what the guest wants to become of itself, and hands the firmware's log on.
    fn report(&mut self) {
        while let Some(event) = self.model.board.take_event() {
            let domain = self.domain;
            match event {
                Event::Reset => shut_down(domain, ShutdownReason::Reboot),
                Event::Off => shut_down(domain, ShutdownReason::PowerOff),
                Event::Suspend => self.say("it wants to sleep, which is not there"),
                Event::Unplug(unplug) => {
                    self.say(&format!("it goes on without emulated devices which={unplug:?}"));
                }
            }
        }
        for byte in self.model.board.take_log() {
            if byte == b'\n' || self.log.len() >= LONGEST {
                let line = core::mem::take(&mut self.log);
                self.say(line.trim_end());
            } else if byte.is_ascii_graphic() || byte == b' ' {
                self.log.push(char::from(byte));
            }
        }
    }
}

impl Task {
    /// Puts a line of the guest into the log, unless it has put many there.
    fn say(&mut self, line: &str) {
        self.lines = self.lines.saturating_add(1);
        match self.lines {
            ..LINES => log::info!("domain={}: {line}", self.domain),
            LINES => log::info!("domain={}: its firmware is not listened to any more", self.domain),
            _ => {}
        }
    }
}

/// Ends a guest as it wants it.
fn shut_down(domain: DomainId, reason: ShutdownReason) {
    let mut call = RemoteShutdown { domain, reason: reason.number() };
    let operation = u64::from(Op::RemoteShutdown.number());
    if let Err(error) = hypercall::with(Hypercall::SchedOp, operation, &mut call) {
        log::error!("a guest cannot be ended: {error} domain={domain} reason={reason:?}");
    }
}
