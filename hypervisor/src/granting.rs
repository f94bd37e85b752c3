//! Grant tables in the core: where a domain's table and its mappings of others' grants meet its memory.
//!
//! A mapping holds three things, taken in this order and given back in the reverse: a pin on the granter's entry, a
//! reference to the frame, an entry in the mapper's second-level tables. The pin goes only after the flush, so that the
//! granter never sees its page free while some processor can still reach it.
//!
//! In a domain that is mapped one to one the page appears at its machine address, whatever address the call asks for; the
//! call returns it in `host_addr` and `dev_bus_addr`.

mod copy;
#[cfg(test)]
mod tests;

pub use copy::Copies;

use trunnion_protocol::address::MachineAddress;
use trunnion_protocol::grant::{DEFAULT_MAX_FRAMES, INITIAL_FRAMES};
use trunnion_protocol::hypercall::grant::{MAP_HOST, MAP_READONLY, Map, Unmap};

use crate::grants::{GUEST_LIMIT, HARDWARE_LIMIT, Mapping, Mappings, Table, Wanted};
use crate::prelude::*;
use crate::second_level::{GFN_LIMIT, Leaf};

/// Mappings that are taken away with one flush.
pub const UNMAP_BATCH: usize = 32;

/// Grants of a domain.
pub struct Grants {
    /// What it has granted.
    pub table: Lock<Table>,
    /// What it has mapped.
    pub mappings: Lock<Mappings>,
}

/// A table for a new domain.
pub fn new_table<M: Machine>(host: &Host<M>, id: DomainId) -> Result<Grants, Errno> {
    let mut table = Table::new(DEFAULT_MAX_FRAMES);
    for _ in 0..INITIAL_FRAMES {
        grow(host, id, &mut table)?;
    }
    let limit = if id == DomainId::DOM0 { HARDWARE_LIMIT } else { GUEST_LIMIT };
    let mappings = Lock::new(Rank::Mappings, Mappings::new(limit));
    Ok(Grants { table: Lock::new(Rank::Grants, table), mappings })
}

fn grow<M: Machine>(host: &Host<M>, id: DomainId, table: &mut Table) -> Result<(), Errno> {
    table.grow(|| host.allocate_frame(id, FrameKind::Shared))
}

/// Frames of a table.
pub fn frames(grants: &Grants) -> impl Iterator<Item = Mfn> {
    let table = grants.table.lock();
    (0..).map_while(move |index| table.frame(index).map(|(mfn, _)| mfn))
}

impl<M: Machine> Domain<M> {
    /// Makes the table at least so many frames long.
    pub fn grow_grants(&self, host: &Host<M>, frames: u32) -> Result<Guard<'_, Table>, Errno> {
        let mut table = self.grants.table.lock();
        if frames > table.limit() {
            return Err(Errno::Inval);
        }
        while table.frames() < frames {
            grow(host, self.id, &mut table)?;
        }
        Ok(table)
    }

    /// Puts a frame of the table into the domain's map. The table grows as needed.
    pub fn place_grant_frame(&self, host: &Host<M>, index: u32, gfn: Gfn) -> Result<(), Errno> {
        let mut table = self.grow_grants(host, index.checked_add(1).ok_or(Errno::Inval)?)?;
        let (mfn, place) = table.frame_mut(index).ok_or(Errno::Inval)?;
        self.map(host).place_special(mfn, place, gfn)
    }

    /// Fills a reserved entry.
    pub fn seed_grant(&self, host: &Host<M>, entry: GrantRef, to: DomainId, frame: u32) -> Result<(), Errno> {
        let seeded = self.grants.table.lock().seed(&host.machine, entry, to, frame);
        if seeded { Ok(()) } else { Err(Errno::Busy) }
    }
}

/// Mappings and pins in force.
pub fn in_force<M: Machine>(domain: &Domain<M>) -> u64 {
    u64::from(domain.grants.mappings.lock().used()) + domain.grants.table.lock().pins()
}

/// A domain that has granted something, and where a page of it was found last. Most elements of an array name one domain, and
/// pages side by side.
struct Granter<M: Machine> {
    domain: Arc<Domain<M>>,
    last: Option<Seen>,
}

/// A leaf of a domain's map that begins at `first`, as it was while the domain's epoch was this.
#[derive(Clone, Copy)]
struct Seen {
    first: u64,
    leaf: Leaf,
    epoch: u64,
}

