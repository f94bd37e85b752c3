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

pub use copy::copy;

use trunnion_protocol::address::MachineAddress;
use trunnion_protocol::grant::{DEFAULT_MAX_FRAMES, INITIAL_FRAMES};
use trunnion_protocol::hypercall::grant::{MAP_HOST, MAP_READONLY, Map, Unmap};

use crate::grants::{GUEST_LIMIT, HARDWARE_LIMIT, Mapping, Mappings, Table, Wanted};
use crate::prelude::*;
use crate::second_level::{GFN_LIMIT, Stale};

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
    Ok(Grants {
        table: Lock::new(Rank::Grants, table),
        mappings: Lock::new(Rank::Mappings, Mappings::new(limit)),
    })
}

fn grow<M: Machine>(host: &Host<M>, id: DomainId, table: &mut Table) -> Result<(), Errno> {
    table.grow(|| host.allocate_frame(id, FrameKind::Shared))
}

/// Makes the table of a domain at least so many frames long.
pub fn grow_to<M: Machine>(host: &Host<M>, domain: &Domain<M>, frames: u32) -> Result<(), Errno> {
    let mut table = domain.grants.table.lock();
    while table.frames() < frames {
        grow(host, domain.id, &mut table)?;
    }
    Ok(())
}

/// Frames of a table.
pub fn frames(grants: &Grants) -> impl Iterator<Item = Mfn> {
    let table = grants.table.lock();
    (0..).map_while(move |index| table.frame(index).map(|(mfn, _)| mfn))
}

/// Puts a frame of the table into the domain's map. The table grows as needed.
pub fn place_frame<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    index: u32,
    gfn: Gfn,
) -> Result<(), Errno> {
    let mut table = domain.grants.table.lock();
    if index >= table.limit() {
        return Err(Errno::Inval);
    }
    while table.frames() <= index {
        grow(host, domain.id, &mut table)?;
    }
    let (mfn, place) = table.frame_mut(index).ok_or(Errno::Inval)?;
    memory::place_special(host, domain, mfn, place, gfn)
}

/// Fills a reserved entry.
pub fn seed<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    reference: GrantRef,
    to: DomainId,
    frame: u32,
) -> Result<(), Errno> {
    let seeded = domain.grants.table.lock().seed(&host.machine, reference, to, frame);
    if seeded { Ok(()) } else { Err(Errno::Busy) }
}

/// Mappings and pins in force.
pub fn in_force<M: Machine>(domain: &Domain<M>) -> u64 {
    u64::from(domain.grants.mappings.lock().used()) + domain.grants.table.lock().pins()
}

/// The domain that has granted something: any that is not being destroyed.
fn granter<M: Machine>(host: &Host<M>, id: DomainId) -> Result<Arc<Domain<M>>, GrantStatus> {
    host.domain(id).filter(|domain| life::is_alive(domain)).ok_or(GrantStatus::BadDomain)
}

/// Begins a use of an entry of `granter` by `by`, with a reference to the frame.
fn pin<'h, M: Machine>(
    host: &'h Host<M>,
    granter: &Domain<M>,
    reference: GrantRef,
    by: DomainId,
    access: Access,
) -> Result<Held<'h>, GrantStatus> {
    let mut table = granter.grants.table.lock();
    table.pin(&host.machine, reference, by, access, |wanted| {
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
    })
}

/// Ends a use, of a domain that may be a zombie by now.
fn unpin<M: Machine>(host: &Host<M>, granter: DomainId, reference: GrantRef, access: Access) {
    if let Some(granter) = host.domain(granter) {
        granter.grants.table.lock().unpin(&host.machine, reference, access);
    }
}

/// Maps one grant for `domain`, and fills in what the call returns but the status.
pub fn map<M: Machine>(
    host: &Host<M>,
    domain: &Domain<M>,
    mappings: &mut Mappings,
    call: &mut Map,
) -> Result<(), GrantStatus> {
    if call.flags & !MAP_READONLY != MAP_HOST {
        return Err(GrantStatus::GeneralError);
    }
    let access = if call.flags & MAP_READONLY == 0 { Access::ReadWrite } else { Access::ReadOnly };
    mappings.reserve()?;
    let granter = granter(host, call.domain)?;
    let held = pin(host, &granter, call.reference, domain.id, access)?;
    let mfn = held.mfn();
    let gfn = match enter(host, domain, held, call.address, access) {
        Ok(gfn) => gfn,
        Err(status) => {
            granter.grants.table.lock().unpin(&host.machine, call.reference, access);
            return Err(status);
        }
    };
    let mapping = Mapping { domain: call.domain, reference: call.reference, access, gfn, mfn };
    call.handle = mappings.insert(mapping)?;
    call.bus_address = MachineAddress(mfn.address().0);
    call.address = gfn.address();
    Ok(())
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
    let mut memory = domain.memory.lock();
    if memory.direct {
        memory::map_direct(host, domain, &mut memory, held, write).map_err(|_| GrantStatus::GeneralError)?;
        return Ok(Gfn(mfn.0));
    }
    let gfn = address.frame();
    if !address.is_page_aligned() || gfn.0 >= GFN_LIMIT {
        return Err(GrantStatus::BadVirtAddr);
    }
    let rights = if write { Rights::WRITE } else { Rights::empty() };
    let pool = host.table_pool(domain.id);
    memory.insert(&pool, gfn, held, rights, Kind::Grant).map_err(|_| GrantStatus::BadVirtAddr)?;
    Ok(gfn)
}

