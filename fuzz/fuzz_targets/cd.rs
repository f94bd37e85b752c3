//! The second IDE channel with a CD drive.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("cd", bytes));
