//! vCPUs: areas, timers, start and stop.

use trunnion_protocol::address::{Gfn, Gva};
use trunnion_protocol::control::Gpr;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall::{EventChannelOp, Multicall, SetTimerOp, VcpuOp, XenVersion};
use trunnion_protocol::hypercall::event::{BindVirq, Op as EventOp};
use trunnion_protocol::hypercall::misc::MulticallEntry;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::hypercall::vcpu::{AreaVirtual, Op, PeriodicTimer, RegisterVcpuInfo, SingleshotTimer};
use trunnion_protocol::hypercall::version::{self, Feature, FeatureInfo};
use trunnion_protocol::id::{Port, VcpuId, Virq};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared_info::{Runstate, TimeInfo};

use super::kit::{Guest, World};
use crate::lapic;
use crate::schedule::Activity;
use crate::seam::{CodeMode, Context, Exit, SecondLevelFault, Verdict};

fn vcpu<T: Layout>(world: &World, domain: &Guest, op: Op, id: u64, argument: T) -> Result<u64, Errno> {
    world.put(domain, 0x1000, &argument);
    world.call(domain, VcpuOp, &[u64::from(op.number()), id, 0x1000])
}

#[test]
fn vcpu_info_moves_once_and_loses_nothing() {
    let world = World::new();
    let a = world.guest(2);
    world.set_shared(&a, 64, 0x0100);
    let place = RegisterVcpuInfo { gfn: Gfn(7), offset: 64 };
    for bad in [4096 - 56, 60, 4096] {
        let place = RegisterVcpuInfo { gfn: Gfn(7), offset: bad };
        assert_eq!(vcpu(&world, &a, Op::RegisterVcpuInfo, 1, place), Err(Errno::Inval));
    }
    let nowhere = RegisterVcpuInfo { gfn: Gfn(70_000), offset: 0 };
    assert_eq!(vcpu(&world, &a, Op::RegisterVcpuInfo, 1, nowhere), Err(Errno::Inval));
    vcpu(&world, &a, Op::RegisterVcpuInfo, 1, place).unwrap();
    assert_eq!(vcpu(&world, &a, Op::RegisterVcpuInfo, 1, place), Err(Errno::Busy));
    assert_eq!(vcpu(&world, &a, Op::RegisterVcpuInfo, 2, place), Err(Errno::NoEnt));
    let mut info = [0; 64];
    world.read(&a, 7 * 4096 + 64, &mut info);
    assert_eq!((info[0], info[1], info[8..16].iter().all(|&byte| byte == 0xff)), (1, 1, true));
    let time = TimeInfo::decode(Width::W64, &info[32..]).unwrap();
    assert!(time.version % 2 == 0 && time.tsc_to_system_mul != 0);
    world.destroy(a);
}

#[test]
fn areas_follow_the_run_state() {
    let world = World::new();
    let a = world.guest(1);
    // Across the end of a page.
    let area = AreaVirtual { address: Gva(0x5ff0) };
    vcpu(&world, &a, Op::RegisterRunstateMemoryArea, 0, area).unwrap();
    vcpu(&world, &a, Op::RegisterVcpuTimeMemoryArea, 0, AreaVirtual { address: Gva(0x7000) }).unwrap();
    let time: TimeInfo = world.get(&a, 0x7000);
    assert!(time.tsc_to_system_mul != 0);
    let bad = AreaVirtual { address: Gva(0x7fff_0000) };
    assert_eq!(vcpu(&world, &a, Op::RegisterRunstateMemoryArea, 0, bad), Err(Errno::Fault));
    world.host.machine.script(
        1,
        Box::new(|context| {
            context.state.rflags |= 0x200;
            Exit::Halt
        }),
    );
    world.unpause(&a);
    world.host.machine.advance(1000);
    world.run(3);
    let state: Runstate = world.get(&a, 0x5ff0);
    assert_eq!(state.state, 2, "blocked: {state:?}");
    assert!(vcpu(&world, &a, Op::RegisterVcpuTimeMemoryArea, 0, AreaVirtual { address: Gva(0) }).is_ok());
    world.destroy(a);
}

#[test]
fn timers_wake_a_halted_vcpu() {
    let world = World::new();
    let a = world.guest(1);
    let bind = BindVirq { virq: Virq::TIMER, vcpu: VcpuId(0), port: Port(0) };
    world.with(&a, EventChannelOp, EventOp::BindVirq.number(), bind).unwrap();
    let deadline = SingleshotTimer { deadline_ns: 5_000_000, flags: 0 };
    assert_eq!(vcpu(&world, &a, Op::SetSingleshotTimer, 0, deadline), Ok(0));
    a.callback.store(0xf3, std::sync::atomic::Ordering::Relaxed);
    world.unpause(&a);
    world.host.machine.script(
        1,
        Box::new(|context| {
            context.state.rflags |= 0x200;
            Exit::Halt
        }),
    );
    world.run(400);
    assert!(crate::seam::Machine::now(&world.host.machine).0 >= 5_000_000);
    assert_eq!(world.shared(&a, 0) & 1, 1);
    let taken = a.vcpus[0].body.lock().as_ref().unwrap().context.taken.clone();
    assert_eq!(taken.first(), Some(&0xf3));
    let past = SingleshotTimer { deadline_ns: 1, flags: 1 };
    assert_eq!(vcpu(&world, &a, Op::SetSingleshotTimer, 0, past), Err(Errno::Time));
    assert_eq!(vcpu(&world, &a, Op::SetPeriodicTimer, 0, PeriodicTimer { period_ns: 5 }), Err(Errno::Inval));
    assert_eq!(world.call(&a, SetTimerOp, &[7_000_000]), Ok(0));
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::StopPeriodicTimer.number()), 0, 0]), Ok(0));
    world.destroy(a);
}