/// Mappings that were taken out of a domain's tables and wait for the flush.
#[derive(Default)]
pub struct Unmapping {
    handles: [u32; UNMAP_BATCH],
    count: usize,
    stale: Stale,
    /// A remembered walk may use one of the frames.
    walked: bool,
}

impl Unmapping {
    /// Takes the mapping that a call names out of the tables.
    pub fn add<M: Machine>(
        &mut self,
        host: &Host<M>,
        domain: &Domain<M>,
        mappings: &mut Mappings,
        call: &Unmap,
    ) -> Result<(), GrantStatus> {
        let mapping = mappings.get(call.handle).ok_or(GrantStatus::BadHandle)?;
        // One to one, the address says nothing that the handle does not.
        let implied = call.address.0 == 0 && mapping.gfn.0 == mapping.mfn.0;
        if call.address != mapping.gfn.address() && !implied {
            return Err(GrantStatus::BadVirtAddr);
        }
        if call.bus_address.0 != 0 && call.bus_address.0 != mapping.mfn.address().0 {
            return Err(GrantStatus::BadDevAddr);
        }
        self.take(host, domain, mappings, call.handle, mapping)
    }

    fn take<M: Machine>(
        &mut self,
        host: &Host<M>,
        domain: &Domain<M>,
        mappings: &mut Mappings,
        handle: u32,
        mapping: Mapping,
    ) -> Result<(), GrantStatus> {
        let slot = self.handles.get_mut(self.count).ok_or(GrantStatus::GeneralError)?;
        let mut memory = domain.memory.lock();
        let stale = if memory.direct {
            memory::unmap_direct(host, domain, &mut memory, mapping.mfn, mapping.access == Access::ReadWrite)
        } else {
            let pool = host.table_pool(domain.id);
            let unmapped = memory.tables.unmap_page(&pool, mapping.gfn);
            unmapped.map(|(_, stale)| stale).map_err(Errno::from)
        };
        let stale = stale.map_err(|_| GrantStatus::GeneralError)?;
        let before = core::mem::take(&mut self.stale);
        self.stale = before.join(&host.machine, &stale);
        self.walked |= host.frames.is_walked(mapping.mfn);
        mappings.leave(handle);
        *slot = handle;
        self.count += 1;
        Ok(())
    }

    /// One flush for all, then the pins and the references go.
    pub fn finish<M: Machine>(self, host: &Host<M>, domain: &Domain<M>, mappings: &mut Mappings) {
        if self.walked {
            memory::flush(host, domain, self.stale);
        } else {
            memory::flush_translations(host, domain, self.stale);
        }
        for &handle in self.handles.iter().take(self.count) {
            if let Some(mapping) = mappings.remove(handle) {
                unpin(host, mapping.domain, mapping.reference, mapping.access);
                host.frames.put(mapping.mfn);
            }
        }
    }
}

/// Gives up to `budget` mappings of others' grants back. True when none is left.
pub fn release_some<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, budget: u32) -> bool {
    let mut mappings = domain.grants.mappings.lock();
    let mut from = 0;
    let mut left = budget;
    while left > 0 {
        let mut unmapping = Unmapping::default();
        for _ in 0..UNMAP_BATCH {
            let Some((handle, mapping)) = mappings.next(from) else { break };
            from = handle + 1;
            // What the tables no longer have cannot fail; what fails stays, and shows in an audit.
            let _ = unmapping.take(host, domain, &mut mappings, handle, mapping);
        }
        let count = unmapping.count as u32;
        unmapping.finish(host, domain, &mut mappings);
        if count == 0 {
            return true;
        }
        left = left.saturating_sub(count);
    }
    mappings.used() == 0
}

/// Gives the frames of a domain's table up.
pub fn release_table<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    let mut table = domain.grants.table.lock();
    while let Some(frame) = table.shrink() {
        host.frames.put(frame);
    }
}
