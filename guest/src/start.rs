//! What the domain was started with: command line, modules, memory map.
//!
//! Parsed once from the start info (`arch-x86/hvm/start_info.h`). The toolstack or hypervisor that wrote it is trusted,
//! yet counts are bounded, so that a broken one is a short log line and not a wild read.

use alloc::string::String;
use alloc::vec::Vec;

use trunnion_protocol::hypercall::memory::RegionKind;
use trunnion_protocol::start_info::{FLAG_INITIAL_DOMAIN, MapEntry};
#[cfg(target_os = "none")]
use trunnion_protocol::start_info::{MEMORY_MAP_LIMIT, Module};

#[cfg(target_os = "none")]
/// Most modules that are looked at.
pub(crate) const MODULE_LIMIT: u32 = 16;
#[cfg(target_os = "none")]
/// Most bytes of a command line.
pub(crate) const COMMAND_LINE_LIMIT: usize = 4096;

/// A file that was loaded with the kernel.
#[derive(Clone, Copy)]
pub struct LoadedModule {
    /// Its bytes. The runtime keeps them out of the heap for ever.
    pub data: &'static [u8],
}

/// What the domain was started with.
pub struct StartInfo {
    /// The command line.
    pub command_line: String,
    /// The modules, in order.
    pub modules: Vec<LoadedModule>,
    /// The memory map.
    pub memory_map: Vec<MapEntry>,
    /// `SIF_` flags.
    pub flags: u32,
}

impl StartInfo {
    /// Whether this is the first, privileged domain.
    pub const fn is_initial_domain(&self) -> bool {
        self.flags & FLAG_INITIAL_DOMAIN != 0
    }

    /// Whether the command line has the word `name`.
    pub fn has_option(&self, name: &str) -> bool {
        self.command_line.split_ascii_whitespace().any(|word| word == name)
    }

    /// The text behind `name=` on the command line.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Bytes of RAM in the memory map.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_map
            .iter()
            .filter(|entry| entry.kind == RegionKind::Ram.number())
            .fold(0, |sum, entry| sum.saturating_add(entry.size))
    }
}

/// A range of addresses, end exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl Range {
    /// The range of `size` bytes from `start`, cut at the end of 64 bits.
    pub const fn sized(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }

    /// Whether the two have a byte in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

#[cfg(any(target_os = "none", test))]
/// Pieces of RAM that nothing occupies, the largest first, at most `N`. Borders are rounded inward to pages.
///
/// Works on arrays: it runs before there is a heap.
pub(crate) fn free_pieces<const N: usize>(
    ram: impl Iterator<Item = Range>,
    occupied: &[Range],
) -> ([Range; N], usize) {
    let mut found = [Range { start: 0, end: 0 }; N];
    let mut count = 0;
    for region in ram {
        let mut at = region.start;
        while at < region.end {
            // The first obstacle at or behind `at`; what lies before it is free.
            let inside = occupied.iter().find(|o| o.start <= at && at < o.end);
            if let Some(obstacle) = inside {
                at = obstacle.end;
                continue;
            }
            let next = occupied.iter().map(|o| o.start).filter(|&start| start > at).min();
            let end = next.map_or(region.end, |next| next.min(region.end));
            let piece = Range { start: at.saturating_add(4095) & !4095, end: end & !4095 };
            if piece.start < piece.end {
                insert(&mut found, &mut count, piece);
            }
            at = end;
        }
    }
    (found, count)
}

#[cfg(any(target_os = "none", test))]
fn insert<const N: usize>(found: &mut [Range; N], count: &mut usize, piece: Range) {
    let place = found.iter().take(*count).position(|other| other.size() < piece.size()).unwrap_or(*count);
    if place >= N {
        return;
    }
    found[place..].rotate_right(1);
    found[place] = piece;
    *count = (*count + 1).min(N);
}

#[cfg(any(target_os = "none", test))]
/// Finds `size` bytes of guest-physical space that no entry of the map touches, at a multiple of `align`. Below 4 GiB,
/// above all RAM there, where no device of the usual machines is; else above everything.
pub(crate) fn find_hole(map: &[MapEntry], size: u64, align: u64) -> Option<u64> {
    const CANDIDATES: [u64; 3] = [0xf000_0000, 0xe800_0000, 0xe000_0000];
    let free = |start: u64| {
        let wanted = Range::sized(start, size);
        !map.iter().any(|entry| Range::sized(entry.address, entry.size).overlaps(&wanted))
    };
    CANDIDATES.into_iter().find(|&start| free(start)).or_else(|| {
        let top = map.iter().map(|entry| entry.address.saturating_add(entry.size)).max()?.max(1 << 32);
        top.checked_next_multiple_of(align.max(1 << 30))
    })
}

#[cfg(target_os = "none")]
/// The arrays of the start info as they lie in memory, before there is a heap.
pub(crate) struct RawStart {
    pub(crate) flags: u32,
    pub(crate) command_line: &'static [u8],
    pub(crate) modules: &'static [Module],
    pub(crate) memory_map: &'static [MapEntry],
}

#[cfg(target_os = "none")]
impl RawStart {
    /// How many entries of each array count.
    pub(crate) const fn bounded(modules: u32, entries: u32) -> (usize, usize) {
        let modules = if modules > MODULE_LIMIT { MODULE_LIMIT } else { modules };
        let entries = if entries > MEMORY_MAP_LIMIT { MEMORY_MAP_LIMIT } else { entries };
        (modules as usize, entries as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(start: u64, size: u64) -> MapEntry {
        MapEntry { address: start, size, kind: 1, reserved: 0 }
    }

    #[test]
    fn free_memory_goes_around_obstacles() {
        let regions = [Range { start: 0, end: 0x10_0000 }, Range { start: 0x20_0000, end: 0x80_0000 }];
        let occupied = [
            Range { start: 0, end: 0x1000 },
            Range { start: 0x20_0000, end: 0x30_0001 },
            Range { start: 0x70_0000, end: 0x70_0010 },
            Range { start: 0x28_0000, end: 0x29_0000 },
        ];
        let (found, count) = free_pieces::<4>(regions.into_iter(), &occupied);
        assert_eq!(
            &found[..count],
            [
                Range { start: 0x30_1000, end: 0x70_0000 },
                Range { start: 0x1000, end: 0x10_0000 },
                Range { start: 0x70_1000, end: 0x80_0000 },
            ]
        );
        let (found, count) = free_pieces::<1>(regions.into_iter(), &occupied);
        assert_eq!((found[0].start, count), (0x30_1000, 1));
    }

    #[test]
    fn holes_avoid_the_map() {
        assert_eq!(find_hole(&[ram(0, 64 << 20)], 16 << 20, 1 << 21), Some(0xf000_0000));
        assert_eq!(find_hole(&[ram(0, 0xf100_0000)], 16 << 20, 1 << 21), Some(1 << 32));
        assert_eq!(find_hole(&[ram(0, 0xf100_0000), ram(1 << 32, 4096)], 16 << 20, 1 << 21), Some(5 << 30));
    }

    #[test]
    fn options_are_words() {
        let start = StartInfo {
            command_line: "headless disk=xvda  x".into(),
            modules: Vec::new(),
            memory_map: [ram(0, 10), ram(20, 30)].into(),
            flags: 2,
        };
        assert!(start.has_option("headless") && !start.has_option("head"));
        assert_eq!(start.option("disk"), Some("xvda"));
        assert_eq!((start.memory_bytes(), start.is_initial_domain()), (40, true));
    }
}
