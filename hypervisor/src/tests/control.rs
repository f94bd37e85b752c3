//! dom0's calls.

use trunnion_protocol::address::{Gfn, Gva};
use trunnion_protocol::control::{
    Audit, CreateDomain, DebugKey, DomainInfo, DomainRef, HostInfo, MapForeign, MapPirq, Operation, PirqRef,
    ReadText, Scheduling, UnmapForeign, VcpuInfo, VcpuState, VcpuStateCall, activity, domain_state,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall::{Arch0, EventChannelOp, MemoryOp, SchedOp};
use trunnion_protocol::hypercall::event::{BindPirq, BindVirq, Op as EventOp};
use trunnion_protocol::hypercall::memory::{Op as MemoryOpNumber, Reservation};
use trunnion_protocol::hypercall::sched::{Op as SchedOpNumber, Shutdown, ShutdownReason};
use trunnion_protocol::id::{DomainId, Pirq, Port, VcpuId, Virq};
use zerocopy::FromZeros;

use super::kit::{OTHER, World};
use crate::seam::{Exit, HostInterrupt, Verdict};

fn reference(id: DomainId) -> DomainRef {
    DomainRef { domain: id.0, pad: [0; 3] }
}

#[test]
fn only_dom0_has_control() {
    let world = World::new();
    let a = world.guest(1);
    for operation in 0..30 {
        assert_eq!(world.call(&a, Arch0, &[operation, 0x1000]), Err(Errno::Perm));
    }
    let info: HostInfo = world.control(Operation::HostInfo, &HostInfo::default()).unwrap();
    assert_eq!((info.revision, info.cpus, info.memory_bytes), (1, 1, 8192 * 4096));
}

#[test]
fn a_domain_is_built_runs_and_returns_everything() {
    let world = World::new();
    let before = world.host.frames.free_frames();
    let audit: Audit = world.control(Operation::Audit, &Audit::default()).unwrap();
    let wanted = CreateDomain {
        domain: 0,
        flags: 0,
        vcpus: 2,
        max_pages: 1024,
        uuid: [3; 16],
        name: crate::create::name("built"),
    };
    for refused in [CreateDomain { flags: 2, ..wanted }, CreateDomain { vcpus: 0, ..wanted }] {
        assert_eq!(world.control(Operation::CreateDomain, &refused), Err(Errno::Inval));
    }
    let id = world.control(Operation::CreateDomain, &wanted).unwrap().domain;
    assert_eq!(id, 1);
    world.write(&world.dom0, world.base + OTHER, &0u64.to_le_bytes());
    let memory =
        Reservation { extents: Gva(world.base + OTHER), count: 1, order: 9, flags: 0, domain: DomainId(id) };
    world.put(&world.dom0, world.base + 0x1000, &memory);
    let op = u64::from(MemoryOpNumber::PopulatePhysmap.number());
    assert_eq!(world.call(&world.dom0, MemoryOp, &[op, world.base + 0x1000]), Ok(1));
    let call = VcpuStateCall { domain: id, pad: 0, vcpu: 0, state: VcpuState::pvh(0x1000, 0x2000) };
    world.control(Operation::SetVcpuState, &call).unwrap();
    assert_eq!(world.control(Operation::SetVcpuState, &call).err(), Some(Errno::Exist));
    let info = DomainInfo { domain: 1, ..DomainInfo::new_zeroed() };
    let info = world.control(Operation::DomainInfo, &info).unwrap();
    assert_eq!((info.pages, info.vcpus, info.online_vcpus), (512, 2, 1));
    assert_eq!(info.state & domain_state::PAUSED, domain_state::PAUSED);
    world.control(Operation::Unpause, &reference(DomainId(id))).unwrap();
    assert_eq!(world.control(Operation::Unpause, &reference(DomainId(id))), Err(Errno::Inval));
    world.control(Operation::DestroyDomain, &reference(DomainId(id))).unwrap();
    assert_eq!(world.control(Operation::DestroyDomain, &reference(DomainId(id))), Err(Errno::Srch));
    assert_eq!(world.host.frames.free_frames(), before);
    assert_eq!(world.control(Operation::Audit, &Audit::default()).unwrap(), audit);
    assert_eq!(audit.mismatches, 0);
}

#[test]
fn foreign_frames_appear_one_to_one_and_keep_a_zombie() {
    let world = World::new();
    let before = world.host.frames.free_frames();
    let a = world.guest(1);
    let id = a.id;
    let call = |flags, gfn, count| {
        let map = MapForeign { domain: id.0, flags, count, gfn, frames: world.base + OTHER };
        world.control(Operation::MapForeign, &map).map(|_| {
            let mut frames = vec![0u8; count as usize * 8];
            world.read(&world.dom0, world.base + OTHER, &mut frames);
            frames.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect::<Vec<_>>()
        })
    };
    let unmap = |flags, count| {
        let unmap = UnmapForeign { count, flags, frames: world.base + OTHER };
        world.control(Operation::UnmapForeign, &unmap).map(|_| ())
    };
    let frames = call(1, 0, 4).unwrap();
    assert_eq!(world.mfn(&world.dom0, Gfn(frames[2])).unwrap().0, frames[2]);
    world.write(&a, 0x2345, b"hello");
    let mut text = [0; 5];
    world.read(&world.dom0, frames[2] * 4096 + 0x345, &mut text);
    assert_eq!(&text, b"hello");
    assert_eq!(call(0, 510, 4), Err(Errno::NoEnt), "all or none");
    assert_eq!(call(0, u64::MAX, 1), Err(Errno::NoEnt));
    assert_eq!(call(0, 0, 513), Err(Errno::Inval));
    // A second mapping of the same frames shares the entries.
    assert_eq!(call(0, 0, 4).unwrap(), frames);
    unmap(0, 4).unwrap();
    assert_eq!(unmap(0, 4), Err(Errno::Inval), "the one that is left is for writing");
    // The owner dies: the frames stay until they are given back.
    drop(a);
    world.control(Operation::DestroyDomain, &reference(id)).unwrap();
    let info = DomainInfo { domain: id.0, ..DomainInfo::new_zeroed() };
    let zombie = world.control(Operation::DomainInfo, &info).unwrap();
    assert_eq!((zombie.domain, zombie.state & domain_state::DYING, zombie.pages), (id.0, 8, 4));
    for (index, frame) in frames.iter().enumerate() {
        world.write(&world.dom0, world.base + OTHER + index as u64 * 8, &frame.to_le_bytes());
    }
    unmap(1, 4).unwrap();
    assert!(world.host.domain(id).is_none());
    assert_eq!(world.host.frames.free_frames(), before);
}

#[test]
fn a_crash_is_reported() {
    let world = World::new();
    let bind = BindVirq { virq: Virq::DOM_EXC, vcpu: VcpuId(0), port: Port(0) };
    let port = world.with(&world.dom0, EventChannelOp, EventOp::BindVirq.number(), bind).unwrap().port;
    let a = world.guest(1);
    world.write(&a, 0x1000, b"\x0f\x0b");
    world.register(&a, 0, |state| state.rip = 0x1000);
    assert_eq!(world.exit(&a, 0, |_| Exit::TaskSwitch), Verdict::Reschedule);
    let info = DomainInfo { domain: a.id.0, ..DomainInfo::new_zeroed() };
    let info = world.control(Operation::DomainInfo, &info).unwrap();
    assert_eq!(info.shutdown_reason, ShutdownReason::Crash.number());
    assert_eq!(info.state & domain_state::SHUTDOWN, domain_state::SHUTDOWN);
    assert!(info.ended_ns > 0);
    assert_eq!(world.shared(&world.dom0, 2048), 1 << port.0);
    let ask = ReadText { position: u64::from(a.id.0), buffer: world.base + OTHER, length: 4096 };
    let told = world.control(Operation::CrashReport, &ask).unwrap();
    let mut text = vec![0; told.length as usize];
    world.read(&world.dom0, world.base + OTHER, &mut text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("task switch") && text.contains("code at 0x1000: 0f 0b"), "{text}");
    world.destroy(a);
}

#[test]
fn triple_faults_and_shutdowns_have_their_reasons() {
    let world = World::new();
    let a = world.guest(1);
    world.exit(&a, 0, |_| Exit::TripleFault);
    assert_eq!(a.life.lock().reason, Some(ShutdownReason::Reboot));
    let b = world.guest(1);
    world.put(&b, 0x1000, &Shutdown { reason: 0 });
    let op = u64::from(SchedOpNumber::Shutdown.number());
    let (_, verdict) = world.call_on(&b, 0, SchedOp, &[op, 0x1000]);
    assert_eq!(verdict, Verdict::Reschedule);
    assert_eq!(b.life.lock().reason, Some(ShutdownReason::PowerOff));
    assert!(!b.may_run());
}

#[test]
fn device_interrupts_are_events() {
    let world = World::new();
    let mapped = world.control(Operation::MapPirq, &MapPirq::default()).unwrap();
    assert_eq!(mapped.address, 0xfee0_0000);
    let bind = BindPirq { pirq: Pirq(mapped.pirq), flags: 0, port: Port(0) };
    let bound = world.with(&world.dom0, EventChannelOp, EventOp::BindPirq.number(), bind).unwrap();
    assert_eq!(world.with(&world.dom0, EventChannelOp, EventOp::BindPirq.number(), bind), Err(Errno::Exist));
    world.host.machine.interrupt(HostInterrupt::Device(mapped.pirq as u8));
    world.host.device_interrupt(mapped.pirq as u8);
    assert_eq!(world.shared(&world.dom0, 2048), 1 << bound.port.0);
    let release = PirqRef { pirq: mapped.pirq, pad: 0 };
    assert_eq!(world.control(Operation::UnmapPirq, &release), Err(Errno::Busy));
    let line = MapPirq { kind: 1, line: 99, ..MapPirq::default() };
    assert_eq!(world.control(Operation::MapPirq, &line), Err(Errno::NoDev));
    let a = world.guest(1);
    assert_eq!(world.with(&a, EventChannelOp, EventOp::BindPirq.number(), bind), Err(Errno::Inval));
}

#[test]
fn running_out_of_anything_leaves_nothing_behind() {
    for frames in 2048..2060 {
        let world = World::with_frames(frames);
        let before = world.host.frames.free_frames();
        let wanted = CreateDomain {
            domain: 0,
            flags: 0,
            vcpus: 32,
            max_pages: 1 << 20,
            uuid: [0; 16],
            name: crate::create::name("big"),
        };
        world.host.machine.heap_left.store(5, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(world.control(Operation::CreateDomain, &wanted), Err(Errno::NoMem));
        world.host.machine.heap_left.store(1000, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(world.host.frames.free_frames(), before);
        let id = DomainId(world.control(Operation::CreateDomain, &wanted).unwrap().domain);
        let domain = world.host.domain(id).unwrap();
        let mut gfn = 0;
        while domain.map(&world.host).populate(Gfn(gfn * 7), 0).is_ok() {
            gfn += 1;
        }
        assert!(gfn > 100);
        world.destroy(domain);
        assert_eq!(world.host.frames.free_frames(), before);
    }
}

#[test]
fn vcpus_are_looked_at_and_keys_write_to_the_log() {
    let world = World::new();
    let a = world.guest(2);
    let share = Scheduling { domain: a.id.0, weight: 77, cap: 5, ..Scheduling::default() };
    world.control(Operation::SetScheduling, &share).unwrap();
    let look =
        |vcpu| world.control(Operation::VcpuInfo, &VcpuInfo { domain: a.id.0, vcpu, ..VcpuInfo::default() });
    let second = look(1).unwrap();
    assert_eq!((second.activity, second.cpu_ns, second.weight, second.cap), (activity::DOWN, 0, 77, 5));
    assert_eq!(look(2), Err(Errno::NoEnt));
    let nobody = VcpuInfo { domain: 99, ..VcpuInfo::default() };
    assert_eq!(world.control(Operation::VcpuInfo, &nobody), Err(Errno::Srch));

    let press = |key, domain: DomainId| {
        world.control(Operation::DebugKey, &DebugKey { key, domain: domain.0, pad: 0 })
    };
    for key in b"hqegm" {
        press(u32::from(*key), DomainId::DOM0).unwrap();
        press(u32::from(*key), a.id).unwrap();
    }
    assert_eq!(press(u32::from(b'q'), DomainId(99)), Err(Errno::Srch));
    for wrong in [0, u32::from(b'x'), 0x100 + u32::from(b'h')] {
        assert_eq!(press(wrong, a.id), Err(Errno::Inval));
    }
    let mut bytes = vec![0; 1 << 16];
    let (_, count) = world.host.journal.read(0, &mut bytes);
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    for words in [
        "key h: this",
        "weight=77 cap=5",
        "vcpu=1 activity=Down",
        "grants: frames=",
        "frames free=",
        &format!("domain={} ports=", a.id),
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
