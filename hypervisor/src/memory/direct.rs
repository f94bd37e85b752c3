//! Other domains' frames in the one-to-one map of dom0.

use super::{PhysMap, flush};
use crate::prelude::*;

/// Readers in the low half of the note, writers in the high half. A writer is a reader as well.
const READER: u32 = 1;
const WRITER: u32 = 1 << 16;
const READERS: u32 = 0xffff;

const fn rights(note: u32) -> Rights {
    if note >= WRITER { Rights::WRITE } else { Rights::empty() }
}

impl<M: Machine> PhysMap<'_, M> {
    /// Makes a frame reachable in the one-to-one map, once more. The mapping takes over `held`: it is given up by
    /// the last [`PhysMap::unmap_direct`]. A frame that the domain has as its own RAM is counted and nothing else changes.
    pub fn map_direct(&mut self, held: Held<'_>, write: bool) -> Result<(), Errno> {
        if !self.domain.direct {
            return Err(Errno::Inval);
        }
        let mfn = held.mfn();
        let note = self.host.frames.note(mfn).ok_or(Errno::Inval)?;
        let old = note.load(Ordering::Relaxed);
        if old & READERS == READERS || old >> 16 == READERS {
            return Err(Errno::NoSpc);
        }
        let new = old + READER + if write { WRITER } else { 0 };
        let own = held.owner() == self.domain.id && held.kind() == FrameKind::Ram;
        if old == 0 && !own {
            self.insert(Gfn(mfn.0), held, rights(new), Kind::Grant)?;
        } else {
            if !own && rights(new) != rights(old) {
                let (stale, result) = self.memory.tables.protect(&self.pool, Gfn(mfn.0), 1, rights(new));
                flush(self.host, self.domain, stale, true);
                result?;
            }
            // Every mapping has its own reference, so that the counts agree in an audit.
            let _ = held.into_raw();
        }
        note.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// Takes one mapping back. The caller flushes and then gives up the mapping's reference to the frame.
    pub fn unmap_direct(&mut self, mfn: Mfn, write: bool) -> Result<Stale, Errno> {
        let frames = &self.host.frames;
        let note = frames.note(mfn).filter(|_| self.domain.direct).ok_or(Errno::Inval)?;
        let old = note.load(Ordering::Relaxed);
        if old & READERS == 0 || (write && old < WRITER) || (!write && old & READERS == old >> 16) {
            return Err(Errno::Inval);
        }
        let new = old - READER - if write { WRITER } else { 0 };
        note.store(new, Ordering::Relaxed);
        if frames.owner(mfn) == Some(self.domain.id) && frames.kind(mfn) == FrameKind::Ram {
            return Ok(Stale::NONE);
        }
        if new == 0 {
            return Ok(self.memory.tables.unmap_page(&self.pool, Gfn(mfn.0))?.1);
        }
        if rights(new) == rights(old) {
            return Ok(Stale::NONE);
        }
        let (stale, result) = self.memory.tables.protect(&self.pool, Gfn(mfn.0), 1, rights(new));
        result?;
        Ok(stale)
    }

    /// Takes a grant's mapping out, as [`PhysMap::unmap_direct`] does where the map is one to one.
    pub fn unmap_grant(&mut self, gfn: Gfn, mfn: Mfn, access: Access) -> Result<Stale, Errno> {
        if self.domain.direct {
            return self.unmap_direct(mfn, access == Access::ReadWrite);
        }
        Ok(self.memory.tables.unmap_page(&self.pool, gfn)?.1)
    }
}
