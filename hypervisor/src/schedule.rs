//! Which vCPU a CPU runs next.
//!
//! Each CPU has a queue of vCPUs that are ready. The one that has had the least *virtual time* (time it ran, divided by its
//! domain's weight) goes first: equal weights share equally, and a vCPU that slept is behind, so that it goes ahead of those
//! that compute when an event wakes it (the wake-up boost). How far it may be behind is limited (`SLEEPER_NS`), so sleeping
//! is not saved up. What dom0 works for a domain is charged to it ([`charge`]), or a guest could have others computing for it
//! at dom0's weight. A vCPU that runs is preempted at the end of a slice when others wait, and by one that wakes and is
//! behind by more than `PREEMPT_NS`.
//!
//! Who sends one event often sends more right after it: packets of a stream, their answers. So a vCPU that has just begun to
//! run goes on for `GRACE_NS` in all before another preempts it, which then finds all of it in one go. One that sends an event
//! and waits for the answer has nothing more to do, and would only get as far as going to sleep. Which of the two a vCPU is
//! shows when it is given the time: the more often in a row it slept instead, the longer it is not given any (`Grace`).
//!
//! A vCPU's [`State`] changes under the lock of its CPU's queue. A waker first publishes its reason (a pending bit, a
//! timer) and then looks at the state; a vCPU that goes to sleep first publishes the state and then looks for a reason:
//! one of the two sees the other.

use core::sync::atomic::fence;

use crate::host::PerCpu;
use crate::prelude::*;

/// Longest time a vCPU runs while another is ready, in nanoseconds.
pub const SLICE_NS: u64 = 5_000_000;
/// How far a sleeper's virtual time may be behind.
const SLEEPER_NS: u64 = 5_000_000;
/// By how much a vCPU that wakes must be behind to preempt.
const PREEMPT_NS: u64 = 50_000;
/// How long a vCPU runs before one that wakes preempts it, where it makes use of that.
const GRACE_NS: u64 = 100_000;
/// Chances in a row that a vCPU is not given at most.
const MOST_SKIPPED: u32 = 63;
/// The weight at which virtual time is real time.
pub const DEFAULT_WEIGHT: u32 = 256;
/// Length of the period over which a cap is kept.
const CAP_WINDOW_NS: u64 = 30_000_000;

closed! {
/// What a vCPU does.
pub enum Activity: u32 {
    /// Not started, or stopped: waits for a start-up IPI or `VCPUOP_up`.
    Down = 0,
    /// Waits for an event.
    Blocked = 1,
    /// In a queue.
    Ready = 2,
    /// A CPU runs it.
    Running = 3,
    /// Would be ready, but its domain may not run.
    Parked = 4,
}
}

/// Whether a vCPU makes use of [`GRACE_NS`]. Changed under its CPU's queue lock.
#[derive(Default)]
struct Grace {
    /// Chances that it is not given from now on.
    skip: AtomicU32,
    /// How many were skipped last.
    skipped: AtomicU32,
}

impl Grace {
    fn is_due(&self) -> bool {
        self.skip.load(Ordering::Relaxed) == 0
    }

    /// Notes a turn in which another was to preempt the vCPU early: it had no chance, or ran on with it, or went to sleep.
    fn note(&self, pressed: Pressed, ran_on: bool) {
        let (skip, skipped) = (self.skip.load(Ordering::Relaxed), self.skipped.load(Ordering::Relaxed));
        let (skip, skipped) = match pressed {
            Pressed::No => return,
            Pressed::Denied => (skip.saturating_sub(1), skipped),
            Pressed::Given if ran_on => (0, skipped / 2),
            Pressed::Given => {
                let more = (skipped * 2 + 1).min(MOST_SKIPPED);
                (more, more)
            }
        };
        self.skip.store(skip, Ordering::Relaxed);
        self.skipped.store(skipped, Ordering::Relaxed);
    }
}

closed! {
/// Whether another was to preempt the running vCPU early.
pub enum Pressed: u32 {
    /// None was.
    No = 0,
    /// One preempts it as soon as it has run for [`GRACE_NS`].
    Given = 1,
    /// One preempts it now.
    Denied = 2,
}
}

/// A vCPU's activity, and its place in the schedule.
#[derive(Default)]
pub struct State {
    activity: AtomicU32,
    cpu: AtomicU32,
    virtual_time: AtomicU64,
    since: AtomicU64,
    window_start: AtomicU64,
    window_used: AtomicU64,
    ready_at: AtomicU64,
    grace: Grace,
}

