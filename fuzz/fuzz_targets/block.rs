//! The block back end against a front end of malice; the target is the one that the tests of `backends` drive by seeds.
#![no_main]

#[path = "../../backends/tests/fuzzing/mod.rs"]
mod fuzzing;
#[path = "../../backends/tests/support/mod.rs"]
mod support;
#[path = "../../backends/tests/wire/mod.rs"]
mod wire;

use fuzzing::{Source, block};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| block::case(Source::bytes(bytes), &mut block::Reached::default()));
