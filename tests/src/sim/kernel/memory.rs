//! Memory of a simulated kernel: RAM to give out, pages to share, scratch space for the structures of hypercalls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use trunnion_protocol::address::{Gfn, Gpa, Gva, Mfn, PAGE_SIZE};
use trunnion_protocol::shared::SharedPage;

use super::Kernel;

/// Pages that a hypercall's structures are put into.
pub(super) const SCRATCH: usize = 4;
/// Most pages of one allocation.
pub(super) const RUN: usize = 64;

/// RAM that the kernel gives out.
pub(super) struct Ram {
    pub(super) first: u64,
    pub(super) free: Vec<bool>,
}

impl Ram {
    fn take(&mut self, count: usize, good: impl Fn(u64) -> bool) -> Option<u64> {
        let mut from = 0;
        while from + count <= self.free.len() {
            match self.free[from..from + count].iter().rposition(|free| !free) {
                Some(used) => from += used + 1,
                None if !good(self.first + from as u64) => from += 1,
                None => {
                    self.free[from..from + count].fill(false);
                    return Some(self.first + from as u64);
                }
            }
        }
        None
    }
}

impl Kernel {
    /// The machine frame behind one of the domain's frames.
    pub fn frame(&self, gfn: Gfn) -> Option<Mfn> {
        self.domain.memory.lock().tables.lookup(&self.host.machine, gfn).map(|leaf| leaf.mfn)
    }

    /// The page behind one of the domain's frames.
    pub fn page(&self, gfn: Gfn) -> Option<&SharedPage> {
        self.memory.get(self.frame(gfn)?.0 as usize)
    }

    /// Memory of the host by frame number: what dom0 finds at the address equal to it.
    pub const fn host_memory(&self) -> &Arc<[SharedPage]> {
        &self.memory
    }

    pub(super) fn take_pages(&self, count: usize) -> Option<u64> {
        if count == 0 || count > RUN {
            return None;
        }
        let adjacent = |first: u64| {
            let frame = |index: u64| self.frame(Gfn(first + index)).map(|mfn| mfn.0);
            frame(0).is_some_and(|mfn| (0..count as u64).all(|index| frame(index) == Some(mfn + index)))
        };
        self.ram.borrow_mut().take(count, adjacent)
    }

    pub(super) fn take_holes(&self, count: u64) -> Gfn {
        Gfn(self.holes.replace(self.holes.get() + count))
    }

    /// Puts bytes into the scratch pages at an offset; their address.
    pub fn lend(&self, offset: usize, bytes: &[u8]) -> Option<Gva> {
        self.each(offset, bytes.len(), |page, at, range| page.copy_in(at, &bytes[range]).ok())?;
        Some(Gva((self.scratch.get() << 12) + offset as u64))
    }

    /// Takes bytes back from there.
    pub fn back(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let length = into.len();
        self.each(offset, length, |page, at, range| page.copy_out(at, &mut into[range]).ok())
    }

    fn each(
        &self,
        offset: usize,
        length: usize,
        mut copy: impl FnMut(&SharedPage, usize, std::ops::Range<usize>) -> Option<()>,
    ) -> Option<()> {
        if offset + length > SCRATCH * PAGE_SIZE {
            return None;
        }
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let count = (length - done).min(PAGE_SIZE - at % PAGE_SIZE);
            let page = self.page(Gfn(self.scratch.get() + (at / PAGE_SIZE) as u64))?;
            copy(page, at % PAGE_SIZE, done..done + count)?;
            done += count;
        }
        Some(())
    }

    /// Reads bytes of the domain's memory.
    pub fn peek(&self, at: Gpa, into: &mut [u8]) -> bool {
        let mut done = 0;
        while done < into.len() {
            let here = at.0 + done as u64;
            let offset = here as usize % PAGE_SIZE;
            let count = (into.len() - done).min(PAGE_SIZE - offset);
            let copied =
                self.page(Gfn(here >> 12)).map(|page| page.copy_out(offset, &mut into[done..done + count]));
            if !matches!(copied, Some(Ok(()))) {
                return false;
            }
            done += count;
        }
        true
    }

    pub(super) fn pages_at(&self, first: usize, count: usize, own: Option<u64>) -> Pages {
        Pages {
            memory: Arc::clone(&self.memory),
            graveyard: Rc::clone(&self.graveyard),
            dead: Rc::clone(&self.dead),
            first,
            count,
            own: own.map(|gfn| (Rc::clone(&self.ram), gfn)),
        }
    }
}

/// Pages of a domain that somebody shares.
pub struct Pages {
    memory: Arc<[SharedPage]>,
    graveyard: Rc<[SharedPage]>,
    dead: Rc<Cell<bool>>,
    first: usize,
    count: usize,
    own: Option<(Rc<RefCell<Ram>>, u64)>,
}

impl AsRef<[SharedPage]> for Pages {
    fn as_ref(&self) -> &[SharedPage] {
        let (memory, first) =
            if self.dead.get() { (&*self.graveyard, 0) } else { (&*self.memory, self.first) };
        memory.get(first..first + self.count).unwrap_or_default()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some((ram, gfn)) = self.own.take() {
            let mut ram = ram.borrow_mut();
            let at = (gfn - ram.first) as usize;
            ram.free[at..at + self.count].fill(true);
        }
    }
}
