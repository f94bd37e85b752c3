//! A domain's guest-physical space as the page walk sees it.

use crate::prelude::*;
use crate::walk::Space;

/// A domain's guest-physical space.
pub struct DomainSpace<'a, M: Machine> {
    /// The host.
    pub host: &'a Host<M>,
    /// The domain.
    pub domain: &'a Domain<M>,
}

impl<M: Machine> Space for DomainSpace<'_, M> {
    fn frame(&self, gfn: Gfn) -> Option<(Mfn, bool)> {
        let memory = self.domain.memory.lock();
        let leaf = memory.tables.lookup(&self.host.machine, gfn).filter(|leaf| leaf.kind != Kind::Device)?;
        // Under the lock, so that whoever takes the frame out sees the mark.
        self.host.frames.mark_walked(leaf.mfn);
        Some((leaf.mfn, leaf.rights.contains(Rights::WRITE)))
    }

    fn page(&self, mfn: Mfn) -> Option<&SharedPage> {
        self.host.machine.page(mfn)
    }

    fn epoch(&self) -> u64 {
        self.domain.walks.load(Ordering::Acquire)
    }
}
