//! The grant table: pages that other domains may reach.
//!
//! [`GrantTable::offer`] takes what owns a page and gives a [`Grant`]: while it is a grant, the page cannot be touched
//! as private memory. [`Grant::revoke`] gives the owner back once the hypervisor has confirmed that the page is not
//! mapped any more, or the grant again. A grant that is dropped while the page is mapped goes to the *reaper*: reference
//! and page stay reserved until the peer has let go.

//!
//! # A granted page is not reused before it is revoked
//!
//! ```
//! # use trunnion_frontends::{grant::{Access, GrantTable}, page::Buffer, platform::Platform};
//! # use trunnion_protocol::id::DomainId;
//! fn right<P: Platform>(grants: &GrantTable<'_, P>, page: Buffer<P>, peer: DomainId) {
//!     let Ok(grant) = grants.offer(page, peer, Access::ReadWrite) else { return };
//!     // ... the peer works ...
//!     if let Ok(page) = grant.revoke() {
//!         let _ = page.write(0, b"private again");
//!     }
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use trunnion_frontends::{grant::{Access, GrantTable}, page::Buffer, platform::Platform};
//! # use trunnion_protocol::id::DomainId;
//! fn wrong<P: Platform>(grants: &GrantTable<'_, P>, page: Buffer<P>, peer: DomainId) {
//!     let Ok(grant) = grants.offer(page, peer, Access::ReadWrite) else { return };
//!     let _ = page.write(0, b"secret"); // the peer reads it
//! }
//! ```
//!
//! [`Grant::revoke`] may say no, and then there is no page:
//!
//! ```compile_fail,E0308
//! # use trunnion_frontends::{grant::Grant, page::Buffer, platform::Platform};
//! fn wrong<P: Platform>(grant: Grant<'_, '_, P>) -> Buffer<P> {
//!     grant.revoke()
//! }
//! ```
//!
//! # A grant does not outlive its table
//!
//! ```compile_fail,E0505
//! # use trunnion_frontends::{grant::{Access, GrantTable}, page::Buffer, platform::Platform};
//! # use trunnion_protocol::id::DomainId;
//! fn wrong<P: Platform>(grants: GrantTable<'_, P>, page: Buffer<P>, peer: DomainId) {
//!     let grant = grants.offer(page, peer, Access::ReadWrite);
//!     drop(grants); // nobody could take the page back
//!     drop(grant);
//! }
//! ```

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering};

use trunnion_protocol::address::Gfn;
use trunnion_protocol::grant::{ENTRIES_PER_FRAME, permit, place, revoke};
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::ring;
use trunnion_protocol::shared::SharedPage;

pub use trunnion_protocol::grant::Access;

use crate::error::Error;
use crate::hypercall;
use crate::page::Buffer;
use crate::platform::Platform;

/// Most frames that a table of this crate uses: 4096 references.
pub const FRAMES: usize = 8;
const ENTRIES: usize = FRAMES * ENTRIES_PER_FRAME as usize;
const WORDS: usize = ENTRIES / 32;
/// Dropped buffers that the reaper can keep.
const REAPER: usize = 32;
/// Most references of one buffer.
pub(crate) const REFERENCES: usize = 32;

/// The references by which a peer reaches a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct References {
    list: [GrantRef; REFERENCES],
    count: usize,
}

impl References {
    pub(crate) const fn new() -> Self {
        Self { list: [GrantRef(0); REFERENCES], count: 0 }
    }

    pub(crate) fn one(reference: GrantRef) -> Self {
        let mut references = Self::new();
        // There is room for the first.
        let _ = references.push(reference);
        references
    }

    pub(crate) fn push(&mut self, reference: GrantRef) -> Result<(), Error> {
        *self.list.get_mut(self.count).ok_or(Error::OutOfMemory)? = reference;
        self.count += 1;
        Ok(())
    }

    pub(crate) fn as_slice(&self) -> &[GrantRef] {
        self.list.get(..self.count).unwrap_or_default()
    }

    /// Ends the grants; those that the peer still holds are left. True once none is.
    pub(crate) fn end<P: Platform>(&mut self, table: &GrantTable<'_, P>) -> bool {
        let mut left = Self::new();
        for &reference in self.as_slice() {
            if !table.end(reference) {
                let _ = left.push(reference);
            }
        }
        *self = left;
        self.count == 0
    }
}

