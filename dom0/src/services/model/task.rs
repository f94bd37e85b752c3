//! The task of a device model: it waits for the guest's requests, for time and for storage, and tells the hypervisor what came
//! of them.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::Cell;
use core::future::poll_fn;
use core::ops::Range;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::Mutex;
use trunnion_devices::board::{Board, Event};
use trunnion_devices::time::Time;
use trunnion_guest::answers;
use trunnion_guest::clock::{self, Sleep};
use trunnion_guest::events::Listener;
use trunnion_guest::hypercall;
use trunnion_guest::memory::Pages;
use trunnion_protocol::control::{ModelAnswer, ModelSignal, Operation, SignalKind};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::sched::{Op, RemoteShutdown, ShutdownReason};
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::shared::SharedPage;

use super::hands::Hands;
use super::memory::Ram;
use crate::control::request::Press;
use crate::devices::interrupt::Signal;
use crate::model::{Core, Model};

/// Turns in a row after which others get theirs.
const TURNS: usize = 64;
/// Lines that a guest may put into dom0's log by its firmware's ports.
const LINES: u32 = 1000;
/// Longest line of the firmware's log.
const LONGEST: usize = 200;

/// The hypervisor, for one guest's model.
struct Hypervisor(DomainId);

impl Core for Hypervisor {
    fn answer(&self, vcpu: u32) {
        answers::answer(ModelAnswer { domain: self.0.0, rest: 0, vcpu });
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

/// The request pages, which the registry holds too.
struct Shared(Rc<Pages>);

impl AsRef<[SharedPage]> for Shared {
    fn as_ref(&self) -> &[SharedPage] {
        (*self.0).as_ref()
    }
}

/// What others want of a model: that it ends, and what people do to it.
#[derive(Default)]
pub(super) struct Stop {
    pub(super) wanted: Cell<bool>,
    pub(super) signal: Signal,
    /// What people do to the PC.
    pub(super) hands: Hands,
}

/// Notes that storage, a network or a line has something for the board, and wakes the task. A wake-up of the task itself says as little as
/// that a request came.
#[derive(Default)]
struct Poke {
    poked: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Poke {
    /// Whom to wake.
    fn reach(&self, waker: &Waker) {
        match &mut *self.task.lock() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Wake for Poke {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.poked.store(true, Ordering::Relaxed);
        if let Some(waker) = &*self.task.lock() {
            waker.wake_by_ref();
        }
    }
}

/// A model that runs.
pub(super) struct Task {
    domain: DomainId,
    model: Model<Ram, Hypervisor, Shared>,
    start: Duration,
    listener: Listener,
    sleep: Option<(Time, Pin<Box<Sleep>>)>,
    poke: Arc<Poke>,
    /// The waker of `poke`, which the board gets.
    poker: Waker,
    /// The line that the firmware is writing.
    log: String,
    /// How many there were.
    lines: u32,
}

impl Task {
    /// A model that has not begun; its port tells of requests.
    pub(super) fn new(
        domain: DomainId,
        board: Board<Ram>,
        pages: &Rc<Pages>,
        memory: [Range<u64>; 4],
        port: Port,
    ) -> Self {
        let poke = Arc::<Poke>::default();
        Self {
            domain,
            poker: Waker::from(Arc::clone(&poke)),
            poke,
            model: Model::new(board, Hypervisor(domain), Shared(Rc::clone(pages)), memory),
            start: clock::now(),
            listener: Listener::new(port),
            sleep: None,
            log: String::new(),
            lines: 0,
        }
    }

    pub(super) async fn run(mut self, stop: &Stop) {
        poll_fn(|context| self.poll(stop, context)).await;
    }

    fn poll(&mut self, stop: &Stop, context: &mut Context<'_>) -> Poll<()> {
        let _ = stop.signal.poll(context);
        let _ = self.listener.poll_next(context);
        if stop.wanted.get() {
            stop.hands.close();
            // Storage still writes to the guest's pages until a request under way has ended.
            self.model.board.ide.poll(&self.model.board.memory, context);
            return if self.model.board.ide.is_busy() { Poll::Pending } else { Poll::Ready(()) };
        }
        // Requests first: it is for them that the task wakes mostly.
        let mut turns = 0;
        let mut now = self.now();
        while self.model.turn(now) {
            turns += 1;
            if turns == TURNS {
                context.waker().wake_by_ref();
                break;
            }
            now = self.now();
        }
        // Most requests only look at a register, and then nothing has changed since the last time unless something else says so.
        let late = self.sleep.as_ref().is_some_and(|(moment, _)| *moment <= now);
        let poked = self.poke.poked.swap(false, Ordering::Relaxed);
        let touched = self.model.board.take_touched();
        if turns > 0 && !touched && !late && !poked && !stop.hands.busy.get() {
            return Poll::Pending;
        }
        if stop.hands.busy.get() {
            while let Some(press) = stop.hands.work(&mut self.model.board, now) {
                self.press(&press);
            }
        }
        self.poke.reach(context.waker());
        self.model.poll(&mut Context::from_waker(&self.poker), now);
        self.report();
        self.rest(context, now, stop.hands.deadline(now));
        Poll::Pending
    }

    fn press(&mut self, press: &Press) {
        match press {
            Press::Power => self.model.board.pm.press_power(),
            Press::Sleep => self.model.board.pm.press_sleep(),
            Press::Reset => shut_down(self.domain, ShutdownReason::Reboot),
            Press::Nmi => self.model.nmi(),
            // Hands do these themselves.
            Press::Keys(_) | Press::Mouse { .. } => {}
        }
    }

    /// The guest's time.
    fn now(&self) -> Time {
        Time(clock::now().saturating_sub(self.start).as_nanos() as u64)
    }

    /// Waits for the next moment at which something happens by itself.
    fn rest(&mut self, context: &mut Context<'_>, now: Time, other: Option<Time>) {
        let set = self.sleep.as_ref().map(|(moment, _)| *moment);
        let Some(moment) = self.model.next_look(set, other, now) else {
            self.sleep = None;
            return;
        };
        let sleep = match &mut self.sleep {
            // It is known to the clock already.
            Some((known, _)) if *known == moment && now < moment => return,
            Some((known, sleep)) if *known == moment => sleep,
            other => &mut other.insert((moment, Box::pin(clock::sleep_until(self.start + at(moment))))).1,
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

/// A moment of the guest's time as a duration.
const fn at(now: Time) -> Duration {
    Duration::from_nanos(now.0)
}

/// Ends a guest as it wants it.
fn shut_down(domain: DomainId, reason: ShutdownReason) {
    let mut call = RemoteShutdown { domain, reason: reason.number() };
    let operation = u64::from(Op::RemoteShutdown.number());
    if let Err(error) = hypercall::with(Hypercall::SchedOp, operation, &mut call) {
        log::error!("a guest cannot be ended: {error} domain={domain} reason={reason:?}");
    }
}
