//! The targets of the emulated PC, which the tests of `devices` drive by seeds.

#[path = "../../devices/tests/fuzzing/mod.rs"]
pub mod fuzzing;
#[path = "../../devices/tests/support/mod.rs"]
pub mod support;

use fuzzing::{Source, access, device, instruction};

/// Does to a device what the bytes say.
pub fn device(name: &str, bytes: &[u8]) {
    access::case(device::named(name), Source::bytes(bytes));
}

/// Executes what the bytes say.
pub fn emulator(bytes: &[u8]) {
    instruction::case(Source::bytes(bytes), &mut instruction::Reached::default());
}