/// Dropped buffers, with the references by which peers still reach them.
type Remains<P> = [Option<(References, Buffer<P>)>; REAPER];

/// The peer still maps the page; here is the grant again.
#[derive(Debug)]
pub struct StillMapped<G>(pub G);

/// This guest's grant table.
pub struct GrantTable<'p, P: Platform> {
    platform: &'p P,
    frames: [Option<P::Pages>; FRAMES],
    entries: u32,
    taken: RefCell<[u32; WORDS]>,
    next: Cell<usize>,
    reaper: RefCell<Remains<P>>,
    lost: Cell<usize>,
}

impl<'p, P: Platform> GrantTable<'p, P> {
    /// A table of up to `frames` frames (at most [`FRAMES`], and no more than the hypervisor allows). Call it once: the
    /// references below 8 are left to the toolstack, all others are this table's.
    pub fn new(platform: &'p P, frames: usize) -> Result<Self, Error> {
        hypercall::set_grant_version(platform);
        let limit = hypercall::grant_limit(platform).map_or(1, |limit| limit as usize);
        let count = frames.clamp(1, FRAMES).min(limit.max(1));
        let gfns = platform.holes(count)?;
        let mut pages = [const { None }; FRAMES];
        // The highest first: the table then grows once.
        for (index, page) in pages.iter_mut().enumerate().take(count).rev() {
            let gfn = gfns.get(index).ok_or(Error::OutOfMemory)?;
            hypercall::place_grant_frame(platform, index as u32, gfn)?;
            *page = Some(platform.map(gfn)?);
        }
        let mut taken = [0; WORDS];
        if let Some(first) = taken.first_mut() {
            *first = (1 << GrantRef::RESERVED) - 1;
        }
        Ok(Self {
            platform,
            frames: pages,
            entries: count as u32 * ENTRIES_PER_FRAME,
            taken: RefCell::new(taken),
            next: Cell::new(0),
            reaper: RefCell::new([const { None }; REAPER]),
            lost: Cell::new(0),
        })
    }

