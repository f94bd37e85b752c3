//! A domain's physical map: which machine frame is behind each guest frame, and how it changes.
//!
//! Every page of a leaf that is not device memory holds one reference to its frame. A page of RAM holds the one from its
//! allocation, so taking it out of the map frees it unless somebody else has it mapped or copies it right now.
//!
//! dom0 is mapped one to one. A frame of another domain appears in it at its machine address; any number of mappings of
//! one frame share one leaf, which is the union of their rights, and the frame's note counts readers and writers.

mod direct;

use trunnion_protocol::hypercall::memory::Region;

use crate::host::HostTables;
use crate::prelude::*;
use crate::second_level::{GFN_LIMIT, Leaf, Run, SecondLevel};

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
}

/// A domain's physical map while it changes: locked, with what a change needs.
pub struct PhysMap<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Domain<M>,
    pool: HostTables<'a, M>,
    /// The map.
    pub memory: Guard<'a, Memory>,
}

impl<M: Machine> Domain<M> {
    /// Locks the physical map for a change.
    pub fn map<'a>(&'a self, host: &'a Host<M>) -> PhysMap<'a, M> {
        PhysMap { host, domain: self, pool: host.table_pool(self.id), memory: self.memory.lock() }
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
/// longer used. Frames that were mapped may be given back after this. `walked`: a remembered walk may use one of them
/// ([`FrameTable::is_walked`]).
///
/// [`FrameTable::is_walked`]: crate::frames::FrameTable::is_walked
pub fn flush<M: Machine>(host: &Host<M>, domain: &Domain<M>, stale: Stale, walked: bool) {
    if stale.needs_flush() {
        domain.walks.fetch_add(u64::from(walked), Ordering::SeqCst);
        // A CPU that enters from now on sees the new number. One that is inside has to leave once.
        if !planted::is(Bug::MissingFlush) {
            domain.epoch.fetch_add(1, Ordering::SeqCst);
            let here = host.machine.this_cpu();
            host.cpus().iter().filter(|cpu| cpu.id != here).for_each(|cpu| host.drive_out(cpu));
        }
    }
    stale.release(&host.table_pool(domain.id));
}

impl<M: Machine> PhysMap<'_, M> {
    fn leaf(&self, gfn: Gfn) -> Option<Leaf> {
        self.memory.tables.lookup(&self.host.machine, gfn)
    }

    /// Maps a run of frames, all or none. The map takes a reference over for each page that is not device memory.
    pub fn map(&mut self, run: Run) -> Result<(), Errno> {
        let memory = &mut *self.memory;
        if let Err(partial) = memory.tables.map(&self.pool, run) {
            let (stale, _) = memory.tables.unmap(&self.pool, run.gfn, partial.done, |_, _| ());
            flush(self.host, self.domain, stale, true);
            return Err(partial.error);
        }
        if run.kind != Kind::Grant {
            memory.highest = memory.highest.max(Gfn((run.gfn.0 + run.count).saturating_sub(1)));
        }
        Ok(())
    }

    /// Puts one page into the map, which takes the reference over.
    pub fn insert(&mut self, gfn: Gfn, held: Held<'_>, rights: Rights, kind: Kind) -> Result<(), Errno> {
        self.map(Run { gfn, mfn: held.mfn(), count: 1, rights, kind })?;
        let _ = held.into_raw();
        Ok(())
    }

    /// Puts 2^`order` new pages at a guest frame. What was there stays, and is an error. [`Errno::Restart`] when memory had to
    /// be scrubbed first: the next try gets further.
    pub fn populate(&mut self, gfn: Gfn, order: u32) -> Result<(), Errno> {
        if !life::is_alive(self.domain) {
            return Err(Errno::Srch);
        }
        if self.domain.direct {
            return Err(Errno::OpNotSupp);
        }
        let count = 1u64.checked_shl(order).ok_or(Errno::Inval)?;
        gfn.0.checked_add(count).filter(|&end| end <= GFN_LIMIT).ok_or(Errno::Inval)?;
        let owned = u64::from(self.host.frames.owned(self.domain.id));
        if owned.saturating_add(count) > self.domain.max_pages {
            return Err(Errno::NoMem);
        }
        let mfn = self.host.allocate_some(order, self.domain.id, FrameKind::Ram, SCRUB)?.start;
        let mapped = self.map(Run { gfn, mfn, count, rights: Rights::all(), kind: Kind::Ram });
        if mapped.is_err() {
            self.host.frames.put_run(mfn, count);
        }
        mapped
    }

    /// Takes one page out of the map and frees it, if it is of one of `kinds`.
    pub fn remove(&mut self, gfn: Gfn, kinds: &[Kind]) -> Result<(), Errno> {
        let leaf = self.leaf(gfn).filter(|leaf| kinds.contains(&leaf.kind)).ok_or(Errno::Inval)?;
        let (old, stale) = self.memory.tables.unmap_page(&self.pool, gfn)?;
        flush(self.host, self.domain, stale, self.host.frames.is_walked(leaf.mfn));
        if let Some(old) = old {
            self.host.frames.put(old.mfn);
        }
        Ok(())
    }

    /// Puts a page of the hypervisor's (shared info, a grant table) at a guest frame. RAM that was there is freed; the page's
    /// former place becomes a hole. `place` remembers where it is.
    pub fn place_special(&mut self, mfn: Mfn, place: &mut Option<Gfn>, gfn: Gfn) -> Result<(), Errno> {
        if gfn.0 >= GFN_LIMIT {
            return Err(Errno::Inval);
        }
        if !life::is_alive(self.domain) {
            return Err(Errno::Srch);
        }
        match self.leaf(gfn) {
            Some(leaf) if leaf.mfn == mfn => return Ok(()),
            Some(leaf) if leaf.kind == Kind::Ram || leaf.kind == Kind::Special => {
                self.remove(gfn, &[leaf.kind])?;
            }
            // dom0 knows where its devices are, and takes a place where none is.
            Some(leaf) if leaf.kind == Kind::Device && self.domain.direct => {
                let (_, stale) = self.memory.tables.unmap_page(&self.pool, gfn)?;
                flush(self.host, self.domain, stale, true);
            }
            Some(_) => return Err(Errno::Busy),
            // In a map that is one to one, the place of another domain's memory must stay free for it.
            None if self.domain.direct && self.host.frames.kind(Mfn(gfn.0)) != FrameKind::Reserved => {
                return Err(Errno::Inval);
            }
            None => {}
        }
        if let Some(old) = *place {
            if self.leaf(old).is_some_and(|leaf| leaf.mfn == mfn) {
                self.remove(old, &[Kind::Special])?;
            }
            *place = None;
        }
        let held = self.host.frames.hold(mfn).ok_or(Errno::Inval)?;
        self.insert(gfn, held, Rights::all(), Kind::Special)?;
        *place = Some(gfn);
        Ok(())
    }

    /// Moves a page of the domain from one guest frame to another (`XENMAPSPACE_gmfn`).
    pub fn move_page(&mut self, from: Gfn, to: Gfn) -> Result<(), Errno> {
        if self.domain.direct || to.0 >= GFN_LIMIT {
            return Err(Errno::Inval);
        }
        let leaf = self.leaf(from).filter(|leaf| leaf.kind == Kind::Ram).ok_or(Errno::Inval)?;
        if from == to {
            return Ok(());
        }
        let held = self.host.frames.hold(leaf.mfn).ok_or(Errno::Inval)?;
        if self.leaf(to).is_some() {
            self.remove(to, &[Kind::Ram]).map_err(|_| Errno::Busy)?;
        }
        self.remove(from, &[Kind::Ram])?;
        self.insert(to, held, Rights::all(), Kind::Ram)
    }

    /// Takes up to about `budget` pages out of a dying domain's map and gives them up. True when nothing is left.
    pub fn clear_some(&mut self, budget: u64) -> bool {
        let tables = &mut self.memory.tables;
        let mut left = budget;
        while left > 0 {
            let Some((gfn, leaf)) = tables.next(&self.pool, Gfn(0)) else { return true };
            let mut gone = None;
            let pages = leaf.pages.min(BATCH);
            let (mut stale, result) = tables.unmap(&self.pool, gfn, pages, |_, leaf| gone = Some(leaf));
            if result.is_err() {
                // No table for a split: the whole leaf goes at once.
                let Some((_, leaf, more)) = tables.take_first(&self.pool, gfn) else { return true };
                gone = Some(leaf);
                stale = stale.join(&self.pool, &more);
            }
            flush(self.host, self.domain, stale, true);
            if let Some(leaf) = gone {
                if leaf.kind != Kind::Device {
                    self.host.frames.put_run(leaf.mfn, leaf.pages);
                }
                left = left.saturating_sub(leaf.pages);
            }
        }
        false
    }
}
