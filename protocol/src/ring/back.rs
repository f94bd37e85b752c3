//! The back end's half: takes requests, answers each once.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Interface, Notify, Overrun, Pages, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, pages};
use crate::layout::Width;
use crate::planted::{self, Bug};
use crate::shared::fence;

/// Tells rings apart, so that a token of one connection is of no use in the next.
static NEXT_RING: AtomicU32 = AtomicU32::new(0);

/// A request that was taken and must be answered. It cannot be copied, so it cannot be answered twice.
#[must_use = "a request that is not answered leaves the front end waiting"]
#[derive(Debug)]
pub struct Claimed<R> {
    /// The request: an owned copy of what the front end wrote, not yet checked.
    pub request: R,
    /// The duty to answer it.
    pub owed: Owed,
}

/// The duty to answer one request, kept while the work is done.
#[must_use = "a request that is not answered leaves the front end waiting"]
#[derive(Debug)]
pub struct Owed {
    ring: u32,
    index: u32,
}

impl Owed {
    /// The request's index, running freely: the slot that an in-order interface answers in.
    pub const fn index(&self) -> u32 {
        self.index
    }
}

impl<R> From<Claimed<R>> for Owed {
    fn from(claimed: Claimed<R>) -> Self {
        claimed.owed
    }
}

/// Why an answer was not taken. Each is a mistake of this side's program, never of the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The request is of another ring, or of an earlier connection.
    Foreign,
    /// Another request is to be answered first.
    OutOfOrder,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "the answered request is not of this ring",
            Self::OutOfOrder => "the answered request is not the next one",
        })
    }
}

impl core::error::Error for Refused {}

/// The back end's half of a ring.
pub struct BackRing<I: Interface, P: Pages> {
    pages: P,
    width: Width,
    slots: u32,
    stride: usize,
    ring: u32,
    /// Requests taken.
    taken: u32,
    /// Requests seen in the page, so that it is read once for a run of them.
    seen: u32,
    /// Responses written.
    answered: u32,
    /// Responses published.
    published: u32,
    broken: Option<Overrun>,
    interface: core::marker::PhantomData<fn() -> I>,
}

impl<I: Interface, P: Pages> BackRing<I, P> {
    /// Joins a ring that a front end made. `None` if the pages have no room for a slot. The cursors start where the page
    /// says that responses ended, so that a back end can take a ring over.
    pub fn new(pages: P, width: Width) -> Option<Self> {
        let slots = I::slots(width, pages.count());
        if slots == 0 {
            return None;
        }
        let start = pages::load(&pages, RSP_PROD);
        Some(Self {
            pages,
            width,
            slots,
            stride: I::stride(width),
            ring: NEXT_RING.fetch_add(1, Ordering::Relaxed),
            taken: start,
            seen: start,
            answered: start,
            published: start,
            broken: None,
            interface: core::marker::PhantomData,
        })
    }

    /// Slots of the ring: the most requests in flight.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests taken and not yet answered.
    pub const fn outstanding(&self) -> u32 {
        self.taken.wrapping_sub(self.answered)
    }

    /// Looks at the peer's index; `Err` if it is impossible.
    fn refresh(&mut self) -> Result<(), Overrun> {
        if let Some(overrun) = self.broken {
            return Err(overrun);
        }
        let index = pages::load(&self.pages, REQ_PROD);
        // An honest front end never has more than `slots` requests unanswered, and never takes one back.
        if index.wrapping_sub(self.answered) > self.slots
            || index.wrapping_sub(self.answered) < self.seen.wrapping_sub(self.answered)
        {
            let overrun = Overrun { index, before: self.seen };
            self.broken = Some(overrun);
            return Err(overrun);
        }
        self.seen = index;
        Ok(())
    }

    /// The next request, copied out, or `None` when there is none for now.
    pub fn take(&mut self) -> Result<Option<Claimed<I::Request>>, Overrun> {
        if self.taken == self.seen || self.broken.is_some() {
            self.refresh()?;
            if self.taken == self.seen {
                return Ok(None);
            }
        }
        let index = self.taken;
        let Some(request) = pages::read(&self.pages, self.width, index, self.slots, self.stride) else {
            return Ok(None);
        };
        self.taken = index.wrapping_add(1);
        Ok(Some(Claimed { request, owed: Owed { ring: self.ring, index } }))
    }

    /// Writes the answer to a request. The front end sees it after [`Self::publish`].
    pub fn answer(&mut self, owed: impl Into<Owed>, response: &I::Response) -> Result<(), Refused> {
        let owed = owed.into();
        if owed.ring != self.ring || self.outstanding() == 0 {
            return Err(Refused::Foreign);
        }
        if I::IN_ORDER && owed.index != self.answered {
            return Err(Refused::OutOfOrder);
        }
        let _ = pages::write(&self.pages, self.width, self.answered, self.slots, self.stride, response);
        self.answered = self.answered.wrapping_add(1);
        if planted::is(Bug::DoubleAnswer) && self.outstanding() != 0 {
            let _ = pages::write(&self.pages, self.width, self.answered, self.slots, self.stride, response);
            self.answered = self.answered.wrapping_add(1);
        }
        Ok(())
    }

    /// Lets the front end see the answers so far, and says whether it asked for an event.
    ///
    /// Everything that the answers promise (data written, grants released) happens before this call.
    pub fn publish(&mut self) -> Notify {
        let (old, new) = (self.published, self.answered);
        if old == new {
            return Notify::Nobody;
        }
        pages::store(&self.pages, RSP_PROD, new);
        self.published = new;
        fence(Ordering::SeqCst);
        let event = pages::load(&self.pages, RSP_EVENT);
        Notify::after(old, new, if planted::is(Bug::SloppyNotify) { event.wrapping_sub(1) } else { event })
    }

    /// Asks for an event at the next request, and looks once more: true if there is work now.
    pub fn arm(&mut self) -> Result<bool, Overrun> {
        self.refresh()?;
        if self.taken != self.seen {
            return Ok(true);
        }
        pages::store(&self.pages, REQ_EVENT, self.taken.wrapping_add(1));
        fence(Ordering::SeqCst);
        self.refresh()?;
        Ok(self.taken != self.seen)
    }

    /// Gives the pages back, to be unmapped.
    pub fn into_pages(self) -> P {
        self.pages
    }
}
