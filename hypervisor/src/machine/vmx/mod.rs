//! Intel's virtual-machine extensions (SDM volume 3, chapters 23 to 30).
//!
//! The files have the names of those in `svm`, and the same jobs.

pub mod control;
pub mod format;

#[cfg(target_os = "none")]
mod context;
#[cfg(target_os = "none")]
mod enter;
#[cfg(target_os = "none")]
mod exit;
#[cfg(target_os = "none")]
mod features;
#[cfg(target_os = "none")]
mod inject;
#[cfg(target_os = "none")]
mod instruction;
#[cfg(target_os = "none")]
mod state;

#[cfg(target_os = "none")]
pub use context::VmxContext;
#[cfg(target_os = "none")]
pub use features::{Vmx, is_present};
