//! A domain's life: pause, shutdown, crash, and the way to the end.
//!
//! A domain that ends stops at once and waits for dom0, which reads why and destroys it. Destroying goes in steps of
//! bounded work, so that no call takes long; what others still map keeps the domain as a zombie until it is given back.

use crate::prelude::*;
use crate::report::{self, Text};

/// How far the destruction of a domain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// It lives.
    #[default]
    Alive,
    /// Ports are closed.
    Ports,
    /// Its mappings of others' grants are given back.
    Grants,
    /// Its memory goes.
    Memory,
    /// Its tables go.
    Tables,
    /// Only others' references are left.
    Zombie,
}

/// What changes in a domain's life.
#[derive(Default)]
pub struct Life {
    /// Times it is paused.
    pub pauses: u32,
    /// Why it ended, once it has.
    pub reason: Option<ShutdownReason>,
    /// The reason a shutdown gets that comes without one (`SCHEDOP_shutdown_code`).
    pub noted: Option<ShutdownReason>,
    /// How far its destruction is.
    pub phase: Phase,
    /// When it first ran.
    pub first_run: Option<HostTime>,
    /// When it ended.
    pub ended: Option<HostTime>,
    /// The last crash report.
    pub report: Text,
}

/// Stops a domain for one more reason.
pub fn pause<M: Machine>(host: &Host<M>, domain: &Domain<M>) -> Result<(), Errno> {
    let mut life = domain.life.lock();
    life.pauses = life.pauses.checked_add(1).ok_or(Errno::Range)?;
    domain.stopped.fetch_or(stop::PAUSED, Ordering::SeqCst);
    drop(life);
    halt(host, domain);
    Ok(())
}

/// Takes one reason back.
pub fn unpause<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>) -> Result<(), Errno> {
    let mut life = domain.life.lock();
    life.pauses = life.pauses.checked_sub(1).ok_or(Errno::Inval)?;
    if life.pauses == 0 {
        life.first_run.get_or_insert_with(|| host.now());
        domain.stopped.fetch_and(!stop::PAUSED, Ordering::SeqCst);
        drop(life);
        release(host, domain);
    }
    Ok(())
}

/// Waits until no CPU runs the domain's code. The caller has set a bit of [`Domain::stopped`].
fn halt<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let here = host.machine.this_cpu();
    for vcpu in &domain.vcpus {
        let cpu = host.cpu_of(vcpu);
        if vcpu.state.activity() == Activity::Running {
            cpu.queue.pick_again();
            if cpu.id != here {
                host.drive_out(cpu);
            }
        }
    }
}

fn release<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>) {
    if domain.may_run() {
        for index in 0..domain.vcpus.len() as u32 {
            schedule::unpark(host, &VcpuRef { domain: domain.clone(), index });
        }
    }
}

/// Ends a domain: its vCPUs stop, and dom0 hears of it. The first end counts.
pub fn end<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, reason: ShutdownReason) {
    host.end_with(domain, reason, Text::default());
}

impl<M: Machine> Host<M> {
    fn end_with(&self, domain: &Arc<Domain<M>>, reason: ShutdownReason, report: Text) {
        {
            let mut life = domain.life.lock();
            if life.reason.is_some() {
                return;
            }
            life.reason = Some(reason);
            life.ended = Some(self.now());
            life.report = report;
            domain.stopped.fetch_or(stop::SHUTDOWN, Ordering::SeqCst);
        }
        halt(self, domain);
        self.say(format_args!("domain {} ({}) ended: {:?}", domain.id, domain.name(), reason));
        if domain.is_privileged() {
            self.say(format_args!("dom0 has ended; so does the machine"));
            self.machine.power_off(reason == ShutdownReason::PowerOff);
        }
        events::raise_global(self, Virq::DOM_EXC);
    }
}

/// Ends the running vCPU's domain with a report. `why` is one line.
pub fn crash<M: Machine>(running: &mut Running<'_, M>, reason: ShutdownReason, why: fmt::Arguments<'_>) {
    let text = report::write(running, why);
    running.host.journal.write(&running.host.machine, text.bytes());
    running.host.end_with(running.domain, reason, text);
}

