//! The thin core: CPU and memory isolation, event channels, grants, a scheduler.
#![cfg_attr(not(any(test, feature = "sim")), no_std)]

extern crate alloc;

pub mod account;
pub mod audit;
pub mod authority;
pub mod create;
pub mod debug;
pub mod decode;
pub mod dom0;
pub mod domain;
pub mod events;
pub mod exit;
#[cfg(any(test, feature = "sim"))]
pub mod fake;
pub mod frames;
pub mod granting;
pub mod grants;
pub mod host;
#[cfg(test)]
mod hostile {
    mod tests;
}
pub mod hypercall;
pub mod inject;
pub mod journal;
pub mod lapic;
pub mod length;
pub mod life;
pub mod loader;
pub mod local;
pub mod lock;
#[cfg(target_os = "none")]
pub mod machine;
pub mod memory;
pub mod model;
pub mod mov;
pub mod pages;
pub mod policy;
pub mod prelude;
pub mod report;
pub mod run;
pub mod schedule;
pub mod seam;
pub mod second_level;
pub mod space;
pub mod start;
pub mod time;
pub mod timers;
pub mod vcpu;
pub mod walk;

#[cfg(test)]
mod tests;
