//! The 8237s.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("dma", bytes));
