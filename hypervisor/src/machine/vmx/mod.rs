//! Intel's virtual-machine extensions (SDM volume 3, chapters 23 to 30).
//!
//! The files have the names of those in `svm`, and the same jobs.

mod context;
mod enter;
mod exit;
mod features;
mod inject;
mod instruction;
mod state;

pub use context::VmxContext;
pub use features::{Vmx, is_present};

pub use trunnion_manual::vmx::fields as control;
pub use trunnion_manual::vmx::paging;
