//! Event channels.

use trunnion_protocol::errno::Errno;
use trunnion_protocol::event;
use trunnion_protocol::hypercall::Hypercall::{self, EventChannelOp, HvmOp, SchedOp};
use trunnion_protocol::hypercall::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, Op, PortArgument, PortState, Reset, Status,
};
use trunnion_protocol::hypercall::hvm::{self, Callback, Param, ParamArgument};
use trunnion_protocol::hypercall::sched::{self, Poll};
use trunnion_protocol::id::{DomainId, Port, VcpuId, Virq};
use trunnion_protocol::layout::Width;

use super::kit::{Guest, OTHER, World};
use crate::seam::Verdict;

fn port(world: &World, domain: &Guest, op: Op, port: Port) -> Result<PortArgument, Errno> {
    world.with(domain, EventChannelOp, op.number(), PortArgument { port })
}

fn status(world: &World, domain: &Guest, port: Port) -> Status {
    let question = Status { domain: DomainId::SELF, port, ..Status::default() };
    world.with(domain, EventChannelOp, Op::Status.number(), question).unwrap()
}

/// A port of `a` joined to a port of `b`.
fn join(world: &World, a: &Guest, b: &Guest) -> (Port, Port) {
    let open = AllocUnbound { domain: DomainId::SELF, remote: b.id, port: Port(0) };
    let open = world.with(a, EventChannelOp, Op::AllocUnbound.number(), open).unwrap().port;
    let bind = BindInterdomain { remote: a.id, remote_port: open, local_port: Port(0) };
    (open, world.with(b, EventChannelOp, Op::BindInterdomain.number(), bind).unwrap().local_port)
}

fn pending(world: &World, domain: &Guest, port: Port) -> bool {
    let place = event::place(port, domain.width()).unwrap();
    world.shared(domain, place.pending) & place.bit != 0
}

#[test]
fn two_domains_notify_each_other() {
    let world = World::new();
    let (a, b) = (world.guest(1), world.guest(1));
    let (pa, pb) = join(&world, &a, &b);
    assert_eq!((pa, pb), (Port(1), Port(1)));
    assert!(pending(&world, &b, pb), "a new interdomain port is pending at once");
    assert!(!pending(&world, &a, pa));
    port(&world, &b, Op::Send, pb).unwrap();
    assert!(pending(&world, &a, pa));
    assert_eq!(world.shared(&a, 8), 1, "selector");
    assert_eq!(world.shared(&a, 0) & 0xff, 1, "upcall");
    let seen = status(&world, &a, pa);
    assert_eq!(
        (seen.status, seen.first, seen.second),
        (PortState::Interdomain.number(), u32::from(b.id.0), pb.0)
    );
    port(&world, &a, Op::Close, pa).unwrap();
    assert_eq!(status(&world, &b, pb).status, PortState::Unbound.number());
    assert_eq!(port(&world, &b, Op::Send, pb), Ok(PortArgument { port: pb }), "an open port swallows events");
    assert_eq!(port(&world, &a, Op::Send, pa), Err(Errno::Inval));
    assert_eq!(port(&world, &a, Op::Close, pa), Err(Errno::Inval));
    // The peer's end is open for the one that closed, and for nobody else.
    let again = BindInterdomain { remote: b.id, remote_port: pb, local_port: Port(0) };
    let other = world.guest(1);
    assert_eq!(world.with(&other, EventChannelOp, Op::BindInterdomain.number(), again), Err(Errno::Inval));
    assert!(world.with(&a, EventChannelOp, Op::BindInterdomain.number(), again).is_ok());
}

