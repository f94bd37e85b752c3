//! AMD's secure virtual machine (APM volume 2, chapter 15).
//!
//! The files have the names of those in `vmx`, and the same jobs.

mod context;
mod enter;
mod exit;
mod features;
mod inject;
mod state;

pub use context::SvmContext;
pub use features::{Svm, is_present};

pub use trunnion_manual::svm::fields as control;
pub use trunnion_manual::svm::paging;
