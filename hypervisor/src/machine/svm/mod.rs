//! AMD's secure virtual machine (APM volume 2, chapter 15).
//!
//! The files have the names of those in `vmx`, and the same jobs.

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
mod state;

#[cfg(target_os = "none")]
pub use context::SvmContext;
#[cfg(target_os = "none")]
pub use features::{Svm, is_present};
