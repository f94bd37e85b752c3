//! Pages that stay mapped from request to request, where the front end agrees (`feature-persistent`, `io/blkif.h`): it then copies
//! through pages that it has granted for good, for writing, and a request costs no change of translations.
//!
//! A page in here is not in use. A request takes its pages out, and they come back when it is done.

use alloc::vec::Vec;

use trunnion_protocol::id::GrantRef;

/// Places for pages: a power of two. Linux's front end keeps at most 32 slots of 33 pages.
const PLACES: usize = 2048;
/// Places that a grant may have: so many in a row, from that of its number on. Where all are taken, the page is not kept.
const TRIED: usize = 8;

/// The pages, by the grant that each is.
pub(super) struct Kept<P>(Vec<Option<(GrantRef, P)>>);

impl<P> Default for Kept<P> {
    fn default() -> Self {
        let mut places = Vec::new();
        // Without the memory for them nothing is kept: a front end must not be able to use up what has no way to fail.
        if places.try_reserve_exact(PLACES).is_ok() {
            places.resize_with(PLACES, || None);
        }
        Self(places)
    }
}

impl<P> Kept<P> {
    fn places(&mut self, reference: GrantRef) -> impl Iterator<Item = &mut Option<(GrantRef, P)>> {
        let first = reference.0 as usize % (PLACES - TRIED);
        self.0.get_mut(first..first + TRIED).unwrap_or_default().iter_mut()
    }

    /// The page of a grant, if it is here. It is the caller's then.
    pub(super) fn take(&mut self, reference: GrantRef) -> Option<P> {
        let is_it =
            |place: &&mut Option<(GrantRef, P)>| matches!(place, Some((here, _)) if *here == reference);
        self.places(reference).find(is_it)?.take().map(|(_, page)| page)
    }

    /// Keeps a page, or gives it back: there is no room, or the grant is here already, mapped for two requests at a time.
    pub(super) fn keep(&mut self, reference: GrantRef, page: P) -> Option<P> {
        let mut free = None;
        for place in self.places(reference) {
            match place {
                Some((here, _)) if *here == reference => return Some(page),
                None if free.is_none() => free = Some(place),
                _ => {}
            }
        }
        let Some(free) = free else { return Some(page) };
        *free = Some((reference, page));
        None
    }

    /// All of them.
    pub(super) fn into_pages(self) -> impl Iterator<Item = P> {
        self.0.into_iter().flatten().map(|(_, page)| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_has_no_room_at_once() {
        let mut kept = Kept::default();
        assert_eq!((kept.take(GrantRef(5)), kept.keep(GrantRef(5), 50)), (None, None));
        // Grants that share a place.
        let same = |n: u32| GrantRef(5 + n * (PLACES - TRIED) as u32);
        assert_eq!(kept.keep(same(0), 51), Some(51), "it is here already");
        for n in 1..TRIED as u32 {
            assert_eq!(kept.keep(same(n), 100 + n), None);
        }
        assert_eq!(kept.keep(same(9), 109), Some(109));
        assert_eq!((kept.take(same(0)), kept.take(same(0))), (Some(50), None));
        assert_eq!(
            (kept.keep(same(7), 108), kept.take(same(7)), kept.take(same(9))),
            (Some(108), Some(107), None)
        );
        assert_eq!(kept.keep(GrantRef(u32::MAX), 7), None);
        assert_eq!(kept.into_pages().count(), TRIED - 1);
    }
}
