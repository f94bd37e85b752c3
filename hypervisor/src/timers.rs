//! Deadlines: each vCPU's timers, and each CPU's queue of the earliest of each vCPU.
//!
//! The queue has at most one entry for a vCPU and room for all of them, so setting a timer allocates nothing. The machine's
//! one timer is armed by the run loop, for the head of the queue or the end of a time slice.

use crate::prelude::*;

/// Timers of one vCPU. All are points of system time; `None` is off.
#[derive(Clone, Copy, Default)]
pub struct VcpuTimers {
    /// `VCPUOP_set_singleshot_timer` and `set_timer_op`.
    pub singleshot: Option<HostTime>,
    /// `VCPUOP_set_periodic_timer`: the next tick, and the period in nanoseconds.
    pub periodic: Option<(HostTime, u64)>,
    /// End of `SCHEDOP_poll`.
    pub poll: Option<HostTime>,
    /// The local interrupt controller's timer.
    pub lapic: Option<HostTime>,
    /// The domain's watchdogs; only on vCPU 0.
    pub watchdogs: [Option<HostTime>; 2],
}

impl VcpuTimers {
    /// The earliest.
    pub fn next(&self) -> Option<HostTime> {
        let ([first, second], periodic) = (self.watchdogs, self.periodic.map(|(next, _)| next));
        [self.singleshot, periodic, self.poll, self.lapic, first, second].into_iter().flatten().min()
    }
}

/// One CPU's deadlines.
pub struct Deadlines<M: Machine> {
    queue: Lock<Vec<(HostTime, VcpuRef<M>)>>,
    /// The earliest, so that looking takes no lock; `u64::MAX` is none.
    head: AtomicU64,
}

impl<M: Machine> Deadlines<M> {
    pub(crate) fn new() -> Self {
        Self { queue: Lock::new(Rank::Deadlines, Vec::new()), head: AtomicU64::new(u64::MAX) }
    }

    /// Makes room for so many vCPUs in all.
    pub(crate) fn reserve(&self, vcpus: usize) -> Result<(), OutOfHeap> {
        let mut queue = self.queue.lock();
        let more = vcpus.saturating_sub(queue.len());
        queue.try_reserve(more).map_err(|_| OutOfHeap)
    }

    /// The earliest deadline.
    pub fn head(&self) -> HostTime {
        HostTime(self.head.load(Ordering::Acquire))
    }

    /// Replaces a vCPU's deadline.
    fn set(&self, vcpu: &VcpuRef<M>, deadline: Option<HostTime>) {
        let mut queue = self.queue.lock();
        let old = queue.iter().position(|(_, other)| other.is(vcpu)).map(|at| queue.remove(at).1);
        if let Some(deadline) = deadline {
            let entry = old.unwrap_or_else(|| vcpu.clone());
            let at = queue.partition_point(|(other, _)| *other <= deadline);
            queue.insert(at, (deadline, entry));
        }
        let head = queue.first().map_or(u64::MAX, |(deadline, _)| deadline.0);
        self.head.store(head, Ordering::Release);
    }

    fn pop_due(&self, now: HostTime) -> Option<VcpuRef<M>> {
        let mut queue = self.queue.lock();
        let due = queue.first().is_some_and(|(deadline, _)| *deadline <= now).then(|| queue.remove(0).1);
        let head = queue.first().map_or(u64::MAX, |(deadline, _)| deadline.0);
        self.head.store(head, Ordering::Release);
        due
    }
}

/// Changes a vCPU's timers and brings its CPU's queue up to date.
pub fn change<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, change: impl FnOnce(&mut VcpuTimers)) {
    let mut timers = at.timers.lock();
    let before = timers.next();
    change(&mut timers);
    let after = timers.next();
    if before != after {
        let cpu = host.cpu_of(at);
        cpu.deadlines.set(at, after);
        cpu.queue.look_again();
        host.machine.kick(cpu.id);
    }
}

/// Fires what is due on a CPU: at most `budget` vCPUs, so that the time this takes is bounded; the rest follow at the next
/// exit.
pub fn expire<M: Machine>(host: &Host<M>, cpu: &crate::host::PerCpu<M>, now: HostTime, budget: u32) {
    for _ in 0..budget {
        if cpu.deadlines.head() > now {
            return;
        }
        let Some(at) = cpu.deadlines.pop_due(now) else { return };
        fire(host, &at, now);
    }
}

fn fire<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, now: HostTime) {
    let due = |timer: &mut Option<HostTime>| timer.take_if(|deadline| *deadline <= now).is_some();
    let mut timers = at.timers.lock();
    let mut tick = due(&mut timers.singleshot);
    let polled = due(&mut timers.poll);
    let lapic = due(&mut timers.lapic);
    let [first, second] = &mut timers.watchdogs;
    let watchdog = due(first) | due(second);
    if let Some((next, period)) = &mut timers.periodic
        && *next <= now
    {
        tick = true;
        // Ticks that were missed are not made up for.
        let missed = (now.0 - next.0) / (*period).max(1);
        *next = HostTime(next.0.saturating_add((missed + 1).saturating_mul(*period)));
    }
    host.cpu_of(at).deadlines.set(at, timers.next());
    drop(timers);
    if tick {
        events::raise_virq(host, &at.domain, at, Virq::TIMER);
    }
    if polled {
        schedule::wake(host, at);
    }
    if lapic {
        local::timer_fired(host, at, now);
    }
    if watchdog {
        life::end(host, &at.domain, ShutdownReason::Watchdog);
    }
}
