//! Sorted sets of address ranges in a fixed array, for the time before there is a heap.

/// Most ranges in a set.
const MOST: usize = 128;

/// Disjoint ranges `from..to`, sorted. A range that does not fit any more is dropped: memory that is not known is not used,
/// and the busy ones are few.
#[derive(Clone, Debug)]
pub struct Ranges {
    list: [(u64, u64); MOST],
    count: usize,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { list: [(0, 0); MOST], count: 0 }
    }
}

impl Ranges {
    /// The ranges, lowest first.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        self.list.get(..self.count).unwrap_or_default()
    }

    /// Adds `from..to`, joining what touches it.
    pub fn add(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        let mut kept = 0;
        for index in 0..self.count {
            let (a, b) = self.list[index];
            if b < from || a > to {
                self.list[kept] = (a, b);
                kept += 1;
            } else {
                from = from.min(a);
                to = to.max(b);
            }
        }
        self.count = kept;
        if kept == MOST {
            return;
        }
        let place = self.as_slice().partition_point(|range| range.0 < from);
        self.list.copy_within(place..kept, place + 1);
        self.list[place] = (from, to);
        self.count += 1;
    }

    /// Takes `from..to` out.
    pub fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let old = self.clone();
        *self = Self::default();
        for &(a, b) in old.as_slice() {
            self.add(a, b.min(from));
            self.add(a.max(to), b);
        }
    }

    /// Takes another set out of this one.
    pub fn remove_all(&mut self, other: &Self) {
        for &(from, to) in other.as_slice() {
            self.remove(from, to);
        }
    }

    /// The lowest place for `size` bytes with an alignment (a power of two) at or above `least` and below `most`.
    pub fn find(&self, size: u64, align: u64, least: u64, most: u64) -> Option<u64> {
        self.as_slice().iter().find_map(|&(from, to)| {
            let start = from.max(least).checked_next_multiple_of(align)?;
            (start.checked_add(size)? <= to.min(most)).then_some(start)
        })
    }

    /// The same ranges cut to whole pages of `size` bytes (a power of two), inwards.
    #[must_use]
    pub fn pages_inside(&self, size: u64) -> Self {
        let mut pages = Self::default();
        for &(from, to) in self.as_slice() {
            pages.add(from.checked_next_multiple_of(size).unwrap_or(u64::MAX), to & !(size - 1));
        }
        pages
    }

    /// The same ranges widened to whole pages of `size` bytes (a power of two).
    #[must_use]
    pub fn pages_around(&self, size: u64) -> Self {
        let mut pages = Self::default();
        for &(from, to) in self.as_slice() {
            pages.add(from & !(size - 1), to.checked_next_multiple_of(size).unwrap_or(u64::MAX));
        }
        pages
    }

    /// Bytes in the set.
    pub fn total(&self) -> u64 {
        self.as_slice().iter().map(|(from, to)| to - from).sum()
    }

    /// The end of the highest range.
    pub fn end(&self) -> u64 {
        self.as_slice().last().map_or(0, |range| range.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(from, to) in list {
            ranges.add(from, to);
        }
        ranges
    }

    #[test]
    fn joining_and_sorting() {
        let ranges = of(&[(10, 20), (40, 50), (20, 30), (0, 5), (7, 7), (45, 60)]);
        assert_eq!(ranges.as_slice(), &[(0, 5), (10, 30), (40, 60)]);
        assert_eq!((ranges.total(), ranges.end()), (45, 60));
    }

    #[test]
    fn holes() {
        let mut ranges = of(&[(0, 100), (200, 300)]);
        ranges.remove_all(&of(&[(10, 20), (90, 210), (250, 251)]));
        assert_eq!(ranges.as_slice(), &[(0, 10), (20, 90), (210, 250), (251, 300)]);
        ranges.remove(0, u64::MAX);
        assert_eq!(ranges.as_slice(), &[]);
    }

    #[test]
    fn places() {
        let ranges = of(&[(1, 100), (200, 1000)]);
        assert_eq!(ranges.find(50, 16, 0, u64::MAX), Some(16));
        assert_eq!(ranges.find(90, 16, 0, u64::MAX), Some(208));
        assert_eq!(ranges.find(90, 16, 0, 250), None);
        assert_eq!(ranges.find(50, 16, 300, u64::MAX), Some(304));
        assert_eq!(ranges.find(900, 1, 0, u64::MAX), None);
    }

    #[test]
    fn pages() {
        let ranges = of(&[(1, 100), (130, 140), (200, 1000)]);
        assert_eq!(ranges.pages_inside(64).as_slice(), &[(256, 960)]);
        assert_eq!(ranges.pages_around(64).as_slice(), &[(0, 1024)]);
    }

    #[test]
    fn too_many_ranges_are_dropped() {
        let mut ranges = Ranges::default();
        for index in 0..1000 {
            ranges.add(index * 10, index * 10 + 5);
        }
        assert_eq!(ranges.as_slice().len(), MOST);
        ranges.add(3, 12);
        assert_eq!(ranges.as_slice()[0], (0, 15));
    }
}