impl<M: Machine> Granter<M> {
    /// The domain that an element names: that of the last one, or from the list.
    #[inline]
    fn named<'g>(last: &'g mut Option<Self>, host: &Host<M>, id: DomainId) -> Option<&'g mut Self> {
        if last.as_ref().is_none_or(|last| last.domain.id != id) {
            *last = host.domain(id).map(|domain| Self { domain, last: None });
        }
        last.as_mut()
    }

    /// As [`Granter::named`], with one that is not being destroyed.
    #[inline]
    fn alive<'g>(
        last: &'g mut Option<Self>,
        host: &Host<M>,
        id: DomainId,
    ) -> Result<&'g mut Self, GrantStatus> {
        Self::named(last, host, id).filter(|one| life::is_alive(&one.domain)).ok_or(GrantStatus::BadDomain)
    }

    /// Begins a use of an entry by `by`, with a reference to the frame.
    #[inline]
    fn pin<'h>(
        &'h mut self,
        host: &'h Host<M>,
        reference: GrantRef,
        access: Access,
        by: DomainId,
    ) -> Result<(Pin<'h, M>, Held<'h>), GrantStatus> {
        let Self { domain, last } = self;
        let held = domain.grants.table.lock().pin(&host.machine, reference, by, access, |wanted| {
            hold(host, domain, last, wanted, access).map(|held| (held.mfn(), held))
        })?;
        Ok((Pin { host, granter: domain, reference, access }, held))
    }

    /// Uses an entry for as long as `work` takes, which must be short: nobody else uses an entry of the same table meanwhile.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "calls would be as long as what it does")]
    fn lend(
        &mut self,
        host: &Host<M>,
        reference: GrantRef,
        access: Access,
        by: DomainId,
        work: impl FnOnce(&Held<'_>) -> Result<(), GrantStatus>,
    ) -> Result<(), GrantStatus> {
        let Self { domain, last } = self;
        domain.grants.table.lock().lend(&host.machine, reference, by, access, |wanted| {
            work(&hold(host, domain, last, wanted, access)?)
        })
    }
}

/// A reference to the frame of an entry of `domain`'s.
#[inline(always)]
#[expect(clippy::inline_always, reason = "calls would be as long as what it does")]
fn hold<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Domain<M>,
    last: &mut Option<Seen>,
    wanted: Wanted,
    access: Access,
) -> Result<Held<'h>, GrantStatus> {
    match wanted {
        Wanted::Claimed(gfn) => own_page(host, domain, last, gfn, access),
        Wanted::Known(mfn) => host.frames.hold(mfn),
    }
    .ok_or(GrantStatus::BadPage)
}

/// A page of a domain's own memory, held, that it may use itself as others want to. Only that can be granted: not what others
/// have granted to it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "calls would be as long as what it does")]
fn own_page<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Domain<M>,
    last: &mut Option<Seen>,
    gfn: Gfn,
    access: Access,
) -> Option<Held<'h>> {
    let (held, rights) = match last.as_ref().and_then(|seen| again(host, domain, seen, gfn)) {
        Some(found) => found,
        None => find(host, domain, last, gfn)?,
    };
    let is_enough = access == Access::ReadOnly || rights.contains(Rights::WRITE);
    (is_enough && held.owner() == domain.id).then_some(held)
}

/// A page of the leaf that was seen last, if the leaf is still there.
#[inline(always)]
#[expect(clippy::inline_always, reason = "calls would be as long as what it does")]
fn again<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Domain<M>,
    seen: &Seen,
    gfn: Gfn,
) -> Option<(Held<'h>, Rights)> {
    let inside = gfn.0.checked_sub(seen.first).filter(|&inside| inside < seen.leaf.pages)?;
    let held = host.frames.hold(Mfn(seen.leaf.mfn.0 + inside))?;
    // Whoever takes a page out of the map changes the epoch before the frame is given back. So if it is the same even now, the
    // reference is to the domain's page, whatever comes after.
    (domain.epoch.load(Ordering::SeqCst) == seen.epoch).then_some((held, seen.leaf.rights))
}

/// A page of the domain's memory in its map.
#[inline(never)]
fn find<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Domain<M>,
    last: &mut Option<Seen>,
    gfn: Gfn,
) -> Option<(Held<'h>, Rights)> {
    let epoch = domain.epoch.load(Ordering::SeqCst);
    let (held, leaf) = memory::lookup(host, domain, gfn).filter(|(_, leaf)| leaf.kind == Kind::Ram)?;
    let inside = gfn.0 & (leaf.pages - 1);
    let whole = Leaf { mfn: Mfn(leaf.mfn.0 - inside), ..leaf };
    *last = Some(Seen { first: gfn.0 - inside, leaf: whole, epoch });
    Some((held, leaf.rights))
}

/// A use of an entry of `granter`, which may be a zombie by now. It ends with this.
struct Pin<'h, M: Machine> {
    host: &'h Host<M>,
    granter: &'h Domain<M>,
    reference: GrantRef,
    access: Access,
}

impl<M: Machine> Drop for Pin<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.granter.grants.table.lock().unpin(&self.host.machine, self.reference, self.access);
    }
}

/// Mappings of others' grants that a domain makes or gives back in one go. What it gives back is out of the tables at once;
/// one flush for all comes at the end, and only then the pins and the references go.
pub struct Batch<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Domain<M>,
    mappings: Guard<'a, Mappings>,
    granter: Option<Granter<M>>,
    gone: [Option<Mapping>; UNMAP_BATCH],
    count: usize,
    stale: Stale,
    /// A remembered walk may use one of the frames.
    walked: bool,
}

