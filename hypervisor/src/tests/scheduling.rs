//! Who runs when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use trunnion_protocol::hypercall::Hypercall::SchedOp;

use super::kit::World;
use crate::schedule::{self, Activity};
use crate::seam::{Exit, Machine};

/// A guest that computes: each entry lasts 1 ms and is counted.
fn spin(world: &'static World, context: u64) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    world.host.machine.script(
        context,
        Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            world.host.machine.advance(1_000_000);
            Exit::Interrupt
        }),
    );
    count
}

fn world() -> &'static World {
    let world: &'static World = Box::leak(Box::new(World::new()));
    // dom0 sleeps.
    world.host.machine.script(
        0,
        Box::new(|context| {
            context.state.rflags |= 0x200;
            Exit::Halt
        }),
    );
    world.unpause(&world.dom0);
    world
}

#[test]
fn equal_weights_share_equally_and_others_by_weight() {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let (count_a, count_b) = (spin(world, 1), spin(world, 2));
    world.unpause(&a);
    world.unpause(&b);
    world.run(100);
    let (first, second) = (count_a.load(Ordering::Relaxed), count_b.load(Ordering::Relaxed));
    assert!(first > 100 && first.abs_diff(second) <= 10, "{first} {second}");
    a.weight.store(768, Ordering::Relaxed);
    world.run(200);
    let (more, less) = (count_a.load(Ordering::Relaxed) - first, count_b.load(Ordering::Relaxed) - second);
    assert!(more > less * 5 / 2 && more < less * 7 / 2, "{more} {less}");
}

#[test]
fn what_others_work_for_a_domain_is_its_own_time() {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let count_a = spin(world, 1);
    let count_b = Arc::new(AtomicU64::new(0));
    let (counter, charged) = (count_b.clone(), b.clone());
    world.host.machine.script(
        2,
        Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            world.host.machine.advance(1_000_000);
            schedule::charge(&charged, 2_000_000);
            Exit::Interrupt
        }),
    );
    world.unpause(&a);
    world.unpause(&b);
    world.run(300);
    let (more, less) = (count_a.load(Ordering::Relaxed), count_b.load(Ordering::Relaxed));
    assert!(more > less * 5 / 2 && more < less * 7 / 2, "{more} {less}");
}

