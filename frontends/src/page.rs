//! Pages that front ends own, and the buffers that requests carry.

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::ring;
use trunnion_protocol::shared::SharedPage;

use crate::error::Error;
use crate::platform::{Gfns, Platform};

/// A run of pages, whole and private: nobody else reaches it. The bytes that count are the first [`len`](Self::len).
pub struct Buffer<P: Platform> {
    pages: P::Pages,
    gfns: Gfns,
    length: usize,
}

impl<P: Platform> Buffer<P> {
    /// Zeroed pages for `length` bytes, at least one page.
    pub fn new(platform: &P, length: usize) -> Result<Self, Error> {
        let (pages, gfns) = platform.pages(length.div_ceil(PAGE_SIZE).max(1))?;
        if pages.as_ref().len() < gfns.count() || length > gfns.count() * PAGE_SIZE {
            return Err(Error::OutOfMemory);
        }
        Ok(Self { pages, gfns, length })
    }

    /// How many bytes count.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// True if no byte counts.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many bytes there is room for.
    pub const fn capacity(&self) -> usize {
        self.gfns.count() * PAGE_SIZE
    }

    /// Changes how many bytes count; [`Error::TooLong`] beyond the capacity.
    pub fn set_len(&mut self, length: usize) -> Result<(), Error> {
        if length > self.capacity() {
            return Err(Error::TooLong);
        }
        self.length = length;
        Ok(())
    }

    /// How many pages hold bytes that count.
    pub const fn pages_used(&self) -> usize {
        self.length.div_ceil(PAGE_SIZE)
    }

    /// The frame number of a page.
    pub fn gfn(&self, index: usize) -> Option<Gfn> {
        self.gfns.get(index)
    }

    /// Copies bytes in at an offset; [`Error::TooLong`] if they go beyond the length.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check(offset, bytes.len())?;
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(rest.len().min(PAGE_SIZE - at % PAGE_SIZE));
            self.page_at(at)?.copy_in(at % PAGE_SIZE, piece).map_err(|_| Error::TooLong)?;
            at += piece.len();
            rest = next;
        }
        Ok(())
    }

    /// Copies bytes out from an offset; [`Error::TooLong`] if they go beyond the length.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        self.check(offset, into.len())?;
        let mut rest = into;
        let mut at = offset;
        while !rest.is_empty() {
            let (piece, next) = rest.split_at_mut((PAGE_SIZE - at % PAGE_SIZE).min(rest.len()));
            self.page_at(at)?.copy_out(at % PAGE_SIZE, piece).map_err(|_| Error::TooLong)?;
            at += piece.len();
            rest = next;
        }
        Ok(())
    }

    fn check(&self, offset: usize, length: usize) -> Result<(), Error> {
        let end = offset.checked_add(length).ok_or(Error::TooLong)?;
        if end <= self.length { Ok(()) } else { Err(Error::TooLong) }
    }

    fn page_at(&self, offset: usize) -> Result<&SharedPage, Error> {
        self.pages.as_ref().get(offset / PAGE_SIZE).ok_or(Error::TooLong)
    }
}

impl<P: Platform> core::fmt::Debug for Buffer<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Buffer")
            .field("gfns", &self.gfns)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> ring::Pages for Buffer<P> {
    fn count(&self) -> usize {
        self.gfns.count()
    }

    fn page(&self, index: usize) -> Option<&SharedPage> {
        self.pages.as_ref().get(index)
    }
}
