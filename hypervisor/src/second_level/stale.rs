//! What processors may still use after tables have changed.

use crate::prelude::*;

/// Translations that processors may still use, and the tables they may still read. The holder flushes, then calls
/// [`Stale::release`]; the frames that were mapped are given back only after that.
#[must_use = "processors may still use what was unmapped"]
#[derive(Debug, Default)]
pub struct Stale {
    pub(super) flush: bool,
    /// Detached tables, each pointing to the next by a non-present entry 0; first and last.
    tables: Option<(Mfn, Mfn)>,
}

impl Stale {
    /// Nothing to flush.
    pub const NONE: Self = Self { flush: false, tables: None };

    /// Whether a flush is needed.
    pub const fn needs_flush(&self) -> bool {
        self.flush || self.tables.is_some()
    }

    /// Both, for one flush.
    pub fn join(self, pages: &impl Pages, other: &Self) -> Self {
        let tables = match (self.tables, other.tables) {
            (Some((first, last)), Some((next, end))) => {
                if let Some(page) = pages.page(last) {
                    page.set_entry(0, next.address().0);
                }
                Some((first, end))
            }
            (one, two) => one.or(two),
        };
        Self { flush: self.flush || other.flush, tables }
    }

    /// Gives the tables back. Call it after the flush.
    pub fn release(self, pool: &impl TablePool) {
        let Some((mut table, last)) = self.tables else { return };
        loop {
            let next = pool.page(table).map_or(0, |page| page.entry(0));
            pool.give(table);
            if table == last {
                return;
            }
            table = Mfn(next >> 12);
        }
    }

    pub(super) fn push(&mut self, pages: &impl Pages, table: Mfn) {
        if let Some((_, last)) = self.tables
            && let Some(page) = pages.page(last)
        {
            // An address with no other bit is not present in either format.
            page.set_entry(0, table.address().0);
        }
        self.tables = Some((self.tables.map_or(table, |(first, _)| first), table));
    }
}