#[test]
fn halting_with_interrupts_off_switches_off() {
    let world = World::new();
    let a = world.guest(2);
    world.register(&a, 0, |state| state.rflags = 2);
    assert_eq!(world.exit(&a, 0, |_| Exit::Halt), Verdict::Wait);
    assert_eq!(a.life.lock().reason, Some(ShutdownReason::PowerOff));
    let b = world.guest(1);
    assert_eq!(world.exit(&b, 0, |_| Exit::Halt), Verdict::Wait);
    assert_eq!(b.life.lock().reason, None);
}

#[test]
fn a_second_vcpu_starts_by_the_interrupt_controller() {
    let world = World::new();
    let a = world.guest(2);
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::IsUp.number()), 1, 0]), Ok(0));
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::Up.number()), 1, 0]), Err(Errno::Inval));
    // mov [rbx], eax, as kernels write the controller.
    world.write(&a, 0x3000, &[0x89, 0x03]);
    let write = |offset: u64, value: u64| {
        world.register(&a, 0, |state| {
            state.rip = 0x3000;
            state.gpr[Gpr::Rax as usize] = value;
        });
        let fault = SecondLevelFault {
            gpa: trunnion_protocol::address::Gpa(lapic::BASE + offset),
            write: true,
            execute: false,
            walk: false,
        };
        assert_eq!(world.exit(&a, 0, |_| Exit::Memory(fault)), Verdict::Resume);
        assert_eq!(world.register(&a, 0, |state| state.rip), 0x3002);
    };
    write(0xf0, 0x1ff);
    write(0x310, 2 << 24);
    write(0x300, 0x4500);
    write(0x310, 2 << 24);
    write(0x300, 0x4608);
    assert_eq!(a.vcpus[1].state.activity(), Activity::Parked, "its domain is paused");
    world.register(&a, 1, |state| {
        assert_eq!((state.cs.base, state.cs.selector, state.rip), (0x8000, 0x800, 0));
    });
    let real = a.vcpus[1].body.lock().as_ref().unwrap().context.mode();
    assert_eq!(real, CodeMode::Real);
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::IsUp.number()), 1, 0]), Ok(1));
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::Down.number()), 1, 0]), Ok(0));
    assert_eq!(a.vcpus[1].state.activity(), Activity::Down);
    assert_eq!(world.call(&a, VcpuOp, &[u64::from(Op::Up.number()), 1, 0]), Ok(0));
    world.destroy(a);
}

#[test]
fn version_and_features() {
    let world = World::new();
    let a = world.guest(1);
    assert_eq!(world.call(&a, XenVersion, &[0, 0]), Ok(0x4_0011));
    let ask = FeatureInfo { index: 0, submap: 0 };
    let told = world.with(&a, XenVersion, version::Op::GetFeatures.number(), ask).unwrap();
    assert_eq!(told.submap, Feature::GUEST);
    let other = FeatureInfo { index: 1, submap: 0 };
    assert_eq!(world.with(&a, XenVersion, version::Op::GetFeatures.number(), other), Err(Errno::Inval));
    for op in 0..15u64 {
        let result = world.call(&a, XenVersion, &[op, 0x1000]);
        assert!(op == 7 || result != Err(Errno::NoSys), "{op}: {result:?}");
    }
    assert_eq!(world.call(&a, XenVersion, &[15, 0x1000]), Err(Errno::NoSys));
}

#[test]
fn several_calls_in_one() {
    let world = World::new();
    let a = world.guest(1);
    for index in 0..100u64 {
        let entry = MulticallEntry { number: 17 + index % 2 * 100, result: 0, arguments: [0; 6] };
        world.put(&a, 0x1000 + index * 64, &entry);
    }
    assert_eq!(world.call(&a, Multicall, &[0x1000, 100]), Ok(0));
    for index in 0..100u64 {
        let entry: MulticallEntry = world.get(&a, 0x1000 + index * 64);
        let expected = if index % 2 == 0 { 0x4_0011 } else { -38i64 as u64 };
        assert_eq!(entry.result, expected);
    }
    let inner = MulticallEntry { number: 13, result: 0, arguments: [0; 6] };
    world.put(&a, 0x1000, &inner);
    world.call(&a, Multicall, &[0x1000, 1]).unwrap();
    assert_eq!(world.get::<MulticallEntry>(&a, 0x1000).result, -22i64 as u64);
}

#[test]
fn user_mode_may_not_call() {
    let world = World::new();
    let a = world.guest(1);
    world.register(&a, 0, |state| state.ss.attributes |= 3 << 5);
    assert_eq!(world.call(&a, XenVersion, &[0, 0]), Err(Errno::Perm));
}

#[test]
fn calls_from_32_bit_code() {
    let world = World::new();
    let a = world.guest(1);
    world.register(&a, 0, |state| {
        state.efer = 0;
        state.cs.attributes = 0xc9b;
        // What 32-bit code cannot set does not count.
        state.gpr[Gpr::Rcx as usize] = 0xdead_0000_0000;
    });
    let ask = FeatureInfo { index: 0, submap: 0 };
    assert!(world.with(&a, XenVersion, version::Op::GetFeatures.number(), ask).is_ok());
    assert_eq!(world.call(&a, SetTimerOp, &[5, 1]), Ok(0));
    assert_eq!(a.vcpus[0].timers.lock().singleshot.unwrap().0, 1 << 32 | 5);
    assert_eq!(world.call(&a, XenVersion, &[99, 0]), Err(Errno::NoSys));
}
