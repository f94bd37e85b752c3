//! The guest's memory: what is populated, in pieces as large as alignment allows, and what the guest is told.

use super::{CONSOLE_FRAME, PAGE, SPECIAL, STORE_FRAME};
use crate::acpi;
use alloc::vec::Vec;
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::hypercall::memory::{Region, RegionKind};

/// Memory to be populated in equal naturally aligned pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First frame.
    pub first: Gfn,
    /// Binary logarithm of a piece's pages: 0, 9 (2 MiB) or 18 (1 GiB).
    pub order: u32,
    /// Pieces.
    pub count: u64,
}

impl Extent {
    /// All pages.
    pub fn pages(&self) -> u64 {
        self.count << self.order
    }

    /// First frame of each piece.
    pub fn frames(&self) -> impl Iterator<Item = Gfn> + use<> {
        let Self { first, order, count } = *self;
        (0..count).map(move |index| Gfn(first.0 + (index << order)))
    }
}

/// The frames from `from` up to `to` in the largest pieces that alignment allows, in order.
pub fn extents(from: u64, to: u64) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    let mut at = from;
    while at < to {
        let order = [18, 9, 0]
            .into_iter()
            .find(|order| at.is_multiple_of(1 << order) && at + (1 << order) <= to)
            .unwrap_or(0);
        // As many of this size as there are before a larger one fits, or before the end.
        let larger = match order {
            0 => at.next_multiple_of(1 << 9),
            9 => at.next_multiple_of(1 << 18),
            _ => to,
        };
        let larger = if larger == at { to } else { larger.min(to) };
        let count = ((larger - at) >> order).max(1);
        all.push(Extent { first: Gfn(at), order, count });
        at += count << order;
    }
    all
}

/// All memory of a guest with `memory` bytes, of which `low` are below 4 GiB.
pub(super) fn all_extents(memory: u64, low: u64, acpi_end: u64) -> Vec<Extent> {
    let mut all = extents(0, low / PAGE);
    all.extend(extents(HIGH / PAGE, (HIGH + (memory - low)) / PAGE));
    all.extend(extents(acpi::BASE / PAGE, acpi_end / PAGE));
    for first in [STORE_FRAME, CONSOLE_FRAME] {
        all.push(Extent { first, order: 0, count: 1 });
    }
    all
}

/// Where RAM goes on above the devices.
const HIGH: u64 = 1 << 32;

/// The memory map, by address.
pub(super) fn map(memory: u64, low: u64, acpi_end: u64) -> Vec<Region> {
    let region = |from: u64, to: u64, kind: RegionKind| Region {
        address: Gpa(from),
        length: to - from,
        kind: kind.number(),
    };
    let mut map = alloc::vec![
        region(0, low, RegionKind::Ram),
        region(acpi::BASE, acpi_end, RegionKind::AcpiNvs),
        region(SPECIAL.start, SPECIAL.end, RegionKind::Reserved),
    ];
    if memory > low {
        map.push(region(HIGH, HIGH + (memory - low), RegionKind::Ram));
    }
    map
}

/// Pages that the hypervisor takes for a domain besides its own: second-level tables (one page for 512 of the domain's, and the upper
/// levels), control blocks and register areas of vCPUs, grant frames, shared info. Generous, so that what is planned can be built.
pub(super) fn overhead(pages: u64, vcpus: u32) -> u64 {
    pages / 512 + 48 + u64::from(vcpus) * 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_cover_exactly_and_are_aligned() {
        for (from, to) in [
            (0, 0),
            (0, 1),
            (0, 512),
            (0, 513),
            (3, 1024),
            (0, 262_144),
            (0, 262_145),
            (511, 786_432),
            (1_048_576, 1_400_000),
        ] {
            let mut at = from;
            for extent in extents(from, to) {
                assert_eq!(extent.first.0, at);
                assert_eq!(at % (1 << extent.order), 0);
                assert!(extent.count > 0);
                assert_eq!(extent.frames().count() as u64, extent.count);
                at += extent.pages();
            }
            assert_eq!(at, to);
        }
        let orders: Vec<_> = extents(3, 262_144 * 2 + 513).iter().map(|e| (e.order, e.count)).collect();
        assert_eq!(orders, [(0, 509), (9, 511), (18, 1), (9, 1), (0, 1)]);
    }
}
