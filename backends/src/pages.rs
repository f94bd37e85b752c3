//! The mapped pages of a ring.

use alloc::vec::Vec;

use trunnion_protocol::ring::Pages;
use trunnion_protocol::shared::SharedPage;

use crate::device::GuestPage;

/// Mapped pages in the order of the ring.
pub(crate) struct RingPages<P>(pub(crate) Vec<P>);

impl<P: GuestPage> Pages for RingPages<P> {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.0.get(index).map(GuestPage::shared)
    }
}
