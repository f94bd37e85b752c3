//! A domain's physical map: which machine frame is behind each guest frame, and how it changes.
//!
//! Every page of a leaf that is not device memory holds one reference to its frame. A page of RAM holds the one from its
//! allocation, so taking it out of the map frees it unless somebody else has it mapped or copies it right now.
//!
//! dom0 is mapped one to one. A frame of another domain appears in it at its machine address; any number of mappings of
//! one frame share one leaf, which is the union of their rights, and the frame's note counts readers and writers.

mod direct;

pub use direct::{map_direct, unmap_direct};

use trunnion_protocol::hypercall::memory::Region;

use crate::pages::TablePool;
use crate::prelude::*;
use crate::second_level::{GFN_LIMIT, Leaf, MapError, Run, SecondLevel, Stale};

/// Pages of the largest leaf that is taken out of a dying domain's map at once.
const BATCH: u64 = 512;
/// Frames that one call scrubs.
const SCRUB: u32 = 96;

/// A domain's physical map.
pub struct Memory {
    /// The tables the processor uses.
    pub tables: SecondLevel,
    /// What `XENMEM_memory_map` says.
    pub regions: Vec<Region>,
    /// Highest guest frame that was ever mapped.
    pub highest: Gfn,
    /// The map is one to one: dom0's.
    pub direct: bool,
}

impl From<MapError> for Errno {
    fn from(error: MapError) -> Self {
        match error {
            MapError::NoTable => Self::NoMem,
            MapError::Occupied => Self::Exist,
            MapError::OutOfRange => Self::Inval,
        }
    }
}

impl Memory {
    /// Puts one page into the map, which takes the reference over.
    pub fn insert(
        &mut self,
        pool: &impl TablePool,
        gfn: Gfn,
        held: Held<'_>,
        rights: Rights,
        kind: Kind,
    ) -> Result<(), Errno> {
        let run = Run { gfn, mfn: held.mfn(), count: 1, rights, kind };
        self.tables.map(pool, run).map_err(|partial| partial.error)?;
        let _ = held.into_raw();
        Ok(())
    }
}

/// What is behind a guest frame right now, with a reference to the frame. `None` for a hole and for device memory.
pub fn lookup<'h, M: Machine>(host: &'h Host<M>, domain: &Domain<M>, gfn: Gfn) -> Option<(Held<'h>, Leaf)> {
    let memory = domain.memory.lock();
    let leaf = memory.tables.lookup(&host.machine, gfn)?;
    if leaf.kind == Kind::Device {
        return None;
    }
    // The map's own reference keeps the frame while the lock is held.
    Some((host.frames.hold(leaf.mfn)?, leaf))
}

/// A page of the domain's own memory that it may write, held.
pub fn writable<'h, M: Machine>(host: &'h Host<M>, domain: &Domain<M>, gfn: Gfn) -> Option<Held<'h>> {
    let (held, leaf) = lookup(host, domain, gfn)?;
    (leaf.kind == Kind::Ram && leaf.rights.contains(Rights::WRITE)).then_some(held)
}

/// Makes every CPU forget translations that were taken out of a domain's tables, then gives the tables back that are no
/// longer used. Frames that were mapped may be given back after this.
pub fn flush<M: Machine>(host: &Host<M>, domain: &Domain<M>, stale: Stale) {
    if stale.needs_flush() {
        domain.walks.fetch_add(1, Ordering::SeqCst);
    }
    flush_translations(host, domain, stale);
}

/// As [`flush`], when no remembered walk uses what was mapped ([`FrameTable::is_walked`]).
///
/// [`FrameTable::is_walked`]: crate::frames::FrameTable::is_walked
pub fn flush_translations<M: Machine>(host: &Host<M>, domain: &Domain<M>, stale: Stale) {
    if stale.needs_flush() && !planted::is(Bug::MissingFlush) {
        domain.epoch.fetch_add(1, Ordering::SeqCst);
        // A CPU that enters from now on sees the new number. One that is inside has to leave once.
        let here = host.machine.this_cpu();
        for cpu in host.cpus().iter().filter(|cpu| cpu.id != here) {
            host.drive_out(cpu);
        }
    }
    stale.release(&host.table_pool(domain.id));
}

/// Puts 2^`order` new pages at a guest frame. What was there stays, and is an error. [`Errno::Restart`] when memory had to
/// be scrubbed first: the next try gets further.
pub fn populate<M: Machine>(host: &Host<M>, domain: &Domain<M>, gfn: Gfn, order: u32) -> Result<(), Errno> {
    let mut memory = domain.memory.lock();
    if !life::is_alive(domain) {
        return Err(Errno::Srch);
    }
    if memory.direct {
        return Err(Errno::OpNotSupp);
    }
    let pages = 1u64.checked_shl(order).ok_or(Errno::Inval)?;
    let end = gfn.0.checked_add(pages).filter(|&end| end <= GFN_LIMIT).ok_or(Errno::Inval)?;
    let owned = u64::from(host.frames.owned(domain.id));
    if owned.saturating_add(pages) > domain.max_pages {
        return Err(Errno::NoMem);
    }
    let run = host
        .allocate_some(order, domain.id, FrameKind::Ram, SCRUB)
        .map_err(|more| if more { Errno::Restart } else { Errno::NoMem })?;
    let pool = host.table_pool(domain.id);
    let mapped = memory
        .tables
        .map(&pool, Run { gfn, mfn: run.start, count: pages, rights: Rights::all(), kind: Kind::Ram });
    if let Err(partial) = mapped {
        let (stale, _) = memory.tables.unmap(&pool, gfn, partial.done, |_, _| ());
        flush(host, domain, stale);
        host.frames.put_run(run.start, pages);
        return Err(partial.error.into());
    }
    memory.highest = memory.highest.max(Gfn(end - 1));
    Ok(())
}

