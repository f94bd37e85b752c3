//! Other domains' frames in the one-to-one map of dom0.

use super::{Memory, flush};
use crate::prelude::*;
use crate::second_level::Stale;

/// Readers in the low half of the note, writers in the high half. A writer is a reader as well.
const READER: u32 = 1;
const WRITER: u32 = 1 << 16;
const READERS: u32 = 0xffff;

const fn rights(note: u32) -> Rights {
    if note >= WRITER { Rights::WRITE } else { Rights::empty() }
}

/// Makes a frame reachable in the one-to-one map of `domain`, once more. The mapping takes over `held`: it is given up by
/// the last [`unmap_direct`]. A frame that the domain has as its own RAM is counted and nothing else changes.
pub fn map_direct<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    memory: &mut Memory,
    held: Held<'_>,
    write: bool,
) -> Result<(), Errno> {
    if !memory.direct {
        return Err(Errno::Inval);
    }
    let mfn = held.mfn();
    let note = host.frames.note(mfn).ok_or(Errno::Inval)?;
    let old = note.load(Ordering::Relaxed);
    if old & READERS == READERS || old >> 16 == READERS {
        return Err(Errno::NoSpc);
    }
    let new = old + READER + if write { WRITER } else { 0 };
    let gfn = Gfn(mfn.0);
    let own = held.owner() == domain.id && held.kind() == FrameKind::Ram;
    let pool = host.table_pool(domain.id);
    if old == 0 && !own {
        memory.insert(&pool, gfn, held, rights(new), Kind::Grant)?;
    } else {
        if !own && rights(new) != rights(old) {
            let (stale, result) = memory.tables.protect(&pool, gfn, 1, rights(new));
            flush(host, domain, stale);
            result?;
        }
        // Every mapping has its own reference, so that the counts agree in an audit.
        let _ = held.into_raw();
    }
    note.store(new, Ordering::Relaxed);
    Ok(())
}

/// Takes one mapping back. The caller flushes and then gives up the mapping's reference to the frame.
pub fn unmap_direct<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    memory: &mut Memory,
    mfn: Mfn,
    write: bool,
) -> Result<Stale, Errno> {
    let note = host.frames.note(mfn).filter(|_| memory.direct).ok_or(Errno::Inval)?;
    let old = note.load(Ordering::Relaxed);
    if old & READERS == 0 || (write && old < WRITER) || (!write && old & READERS == old >> 16) {
        return Err(Errno::Inval);
    }
    let new = old - READER - if write { WRITER } else { 0 };
    note.store(new, Ordering::Relaxed);
    if host.frames.owner(mfn) == Some(domain.id) && host.frames.kind(mfn) == FrameKind::Ram {
        return Ok(Stale::NONE);
    }
    let gfn = Gfn(mfn.0);
    let pool = host.table_pool(domain.id);
    if new == 0 {
        let (_, stale) = memory.tables.unmap_page(&pool, gfn)?;
        return Ok(stale);
    }
    if rights(new) == rights(old) {
        return Ok(Stale::NONE);
    }
    let (stale, result) = memory.tables.protect(&pool, gfn, 1, rights(new));
    result?;
    Ok(stale)
}