impl State {
    /// What it does.
    pub fn activity(&self) -> Activity {
        Activity::from_number(self.activity.load(Ordering::Acquire)).unwrap_or(Activity::Parked)
    }

    fn set(&self, activity: Activity) {
        self.activity.store(activity.number(), Ordering::Release);
    }

    /// True unless it is down.
    pub fn is_up(&self) -> bool {
        self.activity() != Activity::Down
    }

    /// When it became ready last.
    pub fn ready_since(&self) -> Option<HostTime> {
        let at = self.ready_at.load(Ordering::Relaxed);
        (at != 0).then_some(HostTime(at))
    }

    /// The CPU whose queue it belongs to.
    pub fn cpu(&self) -> Cpu {
        Cpu(self.cpu.load(Ordering::Relaxed))
    }

    pub(crate) fn assign(&self, cpu: Cpu) {
        self.cpu.store(cpu.0, Ordering::Relaxed);
    }
}

/// A CPU's ready vCPUs.
pub struct Queue<M: Machine> {
    ready: Lock<Vec<VcpuRef<M>>>,
    waiting: AtomicU32,
    /// Virtual time of the vCPU that was picked last: where sleepers join.
    floor: AtomicU64,
    /// Virtual time of the running vCPU at its start; `u64::MAX` while idle.
    current: AtomicU64,
    current_weight: AtomicU32,
    current_cap: AtomicU32,
    current_start: AtomicU64,
    /// The run loop should pick anew.
    again: AtomicBool,
    /// [`Pressed`], of the running vCPU.
    pressed: AtomicU32,
    /// The running vCPU gets its chance of [`GRACE_NS`].
    graced: AtomicBool,
    /// Before the next entry, the run loop should see to the timer and to whether it may go on.
    look: AtomicBool,
}

impl<M: Machine> Queue<M> {
    pub(crate) fn new() -> Self {
        Self {
            ready: Lock::new(Rank::Queue, Vec::new()),
            waiting: AtomicU32::new(0),
            floor: AtomicU64::new(0),
            current: AtomicU64::new(u64::MAX),
            current_weight: AtomicU32::new(DEFAULT_WEIGHT),
            current_cap: AtomicU32::new(0),
            current_start: AtomicU64::new(0),
            again: AtomicBool::new(false),
            pressed: AtomicU32::new(0),
            graced: AtomicBool::new(false),
            look: AtomicBool::new(true),
        }
    }

    /// Makes room for so many vCPUs in all.
    pub(crate) fn reserve(&self, vcpus: usize) -> Result<(), OutOfHeap> {
        let mut ready = self.ready.lock();
        let more = vcpus.saturating_sub(ready.len());
        ready.try_reserve(more).map_err(|_| OutOfHeap)
    }

    /// Whether the running vCPU should be put back for another.
    pub fn wants_another(&self) -> bool {
        self.again.load(Ordering::Acquire)
    }

    /// Asks the run loop to pick anew.
    pub fn pick_again(&self) {
        self.again.store(true, Ordering::Release);
        self.look_again();
    }

    /// Asks the run loop to look at deadlines, at who waits and at whether the domain may run.
    pub fn look_again(&self) {
        self.look.store(true, Ordering::Release);
    }

    /// Whether it was asked to, once.
    pub fn take_look(&self) -> bool {
        let look = self.look.load(Ordering::Acquire);
        if look {
            self.look.store(false, Ordering::SeqCst);
        }
        look
    }

    /// Ends the turn of the running vCPU, which would have run on or not. The queue is locked.
    fn end_turn(&self, vcpu: &Vcpu<M>, ran_on: bool) {
        self.current.store(u64::MAX, Ordering::Relaxed);
        let pressed = Pressed::from_number(self.pressed.swap(0, Ordering::Relaxed)).unwrap_or(Pressed::No);
        vcpu.state.grace.note(pressed, ran_on);
    }

    /// Whether others are ready, or the running vCPU has a cap to be held to.
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0 || self.current_cap.load(Ordering::Relaxed) != 0
    }
}

/// Nanoseconds at a weight, as virtual time.
fn weighted(ns: u64, weight: u32) -> u64 {
    ns.saturating_mul(u64::from(DEFAULT_WEIGHT)) / u64::from(weight.max(1))
}