/// Takes one page out of the map and frees it, if it is of one of `kinds`.
pub fn remove<M: Machine>(host: &Host<M>, domain: &Domain<M>, gfn: Gfn, kinds: &[Kind]) -> Result<(), Errno> {
    let mut memory = domain.memory.lock();
    remove_locked(host, domain, &mut memory, gfn, kinds)
}

/// As [`remove`], with the lock held.
pub fn remove_locked<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    memory: &mut Memory,
    gfn: Gfn,
    kinds: &[Kind],
) -> Result<(), Errno> {
    let leaf = memory.tables.lookup(&host.machine, gfn).ok_or(Errno::Inval)?;
    if !kinds.contains(&leaf.kind) {
        return Err(Errno::Inval);
    }
    let pool = host.table_pool(domain.id);
    let (old, stale) = memory.tables.unmap_page(&pool, gfn)?;
    if host.frames.is_walked(leaf.mfn) {
        flush(host, domain, stale);
    } else {
        flush_translations(host, domain, stale);
    }
    if let Some(old) = old {
        host.frames.put(old.mfn);
    }
    Ok(())
}

/// Puts a page of the hypervisor's (shared info, a grant table) at a guest frame. RAM that was there is freed; the page's
/// former place becomes a hole. `place` remembers where it is.
pub fn place_special<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    mfn: Mfn,
    place: &mut Option<Gfn>,
    gfn: Gfn,
) -> Result<(), Errno> {
    if gfn.0 >= GFN_LIMIT {
        return Err(Errno::Inval);
    }
    let mut memory = domain.memory.lock();
    if !life::is_alive(domain) {
        return Err(Errno::Srch);
    }
    let pool = host.table_pool(domain.id);
    match memory.tables.lookup(&host.machine, gfn) {
        Some(leaf) if leaf.mfn == mfn => return Ok(()),
        Some(leaf) if leaf.kind == Kind::Ram || leaf.kind == Kind::Special => {
            remove_locked(host, domain, &mut memory, gfn, &[leaf.kind])?;
        }
        // dom0 knows where its devices are, and takes a place where none is.
        Some(leaf) if leaf.kind == Kind::Device && memory.direct => {
            let (_, stale) = memory.tables.unmap_page(&pool, gfn)?;
            flush(host, domain, stale);
        }
        Some(_) => return Err(Errno::Busy),
        // In a map that is one to one, the place of another domain's memory must stay free for it.
        None if memory.direct && host.frames.kind(Mfn(gfn.0)) != FrameKind::Reserved => {
            return Err(Errno::Inval);
        }
        None => {}
    }
    if let Some(old) = *place {
        if memory.tables.lookup(&host.machine, old).is_some_and(|leaf| leaf.mfn == mfn) {
            remove_locked(host, domain, &mut memory, old, &[Kind::Special])?;
        }
        *place = None;
    }
    let held = host.frames.hold(mfn).ok_or(Errno::Inval)?;
    memory.insert(&pool, gfn, held, Rights::all(), Kind::Special)?;
    memory.highest = memory.highest.max(gfn);
    *place = Some(gfn);
    Ok(())
}

/// Moves a page of the domain from one guest frame to another (`XENMAPSPACE_gmfn`).
pub fn move_page<M: Machine>(host: &Host<M>, domain: &Domain<M>, from: Gfn, to: Gfn) -> Result<(), Errno> {
    let mut memory = domain.memory.lock();
    if memory.direct || to.0 >= GFN_LIMIT {
        return Err(Errno::Inval);
    }
    let leaf = memory.tables.lookup(&host.machine, from).filter(|leaf| leaf.kind == Kind::Ram);
    let leaf = leaf.ok_or(Errno::Inval)?;
    if from == to {
        return Ok(());
    }
    let held = host.frames.hold(leaf.mfn).ok_or(Errno::Inval)?;
    if memory.tables.lookup(&host.machine, to).is_some() {
        remove_locked(host, domain, &mut memory, to, &[Kind::Ram]).map_err(|_| Errno::Busy)?;
    }
    remove_locked(host, domain, &mut memory, from, &[Kind::Ram])?;
    memory.insert(&host.table_pool(domain.id), to, held, Rights::all(), Kind::Ram)?;
    memory.highest = memory.highest.max(to);
    Ok(())
}

/// Takes up to about `budget` pages out of a dying domain's map and gives them up. True when nothing is left.
pub fn clear_some<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, budget: u64) -> bool {
    let mut memory = domain.memory.lock();
    let mut left = budget;
    while left > 0 {
        let Some((gfn, leaf)) = memory.tables.next(&host.machine, Gfn(0)) else { return true };
        let pool = host.table_pool(domain.id);
        let pages = leaf.pages.min(BATCH);
        let mut gone = None;
        let (stale, result) = memory.tables.unmap(&pool, gfn, pages, |_, leaf| gone = Some(leaf));
        let stale = if result.is_err() {
            // No table for a split: the whole leaf goes at once.
            let Some((_, leaf, more)) = memory.tables.take_first(&pool, gfn) else { return true };
            gone = Some(leaf);
            stale.join(&host.machine, &more)
        } else {
            stale
        };
        flush(host, domain, stale);
        if let Some(leaf) = gone {
            if leaf.kind != Kind::Device {
                host.frames.put_run(leaf.mfn, leaf.pages);
            }
            left = left.saturating_sub(leaf.pages);
        }
    }
    false
}
