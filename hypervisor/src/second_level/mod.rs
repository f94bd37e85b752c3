//! Second-level tables: guest-physical to machine, in the entry format of either vendor.
//!
//! Four levels of 512 entries (SDM 28.3.2, APM 15.25.5). Mapping uses the largest leaves that fit and splits them when a
//! part changes. Entries are written by the hypervisor alone, under the lock of the domain they belong to, and read by
//! processors at any moment, each as a whole. Rights may be added while a fault is on its way, so whoever handles one looks
//! the address up again before he judges it.
//!
//! The entry that points to a table counts the entries in use in bits that processors ignore there. A table whose last
//! entry goes is detached, so that a guest cannot make tables pile up.
//!
//! Whatever takes a translation away gives a [`Stale`]: processors may go on using the translation, and the detached
//! tables, until they are flushed.

mod entry;
mod remove;
mod stale;

pub use entry::{Kind, Leaf, Rights};
pub use stale::Stale;

use entry::{COUNT, COUNT_SHIFT, FRAME, decode, encode, frame, is_leaf, present};

use crate::prelude::*;

/// Levels of tables; the root is at this level, 4 KiB leaves are at level 1.
const TOP: u8 = 4;
/// Guest frame numbers end here: four levels translate 48 bits.
pub const GFN_LIMIT: u64 = 1 << 36;

/// A mapping of several pages that ended early. The first `done` pages are mapped; the caller unmaps them or goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    /// Pages mapped.
    pub done: u64,
    /// Why not more.
    pub error: Errno,
}

/// One domain's tables.
#[derive(Debug)]
pub struct SecondLevel {
    root: Mfn,
    format: &'static EntryFormat,
    tables: u64,
}

/// Frames to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First guest frame.
    pub gfn: Gfn,
    /// First machine frame.
    pub mfn: Mfn,
    /// How many.
    pub count: u64,
    /// What the guest may do with them.
    pub rights: Rights,
    /// What they stand for.
    pub kind: Kind,
}

/// Tables from the root down to some level; element 0 is unused.
type Path = [Mfn; TOP as usize + 1];

const fn slot(gfn: u64, level: u8) -> usize {
    (gfn >> (9 * (level as u32 - 1))) as usize & 511
}

/// Pages that an entry of a level covers.
const fn span(level: u8) -> u64 {
    1 << (9 * (level as u32 - 1))
}

impl SecondLevel {
    /// Tables with nothing in them; `None` when the pool is empty.
    pub fn new(format: &'static EntryFormat, pool: &impl TablePool) -> Option<Self> {
        Some(Self { root: pool.take()?, format, tables: 1 })
    }

    /// The root table.
    pub const fn root(&self) -> Mfn {
        self.root
    }

    /// Frames in use for tables, those in a [`Stale`] not counted.
    pub const fn tables(&self) -> u64 {
        self.tables
    }

    /// The leaf that translates `gfn`, as the processor would find it, and the leaf's first frame number.
    fn find(&self, pages: &impl Pages, gfn: u64) -> Option<(u64, u8)> {
        if gfn >= GFN_LIMIT {
            return None;
        }
        let mut table = self.root;
        let mut level = TOP;
        loop {
            let entry = pages.page(table)?.entry(slot(gfn, level));
            if !present(self.format, entry) {
                return None;
            }
            if is_leaf(self.format, entry, level) {
                return Some((entry, level));
            }
            table = frame(entry);
            level -= 1;
        }
    }

    /// The frame behind a guest frame number: `mfn` is that of `gfn` itself, `pages` that of the whole entry.
    pub fn lookup(&self, pages: &impl Pages, gfn: Gfn) -> Option<Leaf> {
        let (entry, level) = self.find(pages, gfn.0)?;
        let mut leaf = decode(self.format, entry, level);
        leaf.mfn.0 |= gfn.0 & (span(level) - 1);
        Some(leaf)
    }

