//! Taking translations away, changing them, and giving the tables back.

use super::entry::{COUNT_SHIFT, Leaf, Rights, decode, encode, frame, is_leaf, present};
use super::stale::Stale;
use super::{GFN_LIMIT, Path, SecondLevel, TOP, count, slot, span};
use crate::prelude::*;

/// What is stale, and whether all was done.
type Changed = (Stale, Result<(), Errno>);

/// A leaf that was found: the tables on the way to it, its level, and the entry.
struct Found {
    path: Path,
    level: u8,
    entry: u64,
}

impl SecondLevel {
    /// Puts a table of smaller leaves in the place of the leaf at `level`.
    fn split(&mut self, pool: &impl TablePool, table: Mfn, gfn: u64, level: u8) -> Option<()> {
        let page = pool.page(table)?;
        let leaf = decode(self.format, page.entry(slot(gfn, level)), level);
        let new = pool.take()?;
        let Some(below) = pool.page(new) else {
            pool.give(new);
            return None;
        };
        for index in 0..512 {
            let mfn = Mfn(leaf.mfn.0 + index * span(level - 1));
            below.set_entry(index as usize, encode(self.format, mfn, leaf.rights, leaf.kind, level - 1));
        }
        self.tables += 1;
        page.set_entry(slot(gfn, level), new.address().0 | self.format.table | 512 << COUNT_SHIFT);
        Some(())
    }

    /// Finds the leaf at `gfn` and makes it cover no more than `[gfn, gfn + left)`, splitting as often as needed. When
    /// nothing is mapped, for how many frames from here on.
    fn isolate(&mut self, pool: &impl TablePool, gfn: u64, left: u64) -> Result<Result<Found, u64>, Errno> {
        loop {
            let (path, level) = self.descend(pool, false, gfn, 1).ok_or(Errno::NoMem)?;
            let table = path[level as usize];
            let entry = pool.page(table).ok_or(Errno::NoMem)?.entry(slot(gfn, level));
            let inside = gfn & (span(level) - 1);
            if !present(self.format, entry) {
                return Ok(Err(span(level) - inside));
            }
            if level == 1 || (inside == 0 && left >= span(level)) {
                return Ok(Ok(Found { path, level, entry }));
            }
            self.split(pool, table, gfn, level).ok_or(Errno::NoMem)?;
        }
    }

    /// Does `work` on each leaf at `count` frames from `gfn` on, none of which covers more. A table may be needed to split a
    /// larger one; when there is none, nothing more is done and the error says so, with what is stale so far.
    fn each(
        &mut self,
        pool: &impl TablePool,
        gfn: Gfn,
        count: u64,
        mut work: impl FnMut(&mut Self, u64, &Found, &mut Stale),
    ) -> Changed {
        let mut stale = Stale::NONE;
        let end = gfn.0.saturating_add(count).min(GFN_LIMIT);
        let mut at = gfn.0;
        while at < end {
            match self.isolate(pool, at, end - at) {
                Ok(Err(skip)) => at += skip,
                Ok(Ok(found)) => {
                    work(self, at, &found, &mut stale);
                    at += span(found.level);
                }
                Err(error) => return (stale, Err(error)),
            }
        }
        (stale, Ok(()))
    }

    /// Takes away whatever is mapped at `count` frames from `gfn` on, and tells `visit` about each leaf. The frames are
    /// still in use until the [`Stale`] is dealt with.
    pub fn unmap(
        &mut self,
        pool: &impl TablePool,
        gfn: Gfn,
        count: u64,
        mut visit: impl FnMut(Gfn, Leaf),
    ) -> Changed {
        self.each(pool, gfn, count, |tables, at, found, stale| {
            tables.remove(pool, &found.path, at, found.level, stale);
            visit(Gfn(at), decode(tables.format, found.entry, found.level));
        })
    }

    /// Takes one page away and returns what was there.
    pub fn unmap_page(&mut self, pool: &impl TablePool, gfn: Gfn) -> Result<(Option<Leaf>, Stale), Errno> {
        let mut old = None;
        let (stale, result) = self.unmap(pool, gfn, 1, |_, leaf| old = Some(leaf));
        result.map(|()| (old, stale))
    }

    fn remove(&mut self, pages: &impl Pages, path: &Path, gfn: u64, level: u8, stale: &mut Stale) {
        stale.flush = true;
        let mut level = level;
        loop {
            let table = path[level as usize];
            if let Some(page) = pages.page(table) {
                page.set_entry(slot(gfn, level), 0);
            }
            if count(pages, path, gfn, level, -1) != Some(0) {
                return;
            }
            stale.push(pages, table);
            self.tables -= 1;
            level += 1;
        }
    }

    /// Changes what the guest may do with the pages that are mapped at `count` frames from `gfn` on. A flush is needed
    /// only when something is taken away.
    pub fn protect(&mut self, pool: &impl TablePool, gfn: Gfn, count: u64, rights: Rights) -> Changed {
        self.each(pool, gfn, count, |tables, at, found, stale| {
            let leaf = decode(tables.format, found.entry, found.level);
            if leaf.rights != rights
                && let Some(page) = pool.page(found.path[found.level as usize])
            {
                let entry = encode(tables.format, leaf.mfn, rights, leaf.kind, found.level);
                page.set_entry(slot(at, found.level), entry);
                stale.flush |= !rights.contains(leaf.rights);
            }
        })
    }

    /// Takes the first leaf at or after `from` away, whole.
    pub fn take_first(&mut self, pool: &impl TablePool, from: Gfn) -> Option<(Gfn, Leaf, Stale)> {
        let (gfn, leaf) = self.next(pool, from)?;
        let (path, level) = self.descend(pool, false, gfn.0, 1)?;
        let mut stale = Stale::NONE;
        self.remove(pool, &path, gfn.0, level, &mut stale);
        Some((gfn, leaf, stale))
    }

    /// Gives back at most `budget` tables that are left when nothing is mapped, the root at last. True when none is
    /// left; the value must then not be used any more. No processor may use the tables.
    pub fn free_some(&mut self, pool: &impl TablePool, budget: u32) -> bool {
        for _ in 0..budget {
            if self.tables == 0 {
                return true;
            }
            let mut parent = None;
            let mut table = self.root;
            let mut level = TOP;
            while level > 1
                && let Some(page) = pool.page(table)
                && let Some((index, entry)) = (0..512)
                    .map(|index| (index, page.entry(index)))
                    .find(|&(_, entry)| present(self.format, entry) && !is_leaf(self.format, entry, level))
            {
                parent = Some((page, index));
                table = frame(entry);
                level -= 1;
            }
            if let Some((page, index)) = parent {
                page.set_entry(index, 0);
            }
            pool.give(table);
            self.tables -= 1;
        }
        self.tables == 0
    }
}
