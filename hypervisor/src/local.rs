//! What waits for one vCPU: its local interrupt controller, NMIs, the upcall.
//!
//! The `attention` flag of the vCPU says that its controller has to be looked at, so that an entry with nothing to inject
//! takes no lock.

use crate::inject::{Pending, Source};
use crate::lapic::{Action, Delivery, Ipi, Lapic};
use crate::prelude::*;

/// Interrupts of one vCPU.
pub struct Local {
    /// An NMI waits.
    pub nmi: bool,
    /// Level of the 8259 pair's output.
    line: bool,
    /// The controller.
    pub lapic: Lapic,
}

impl Local {
    /// After reset, with the number of the controller.
    pub fn new(apic_id: u8) -> Self {
        Self { nmi: false, line: false, lapic: Lapic::new(apic_id) }
    }
}

fn attend<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>) {
    vcpu.attention.store(true, Ordering::SeqCst);
    schedule::wake(host, at);
}

/// A vector arrives at a vCPU's local interrupt controller, as an edge or a level.
pub fn post<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>, vector: u8, level: bool) {
    if vcpu.local.lock().lapic.post(vector, level) {
        attend(host, at, vcpu);
    }
}

/// An NMI arrives.
pub fn post_nmi<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>) {
    vcpu.local.lock().nmi = true;
    attend(host, at, vcpu);
}

/// The output of the 8259 pair is up, or down.
pub fn set_line<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, level: bool) {
    at.local.lock().line = level;
    attend(host, at, at);
}

/// The local timer's deadline has come.
pub fn timer_fired<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, now: HostTime) {
    let next = at.local.lock().lapic.expire(now);
    timers::change(host, at, |timers| timers.lapic = next);
    attend(host, at, at);
}

/// Reads a register of the calling vCPU's controller.
pub fn read<M: Machine>(running: &Running<'_, M>, offset: u16) -> u32 {
    let now = running.now();
    running.vcpu.local.lock().lapic.read(offset, now)
}

/// Writes a register of the calling vCPU's controller, and does what that asks for.
pub fn write<M: Machine>(running: &mut Running<'_, M>, offset: u16, value: u32) {
    let now = running.now();
    let vcpu = running.vcpu;
    let action = vcpu.local.lock().lapic.write(offset, value, now);
    vcpu.attention.store(true, Ordering::SeqCst);
    match action {
        Action::None => {}
        Action::Send(ipi) => deliver(running.host, running.domain, Some(vcpu.id), ipi, false),
        Action::End(vector) => {
            let (kind, value) = (RequestKind::End.number(), vector.into());
            model::ask(running.host, running.domain, vcpu, Request { kind, value, ..Request::default() });
        }
        Action::Timer(deadline) => {
            let name = running.name();
            timers::change(running.host, &name, |timers| timers.lapic = deadline);
        }
        Action::Enabled => {
            let vector = vcpu.upcall_vector.load(Ordering::Acquire);
            if vector != 0 && events::upcall_waits(running.host, vcpu) {
                post(running.host, &running.name(), vcpu, vector as u8, false);
            }
        }
    }
}

/// An interrupt from one of a domain's vCPUs, or from a device, to its vCPUs.
pub fn deliver<M: Machine>(host: &Host<M>, to: &Arc<Domain<M>>, from: Option<VcpuId>, ipi: Ipi, level: bool) {
    for vcpu in &to.vcpus {
        let own = from == Some(vcpu.id);
        if !vcpu.local.lock().lapic.is_addressed(ipi.destination, own) {
            continue;
        }
        let at = VcpuRef { domain: to.clone(), index: vcpu.id.0 };
        match ipi.delivery {
            Delivery::Fixed(vector) => post(host, &at, vcpu, vector, level),
            Delivery::Lowest(vector) => {
                post(host, &at, vcpu, vector, level);
                return;
            }
            Delivery::Nmi => post_nmi(host, &at, vcpu),
            // A vCPU cannot stop itself like this and go on to report it; no kernel does.
            Delivery::Init if own => {}
            Delivery::Init => {
                vcpu.local.lock().lapic.reset();
                timers::change(host, &at, |timers| timers.lapic = None);
                start::init(host, &at);
            }
            Delivery::Startup(page) => start::startup(host, &at, page),
        }
    }
}

/// The vector of the upcall past the local interrupt controller, when an event waits.
pub fn callback<M: Machine>(host: &Host<M>, domain: &Domain<M>, vcpu: &Vcpu<M>) -> Option<u8> {
    let vector = domain.callback.load(Ordering::Relaxed);
    let waits =
        vector != 0 && vcpu.upcall_vector.load(Ordering::Relaxed) == 0 && events::upcall_waits(host, vcpu);
    waits.then_some(vector as u8)
}

/// What waits right now.
pub fn pending<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>) -> Pending {
    let mut pending = Pending { upcall: callback(host, &at.domain, vcpu), ..Pending::default() };
    if vcpu.attention.load(Ordering::SeqCst) {
        look(vcpu, &mut pending);
    }
    pending
}

#[cold]
fn look<M: Machine>(vcpu: &Vcpu<M>, pending: &mut Pending) {
    // Taken back first, so that what arrives after the look is seen by the next.
    vcpu.attention.store(false, Ordering::SeqCst);
    let local = vcpu.local.lock();
    pending.nmi = local.nmi;
    pending.lapic = local.lapic.pending();
    pending.line = local.line && local.lapic.is_wired();
    if pending.nmi || pending.lapic.is_some() || pending.line {
        vcpu.attention.store(true, Ordering::SeqCst);
    }
}

/// An event was injected.
pub fn injected<M: Machine>(vcpu: &Vcpu<M>, source: Source) {
    match source {
        Source::Nmi => vcpu.local.lock().nmi = false,
        Source::Lapic(vector) => {
            vcpu.local.lock().lapic.accept(vector);
            if vector == vcpu.upcall_vector.load(Ordering::Relaxed) as u8 {
                vcpu.tally.delivered.add(1);
            }
        }
        Source::Upcall(_) => vcpu.tally.delivered.add(1),
        Source::Line => {}
    }
}

/// Whether a vCPU that waits has a reason to go on. One that asks its device model has no other than the answer.
pub fn wants_to_run<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>) -> bool {
    if vcpu.asks.load(Ordering::SeqCst) {
        return vcpu.question.lock().is_answered();
    }
    pending(host, at, vcpu) != Pending::default()
        || events::upcall_waits(host, vcpu)
        || polled_port_waits(host, at, vcpu)
}

fn polled_port_waits<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, vcpu: &Vcpu<M>) -> bool {
    let polled = vcpu.polled.load(Ordering::SeqCst);
    // With several ports the vCPU looks at them itself when it goes on; an event in between is rare and costs a poll.
    polled != 0
        && (polled == crate::vcpu::POLL_MANY
            || events::is_pending(host, &at.domain, Port(polled)).unwrap_or(true))
}

/// Sets the task priority; `None` is #GP.
pub fn set_cr8<M: Machine>(vcpu: &Vcpu<M>, value: u64) -> Option<()> {
    vcpu.attention.store(true, Ordering::SeqCst);
    vcpu.local.lock().lapic.set_cr8(value)
}