/// Charges a domain for time that dom0 worked for it: its vCPUs stand behind others as if they had run so long themselves.
pub fn charge<M: Machine>(domain: &Domain<M>, ns: u64) {
    let each = weighted(ns, domain.weight.load(Ordering::Relaxed)) / (domain.vcpus.len() as u64).max(1);
    for vcpu in &domain.vcpus {
        vcpu.state.virtual_time.fetch_add(each, Ordering::Relaxed);
    }
}

/// Makes a vCPU that waits for an event ready. Call it after the reason is visible.
pub fn wake<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    fence(Ordering::SeqCst);
    match at.state.activity() {
        Activity::Blocked => wake_blocked(host, at),
        // It looks at its events before it enters the guest; make it leave the guest if it is there.
        Activity::Running => host.machine.kick(at.state.cpu()),
        Activity::Down | Activity::Ready | Activity::Parked => {}
    }
}

#[cold]
fn wake_blocked<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    leave(host, at, Activity::Blocked);
}

/// Makes a vCPU ready that does what `from` says; false when it does something else.
fn leave<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, from: Activity) -> bool {
    let cpu = host.cpu_of(at);
    let mut ready = cpu.queue.ready.lock();
    let is = at.state.activity() == from;
    if is {
        enqueue(host, cpu, &mut ready, at);
    }
    is
}

/// Brings a vCPU up that was down. False when it was up.
pub fn start<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) -> bool {
    leave(host, at, Activity::Down)
}

/// Makes a parked vCPU of a domain that may run again ready.
pub fn unpark<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    leave(host, at, Activity::Parked);
}

/// Stops a vCPU that is not the caller: it is down when this returns, or as soon as its CPU notices.
pub fn stop<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    let cpu = host.cpu_of(at);
    let mut ready = cpu.queue.ready.lock();
    if at.state.activity() == Activity::Running {
        at.going_down.store(true, Ordering::Release);
        cpu.queue.pick_again();
        drop(ready);
        host.machine.kick(cpu.id);
        return;
    }
    ready.retain(|item| !item.is(at));
    cpu.queue.waiting.store(ready.len() as u32, Ordering::Relaxed);
    at.state.set(Activity::Down);
    at.going_down.store(false, Ordering::Release);
}

fn enqueue<M: Machine>(host: &Host<M>, cpu: &PerCpu<M>, ready: &mut Vec<VcpuRef<M>>, at: &VcpuRef<M>) {
    if !at.domain.may_run() {
        at.state.set(Activity::Parked);
        return;
    }
    let floor = cpu.queue.floor.load(Ordering::Relaxed);
    let time = at.state.virtual_time.load(Ordering::Relaxed).max(floor.saturating_sub(SLEEPER_NS));
    at.state.virtual_time.store(time, Ordering::Relaxed);
    let now = host.machine.now();
    at.state.ready_at.store(now.0, Ordering::Relaxed);
    at.state.set(Activity::Ready);
    ready.push(at.clone());
    cpu.queue.waiting.store(ready.len() as u32, Ordering::Relaxed);
    let running = cpu.queue.current.load(Ordering::Relaxed);
    if running == u64::MAX {
        host.machine.kick(cpu.id);
        return;
    }
    let ran = now.0.saturating_sub(cpu.queue.current_start.load(Ordering::Relaxed));
    let running = running.saturating_add(weighted(ran, cpu.queue.current_weight.load(Ordering::Relaxed)));
    if time.saturating_add(PREEMPT_NS) < running {
        let early = ran < GRACE_NS;
        let given = early && cpu.queue.graced.load(Ordering::Relaxed);
        if early {
            let pressed = if given { Pressed::Given } else { Pressed::Denied };
            cpu.queue.pressed.store(pressed.number(), Ordering::Relaxed);
        }
        if !given {
            cpu.queue.pick_again();
        }
    }
    // The slice of the one that runs now ends some time: the loop has to arm for it.
    cpu.queue.look_again();
    host.machine.kick(cpu.id);
}

