//! Pages of other domains, reached by the references that those granted: what a back end in a guest works on.
//!
//! A [`Window`] is guest-physical space for mappings; [`Window::map`] makes one, and dropping the [`Mapping`] ends it. What
//! is in such a page is written by somebody else at any moment: copy once, then check.
//!
//! # A page cannot be looked at after it is unmapped
//!
//! ```
//! # use trunnion_frontends::{error::Error, mapping::Mapping, platform::Platform};
//! # use trunnion_protocol::shared::OutOfPage;
//! fn right<P: Platform>(mapping: Mapping<'_, '_, P>) -> Result<Result<u32, OutOfPage>, Error> {
//!     let value = mapping.page().load::<u32>(0); // a copy
//!     mapping.unmap()?;
//!     Ok(value)
//! }
//! ```
//!
//! ```compile_fail,E0505
//! # use trunnion_frontends::{error::Error, mapping::Mapping, platform::Platform};
//! # use trunnion_protocol::shared::OutOfPage;
//! fn wrong<P: Platform>(mapping: Mapping<'_, '_, P>) -> Result<Result<u32, OutOfPage>, Error> {
//!     let page = mapping.page();
//!     mapping.unmap()?;
//!     Ok(page.load::<u32>(0)) // the page may be gone, or another
//! }
//! ```

use core::cell::Cell;

use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::ring;
use trunnion_protocol::shared::{OutOfPage, SharedPage};

use crate::error::Error;
use crate::hypercall;
use crate::platform::{Gfns, Platform};

/// Most pages that one window shows at once.
pub const WINDOW_MAX: usize = 64;

/// Guest-physical space for pages of other domains.
pub struct Window<'p, P: Platform> {
    platform: &'p P,
    gfns: Gfns,
    /// A bit for each frame that shows a page.
    taken: Cell<u64>,
}

impl<'p, P: Platform> Window<'p, P> {
    /// Space for `frames` pages, 1 to [`WINDOW_MAX`].
    pub fn new(platform: &'p P, frames: usize) -> Result<Self, Error> {
        let gfns = platform.holes(frames.clamp(1, WINDOW_MAX))?;
        Ok(Self { platform, gfns, taken: Cell::new(0) })
    }

    /// Pages that it shows now.
    pub const fn used(&self) -> usize {
        self.taken.get().count_ones() as usize
    }

    /// Maps a page for reading and writing. [`Error::OutOfMemory`] when the window is full, [`Error::Grant`] when the
    /// hypervisor refuses: the reference is not granted to this guest, or only for reading.
    pub fn map(&self, domain: DomainId, reference: GrantRef) -> Result<Mapping<'_, 'p, P>, Error> {
        self.map_for(domain, reference, Access::ReadWrite)
    }

    /// Maps a page that is granted for reading, or is only to be read.
    pub fn map_to_read(
        &self,
        domain: DomainId,
        reference: GrantRef,
    ) -> Result<ReadMapping<'_, 'p, P>, Error> {
        self.map_for(domain, reference, Access::ReadOnly).map(ReadMapping)
    }

    fn map_for(
        &self,
        domain: DomainId,
        reference: GrantRef,
        access: Access,
    ) -> Result<Mapping<'_, 'p, P>, Error> {
        let place = self.taken.get().trailing_ones();
        let gfn = self.gfns.get(place as usize).ok_or(Error::OutOfMemory)?;
        let address = address(gfn)?;
        let handle = hypercall::map_grant(self.platform, domain, reference, address, access)?;
        self.taken.set(self.taken.get() | 1 << place);
        let mut mapping = Mapping { window: self, place, address, handle: Some(handle), pages: None };
        let pages = self.platform.map(gfn)?;
        if pages.as_ref().is_empty() {
            return Err(Error::NotMapped);
        }
        mapping.pages = Some(pages);
        Ok(mapping)
    }
}

fn address(gfn: Gfn) -> Result<Gpa, Error> {
    gfn.checked_address().ok_or(Error::NotMapped)
}

impl<P: Platform> core::fmt::Debug for Window<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Window").field("gfns", &self.gfns).field("used", &self.used()).finish_non_exhaustive()
    }
}

/// A page of another domain, to read and write. Dropping it unmaps the page.
pub struct Mapping<'w, 'p, P: Platform> {
    window: &'w Window<'p, P>,
    place: u32,
    address: Gpa,
    handle: Option<u32>,
    /// There as long as the page is mapped.
    pages: Option<P::Pages>,
}

/// What a mapping without a page would show; [`Window::map`] makes none.
static NOTHING: SharedPage = SharedPage::zeroed();

impl<P: Platform> Mapping<'_, '_, P> {
    /// The page. Its owner may write it at any moment.
    pub fn page(&self) -> &SharedPage {
        self.pages.as_ref().and_then(|pages| pages.as_ref().first()).unwrap_or(&NOTHING)
    }

    /// Unmaps the page, and says if the hypervisor refused: then the frame of the window is never used again.
    pub fn unmap(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        // The view goes before the page does.
        self.pages = None;
        let Some(handle) = self.handle.take() else { return Ok(()) };
        hypercall::unmap_grant(self.window.platform, self.address, handle)?;
        self.window.taken.set(self.window.taken.get() & !(1 << self.place));
        Ok(())
    }
}

impl<P: Platform> Drop for Mapping<'_, '_, P> {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl<P: Platform> core::fmt::Debug for Mapping<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mapping").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<P: Platform> ring::Pages for Mapping<'_, '_, P> {
    fn count(&self) -> usize {
        1
    }

    fn page(&self, index: usize) -> Option<&SharedPage> {
        (index == 0).then(|| Mapping::page(self))
    }
}

/// A page of another domain that can only be read: a write would be a fault.
#[derive(Debug)]
pub struct ReadMapping<'w, 'p, P: Platform>(Mapping<'w, 'p, P>);

impl<P: Platform> ReadMapping<'_, '_, P> {
    /// Copies bytes out.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfPage> {
        self.0.page().copy_out(offset, into)
    }

    /// Unmaps the page, as [`Mapping::unmap`].
    pub fn unmap(self) -> Result<(), Error> {
        self.0.unmap()
    }
}
