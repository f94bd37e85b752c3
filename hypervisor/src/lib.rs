//! The thin core: CPU and memory isolation, event channels, grants, a scheduler.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod seam;
