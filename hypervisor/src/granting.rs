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
use crate::second_level::GFN_LIMIT;

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

/// The domain that has granted something: any that is not being destroyed.
fn granter<M: Machine>(host: &Host<M>, id: DomainId) -> Result<Arc<Domain<M>>, GrantStatus> {
    host.domain(id).filter(|domain| life::is_alive(domain)).ok_or(GrantStatus::BadDomain)
}

/// A use of an entry of `granter`, which may be a zombie by now. It ends with this.
struct Pin<'h, M: Machine> {
    host: &'h Host<M>,
    granter: &'h Domain<M>,
    reference: GrantRef,
    access: Access,
    /// Somebody else ends it.
    is_kept: bool,
}

impl<M: Machine> Drop for Pin<'_, M> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.granter.grants.table.lock().unpin(&self.host.machine, self.reference, self.access);
        }
    }
}

impl<'h, M: Machine> Pin<'h, M> {
    const fn of(host: &'h Host<M>, granter: &'h Domain<M>, reference: GrantRef, access: Access) -> Self {
        Self { host, granter, reference, access, is_kept: false }
    }

    /// Begins a use by `by`, with a reference to the frame.
    fn begin(mut self, by: DomainId) -> Result<(Self, Held<'h>), GrantStatus> {
        let Self { host, granter, reference, access, .. } = self;
        let pinned = granter.grants.table.lock().pin(&host.machine, reference, by, access, |wanted| {
            let held = match wanted {
                Wanted::Claimed(gfn) => {
                    let (held, leaf) = memory::lookup(host, granter, gfn).ok_or(GrantStatus::BadPage)?;
                    let enough = access == Access::ReadOnly || leaf.rights.contains(Rights::WRITE);
                    // Only a domain's own memory can be granted: not what others have granted to it.
                    if leaf.kind != Kind::Ram || !enough || held.owner() != granter.id {
                        return Err(GrantStatus::BadPage);
                    }
                    held
                }
                Wanted::Known(mfn) => host.frames.hold(mfn).ok_or(GrantStatus::BadPage)?,
            };
            Ok((held.mfn(), held))
        });
        self.is_kept = pinned.is_err();
        pinned.map(|held| (self, held))
    }
}

/// Mappings of others' grants that a domain makes or gives back in one go. What it gives back is out of the tables at once;
/// one flush for all comes at the end, and only then the pins and the references go.
pub struct Batch<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Domain<M>,
    mappings: Guard<'a, Mappings>,
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
        Self { host, domain, mappings, gone, count: 0, stale: Stale::NONE, walked: false }
    }

    /// Maps one grant, and fills in what the call returns but the status.
    pub fn map(&mut self, call: &mut Map) -> Result<(), GrantStatus> {
        if call.flags & !MAP_READONLY != MAP_HOST {
            return Err(GrantStatus::GeneralError);
        }
        let access = if call.flags & MAP_READONLY == 0 { Access::ReadWrite } else { Access::ReadOnly };
        self.mappings.reserve()?;
        let granter = granter(self.host, call.domain)?;
        let pin = Pin::of(self.host, &granter, call.reference, access);
        let (mut pin, held) = pin.begin(self.domain.id)?;
        let mfn = held.mfn();
        let gfn = self.enter(held, call.address, access)?;
        let mapping = Mapping { domain: call.domain, reference: call.reference, access, gfn, mfn };
        call.handle = self.mappings.insert(mapping)?;
        pin.is_kept = true;
        call.bus_address = MachineAddress(mfn.address().0);
        call.address = gfn.address();
        Ok(())
    }

    /// Puts a held frame into the mapper's tables, which take the reference over.
    fn enter(&self, held: Held<'_>, address: Gpa, access: Access) -> Result<Gfn, GrantStatus> {
        let mfn = held.mfn();
        let write = access == Access::ReadWrite;
        let mut map = self.domain.map(self.host);
        if map.memory.direct {
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
        for mapping in self.gone.iter().flatten() {
            if let Some(granter) = self.host.domain(mapping.domain) {
                drop(Pin::of(self.host, &granter, mapping.reference, mapping.access));
            }
            self.host.frames.put(mapping.mfn);
        }
    }
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
