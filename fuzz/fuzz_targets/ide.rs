//! The first IDE channel with a disk.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("ide", bytes));
