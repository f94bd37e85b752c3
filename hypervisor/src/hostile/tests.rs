//! Guests that do whatever they like: invented exits, and hypercalls with any operation, pointer and contents.
//!
//! Whatever they do, nothing panics, no lock is taken out of order, nothing goes on for ever, another domain's memory
//! stays as it was, and after the guest's end every frame is back.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use trunnion_protocol::address::{Gpa, Gva, PAGE_SIZE};
use trunnion_protocol::control::{Gpr, Operation};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::grant::COPY_SOURCE_GRANT;

use crate::domain::stop;
use crate::exit;
use crate::fake::audit::audit;
use crate::seam::{Context, Exit, PortAccess, SecondLevelFault};
use crate::tests::world::{Guest, World};

/// A word that a structure might hold: small numbers, addresses of the guest, reserved domains, anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..8u64,
        2 => 0..0x200u64,
        2 => (0..20u64).prop_map(|page| page << 12),
        1 => (0..20u64).prop_map(|page| (page << 12) | 0xff8),
        1 => prop::sample::select(&[0x7ff0u64, 0x7ff1, 0xfee0_0000, 1 << 32, 1 << 36, 1 << 52, u64::MAX][..]),
        3 => (0..8u64).prop_map(|high| (high << 32) | 0x7ff0),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(high, low)| (u64::from(high % 4) << 32) | u64::from(low % 32)),
        1 => any::<u64>(),
    ]
}

fn exits() -> impl Strategy<Value = Exit> {
    let fault = (word(), any::<[bool; 3]>()).prop_map(|(gpa, [write, execute, walk])| {
        Exit::Memory(SecondLevelFault { gpa: Gpa(gpa), write, execute, walk })
    });
    let lapic = (0..0x400u64, any::<bool>()).prop_map(|(register, write)| {
        let gpa = Gpa(0xfee0_0000 + register * 4);
        Exit::Memory(SecondLevelFault { gpa, write, execute: false, walk: false })
    });
    let port = (any::<u16>(), prop::sample::select(&[1u8, 2, 4][..]), any::<[bool; 3]>());
    let port = port.prop_map(|(port, size, [read, string, repeat])| {
        Exit::Port(PortAccess {
            port,
            size,
            read,
            string: string && repeat && port & 7 == 0,
            repeat,
            length: 2,
        })
    });
    let number = prop::sample::select(&[0u8, 2, 3, 4, 8, 15][..]);
    let instruction = prop_oneof![
        Just(Exit::Hypercall),
        Just(Exit::Cpuid),
        Just(Exit::Rdmsr),
        Just(Exit::Wrmsr),
        Just(Exit::Halt),
        Just(Exit::Xsetbv),
        (number.clone(), word()).prop_map(|(number, value)| Exit::ToControl(number, value)),
        (number, 0..16u8).prop_map(|(number, to)| Exit::FromControl(number, Gpr::from_encoding(to))),
        Just(Exit::Clts),
        any::<u16>().prop_map(Exit::Lmsw),
        Just(Exit::Debug(7)),
        Just(Exit::Cache),
    ];
    prop_oneof![
        8 => instruction,
        1 => port,
        1 => fault,
        3 => lapic,
        1 => Just(Exit::Pause),
        1 => (0..32u8, word()).prop_map(|(vector, address)| Exit::Exception { vector, error: None, address: Gva(address) }),
        1 => Just(Exit::TripleFault),
        1 => Just(Exit::TaskSwitch),
        1 => Just(Exit::Forbidden),
        1 => Just(Exit::Shutdown),
        1 => any::<u64>().prop_map(Exit::Unknown),
    ]
}

/// Bytes at the instruction pointer: often ones that fit an exit.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let known: &[&[u8]] = &[
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0x01, 0xc1],
        &[0x0f, 0xa2],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0xf4],
        &[0x0f, 0x01, 0xd1],
        &[0x89, 0x07],
        &[0x8b, 0x07],
        &[0xc7, 0x07, 1, 2, 3, 4],
        &[0x66, 0x89, 0x07],
        &[0xaa],
    ];
    let known: Vec<Vec<u8>> = known.iter().map(|bytes| bytes.to_vec()).collect();
    prop_oneof![4 => prop::sample::select(known), 1 => proptest::collection::vec(any::<u8>(), 0..16)]
}

