//! `memory_op`.
//!
//! Calls on a list of extents return how many were done. They do [`BUDGET`] pages at a time and note their position in the
//! high bits of argument 1, as the ABI lays down.

use trunnion_protocol::hypercall::memory::{
    AddToPhysmap, AddToPhysmapBatch, EXTENT_SHIFT, INDEX_GRANT_STATUS, MemoryMap, OP_MASK, Op, REGION_SIZE,
    Region, RemoveFromPhysmap, Reservation, SetMemoryMap, Space,
};
use trunnion_protocol::start_info::MEMORY_MAP_LIMIT;

use crate::frames::LARGEST_ORDER;
use crate::prelude::*;

/// Extents that are populated or freed in one go, and pages that are moved.
const BUDGET: u64 = 48;
/// Largest extent a guest may ask for itself: 2 MiB.
const GUEST_ORDER: u32 = 9;

pub(super) fn call<M: Machine>(running: &mut Running<'_, M>, arguments: &mut Arguments) -> Reply {
    let op = Op::from_number((arguments.get(0) & OP_MASK) as u32).ok_or(Errno::NoSys)?;
    let done = arguments.get(0) >> EXTENT_SHIFT;
    let (width, at) = (arguments.width, arguments.pointer(1));
    match op {
        Op::PopulatePhysmap | Op::DecreaseReservation => running.extents(arguments, op, done),
        // Memory without a place has no use for a guest with nested paging.
        Op::IncreaseReservation => Ok(0),
        Op::MaximumRamPage => Ok(running.host.frames.end_frame().0.saturating_sub(1)),
        Op::CurrentReservation => {
            let domain = running.of_pointer(at)?;
            Ok(u64::from(running.host.frames.owned(domain.id)))
        }
        Op::MaximumReservation => Ok(running.of_pointer(at)?.max_pages),
        Op::MaximumGpfn => Ok(running.of_pointer(at)?.memory.lock().highest.0),
        Op::AddToPhysmap => {
            let add: AddToPhysmap = running.get(width, at)?;
            let domain = target(running, add.domain)?;
            let space = Space::from_number(add.space).ok_or(Errno::Inval)?;
            if space != Space::GmfnRange {
                running.add_one(&domain, space, add.index, add.gfn)?;
                return Ok(0);
            }
            let end = (done + BUDGET).min(u64::from(add.size));
            for page in done..end {
                let from = add.index.checked_add(page).ok_or(Errno::Inval)?;
                let to = add.gfn.checked_add(page).ok_or(Errno::Inval)?;
                domain.map(running.host).move_page(Gfn(from), to)?;
            }
            if end < u64::from(add.size) { again(arguments, end) } else { Ok(0) }
        }
        Op::AddToPhysmapBatch => {
            let batch: AddToPhysmapBatch = running.get(width, at)?;
            running.add_batch(arguments, batch, done)
        }
        Op::RemoveFromPhysmap => {
            let remove: RemoveFromPhysmap = running.get(width, at)?;
            let domain = target(running, remove.domain)?;
            domain.map(running.host).remove(remove.gfn, &[Kind::Ram, Kind::Special])?;
            Ok(0)
        }
        Op::MemoryMap => running.memory_map(width, at),
        Op::SetMemoryMap => {
            let map: SetMemoryMap = running.get(width, at)?;
            running.set_memory_map(map)
        }
        Op::SetPodTarget | Op::GetPodTarget | Op::AcquireResource => Err(Errno::NoSys.into()),
    }
}

/// Stops to go on at extent `position`.
fn again(arguments: &mut Arguments, position: u64) -> Reply {
    let [first, ..] = &mut arguments.values;
    *first = *first & OP_MASK | position << EXTENT_SHIFT;
    Err(Stop::Again)
}

