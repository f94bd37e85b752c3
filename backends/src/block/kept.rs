//! Pages that stay mapped from request to request, where the front end agrees (`feature-persistent`, `io/blkif.h`): it then copies
//! through pages that it has granted for good, for writing, and a request costs no change of translations.
//!
//! A page in here is not in use. A request takes its pages out, and they come back when it is done.

use alloc::collections::BTreeMap;

use trunnion_protocol::id::GrantRef;

/// Most pages kept for one ring; others are unmapped after their request. Linux's front end uses at most 32 slots of 32 pages.
const MOST: usize = 1056;

/// The pages, by the grant that each is.
pub(super) struct Kept<P>(BTreeMap<u32, P>);

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P> Kept<P> {
    /// The page of a grant, if it is here. It is the caller's then.
    pub(super) fn take(&mut self, reference: GrantRef) -> Option<P> {
        self.0.remove(&reference.0)
    }

    /// Keeps a page, or gives it back: there is no room, or the grant is here already, mapped for two requests at a time.
    pub(super) fn keep(&mut self, reference: GrantRef, page: P) -> Option<P> {
        if self.0.len() >= MOST { Some(page) } else { self.0.insert(reference.0, page) }
    }

    /// All of them.
    pub(super) fn into_pages(self) -> impl Iterator<Item = P> {
        self.0.into_values()
    }
}