impl<'a, M: Machine> Batch<'a, M> {
    /// An empty one.
    pub fn new(host: &'a Host<M>, domain: &'a Domain<M>) -> Self {
        let mappings = domain.grants.mappings.lock();
        let gone = [None; UNMAP_BATCH];
        Self { host, domain, mappings, granter: None, gone, count: 0, stale: Stale::NONE, walked: false }
    }

    /// Maps one grant, and fills in what the call returns but the status.
    pub fn map(&mut self, call: &mut Map) -> Result<(), GrantStatus> {
        if call.flags & !MAP_READONLY != MAP_HOST {
            return Err(GrantStatus::GeneralError);
        }
        let access = if call.flags & MAP_READONLY == 0 { Access::ReadWrite } else { Access::ReadOnly };
        let Self { host, domain, mappings, granter, .. } = self;
        mappings.reserve()?;
        let granter = Granter::alive(granter, host, call.domain)?;
        let (pin, held) = granter.pin(host, call.reference, access, domain.id)?;
        let mfn = held.mfn();
        let gfn = enter(host, domain, held, call.address, access)?;
        let mapping = Mapping { domain: call.domain, reference: call.reference, access, gfn, mfn };
        call.handle = mappings.insert(mapping)?;
        // The mapping has the use now.
        core::mem::forget(pin);
        call.bus_address = MachineAddress(mfn.address().0);
        call.address = gfn.address();
        Ok(())
    }

    /// Gives the mapping back that a call names.
    pub fn unmap(&mut self, call: &Unmap) -> Result<(), GrantStatus> {
        let mapping = self.mappings.get(call.handle).ok_or(GrantStatus::BadHandle)?;
        // One to one, the address says nothing that the handle does not.
        let implied = call.address.0 == 0 && mapping.gfn.0 == mapping.mfn.0;
        if call.address != mapping.gfn.address() && !implied {
            return Err(GrantStatus::BadVirtAddr);
        }
        if call.bus_address.0 != 0 && call.bus_address.0 != mapping.mfn.address().0 {
            return Err(GrantStatus::BadDevAddr);
        }
        self.take(call.handle, mapping)
    }

    fn take(&mut self, handle: u32, mapping: Mapping) -> Result<(), GrantStatus> {
        let slot = self.gone.get_mut(self.count).ok_or(GrantStatus::GeneralError)?;
        let stale = self.domain.map(self.host).unmap_grant(mapping.gfn, mapping.mfn, mapping.access);
        let stale = stale.map_err(|_| GrantStatus::GeneralError)?;
        self.stale = core::mem::take(&mut self.stale).join(&self.host.machine, &stale);
        self.walked |= self.host.frames.is_walked(mapping.mfn);
        *slot = self.mappings.remove(handle);
        self.count += 1;
        Ok(())
    }
}

impl<M: Machine> Drop for Batch<'_, M> {
    fn drop(&mut self) {
        memory::flush(self.host, self.domain, core::mem::take(&mut self.stale), self.walked);
        let Self { host, granter, gone, .. } = self;
        for &Mapping { domain, reference, access, mfn, .. } in gone.iter().flatten() {
            if let Some(Granter { domain, .. }) = Granter::named(granter, host, domain) {
                drop(Pin { host, granter: domain, reference, access });
            }
            host.frames.put(mfn);
        }
    }
}

/// Puts a held frame into the mapper's tables, which take the reference over.
fn enter<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    held: Held<'_>,
    address: Gpa,
    access: Access,
) -> Result<Gfn, GrantStatus> {
    let mfn = held.mfn();
    let write = access == Access::ReadWrite;
    let mut map = domain.map(host);
    if domain.direct {
        map.map_direct(held, write).map_err(|_| GrantStatus::GeneralError)?;
        return Ok(Gfn(mfn.0));
    }
    let gfn = address.frame();
    if !address.is_page_aligned() || gfn.0 >= GFN_LIMIT {
        return Err(GrantStatus::BadVirtAddr);
    }
    let rights = if write { Rights::WRITE } else { Rights::empty() };
    map.insert(gfn, held, rights, Kind::Grant).map_err(|_| GrantStatus::BadVirtAddr)?;
    Ok(gfn)
}

/// Gives up to `budget` mappings of others' grants back. True when none is left.
pub fn release_some<M: Machine>(host: &Host<M>, domain: &Domain<M>, budget: u32) -> bool {
    let mut from = 0;
    let mut left = budget;
    while left > 0 {
        let mut batch = Batch::new(host, domain);
        for _ in 0..UNMAP_BATCH {
            let Some((handle, mapping)) = batch.mappings.next(from) else { break };
            from = handle + 1;
            // What the tables no longer have cannot fail; what fails stays, and shows in an audit.
            let _ = batch.take(handle, mapping);
        }
        if batch.count == 0 {
            return true;
        }
        left = left.saturating_sub(batch.count as u32);
    }
    domain.grants.mappings.lock().used() == 0
}

/// Gives the frames of a domain's table up.
pub fn release_table<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let mut table = domain.grants.table.lock();
    while let Some(frame) = table.shrink() {
        host.frames.put(frame);
    }
}
