//! The simulation: many seeds of the whole platform, and known mistakes that it has to find.
//!
//! A failing seed is printed with the last events; `TRUNNION_SEED=0x1234` runs that one alone.

use std::time::Instant;

use trunnion_tests::sim::{Bug, Faults, Kind, Load, Report, World};

/// Seeds of the ordinary tier.
const SEEDS: u64 = 2000;
/// Seeds of the full tier.
const MORE_SEEDS: u64 = 20_000;
/// Seeds of worlds with a network, in the ordinary tier and in the full one.
const NETWORKS: u64 = 120;
const MORE_NETWORKS: u64 = 10_000;
/// Seeds of worlds with a back end that lies.
const LIARS: u64 = 60;
const MORE_LIARS: u64 = 10_000;
/// Seeds within which a planted mistake has to be found.
const SEARCH: u64 = 60;

fn honest(tasks: usize, vcpus: u32) -> Kind {
    Kind::Honest(Load { tasks, operations: 10, rounds: 2, vcpus, device: 0, frames: 0, lies: 0 })
}

/// The world of a seed: one to three honest guests, sometimes a hostile one beside them.
fn world(seed: u64) -> World {
    let mut world = World::new(seed).faults(Faults::harsh());
    for guest in 0..=seed % 3 {
        let vcpus = 1 + (seed / 5 + guest) as u32 % 3;
        world = world.domain(honest(1 + (seed / 3 + guest) as usize % 3, vcpus));
    }
    if seed % 4 == 3 { world.domain(Kind::Hostile(150)) } else { world }
}

/// The world of a seed with a network: one to three guests that send each other frames beside their disks' work, sometimes a
/// hostile one beside them.
fn network(seed: u64) -> World {
    let mut world = World::new(seed).faults(Faults::harsh());
    for guest in 0..=seed % 3 {
        let vcpus = 1 + (seed / 5 + guest) as u32 % 2;
        let load = Load { tasks: 1, operations: 3, rounds: 2, vcpus, device: 0, frames: 20, lies: 0 };
        world = world.domain(Kind::Honest(load));
    }
    if seed % 4 == 3 { world.domain(Kind::Hostile(60)) } else { world }
}

/// The world of a seed with a back end that lies. The guest that believes it has an honest disk too, and sometimes a neighbour.
fn deceived(seed: u64) -> World {
    let load = Load {
        tasks: 1,
        operations: 3,
        rounds: 1,
        vcpus: 1 + seed as u32 % 2,
        device: 0,
        frames: 0,
        lies: 3,
    };
    let world = World::new(seed).faults(Faults::harsh()).domain(Kind::Honest(load)).domain(Kind::Liar);
    if seed % 4 == 3 { world.domain(honest(1, 1)) } else { world }
}

fn run(seeds: impl Iterator<Item = u64>) {
    let _ = run_of(world, seeds);
}

fn run_of(world: fn(u64) -> World, seeds: impl Iterator<Item = u64>) -> Report {
    let start = Instant::now();
    let mut total = Report::default();
    let mut count = 0;
    for seed in seeds {
        match world(seed).run_until_idle() {
            Ok(report) => {
                count += 1;
                total.steps += report.steps;
                total.requests += report.requests;
                total.frames += report.frames;
                total.struck.add(&report.struck);
                total.tales.add(&report.tales);
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    println!(
        "{count} seeds, {} steps, {} requests answered, {} frames heard, {} faults in {:.1} s: {:?}, {:?}",
        total.steps,
        total.requests,
        total.frames,
        total.struck.total(),
        start.elapsed().as_secs_f64(),
        total.struck,
        total.tales
    );
    total
}

/// The seed of `TRUNNION_SEED`.
fn chosen() -> Option<u64> {
    let text = std::env::var("TRUNNION_SEED").ok()?;
    let seed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(seed.expect("TRUNNION_SEED is a number"))
}

/// The seeds of a test, or the one of `TRUNNION_SEED`.
fn seeds(all: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    let chosen = chosen();
    all.filter(move |_| chosen.is_none()).chain(chosen)
}

#[test]
fn every_seed_survives() {
    run(seeds((0..SEEDS).step_by(2)));
}

#[test]
fn every_odd_seed_survives() {
    run(seeds((1..SEEDS).step_by(2)));
}

#[test]
fn every_seed_of_a_network_survives() {
    run_of(network, seeds(0..NETWORKS));
}

#[test]
fn every_seed_with_a_back_end_that_lies_survives() {
    let tales = run_of(deceived, seeds(0..LIARS)).tales;
    // A search that never gets to the lies is worth nothing.
    assert!(
        chosen().is_some() || tales.connections > LIARS && tales.seen > LIARS / 2 && tales.done > LIARS,
        "{tales:?}"
    );
}

#[test]
#[cfg_attr(not(full_tier), ignore = "long: TRUNNION_TIER=full runs it")]
fn every_seed_of_many_with_a_back_end_that_lies_survives() {
    run_of(deceived, seeds(LIARS..LIARS + MORE_LIARS));
}

#[test]
#[cfg_attr(not(full_tier), ignore = "long: TRUNNION_TIER=full runs it")]
fn every_seed_of_many_networks_survives() {
    run_of(network, seeds(NETWORKS..NETWORKS + MORE_NETWORKS));
}

#[test]
#[cfg_attr(not(full_tier), ignore = "long: TRUNNION_TIER=full runs it")]
fn every_seed_of_many_survives() {
    run(seeds(SEEDS..SEEDS + MORE_SEEDS));
}

#[test]
fn a_seed_replays() {
    for seed in [1, 7, 11] {
        let (first, second) = (world(seed).run_until_idle(), world(seed).run_until_idle());
        let (first, second) =
            (first.unwrap_or_else(|failure| panic!("{failure}")), second.expect("it survived"));
        assert_eq!((first.steps, first.requests), (second.steps, second.requests), "seed {seed}");
    }
}

#[test]
fn any_allocation_may_fail() {
    let mut struck = 0;
    for number in 1..120 {
        let world = World::new(number.into()).domain(honest(2, 1)).fail_allocation(number);
        match world.run_until_idle() {
            Ok(_) => struck += 1,
            Err(failure) => panic!("allocation {number}: {failure}"),
        }
    }
    println!("{struck} allocations failed, one at a time");
}

#[test]
fn a_lost_frame_shows() {
    let failure = World::new(5).domain(honest(1, 1)).leak().run_until_idle().expect_err("a frame is lost");
    assert!(
        failure.what.contains("did not come back")
            || failure.what.contains("not everything came back")
            || failure.what.contains("frames belong"),
        "{failure}"
    );
}

#[test]
fn planted_mistakes_are_found() {
    let backend = trunnion_backends::planted::Bug::ALL.map(Bug::Backend);
    let parts = trunnion_protocol::planted::Bug::ALL.map(Bug::Part);
    // Others of the store's own list are for its model to find.
    let store = [trunnion_xenstore::planted::Bug::LostEvents].map(Bug::Store);
    let mut missed = Vec::new();
    let mut count = 0;
    for bug in backend.into_iter().chain(store).chain(parts) {
        let found = (0..SEARCH).find_map(|seed| Some((seed, world(seed).plant(bug).run_until_idle().err()?)));
        match found {
            Some((seed, failure)) => {
                count += 1;
                let what: String = failure.what.chars().take(100).collect();
                println!("{bug:?}: seed {seed}, step {}: {what}", failure.step);
            }
            None => missed.push(bug),
        }
    }
    println!("{count} planted mistakes found");
    assert!(count >= 27 && missed.is_empty(), "not found within {SEARCH} seeds: {missed:?}");
}