impl<M: Machine> Running<'_, M> {
    fn of_pointer(&mut self, at: Gva) -> Result<Arc<Domain<M>>, Errno> {
        let id = self.get_plain(at)?;
        target(self, DomainId(id))
    }

    /// Populates or frees the extents of a reservation from `done` on.
    fn extents(&mut self, arguments: &mut Arguments, op: Op, done: u64) -> Reply {
        let width = arguments.width;
        let wanted: Reservation = self.get(width, arguments.pointer(1))?;
        let domain = target(self, wanted.domain)?;
        let largest = if self.domain.is_privileged() { LARGEST_ORDER } else { GUEST_ORDER };
        // A position has to fit in argument 1.
        let limit = (1u64 << (width.word() as u32 * 8 - EXTENT_SHIFT)) - 1;
        if wanted.order > largest || wanted.count > limit || done > wanted.count {
            return Ok(done.min(wanted.count));
        }
        let pages = 1u64 << wanted.order;
        // A large extent is populated as one, and freed page by page.
        let cost = if op == Op::PopulatePhysmap { 1 + pages / 32 } else { pages };
        let mut budget = BUDGET;
        for position in done..wanted.count {
            // At least one extent each time, so that it gets on.
            if budget < cost && position != done {
                return again(arguments, position);
            }
            budget = budget.saturating_sub(cost);
            let entry = Gva(wanted.extents.0.wrapping_add(position * width.word() as u64));
            let Ok(gfn) = self.get_word(width, entry) else { return Ok(position) };
            let result = if op == Op::PopulatePhysmap {
                domain.map(self.host).populate(Gfn(gfn), wanted.order)
            } else {
                self.decrease(&domain, Gfn(gfn), pages)
            };
            match result {
                Ok(()) => {}
                Err(Errno::Restart) => return again(arguments, position),
                Err(_) => return Ok(position),
            }
        }
        Ok(wanted.count)
    }

    fn decrease(&self, domain: &Domain<M>, gfn: Gfn, pages: u64) -> Result<(), Errno> {
        for page in 0..pages {
            let gfn = gfn.checked_add(page).ok_or(Errno::Inval)?;
            domain.map(self.host).remove(gfn, &[Kind::Ram])?;
        }
        Ok(())
    }

    fn add_one(&self, domain: &Arc<Domain<M>>, space: Space, index: u64, gfn: Gfn) -> Result<(), Errno> {
        match space {
            Space::SharedInfo if index == 0 => {
                let mut place = domain.shared_place.lock();
                domain.map(self.host).place_special(domain.shared_info, &mut place, gfn)
            }
            Space::GrantTable if index & INDEX_GRANT_STATUS == 0 => {
                domain.place_grant_frame(self.host, u32::try_from(index).map_err(|_| Errno::Inval)?, gfn)
            }
            Space::Gmfn => domain.map(self.host).move_page(Gfn(index), gfn),
            Space::SharedInfo | Space::GrantTable | Space::GmfnRange => Err(Errno::Inval),
            // Another domain's frames are mapped by grant, or by dom0's control call.
            Space::GmfnForeign | Space::DeviceMemory => Err(Errno::OpNotSupp),
        }
    }

    fn add_batch(&mut self, arguments: &mut Arguments, batch: AddToPhysmapBatch, done: u64) -> Reply {
        let width = arguments.width;
        let domain = target(self, batch.domain)?;
        let space = Space::from_number(u32::from(batch.space)).ok_or(Errno::Inval)?;
        let count = u64::from(batch.count);
        let end = (done + BUDGET).min(count);
        for entry in done..end {
            let word = entry * width.word() as u64;
            let index = self.get_word(width, Gva(batch.indices.0.wrapping_add(word)))?;
            let gfn = self.get_word(width, Gva(batch.gfns.0.wrapping_add(word)))?;
            let result = self.add_one(&domain, space, index, Gfn(gfn));
            let errno = result.err().map_or(0, |errno| i64::from(errno) as i32);
            self.write(Gva(batch.errors.0.wrapping_add(entry * 4)), &errno.to_le_bytes())?;
        }
        if end < count { again(arguments, end) } else { Ok(0) }
    }

    fn memory_map(&mut self, width: Width, at: Gva) -> Reply {
        let mut map: MemoryMap = self.get(width, at)?;
        let held = self.domain.memory.lock().regions.len();
        if held == 0 {
            return Err(Errno::NoSys.into());
        }
        let count = held.min(map.count as usize);
        for index in 0..count {
            let Some(region) = self.domain.memory.lock().regions.get(index).copied() else { break };
            let to = Gva(map.buffer.0.wrapping_add((index * REGION_SIZE) as u64));
            self.write(to, &region.to_bytes())?;
        }
        map.count = count as u32;
        self.put(width, at, &map)?;
        Ok(0)
    }

    fn set_memory_map(&mut self, map: SetMemoryMap) -> Reply {
        if !self.domain.is_privileged() {
            return Err(Errno::Perm.into());
        }
        let domain = target(self, map.domain)?;
        if map.count > MEMORY_MAP_LIMIT {
            return Err(Errno::Inval.into());
        }
        let mut regions = Vec::new();
        regions.try_reserve_exact(map.count as usize).map_err(|_| Errno::NoMem)?;
        for index in 0..map.count as usize {
            let mut bytes = [0; REGION_SIZE];
            self.read(Gva(map.buffer.0.wrapping_add((index * REGION_SIZE) as u64)), &mut bytes)?;
            regions.push(Region::from_bytes(&bytes));
        }
        domain.memory.lock().regions = regions;
        Ok(0)
    }
}