    /// The kernel below.
    pub const fn platform(&self) -> &'p P {
        self.platform
    }

    /// Offers the first page of a buffer to a domain.
    pub fn offer(
        &self,
        page: Buffer<P>,
        to: DomainId,
        access: Access,
    ) -> Result<Grant<'_, 'p, P>, (Error, Buffer<P>)> {
        let Some(gfn) = page.gfn(0) else { return Err((Error::OutOfMemory, page)) };
        match self.permit(gfn, to, access) {
            Ok(reference) => Ok(Grant { table: self, reference, page: Some(page) }),
            Err(error) => Err((error, page)),
        }
    }

    /// Lets a domain reach a frame. The caller owns the frame until [`end`](Self::end) succeeds.
    pub(crate) fn permit(&self, gfn: Gfn, to: DomainId, access: Access) -> Result<GrantRef, Error> {
        let frame = u32::try_from(gfn.0).map_err(|_| Error::OutOfMemory)?;
        let reference = self.reserve().ok_or(Error::OutOfMemory)?;
        let (Some(word), Some(frame_word)) = self.words(reference) else { return Err(Error::OutOfMemory) };
        frame_word.store(frame, Ordering::Relaxed);
        // The frame is written before the word that makes it count.
        word.store(permit(to, access), Ordering::Release);
        Ok(reference)
    }

    /// Ends what [`permit`](Self::permit) began. False while the peer holds the page; ask again later.
    pub(crate) fn end(&self, reference: GrantRef) -> bool {
        let ended = self.withdraw(reference);
        if ended {
            self.release(reference);
        }
        ended
    }

    /// How many references are free.
    pub fn free(&self) -> usize {
        self.reap();
        let taken: u32 = self.taken.borrow().iter().map(|word| word.count_ones()).sum();
        (self.entries as usize).saturating_sub(taken as usize)
    }

    /// How many references are lost for good: their pages were still mapped when dropped, and the reaper was full.
    pub fn lost(&self) -> usize {
        self.lost.get()
    }

    /// Looks for dropped grants that their peers have let go of, and gives their pages back.
    pub fn reap(&self) {
        for place in self.reaper.borrow_mut().iter_mut() {
            if let Some((references, _)) = place
                && references.end(self)
            {
                *place = None;
            }
        }
    }

    /// Gives a buffer back to the kernel once no peer reaches it any more: at once, or by the reaper. Without room there
    /// it is never used again, which is the only safe thing left.
    pub(crate) fn bury(&self, mut references: References, buffer: Buffer<P>) {
        if references.end(self) {
            return;
        }
        self.reap();
        if let Some(place) = self.reaper.borrow_mut().iter_mut().find(|place| place.is_none()) {
            *place = Some((references, buffer));
        } else {
            self.lost.set(self.lost.get() + references.count);
            core::mem::forget(buffer);
        }
    }

    fn words(&self, reference: GrantRef) -> (Option<&AtomicU32>, Option<&AtomicU32>) {
        let (frame, offset) = place(reference);
        let page =
            self.frames.get(frame as usize).and_then(Option::as_ref).and_then(|page| page.as_ref().first());
        (page.and_then(|page| page.word_at(offset)), page.and_then(|page| page.word_at(offset + 4)))
    }

    fn withdraw(&self, reference: GrantRef) -> bool {
        let (Some(word), _) = self.words(reference) else { return true };
        let mut now = word.load(Ordering::Relaxed);
        let forced = planted::is(Bug::HastyRevoke) || planted!(ForcedRevoke);
        while let Some(none) = revoke(now).or(forced.then_some(0)) {
            // A full barrier: nothing of the page is touched before it is private again.
            match word.compare_exchange_weak(now, none, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
        false
    }

    fn reserve(&self) -> Option<GrantRef> {
        let mut taken = self.taken.borrow_mut();
        let words = self.entries as usize / 32;
        for step in 0..words {
            let index = (self.next.get() + step) % words;
            let word = taken.get_mut(index)?;
            let bit = word.trailing_ones();
            if bit < 32 {
                *word |= 1 << bit;
                self.next.set(index);
                return Some(GrantRef(index as u32 * 32 + bit));
            }
        }
        None
    }

    fn release(&self, reference: GrantRef) {
        if let Some(word) = self.taken.borrow_mut().get_mut(reference.0 as usize / 32) {
            *word &= !(1 << (reference.0 % 32));
        }
    }
}

impl<P: Platform> core::fmt::Debug for GrantTable<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GrantTable")
            .field("entries", &self.entries)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// A page that a domain may reach. It owns the page.
pub struct Grant<'t, 'p, P: Platform> {
    table: &'t GrantTable<'p, P>,
    reference: GrantRef,
    page: Option<Buffer<P>>,
}

impl<P: Platform> Grant<'_, '_, P> {
    /// The number by which the peer reaches the page.
    pub const fn reference(&self) -> GrantRef {
        self.reference
    }

    /// The page while it is shared: whatever is read may change at any moment.
    pub fn shared(&self) -> Option<&Buffer<P>> {
        self.page.as_ref()
    }

    /// Takes the page back, or the grant again while the peer still holds the page.
    pub fn revoke(mut self) -> Result<Buffer<P>, StillMapped<Self>> {
        if !self.table.end(self.reference) {
            return Err(StillMapped(self));
        }
        match self.page.take() {
            Some(page) => Ok(page),
            // Only `revoke` and `drop` take the page out, and both end the grant.
            None => Err(StillMapped(self)),
        }
    }
}

/// A ring may lie in a granted page: it is made before anybody hears of the reference.
impl<P: Platform> ring::Pages for Grant<'_, '_, P> {
    fn count(&self) -> usize {
        1
    }

    fn page(&self, index: usize) -> Option<&SharedPage> {
        if index == 0 { ring::Pages::page(self.page.as_ref()?, 0) } else { None }
    }
}

impl<P: Platform> Drop for Grant<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.table.bury(References::one(self.reference), page);
        }
    }
}

impl<P: Platform> core::fmt::Debug for Grant<'_, '_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Grant").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// Pages for `length` bytes, all of which a domain may reach.
pub(crate) fn share<P: Platform>(
    grants: &GrantTable<'_, P>,
    length: usize,
    to: DomainId,
    access: Access,
) -> Result<(References, Buffer<P>), Error> {
    let buffer = Buffer::new(grants.platform(), length)?;
    let mut references = References::new();
    for index in 0..buffer.pages_used() {
        let permitted =
            buffer.gfn(index).ok_or(Error::OutOfMemory).and_then(|gfn| grants.permit(gfn, to, access));
        if let Err(error) = permitted.and_then(|reference| references.push(reference)) {
            grants.bury(references, buffer);
            return Err(error);
        }
    }
    Ok((references, buffer))
}
