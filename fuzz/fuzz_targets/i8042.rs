//! Keyboard, mouse and their controller.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| trunnion_fuzz::device("i8042", bytes));
