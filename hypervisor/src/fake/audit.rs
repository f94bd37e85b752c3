//! A whole audit in one go, as dom0 asks for it part by part.

use trunnion_protocol::control::Audit;

use crate::audit::{Position, step};
use crate::prelude::*;

/// Walks every table of every domain.
pub fn audit<M: Machine>(host: &Host<M>) -> Audit {
    let mut audit = Audit::default();
    let mut at = Position::Frames(0);
    while let Some(next) = step(host, at, &mut audit) {
        at = next;
    }
    audit
}