    /// The first leaf that ends after `from`, with its first frame number. For audits and teardown.
    pub fn next(&self, pages: &impl Pages, from: Gfn) -> Option<(Gfn, Leaf)> {
        let mut gfn = from.0;
        let mut path = [self.root; TOP as usize + 1];
        let mut level = TOP;
        while gfn < GFN_LIMIT {
            let entry = pages.page(path[level as usize])?.entry(slot(gfn, level));
            if present(self.format, entry) {
                if is_leaf(self.format, entry, level) {
                    return Some((Gfn(gfn & !(span(level) - 1)), decode(self.format, entry, level)));
                }
                level -= 1;
                path[level as usize] = frame(entry);
                continue;
            }
            gfn = (gfn | (span(level) - 1)) + 1;
            while level < TOP && slot(gfn, level) == 0 {
                level += 1;
            }
        }
        None
    }

    /// Goes down to `level`, or to the leaf above it, and returns the tables on the way and the level reached. Makes the
    /// tables that are missing, or stops above the first.
    fn descend(&mut self, pool: &impl TablePool, make: bool, gfn: u64, level: u8) -> Option<(Path, u8)> {
        let mut path = [self.root; TOP as usize + 1];
        let mut at = TOP;
        while at > level {
            let page = pool.page(path[at as usize])?;
            let mut entry = page.entry(slot(gfn, at));
            if !present(self.format, entry) {
                if !make {
                    break;
                }
                entry = pool.take()?.address().0 | self.format.table;
                page.set_entry(slot(gfn, at), entry);
                self.tables += 1;
                count(pool, &path, gfn, at, 1);
            } else if is_leaf(self.format, entry, at) {
                break;
            }
            at -= 1;
            path[at as usize] = frame(entry);
        }
        Some((path, at))
    }

    /// Maps a run of frames with the largest leaves that fit.
    pub fn map(&mut self, pool: &impl TablePool, run: Run) -> Result<(), Partial> {
        let fits = |start: u64, limit: u64| start <= limit && run.count <= limit - start;
        if !fits(run.gfn.0, GFN_LIMIT) || !fits(run.mfn.0, FRAME >> 12) {
            return Err(Partial { done: 0, error: Errno::Inval });
        }
        let mut done = 0;
        while done < run.count {
            let (gfn, mfn) = (Gfn(run.gfn.0 + done), Mfn(run.mfn.0 + done));
            let left = Run { gfn, mfn, count: run.count - done, ..run };
            done += self.map_one(pool, left).map_err(|error| Partial { done, error })?;
        }
        Ok(())
    }

    /// Maps the start of a run with one leaf, and returns how many pages that covers.
    fn map_one(&mut self, pool: &impl TablePool, run: Run) -> Result<u64, Errno> {
        let gfn = run.gfn.0;
        let mut level = self.format.largest_leaf.clamp(1, 3);
        while level > 1 && ((gfn | run.mfn.0) & (span(level) - 1) != 0 || run.count < span(level)) {
            level -= 1;
        }
        loop {
            let (path, at) = self.descend(pool, true, gfn, level).ok_or(Errno::NoMem)?;
            if at != level {
                return Err(Errno::Exist);
            }
            let page = pool.page(path[at as usize]).ok_or(Errno::NoMem)?;
            let entry = page.entry(slot(gfn, at));
            if !present(self.format, entry) {
                page.set_entry(slot(gfn, at), encode(self.format, run.mfn, run.rights, run.kind, at));
                count(pool, &path, gfn, at, 1);
                return Ok(span(at));
            }
            if is_leaf(self.format, entry, at) {
                return Err(Errno::Exist);
            }
            level -= 1;
        }
    }
}

/// Adds to the number of entries in use of the table at `level`; the new number, or `None` for the root.
fn count(pages: &impl Pages, path: &Path, gfn: u64, level: u8, change: i64) -> Option<u64> {
    let above = level + 1;
    let page = pages.page(*path.get(above as usize)?)?;
    let entry = page.entry(slot(gfn, above));
    let count = ((entry & COUNT) >> COUNT_SHIFT).wrapping_add_signed(change);
    page.set_entry(slot(gfn, above), entry & !COUNT | count << COUNT_SHIFT & COUNT);
    Some(count)
}

#[cfg(test)]
pub(crate) mod tests;