/// Stops the calling vCPU (`VCPUOP_down`, HLT with interrupts off). The last one powers the domain off.
/// The caller's run loop puts the vCPU back as [`Activity::Down`].
pub fn last_one_out<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, leaving: VcpuId) {
    let others = domain.vcpus.iter().any(|vcpu| vcpu.id != leaving && vcpu.state.is_up());
    if !others {
        let reason = domain.life.lock().noted.unwrap_or(ShutdownReason::PowerOff);
        end(host, domain, reason);
    }
}

/// Work in one step of a destruction, in pages, ports or mappings.
const STEP: u32 = 256;

/// Does one step of a domain's destruction. `Ok(true)` when the caller has nothing left to do: the domain is gone, or a
/// zombie.
pub fn destroy_step<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>) -> Result<bool, Errno> {
    if domain.is_privileged() {
        return Err(Errno::Perm);
    }
    let phase = {
        let mut life = domain.life.lock();
        if life.phase == Phase::Alive {
            life.phase = Phase::Ports;
            life.reason.get_or_insert(ShutdownReason::Crash);
            life.ended.get_or_insert_with(|| host.now());
            domain.stopped.fetch_or(stop::DYING, Ordering::SeqCst);
        }
        life.phase
    };
    let next = match phase {
        Phase::Ports => {
            halt(host, domain);
            for index in 0..domain.vcpus.len() as u32 {
                let at = VcpuRef { domain: domain.clone(), index };
                timers::change(host, &at, |timers| *timers = timers::VcpuTimers::default());
                schedule::stop(host, &at);
            }
            if domain.reset_ports(host, STEP as usize) { Phase::Grants } else { Phase::Ports }
        }
        Phase::Grants if granting::release_some(host, domain, STEP) => Phase::Memory,
        Phase::Memory if domain.map(host).clear_some(u64::from(STEP)) => Phase::Tables,
        Phase::Tables if free_tables(host, domain) => {
            release_specials(host, domain);
            host.zombies.fetch_add(1, Ordering::Relaxed);
            Phase::Zombie
        }
        unfinished => unfinished,
    };
    domain.life.lock().phase = next;
    if next == Phase::Zombie {
        reap(host);
        return Ok(true);
    }
    Ok(false)
}

fn free_tables<M: Machine>(host: &Host<M>, domain: &Domain<M>) -> bool {
    domain.memory.lock().tables.free_some(&host.table_pool(domain.id), STEP)
}

/// Gives up the pages that the hypervisor shared with the domain.
fn release_specials<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    for vcpu in &domain.vcpus {
        if vcpu.info_registered.swap(false, Ordering::AcqRel) {
            let (frame, _) = vcpu.info_place();
            vcpu.info.store(domain.shared_info.address().0, Ordering::Release);
            host.frames.put(frame);
        }
        time::forget_areas(host, vcpu);
    }
    domain.forget_model(host);
    granting::release_table(host, domain);
    if !planted::is(Bug::LeakedFrame) {
        host.frames.put(domain.shared_info);
    }
}

/// Removes zombies whose last frame has come back. Cheap when there are none.
pub fn reap<M: Machine>(host: &Host<M>) {
    if host.zombies.load(Ordering::Relaxed) != 0 {
        reap_zombies(host);
    }
}

#[cold]
fn reap_zombies<M: Machine>(host: &Host<M>) {
    let mut from = DomainId(0);
    while let Some(domain) = host.domain_from(from) {
        from = DomainId(domain.id.0.saturating_add(1));
        let gone = domain.life.lock().phase == Phase::Zombie && host.frames.all_owned(domain.id) == 0;
        if gone && host.delist(domain.id).is_some() {
            host.zombies.fetch_sub(1, Ordering::Relaxed);
            host.say(format_args!("domain {} ({}) is gone", domain.id, domain.name()));
            events::raise_global(host, Virq::DOM_EXC);
        }
    }
}

/// Whether a vCPU's domain still exists for callers: not dying.
pub fn is_alive<M: Machine>(domain: &Domain<M>) -> bool {
    domain.stopped.load(Ordering::Acquire) & stop::DYING == 0
}
