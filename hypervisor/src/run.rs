//! The loop of a physical CPU: pick a vCPU, enter it, deal with what made it leave, until another should run.
//!
//! [`run_cpu`] never returns. Its steps are public, so that the simulation and tests drive them one by one.

use crate::host::PerCpu;
use crate::inject;
use crate::prelude::*;

/// vCPUs whose timers fire in one go.
const TIMER_BUDGET: u32 = 32;
/// Exits in one step, when nothing else ends it.
const EXITS: u32 = 256;
/// Free frames looked at for scrubbing in one idle turn.
const SCRUB_BUDGET: u32 = 64;

/// What a CPU keeps between steps: the vCPU whose registers it has.
pub struct Loaded<M: Machine> {
    at: VcpuRef<M>,
    body: Box<Body<M>>,
}

/// A physical CPU's side of the loop.
pub struct CpuLoop<M: Machine> {
    cpu: Cpu,
    loaded: Option<Loaded<M>>,
    armed: HostTime,
    exits: u32,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ran a vCPU until it stopped or another was wanted.
    Ran,
    /// Found nothing to run. The timer is armed.
    Idle,
}

/// Runs domains on the calling CPU, for ever.
pub fn run_cpu<M: Machine>(host: &Host<M>) -> ! {
    let mut cpu = CpuLoop::new(host.machine.this_cpu());
    loop {
        if cpu.step(host) == Step::Idle {
            cpu.idle(host);
        }
    }
}

impl<M: Machine> CpuLoop<M> {
    /// With no vCPU loaded.
    pub const fn new(cpu: Cpu) -> Self {
        Self::with_exits(cpu, EXITS)
    }

    /// With steps of at most so many exits.
    pub const fn with_exits(cpu: Cpu, exits: u32) -> Self {
        Self { cpu, loaded: None, armed: HostTime::NEVER, exits }
    }

    /// One turn: interrupts, timers, then one vCPU.
    pub fn step(&mut self, host: &Host<M>) -> Step {
        let cpu = host.cpu(self.cpu);
        if host.machine.take_interrupt().is_some_and(|first| take_from(host, first)) {
            self.armed = HostTime::NEVER;
        }
        let now = host.now();
        timers::expire(host, cpu, now, TIMER_BUDGET);
        let Some(at) = schedule::pick(cpu, now) else {
            life::reap(host);
            arm(host, cpu, &mut self.armed);
            return Step::Idle;
        };
        if self.load(&at) {
            let activity = self.run(host, cpu, &at);
            self.put_back(host, &at, activity);
        } else {
            // Its registers are out with a call that looks at them; that ends soon.
            schedule::put_back(host, &at, Activity::Ready, now, || false);
        }
        Step::Ran
    }

    /// Waits for an interrupt when there is nothing to run, scrubbing free memory first.
    pub fn idle(&mut self, host: &Host<M>) {
        let scrubbed = host.frames.scrub_free(SCRUB_BUDGET, |mfn, unused| host.scrub(mfn, unused));
        if scrubbed == 0 {
            host.machine.idle();
        }
    }

    /// Puts the registers of the loaded vCPU back where others find them.
    pub fn unload(&mut self) {
        if let Some(Loaded { at, mut body }) = self.loaded.take() {
            body.context.switch_out();
            *at.body.lock() = Some(body);
        }
    }

    /// Makes `at` the vCPU whose registers this CPU has.
    fn load(&mut self, at: &VcpuRef<M>) -> bool {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.at.is(at)) {
            return true;
        }
        self.unload();
        let Some(mut body) = at.body.lock().take() else { return false };
        body.context.switch_in();
        body.context.set_tsc_offset(at.domain.tsc_offset);
        self.loaded = Some(Loaded { at: at.clone(), body });
        true
    }

    fn put_back(&mut self, host: &Host<M>, at: &VcpuRef<M>, activity: Activity) {
        let now = host.now();
        if activity == Activity::Ready && !at.domain.may_run() || activity == Activity::Down {
            // Whoever stopped it may want its registers.
            self.unload();
        }
        time::run_state(host, at, activity);
        schedule::put_back(host, at, activity, now, || local::wants_to_run(host, at, at));
        life::reap(host);
    }

    /// Enters the vCPU until something else should happen.
    fn run(&mut self, host: &Host<M>, cpu: &PerCpu<M>, at: &VcpuRef<M>) -> Activity {
        let Some(loaded) = self.loaded.as_mut() else { return Activity::Down };
        let vcpu: &Vcpu<M> = at;
        let Body { context, last } = &mut *loaded.body;
        let domain = &at.domain;
        let mut running = Running { host, domain, vcpu, context, last };
        crate::hypercall::end_poll(host, at);
        time::run_state(host, at, Activity::Running);
        cpu.queue.look_again();
        for _ in (0..self.exits).rev() {
            if cpu.queue.take_look() && !may_go_on(host, cpu, domain, &mut self.armed) {
                break;
            }
            if prepare(&mut running, at) {
                return stopped_as(vcpu, Activity::Blocked);
            }
            cpu.crossings.fetch_add(1, Ordering::SeqCst);
            let exit = host.machine.enter(running.context, domain.root, domain.epoch.load(Ordering::SeqCst));
            cpu.crossings.fetch_add(1, Ordering::SeqCst);
            let start = host.machine.tsc();
            let kind = exit.kind();
            vcpu.trail.note(kind);
            let verdict = exit::handle(&mut running, &exit);
            vcpu.tally.exit(kind, host.machine.tsc().wrapping_sub(start));
            match verdict {
                Verdict::Resume => {}
                Verdict::Wait => return stopped_as(vcpu, Activity::Blocked),
                Verdict::Reschedule => return Activity::Ready,
            }
            if let Some(first) = host.machine.take_interrupt()
                && interrupt(host, cpu, &mut self.armed, first)
            {
                return Activity::Ready;
            }
        }
        stopped_as(vcpu, Activity::Ready)
    }
}

