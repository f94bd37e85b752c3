//! What a domain has mapped of others' grants: one record for each handle.

use crate::prelude::*;

/// Mappings that a guest may have at one time.
pub const GUEST_LIMIT: u32 = 4096;
/// Mappings that the domain with the back ends may have.
pub const HARDWARE_LIMIT: u32 = 65536;

/// Records that are allocated at a time.
const CHUNK: u32 = 128;
/// End of the list of free handles.
const NONE: u32 = u32::MAX;

/// One mapping of a grant. It keeps a pin on the entry and a reference to the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Who granted it.
    pub domain: DomainId,
    /// By which entry.
    pub reference: GrantRef,
    /// Whether it is mapped for writing.
    pub access: Access,
    /// Where the mapping domain has it.
    pub gfn: Gfn,
    /// The frame.
    pub mfn: Mfn,
}

#[derive(Clone, Copy)]
enum Slot {
    /// The next free handle.
    Free(u32),
    Used(Mapping),
}

/// All mappings of one domain.
pub struct Mappings {
    chunks: Vec<Box<[Slot]>>,
    free: u32,
    used: u32,
    limit: u32,
}

impl Mappings {
    /// None, of at most `limit`.
    pub const fn new(limit: u32) -> Self {
        Self { chunks: Vec::new(), free: NONE, used: 0, limit }
    }

    /// How many there are.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Makes sure that the next [`Mappings::insert`] succeeds.
    pub fn reserve(&mut self) -> Result<(), GrantStatus> {
        if self.used >= self.limit {
            return Err(GrantStatus::NoSpace);
        }
        if self.free != NONE {
            return Ok(());
        }
        let first = self.chunks.len() as u32 * CHUNK;
        let mut chunk = Vec::new();
        self.chunks.try_reserve(1).map_err(|_| GrantStatus::NoSpace)?;
        chunk.try_reserve_exact(CHUNK as usize).map_err(|_| GrantStatus::NoSpace)?;
        chunk.extend((first + 1..first + CHUNK).map(Slot::Free));
        chunk.push(Slot::Free(NONE));
        self.chunks.push(chunk.into_boxed_slice());
        self.free = first;
        Ok(())
    }

    /// Enters a mapping and gives its handle.
    pub fn insert(&mut self, mapping: Mapping) -> Result<u32, GrantStatus> {
        self.reserve()?;
        let handle = self.free;
        let slot = self.slot(handle).ok_or(GrantStatus::NoSpace)?;
        let Slot::Free(next) = *slot else { return Err(GrantStatus::GeneralError) };
        *slot = Slot::Used(mapping);
        self.free = next;
        self.used += 1;
        Ok(handle)
    }

    /// The mapping that a handle names.
    pub fn get(&mut self, handle: u32) -> Option<Mapping> {
        match self.slot(handle)? {
            Slot::Used(mapping) => Some(*mapping),
            Slot::Free(_) => None,
        }
    }

    /// Takes a mapping out. Its handle is free at once.
    pub fn remove(&mut self, handle: u32) -> Option<Mapping> {
        let free = self.free;
        let slot = self.slot(handle)?;
        let Slot::Used(mapping) = *slot else { return None };
        *slot = Slot::Free(free);
        self.free = handle;
        self.used -= 1;
        Some(mapping)
    }

    /// The first mapping with a handle at or above `from`.
    pub fn next(&self, from: u32) -> Option<(u32, Mapping)> {
        let start = (from / CHUNK) as usize;
        for (index, chunk) in self.chunks.iter().enumerate().skip(start) {
            let skip = if index == start { from % CHUNK } else { 0 };
            for (at, slot) in chunk.iter().enumerate().skip(skip as usize) {
                if let Slot::Used(mapping) = slot {
                    return Some((index as u32 * CHUNK + at as u32, *mapping));
                }
            }
        }
        None
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        self.chunks.get_mut((handle / CHUNK) as usize)?.get_mut((handle % CHUNK) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mapping(number: u32) -> Mapping {
        Mapping {
            domain: DomainId(number as u16),
            reference: GrantRef(number),
            access: Access::ReadOnly,
            gfn: Gfn(1),
            mfn: Mfn(2),
        }
    }

    #[test]
    fn handles_are_bounded_and_found_again() {
        let mut mappings = Mappings::new(300);
        for number in 0..300 {
            assert_eq!(mappings.insert(mapping(number)), Ok(number));
        }
        assert_eq!(mappings.insert(mapping(300)), Err(GrantStatus::NoSpace));
        assert_eq!(mappings.remove(257), Some(mapping(257)));
        assert_eq!((mappings.remove(257), mappings.get(257)), (None, None));
        assert_eq!(mappings.next(257), Some((258, mapping(258))));
        assert_eq!((mappings.remove(256), mappings.insert(mapping(256))), (Some(mapping(256)), Ok(256)));
        assert_eq!(mappings.next(256), Some((256, mapping(256))));
        assert_eq!(mappings.next(257), Some((258, mapping(258))));
        assert_eq!(mappings.insert(mapping(9)), Ok(257));
        for claim in [300, 383, 384, u32::MAX] {
            assert_eq!((mappings.get(claim), mappings.remove(claim)), (None, None));
        }
        assert_eq!(mappings.next(u32::MAX), None);
    }

    proptest! {
        /// Handles agree with a map.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0..400u32), 1..500)) {
            let mut mappings = Mappings::new(200);
            let mut model = BTreeMap::new();
            for (insert, number) in steps {
                if insert {
                    match mappings.insert(mapping(number)) {
                        Ok(handle) => prop_assert_eq!(model.insert(handle, mapping(number)), None),
                        Err(status) => { prop_assert_eq!(status, GrantStatus::NoSpace); prop_assert_eq!(model.len(), 200); }
                    }
                } else {
                    prop_assert_eq!(mappings.remove(number), model.remove(&number));
                }
                prop_assert_eq!(mappings.used() as usize, model.len());
                prop_assert_eq!(mappings.next(number), model.range(number..).next().map(|(h, m)| (*h, *m)));
            }
        }
    }
}