#[test]
fn a_masked_port_is_noted_and_delivered_by_unmasking() {
    let world = World::new();
    let (a, b) = (world.guest(1), world.guest(1));
    let (pa, pb) = join(&world, &a, &b);
    let place = event::place(pa, Width::W64).unwrap();
    world.set_shared(&a, place.mask, place.bit);
    port(&world, &b, Op::Send, pb).unwrap();
    assert!(pending(&world, &a, pa));
    assert_eq!(world.shared(&a, 0) & 0xff, 0);
    port(&world, &a, Op::Unmask, pa).unwrap();
    assert_eq!((world.shared(&a, place.mask), world.shared(&a, 0) & 0xff), (0, 1));
}

#[test]
fn ports_that_do_not_exist() {
    let world = World::new();
    let a = world.guest(1);
    for claim in [0, 1, 4095, 4096, u32::MAX] {
        for op in [Op::Send, Op::Close, Op::Unmask] {
            assert_eq!(port(&world, &a, op, Port(claim)), Err(Errno::Inval), "{op:?} {claim}");
        }
        let bind = BindVcpu { port: Port(claim), vcpu: VcpuId(0) };
        assert_eq!(world.with(&a, EventChannelOp, Op::BindVcpu.number(), bind), Err(Errno::Inval));
    }
    let nobody = BindInterdomain { remote: DomainId(900), remote_port: Port(1), local_port: Port(0) };
    assert_eq!(world.with(&a, EventChannelOp, Op::BindInterdomain.number(), nobody), Err(Errno::Srch));
    let foreign = AllocUnbound { domain: DomainId(0), remote: DomainId::SELF, port: Port(0) };
    assert_eq!(world.with(&a, EventChannelOp, Op::AllocUnbound.number(), foreign), Err(Errno::Perm));
    assert_eq!(world.call(&a, EventChannelOp, &[99, 0x1000]), Err(Errno::NoSys));
    assert_eq!(world.call(&a, EventChannelOp, &[4, 0xffff_0000]), Err(Errno::Fault));
}

#[test]
fn all_ports_of_both_widths() {
    for (narrow, limit) in [(false, 4096), (true, 1024)] {
        let world = World::new();
        let a = world.guest(1);
        a.narrow.store(narrow, std::sync::atomic::Ordering::Relaxed);
        let open = AllocUnbound { domain: DomainId::SELF, remote: DomainId::SELF, port: Port(0) };
        for expected in 1..limit {
            let given = world.with(&a, EventChannelOp, Op::AllocUnbound.number(), open).unwrap().port;
            assert_eq!(given, Port(expected));
        }
        let full = world.with(&a, EventChannelOp, Op::AllocUnbound.number(), open);
        assert_eq!(full, Err(Errno::NoSpc));
        world.with(&a, EventChannelOp, Op::Reset.number(), Reset { domain: DomainId::SELF }).unwrap();
        assert_eq!(a.ports.in_use(), 0);
    }
}

#[test]
fn virtual_interrupts() {
    let world = World::new();
    let a = world.guest(2);
    let bind = |virq, vcpu| {
        let bind = BindVirq { virq, vcpu: VcpuId(vcpu), port: Port(0) };
        world.with(&a, EventChannelOp, Op::BindVirq.number(), bind).map(|bind| bind.port)
    };
    let timer = bind(Virq::TIMER, 1).unwrap();
    assert_eq!(bind(Virq::TIMER, 1), Err(Errno::Exist));
    assert_eq!(bind(Virq::TIMER, 2), Err(Errno::NoEnt));
    assert_eq!(bind(Virq::DOM_EXC, 1), Err(Errno::Inval));
    assert_eq!(bind(Virq::DOM_EXC, 0), Err(Errno::Perm), "the host's interrupts are dom0's");
    assert_eq!(bind(Virq(5), 0), Err(Errno::Inval));
    assert_eq!(bind(Virq(99), 0), Err(Errno::Inval));
    crate::events::raise_virq(&world.host, &a, &a.vcpus[1], Virq::TIMER);
    assert!(pending(&world, &a, timer));
    assert_eq!((world.shared(&a, 0) & 1, world.shared(&a, 64) & 1), (0, 1), "on its vCPU");
    let moved = BindVcpu { port: timer, vcpu: VcpuId(0) };
    assert_eq!(world.with(&a, EventChannelOp, Op::BindVcpu.number(), moved), Err(Errno::Inval));
    port(&world, &a, Op::Close, timer).unwrap();
    assert!(bind(Virq::TIMER, 1).is_ok());
}

