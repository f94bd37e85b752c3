//! The front end's half: puts requests, takes responses.

use core::fmt;
use core::sync::atomic::Ordering;

use super::{Interface, Notify, Overrun, Pages, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, pages};
use crate::layout::Width;
use crate::shared::fence;

/// No slot is free: take responses first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full")
    }
}

impl core::error::Error for Full {}

/// The front end's half of a ring.
pub struct FrontRing<I: Interface, P: Pages> {
    pages: P,
    width: Width,
    slots: u32,
    stride: usize,
    /// Requests written.
    put: u32,
    /// Requests published.
    published: u32,
    /// Responses taken.
    taken: u32,
    /// Responses seen in the page.
    seen: u32,
    broken: Option<Overrun>,
    interface: core::marker::PhantomData<fn() -> I>,
}

impl<I: Interface, P: Pages> FrontRing<I, P> {
    /// Makes a ring in pages that are not granted yet, and sets its header up. `None` if they have no room for a slot.
    pub fn new(pages: P, width: Width) -> Option<Self> {
        let slots = I::slots(width, pages.count());
        if slots == 0 {
            return None;
        }
        for index in 0..pages.count() {
            pages.page(index)?.fill_zero();
        }
        pages::store(&pages, REQ_EVENT, 1);
        pages::store(&pages, RSP_EVENT, 1);
        Some(Self {
            pages,
            width,
            slots,
            stride: I::stride(width),
            put: 0,
            published: 0,
            taken: 0,
            seen: 0,
            broken: None,
            interface: core::marker::PhantomData,
        })
    }

    /// Slots of the ring.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that are free.
    pub const fn free(&self) -> u32 {
        self.slots.wrapping_sub(self.put.wrapping_sub(self.taken))
    }

    /// Requests without a response so far, published or not.
    pub const fn outstanding(&self) -> u32 {
        self.put.wrapping_sub(self.taken)
    }

    /// Writes a request. The back end sees it after [`Self::publish`].
    pub fn put(&mut self, request: &I::Request) -> Result<(), Full> {
        if self.free() == 0 {
            return Err(Full);
        }
        let _ = pages::write(&self.pages, self.width, self.put, self.slots, self.stride, request);
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Lets the back end see the requests so far, and says whether it asked for an event.
    pub fn publish(&mut self) -> Notify {
        let (old, new) = (self.published, self.put);
        if old == new {
            return Notify::Nobody;
        }
        pages::store(&self.pages, REQ_PROD, new);
        self.published = new;
        fence(Ordering::SeqCst);
        Notify::after(old, new, pages::load(&self.pages, REQ_EVENT))
    }

    fn refresh(&mut self) -> Result<(), Overrun> {
        if let Some(overrun) = self.broken {
            return Err(overrun);
        }
        let index = pages::load(&self.pages, RSP_PROD);
        // An honest back end answers published requests only, and takes no answer back.
        if index.wrapping_sub(self.taken) > self.published.wrapping_sub(self.taken)
            || index.wrapping_sub(self.taken) < self.seen.wrapping_sub(self.taken)
        {
            let overrun = Overrun { index, before: self.seen };
            self.broken = Some(overrun);
            return Err(overrun);
        }
        self.seen = index;
        Ok(())
    }

    /// The next response, copied out, or `None` when there is none for now. Its identity is a claim of the back end's:
    /// look it up in an [`Outstanding`](super::Outstanding) table.
    pub fn take(&mut self) -> Result<Option<I::Response>, Overrun> {
        if self.taken == self.seen || self.broken.is_some() {
            self.refresh()?;
            if self.taken == self.seen {
                return Ok(None);
            }
        }
        let Some(response) = pages::read(&self.pages, self.width, self.taken, self.slots, self.stride) else {
            return Ok(None);
        };
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for an event at the next response, and looks once more: true if there is one now.
    pub fn arm(&mut self) -> Result<bool, Overrun> {
        self.refresh()?;
        if self.taken != self.seen {
            return Ok(true);
        }
        pages::store(&self.pages, RSP_EVENT, self.taken.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.refresh()?;
        Ok(self.taken != self.seen)
    }

    /// Gives the pages back, once the back end has let go of them.
    pub fn into_pages(self) -> P {
        self.pages
    }
}
