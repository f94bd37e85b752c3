//! The event timer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("hpet", bytes));