#[test]
fn events_between_vcpus() {
    let world = World::new();
    let a = world.guest(2);
    let bind = BindIpi { vcpu: VcpuId(1), port: Port(0) };
    let ipi = world.with(&a, EventChannelOp, Op::BindIpi.number(), bind).unwrap().port;
    port(&world, &a, Op::Send, ipi).unwrap();
    assert_eq!((world.shared(&a, 0) & 1, world.shared(&a, 64) & 1), (0, 1));
    let missing = BindIpi { vcpu: VcpuId(2), port: Port(0) };
    assert_eq!(world.with(&a, EventChannelOp, Op::BindIpi.number(), missing), Err(Errno::NoEnt));
}

#[test]
fn polling_ends_with_the_event_even_if_it_is_masked() {
    let world = World::new();
    let (a, b) = (world.guest(1), world.guest(1));
    let (pa, pb) = join(&world, &a, &b);
    let place = event::place(pa, Width::W64).unwrap();
    world.set_shared(&a, place.mask, place.bit);
    world.write(&a, OTHER, &pa.0.to_le_bytes());
    let poll = Poll { ports: trunnion_protocol::address::Gva(OTHER), count: 1, deadline_ns: 0 };
    world.put(&a, 0x1000, &poll);
    let (result, verdict) = world.call_on(&a, 0, SchedOp, &[u64::from(sched::Op::Poll.number()), 0x1000]);
    assert_eq!((result, verdict), (Ok(0), Verdict::Wait));
    assert_eq!(a.ports.pollers.load(std::sync::atomic::Ordering::Relaxed), 1);
    port(&world, &b, Op::Send, pb).unwrap();
    let (result, verdict) = world.call_on(&a, 0, SchedOp, &[u64::from(sched::Op::Poll.number()), 0x1000]);
    assert_eq!(
        (result, verdict),
        (Ok(0), Verdict::Resume),
        "an event that is pending already ends it at once"
    );
    assert_eq!(a.ports.pollers.load(std::sync::atomic::Ordering::Relaxed), 0);
    world.write(&a, OTHER, &9_999_u32.to_le_bytes());
    assert_eq!(world.call(&a, SchedOp, &[u64::from(sched::Op::Poll.number()), 0x1000]), Err(Errno::Inval));
    let left = a.ports.pollers.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(left, 0, "a refused poll leaves no poller behind");
    let many = Poll { count: 129, ..poll };
    world.put(&a, 0x1000, &many);
    assert_eq!(world.call(&a, SchedOp, &[u64::from(sched::Op::Poll.number()), 0x1000]), Err(Errno::Inval));
}

#[test]
fn the_callback_vector_and_the_width() {
    let world = World::new();
    let a = world.guest(1);
    let set = |value| {
        let argument = ParamArgument { domain: DomainId::SELF, index: Param::CallbackIrq.number(), value };
        world.with(&a, HvmOp, hvm::Op::SetParam.number(), argument)
    };
    assert_eq!(set(Callback::Vector(3).encode()), Err(Errno::Inval));
    assert_eq!(set(9 << 56), Err(Errno::Inval));
    set(Callback::Vector(0xf3).encode()).unwrap();
    assert_eq!(a.callback.load(std::sync::atomic::Ordering::Relaxed), 0xf3);
    assert_eq!(a.width(), Width::W64);
    // The same from 32-bit code latches the other form.
    world.register(&a, 0, |state| {
        state.efer = 0;
        state.cs.attributes = 0xc9b;
    });
    set(Callback::Vector(0xf3).encode()).unwrap();
    assert_eq!(a.width(), Width::W32);
    let _ = Hypercall::HvmOp;
}