#[test]
fn a_sleeper_that_wakes_goes_first() {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let count = spin(world, 1);
    let woken = Arc::new(AtomicU64::new(0));
    let seen = woken.clone();
    world.host.machine.script(
        2,
        Box::new(move |context| {
            context.state.rflags |= 0x200;
            seen.fetch_add(1, Ordering::Relaxed);
            Exit::Halt
        }),
    );
    world.unpause(&a);
    world.unpause(&b);
    world.run(20);
    assert_eq!(b.vcpus[0].state.activity(), Activity::Blocked);
    let (before, runs) = (woken.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
    b.callback.store(0xf3, Ordering::Relaxed);
    crate::local::post_nmi(&world.host, &crate::vcpu::VcpuRef { domain: b.clone(), index: 0 }, &b.vcpus[0]);
    assert_eq!(b.vcpus[0].state.activity(), Activity::Ready);
    world.run(1);
    assert_eq!(woken.load(Ordering::Relaxed), before + 1);
    assert_eq!(count.load(Ordering::Relaxed), runs);
}

#[test]
fn yielding_lets_others_run() {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let yields = Arc::new(AtomicU64::new(0));
    let counter = yields.clone();
    world.host.machine.script(
        1,
        Box::new(move |context| {
            counter.fetch_add(1, Ordering::Relaxed);
            context.hypercall(SchedOp.number(), &[0, 0])
        }),
    );
    let count = spin(world, 2);
    world.unpause(&a);
    world.unpause(&b);
    world.run(40);
    assert!(count.load(Ordering::Relaxed) > 10);
    assert!(yields.load(Ordering::Relaxed) > 5);
}

#[test]
fn a_paused_or_destroyed_domain_does_not_run() {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let (count_a, count_b) = (spin(world, 1), spin(world, 2));
    world.unpause(&a);
    world.unpause(&b);
    world.run(10);
    crate::life::pause(&world.host, &a).unwrap();
    let before = count_a.load(Ordering::Relaxed);
    world.run(10);
    assert_eq!(count_a.load(Ordering::Relaxed), before);
    world.unpause(&a);
    world.run(10);
    assert!(count_a.load(Ordering::Relaxed) > before);
    world.destroy(a);
    let after = count_b.load(Ordering::Relaxed);
    world.run(10);
    assert!(count_b.load(Ordering::Relaxed) > after);
    assert_eq!(b.vcpus[0].state.activity(), Activity::Ready);
}

#[test]
fn caps_hold() {
    let world = world();
    let a = world.guest(1);
    let count = spin(world, 1);
    a.cap.store(20, Ordering::Relaxed);
    world.unpause(&a);
    let start = world.host.machine.now().0;
    while world.host.machine.now().0 < start + 600_000_000 {
        world.run(1);
        world.host.machine.advance(10_000);
    }
    let share = count.load(Ordering::Relaxed) * 100 / 600;
    assert!((10..=30).contains(&share), "{share} per cent");
}

/// A guest that wakes another at the start of each of its turns and computes on, or sleeps when it gets the time. Returns how
/// often the other ran, and how often and for how many entries in all the first went on before that.
fn streams(computes: bool) -> (u64, u64, u64) {
    let world = world();
    let (a, b) = (world.guest(1), world.guest(1));
    let name = |domain: &super::kit::Guest| crate::vcpu::VcpuRef { domain: (*domain).clone(), index: 0 };
    let (first, other, back) = (name(&a), name(&b), name(&a));
    let waits = Arc::new(AtomicU64::new(0));
    let counts = Arc::new([const { AtomicU64::new(0) }; 3]);
    let (asked, counted) = (waits.clone(), counts.clone());
    world.host.machine.script(
        1,
        Box::new(move |context| {
            context.state.rflags |= 0x200;
            world.host.machine.advance(10_000);
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => schedule::wake(&world.host, &other),
                before => {
                    counted[1].fetch_add(u64::from(before == 1), Ordering::Relaxed);
                    counted[2].fetch_add(1, Ordering::Relaxed);
                    if !computes {
                        return Exit::Halt;
                    }
                }
            }
            Exit::Interrupt
        }),
    );
    let (asked, counted) = (waits, counts.clone());
    world.host.machine.script(
        2,
        Box::new(move |context| {
            context.state.rflags |= 0x200;
            asked.store(0, Ordering::Relaxed);
            counted[0].fetch_add(1, Ordering::Relaxed);
            schedule::wake(&world.host, &first);
            Exit::Halt
        }),
    );
    world.unpause(&b);
    world.run(4);
    assert_eq!(b.vcpus[0].state.activity(), Activity::Blocked);
    world.unpause(&a);
    world.host.machine.advance(1_000_000);
    schedule::charge(&back.domain, 1_000_000);
    world.run(600);
    let [ran, went_on, entries] = &*counts;
    [ran, went_on, entries].map(|count| count.load(Ordering::Relaxed)).into()
}

#[test]
fn who_computes_on_has_time_to_before_another_preempts_it() {
    let (ran, went_on, entries) = streams(true);
    assert!(ran > 100 && went_on > ran * 9 / 10, "{ran} {went_on}");
    assert!(entries > ran * 2 && entries < ran * 20, "{ran} {entries}");
}

#[test]
fn who_sleeps_instead_is_preempted_at_once() {
    let (ran, went_on, _) = streams(false);
    assert!(ran > 100 && went_on > 1 && went_on < ran / 10, "{ran} {went_on}");
}