/// Numbers that MSR exits meet.
fn register() -> impl Strategy<Value = u64> {
    let known: Vec<u64> = crate::policy::msr::TABLE.iter().map(|row| u64::from(row.msr)).collect();
    prop_oneof![3 => word(), 1 => prop::sample::select(known)]
}

/// What nobody may change: the pages of another guest.
fn fingerprint(world: &World, victim: &Guest) -> Vec<[u8; 64]> {
    (0..8)
        .map(|gfn| {
            let page = world.page(victim, gfn);
            let mut bytes = [0; PAGE_SIZE];
            page.copy_out(0, &mut bytes).unwrap();
            let mut sum = [0u8; 64];
            for chunk in bytes.chunks(64) {
                for (to, from) in sum.iter_mut().zip(chunk) {
                    *to = to.rotate_left(1) ^ from;
                }
            }
            sum
        })
        .collect()
}

fn victim(world: &World) -> Guest {
    let victim = world.guest(8);
    for gfn in 0..8 {
        world.page(&victim, gfn).store(0, &[gfn; 8]).unwrap();
    }
    victim
}

fn still_well(world: &World) {
    assert_eq!(world.dom0.stopped.load(core::sync::atomic::Ordering::Relaxed) & !stop::PAUSED, 0);
    assert_eq!(audit(&world.host).mismatches, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Any exits with any registers and any bytes at the instruction pointer.
    #[test]
    fn any_exits(
        steps in proptest::collection::vec(
            (exits(), prop::option::of(1..16u8), code(), proptest::collection::vec(register(), 8), any::<u8>()), 1..60),
        long: bool,
    ) {
        let world = World::new(512);
        let before = world.host.frames.free_frames();
        let victim = victim(&world);
        let print = fingerprint(&world, &victim);
        let guest = world.guest(16);
        for (exit, length, code, values, bits) in steps {
            world.run(&guest, u32::from(bits & 1), |running| {
                running.context.event = None;
                running.context.length = length;
                running.context.set_mode(long, if bits & 0xc0 == 0xc0 { 3 } else { 0 });
                running.context.state.rip = 0x2000;
                running.context.state.rflags = u64::from(bits & 2) << 8;
                let registers = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::Rdi, Gpr::Rsi, Gpr::R10, Gpr::R8];
                for (register, value) in registers.into_iter().zip(values) {
                    running.context.state.gpr[register as usize] = value;
                }
                let _ = running.write(Gva(0x2000), &code);
                let _ = exit::handle(running, &exit);
            });
            world.host.machine.advance(u64::from(bits) << 12);
        }
        still_well(&world);
        prop_assert_eq!(fingerprint(&world, &victim), print);
        world.destroy(guest);
        world.destroy(victim);
        prop_assert_eq!(world.host.frames.free_frames(), before);
    }

    /// Any control calls of dom0, which is trusted to mean well but may be wrong.
    #[test]
    fn any_control_calls(
        steps in proptest::collection::vec(
            (prop::sample::select(Operation::ALL), proptest::collection::vec(word(), 24), any::<bool>()), 1..40),
    ) {
        let world = World::new(512);
        let _guest = world.guest(16);
        let at = world.dom0_memory.address().0;
        let page = |world: &World| world.dom0_memory.0 + u64::from(world.dom0.id.0);
        for (operation, structure, near) in steps {
            if operation == Operation::PowerOff {
                continue;
            }
            for (index, value) in structure.iter().enumerate() {
                // Pointers inside dom0 are more interesting than those that fault.
                let value = if near && *value & 0xfff == 0 { at + (value & 0x1f000) } else { *value };
                world.page(&world.dom0, page(&world)).store(index * 8, &value).unwrap();
            }
            world.call(&world.dom0, Hypercall::Arch0, &[operation.number(), at]);
            prop_assert_eq!(audit(&world.host).mismatches, 0);
        }
    }
}

