//! The fuzz targets of the emulated PC: accesses to one device (or to all), and what happens to it from outside, with every choice from a
//! [`Source`]; and instructions for the emulator. `whole/fuzz.rs` drives them by seeds on the stable compiler, `fuzz/` by coverage.
#![allow(dead_code, unreachable_pub, reason = "each user takes a part of it")]

pub mod access;
pub mod device;
pub mod instruction;
pub mod order;
#[path = "../../../backends/tests/fuzzing/source.rs"]
pub mod source;

pub use source::Source;