/// The vCPU that `cpu` runs next, as running. vCPUs whose domain may not run are parked on the way.
pub fn pick<M: Machine>(cpu: &PerCpu<M>, now: HostTime) -> Option<VcpuRef<M>> {
    let mut ready = cpu.queue.ready.lock();
    cpu.queue.again.store(false, Ordering::Release);
    let picked = loop {
        let free = ready.iter().enumerate().filter(|(_, item)| !capped(item, now));
        let best = free.min_by_key(|(_, item)| item.state.virtual_time.load(Ordering::Relaxed));
        let Some((at, _)) = best else { break None };
        let item = ready.swap_remove(at);
        if item.domain.may_run() {
            item.state.set(Activity::Running);
            let time = item.state.virtual_time.load(Ordering::Relaxed);
            cpu.queue.floor.fetch_max(time, Ordering::Relaxed);
            cpu.queue.current.store(time, Ordering::Relaxed);
            cpu.queue.current_weight.store(item.domain.weight.load(Ordering::Relaxed), Ordering::Relaxed);
            cpu.queue.current_cap.store(item.domain.cap.load(Ordering::Relaxed), Ordering::Relaxed);
            cpu.queue.current_start.store(now.0, Ordering::Relaxed);
            cpu.queue.graced.store(item.state.grace.is_due(), Ordering::Relaxed);
            item.state.since.store(now.0, Ordering::Relaxed);
            break Some(item);
        }
        item.state.set(Activity::Parked);
    };
    if picked.is_none() {
        cpu.queue.current.store(u64::MAX, Ordering::Relaxed);
        // Whoever is ready now has used up its cap: look again when some of the window has passed.
        cpu.queue.current_start.store(now.0, Ordering::Relaxed);
    }
    cpu.queue.waiting.store(ready.len() as u32, Ordering::Relaxed);
    picked
}

/// When a CPU must look at its queue again although nothing else happens: the end of the running vCPU's slice when
/// others wait, or of a cap's window.
pub fn slice_end<M: Machine>(cpu: &PerCpu<M>) -> HostTime {
    if !cpu.queue.is_contended() {
        return HostTime::NEVER;
    }
    let start = cpu.queue.current_start.load(Ordering::Relaxed);
    let given = cpu.queue.pressed.load(Ordering::Relaxed) == Pressed::Given.number();
    let length = if given { GRACE_NS } else { SLICE_NS };
    HostTime(start.saturating_add(length))
}

fn capped<M: Machine>(item: &VcpuRef<M>, now: HostTime) -> bool {
    let cap = item.domain.cap.load(Ordering::Relaxed);
    if cap == 0 {
        return false;
    }
    let start = item.state.window_start.load(Ordering::Relaxed);
    if now.0.saturating_sub(start) >= CAP_WINDOW_NS {
        item.state.window_start.store(now.0, Ordering::Relaxed);
        item.state.window_used.store(0, Ordering::Relaxed);
        return false;
    }
    item.state.window_used.load(Ordering::Relaxed) >= CAP_WINDOW_NS / 100 * u64::from(cap)
}

/// Makes a vCPU that yields go behind one other that is ready.
pub fn step_behind<M: Machine>(host: &Host<M>, vcpu: &Vcpu<M>) {
    let ready = host.cpu_of(vcpu).queue.ready.lock();
    let first = ready.iter().map(|item| item.state.virtual_time.load(Ordering::Relaxed)).min();
    if let Some(first) = first {
        vcpu.state.virtual_time.fetch_max(first.saturating_add(1), Ordering::Relaxed);
    }
}

/// Puts a vCPU that this CPU ran back: ready if it wants to go on, otherwise as `activity` says. `reason` looks whether
/// there is a reason to be ready after all; it is called after the new state is visible.
pub fn put_back<M: Machine>(
    host: &Host<M>,
    at: &VcpuRef<M>,
    activity: Activity,
    now: HostTime,
    reason: impl FnOnce() -> bool,
) {
    let ran = now.0.saturating_sub(at.state.since.swap(now.0, Ordering::Relaxed));
    at.tally.ran.add(ran);
    at.state.window_used.fetch_add(ran, Ordering::Relaxed);
    let time = weighted(ran, at.domain.weight.load(Ordering::Relaxed));
    at.state.virtual_time.fetch_add(time, Ordering::Relaxed);
    let cpu = host.cpu_of(at);
    if activity == Activity::Blocked {
        {
            let _ready = cpu.queue.ready.lock();
            at.state.set(Activity::Blocked);
            cpu.queue.end_turn(at, false);
        }
        fence(Ordering::SeqCst);
        if reason() {
            wake_blocked(host, at);
        }
        return;
    }
    let mut ready = cpu.queue.ready.lock();
    cpu.queue.end_turn(at, true);
    if activity == Activity::Down {
        at.state.set(Activity::Down);
    } else if at.domain.may_run() {
        at.state.set(Activity::Ready);
        ready.push(at.clone());
        cpu.queue.waiting.store(ready.len() as u32, Ordering::Relaxed);
    } else {
        at.state.set(Activity::Parked);
    }
}