#[test]
fn calls_from_user_mode_are_refused() {
    let world = World::new(512);
    let guest = world.guest(16);
    world.run(&guest, 0, |running| {
        running.context.set_mode(true, 3);
        running.context.state.gpr = [0; 16];
        running.context.set_gpr(Gpr::Rax, u64::from(Hypercall::XenVersion.number()));
        let _ = exit::handle(running, &Exit::Hypercall);
        assert_eq!(running.context.state.gpr[0] as i64, -1);
    });
    assert_eq!(world.call(&guest, Hypercall::Arch0, &[Operation::PowerOff.number(), 0x3000]), -1);
    assert_eq!(world.call(&guest, Hypercall::GrantTableOp, &[5, 0x3000, u64::from(COPY_SOURCE_GRANT)]), 0);
}

/// A call with arguments of one of several shapes, most with a structure at page 3.
type Step = (Hypercall, u64, Vec<u64>, u64, u8);

fn arguments(operation: u64, wild: u64, form: u8) -> [u64; 5] {
    match form {
        0 => [wild, operation, wild, 0, 0],
        1 => [operation, wild, wild, wild, wild],
        2..=4 => [operation, 0x3000, 1 + (wild & 3), 0, 0],
        5 | 9 | 10 => [operation, wild & 1, 0x3000, 0, 0],
        6 => [operation, 0x3ff8, wild & 0x3f, 0, 0],
        7 => [0x3000, wild & 7, 0, 0, 0],
        _ => [operation, 0x3000 | (wild & 0xfff), wild, 0, 0],
    }
}

fn one_guests_life(steps: &[Step], mut seen: impl FnMut(Hypercall, i64)) {
    let world = World::new(512);
    let before = world.host.frames.free_frames();
    let victim = victim(&world);
    let print = fingerprint(&world, &victim);
    let guest = world.guest(16);
    for (call, operation, structure, wild, form) in steps {
        for gfn in [3, 4] {
            if world.frame(&guest, gfn).is_some() {
                for (index, value) in structure.iter().enumerate() {
                    world.page(&guest, gfn).store(index * 8, value).unwrap();
                }
            }
        }
        seen(*call, world.call(&guest, *call, &arguments(*operation, *wild, *form)));
    }
    still_well(&world);
    assert_eq!(fingerprint(&world, &victim), print);
    world.destroy(guest);
    world.destroy(victim);
    assert_eq!(world.host.frames.free_frames(), before);
    assert_eq!(audit(&world.host).grants, 0);
}

/// Any hypercalls with structures of any contents, by a guest without privileges. Counts what came back, so that it shows
/// when the calls no longer get past the first check.
#[test]
fn any_hypercalls() {
    let call = prop_oneof![
        4 => prop::sample::select(&[
            Hypercall::MemoryOp, Hypercall::GrantTableOp, Hypercall::VcpuOp, Hypercall::SchedOp,
            Hypercall::EventChannelOp, Hypercall::HvmOp, Hypercall::Multicall, Hypercall::XenVersion,
        ][..]),
        1 => prop::sample::select(Hypercall::ALL),
    ];
    let operation = prop_oneof![8 => 0..14u64, 1 => 0..40u64];
    let step = (call, operation, proptest::collection::vec(word(), 24), word(), 0..12u8);
    let lives = proptest::collection::vec(step, 1..60);
    let results = RefCell::new(BTreeMap::<Hypercall, BTreeMap<i64, u32>>::new());
    TestRunner::new(ProptestConfig::with_cases(128))
        .run(&lives, |steps| {
            one_guests_life(&steps, |call, result| {
                let result = if (-4095..0).contains(&result) { result } else { 0 };
                *results.borrow_mut().entry(call).or_default().entry(result).or_default() += 1;
            });
            Ok(())
        })
        .unwrap();
    let results = results.into_inner();
    for (call, counts) in &results {
        println!("{call:?}: {counts:?}");
    }
    let deep = [Hypercall::MemoryOp, Hypercall::GrantTableOp, Hypercall::VcpuOp, Hypercall::EventChannelOp];
    for call in deep {
        let counts = results.get(&call).cloned().unwrap_or_default();
        assert!(counts.get(&0).is_some_and(|&count| count > 4), "{call:?} never succeeds: {counts:?}");
        assert!(counts.len() >= 3, "{call:?} fails in few ways: {counts:?}");
    }
}
