//! The 8259s.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("pic", bytes));
