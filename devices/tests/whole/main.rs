//! The emulated PC and the instruction emulator whole: one program, because linking each file by itself takes the compiler longer
//! than the tests run.

mod card;
mod descriptors;
mod each;
mod firmware;
mod fuzz;
#[path = "../fuzzing/mod.rs"]
mod fuzzing;
mod instructions;
mod known;
mod media;
#[path = "../support/mod.rs"]
mod support;
mod walk;
