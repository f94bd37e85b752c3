//! The thin core: CPU and memory isolation, event channels, grants, a scheduler.
#![cfg_attr(not(any(test, feature = "sim")), no_std)]

extern crate alloc;

pub mod clock;
pub mod decode;
pub mod frames;
pub mod inject;
pub mod lapic;
pub mod length;
pub mod lock;
pub mod machine;
pub mod mov;
pub mod pages;
pub mod policy;
pub mod seam;
pub mod second_level;
pub mod walk;