/// Why a vCPU does not run on: somebody has stopped it, or `otherwise`.
fn stopped_as<M: Machine>(vcpu: &Vcpu<M>, otherwise: Activity) -> Activity {
    if vcpu.going_down.swap(false, Ordering::AcqRel) { Activity::Down } else { otherwise }
}

/// Whether the vCPU that runs may run on, with the timer armed.
#[cold]
fn may_go_on<M: Machine>(host: &Host<M>, cpu: &PerCpu<M>, domain: &Domain<M>, armed: &mut HostTime) -> bool {
    arm(host, cpu, armed);
    !cpu.queue.wants_another() && domain.may_run()
}

/// Arms the machine's timer for whatever comes first.
fn arm<M: Machine>(host: &Host<M>, cpu: &PerCpu<M>, armed: &mut HostTime) {
    let wanted = cpu.deadlines.head().min(schedule::slice_end(cpu));
    if wanted != *armed {
        host.machine.arm((wanted != HostTime::NEVER).then_some(wanted));
        *armed = wanted;
    }
}

/// Deals with interrupts that came in a guest. True when the time is over that it has while others wait.
#[cold]
fn interrupt<M: Machine>(host: &Host<M>, cpu: &PerCpu<M>, armed: &mut HostTime, one: HostInterrupt) -> bool {
    if !take_from(host, one) {
        return false;
    }
    *armed = HostTime::NEVER;
    let now = host.now();
    timers::expire(host, cpu, now, TIMER_BUDGET);
    cpu.queue.look_again();
    // The timer is armed for the end of the slice as well, which matters only when somebody waits.
    schedule::slice_end(cpu) <= now
}

/// Deals with the interrupts that were noted. True when the timer was among them.
#[cold]
fn take_from<M: Machine>(host: &Host<M>, first: HostInterrupt) -> bool {
    let (mut timer, mut next) = (false, Some(first));
    while let Some(interrupt) = next {
        match interrupt {
            HostInterrupt::Timer => timer = true,
            HostInterrupt::Kick => {}
            HostInterrupt::Device(slot) => host.device_interrupt(slot),
        }
        next = host.machine.take_interrupt();
    }
    timer
}

/// Decides what to inject, when there is anything. True when the vCPU has to wait for its device model.
fn prepare<M: Machine>(running: &mut Running<'_, M>, at: &VcpuRef<M>) -> bool {
    let Running { host, domain, vcpu, .. } = running;
    (vcpu.attention.load(Ordering::SeqCst) || local::callback(host, domain, vcpu).is_some())
        && inject(running, at)
}

/// Injects what goes first, and asks for windows for the rest.
#[inline(never)]
fn inject<M: Machine>(running: &mut Running<'_, M>, at: &VcpuRef<M>) -> bool {
    if running.vcpu.asks.load(Ordering::SeqCst) && model::waits(running) {
        return true;
    }
    let Running { host, vcpu, context, .. } = running;
    let decision = inject::decide(context.interruptibility(), local::pending(host, at, vcpu));
    if let Some(source) = decision.inject {
        let Some(event) = source.event() else {
            let kind = RequestKind::Acknowledge.number();
            model::ask(host, &at.domain, vcpu, Request { kind, ..Request::default() });
            return true;
        };
        context.inject(event);
        local::injected(vcpu, source);
    }
    let wanted = decision.interrupt_window || decision.nmi_window;
    if wanted || vcpu.window.swap(wanted, Ordering::Relaxed) {
        context.set_windows(decision.interrupt_window, decision.nmi_window);
    }
    if wanted {
        // The window is closed by another look, whatever becomes of what waits.
        vcpu.window.store(true, Ordering::Relaxed);
        vcpu.attention.store(true, Ordering::SeqCst);
    }
    false
}
