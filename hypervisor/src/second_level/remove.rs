//! Taking translations away, changing them, and giving the tables back.

use trunnion_protocol::address::{Gfn, Mfn};

use super::entry::{COUNT_SHIFT, Leaf, Rights, decode, encode, frame, get, is_leaf, present, put};
use super::stale::Stale;
use super::{GFN_LIMIT, MapError, Nothing, Path, SecondLevel, TOP, count, slot, span};
use crate::pages::{Pages, TablePool};

enum Isolated {
    /// Nothing is mapped from here on for so many frames.
    Absent(u64),
    /// The tables, the level and the entry.
    Leaf(Path, u8, u64),
}

impl SecondLevel {
    /// Puts a table of smaller leaves in the place of the leaf at `level`.
    fn split(
        &mut self,
        pages: &impl Pages,
        pool: &mut impl TablePool,
        table: Mfn,
        gfn: u64,
        level: u8,
    ) -> Option<()> {
        let page = pages.page(table)?;
        let leaf = decode(self.format, get(page, slot(gfn, level)), level);
        let new = pool.take()?;
        let Some(below) = pages.page(new) else {
            pool.give(new);
            return None;
        };
        for index in 0..512 {
            let mfn = Mfn(leaf.mfn.0 + index * span(level - 1));
            put(below, index as usize, encode(self.format, mfn, leaf.rights, leaf.kind, level - 1));
        }
        self.tables += 1;
        put(page, slot(gfn, level), new.address().0 | self.format.table | 512 << COUNT_SHIFT);
        Some(())
    }

    /// Finds the leaf at `gfn` and makes it cover no more than `[gfn, gfn + left)`, splitting as often as needed.
    /// `Ok(None)` when nothing is mapped, with the frames to skip in `Err`-free form: the span of the absent entry.
    fn isolate(
        &mut self,
        pages: &impl Pages,
        pool: &mut impl TablePool,
        gfn: u64,
        left: u64,
    ) -> Result<Isolated, MapError> {
        loop {
            let (path, at) = self.descend::<Nothing>(pages, None, gfn, 1).ok_or(MapError::NoTable)?;
            let entry = get(pages.page(path[at as usize]).ok_or(MapError::NoTable)?, slot(gfn, at));
            if !present(self.format, entry) {
                return Ok(Isolated::Absent(span(at) - (gfn & (span(at) - 1))));
            }
            if at == 1 || (gfn & (span(at) - 1) == 0 && left >= span(at)) {
                return Ok(Isolated::Leaf(path, at, entry));
            }
            self.split(pages, pool, path[at as usize], gfn, at).ok_or(MapError::NoTable)?;
        }
    }

    /// Takes away whatever is mapped at `count` frames from `gfn` on, and tells `visit` about each leaf. A table may be
    /// needed to split a larger leaf; when there is none, nothing more is taken away and the error says so, with what is
    /// stale so far. The frames are still in use until the [`Stale`] is dealt with.
    pub fn unmap(
        &mut self,
        pages: &impl Pages,
        pool: &mut impl TablePool,
        gfn: Gfn,
        count: u64,
        mut visit: impl FnMut(Gfn, Leaf),
    ) -> (Stale, Result<(), MapError>) {
        let mut stale = Stale::NONE;
        let end = gfn.0.saturating_add(count).min(GFN_LIMIT);
        let mut at = gfn.0;
        while at < end {
            match self.isolate(pages, pool, at, end - at) {
                Ok(Isolated::Absent(skip)) => at += skip,
                Ok(Isolated::Leaf(path, level, entry)) => {
                    stale.flush = true;
                    self.remove(pages, &path, at, level, &mut stale);
                    visit(Gfn(at), decode(self.format, entry, level));
                    at += span(level);
                }
                Err(error) => return (stale, Err(error)),
            }
        }
        (stale, Ok(()))
    }

    /// Takes one page away and returns what was there.
    pub fn unmap_page(
        &mut self,
        pages: &impl Pages,
        pool: &mut impl TablePool,
        gfn: Gfn,
    ) -> Result<(Option<Leaf>, Stale), MapError> {
        let mut old = None;
        let (stale, result) = self.unmap(pages, pool, gfn, 1, |_, leaf| old = Some(leaf));
        result.map(|()| (old, stale))
    }

    fn remove(&mut self, pages: &impl Pages, path: &Path, gfn: u64, level: u8, stale: &mut Stale) {
        let mut level = level;
        loop {
            let table = path[level as usize];
            if let Some(page) = pages.page(table) {
                put(page, slot(gfn, level), 0);
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
    pub fn protect(
        &mut self,
        pages: &impl Pages,
        pool: &mut impl TablePool,
        gfn: Gfn,
        count: u64,
        rights: Rights,
    ) -> (Stale, Result<(), MapError>) {
        let mut stale = Stale::NONE;
        let end = gfn.0.saturating_add(count).min(GFN_LIMIT);
        let mut at = gfn.0;
        while at < end {
            match self.isolate(pages, pool, at, end - at) {
                Ok(Isolated::Absent(skip)) => at += skip,
                Ok(Isolated::Leaf(path, level, entry)) => {
                    let leaf = decode(self.format, entry, level);
                    if leaf.rights != rights
                        && let Some(page) = pages.page(path[level as usize])
                    {
                        put(page, slot(at, level), encode(self.format, leaf.mfn, rights, leaf.kind, level));
                        stale.flush |= !rights.contains(leaf.rights);
                    }
                    at += span(level);
                }
                Err(error) => return (stale, Err(error)),
            }
        }
        (stale, Ok(()))
    }

    /// Takes away at most `budget` leaves at or after `from`; returns where to go on, `None` when nothing is left.
    pub fn clear_some(
        &mut self,
        pages: &impl Pages,
        from: Gfn,
        budget: u32,
        mut visit: impl FnMut(Gfn, Leaf),
    ) -> (Option<Gfn>, Stale) {
        let mut stale = Stale::NONE;
        let mut from = from;
        for _ in 0..budget {
            let Some((gfn, leaf)) = self.next(pages, from) else { return (None, stale) };
            if let Some((path, level)) = self.descend::<Nothing>(pages, None, gfn.0, 1) {
                stale.flush = true;
                self.remove(pages, &path, gfn.0, level, &mut stale);
                visit(gfn, leaf);
            }
            from = Gfn(gfn.0 + leaf.pages);
        }
        (Some(from), stale)
    }

    /// Gives back at most `budget` tables that [`SecondLevel::clear_some`] has left, the root at last. True when none is
    /// left; the value must then not be used any more. No processor may use the tables.
    pub fn free_some(&mut self, pages: &impl Pages, pool: &mut impl TablePool, budget: u32) -> bool {
        for _ in 0..budget {
            if self.tables == 0 {
                return true;
            }
            let mut parent = None;
            let mut table = self.root;
            let mut level = TOP;
            while level > 1
                && let Some(page) = pages.page(table)
                && let Some((index, entry)) = (0..512)
                    .map(|index| (index, get(page, index)))
                    .find(|&(_, entry)| present(self.format, entry) && !is_leaf(self.format, entry, level))
            {
                parent = Some((page, index));
                table = frame(entry);
                level -= 1;
            }
            if let Some((page, index)) = parent {
                put(page, index, 0);
            }
            pool.give(table);
            self.tables -= 1;
        }
        self.tables == 0
    }
}
