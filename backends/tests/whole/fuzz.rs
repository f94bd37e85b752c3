//! Front ends that lie, against the back ends, by seeds: the targets of `fuzz/` in a loop of so many seconds. Half a minute each in a
//! plain `cargo test`, both at once; ten minutes each with `TRUNNION_TIER=full`. `TRUNNION_SEED=N` runs one case.

use std::time::{Duration, Instant};

use crate::fuzzing::{Source, block, net};

/// Cases that run however slow the machine is.
const LEAST: u64 = 300;

/// Runs cases until the time is over. False when one was asked for by its seed.
fn run(mut case: impl FnMut(Source)) -> bool {
    if let Ok(seed) = std::env::var("TRUNNION_SEED") {
        case(Source::seed(seed.parse().expect("a number")));
        return false;
    }
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    let limit = Duration::from_secs(if full { 600 } else { 25 });
    let begin = Instant::now();
    for seed in 0.. {
        case(Source::seed(seed));
        if begin.elapsed() > limit && seed >= LEAST {
            break;
        }
    }
    true
}

#[test]
fn a_network_front_end_that_lies_harms_nobody() {
    let mut reached = net::Reached::default();
    if !run(|source| net::case(source, &mut reached)) {
        return;
    }
    println!("{reached:#?}");
    // The cases get past the first check, and everything that can go wrong does.
    assert!(reached.sent > reached.cases && reached.refused > reached.cases, "{reached:?}");
    assert!(reached.received > 0 && reached.dropped > 0, "{reached:?}");
    assert_eq!(reached.faults.len(), 3, "{reached:?}");
}

#[test]
fn a_block_front_end_that_lies_harms_nobody() {
    let mut reached = block::Reached::default();
    if !run(|source| block::case(source, &mut reached)) {
        return;
    }
    println!("{reached:#?}");
    assert!(reached.connections > reached.cases, "most attacks never get past the handshake: {reached:?}");
}
