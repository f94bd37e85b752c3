//! Authority is a value: a privileged call asks for it in its signature.

use crate::prelude::*;

/// The right to make dom0's control calls. There is one for each host, and the domain that has it cannot give it away.
pub struct Control(());

/// Where the right comes from.
pub(crate) struct Mint(AtomicBool);

impl Mint {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The right, the first time it is asked for.
    pub(crate) fn control(&self) -> Option<Control> {
        (!self.0.swap(true, Ordering::Relaxed)).then_some(Control(()))
    }
}
