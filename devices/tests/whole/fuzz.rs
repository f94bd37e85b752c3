//! The fuzz targets of the emulated PC by seeds: a second of cases in a plain `cargo test`, minutes each with `TRUNNION_TIER=full`.
//! `TRUNNION_SEED=N` runs one case. And the property that each device's state is all of it.

use std::time::{Duration, Instant};

use crate::fuzzing::device::{Beginning, DEVICES};
use crate::fuzzing::{Source, access, instruction, source};

fn is_full() -> bool {
    std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full")
}

/// Runs so many cases; in the full tier for so long.
fn run(least: u64, minutes: u64, mut case: impl FnMut(Source)) {
    if let Some(seed) = source::chosen() {
        return case(Source::seed(seed));
    }
    let begin = Instant::now();
    for seed in 0.. {
        if seed >= least && (!is_full() || begin.elapsed() > Duration::from_secs(60 * minutes)) {
            break;
        }
        case(Source::seed(seed));
    }
}

#[test]
fn whatever_happens_to_a_device_it_answers() {
    for device in &DEVICES {
        run(2, 1, |source| access::case(device, source));
    }
}

#[test]
fn a_device_that_loads_a_state_goes_on_as_the_one_that_saved_it() {
    for device in &DEVICES {
        for beginning in Beginning::ALL {
            run(if is_full() { 40 } else { 2 }, 0, |mut source| {
                access::twins(device, beginning, 400, 200, &mut source);
            });
        }
    }
}

#[test]
fn no_instruction_leaves_half_of_itself() {
    let mut reached = instruction::Reached::default();
    run(5_000, 5, |source| instruction::case(source, &mut reached));
    println!("{reached:#?}");
}
