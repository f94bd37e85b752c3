//! A front end's table of requests in flight: identities that a peer may echo, once each.

/// Up to `N` values by identity. The identity carries the number of times that its place was used, so that an answer that
/// comes twice, or is invented, finds nothing.
pub struct Outstanding<T, const N: usize> {
    places: [(u32, Option<T>); N],
    /// Where the search for a free place starts.
    next: usize,
    used: usize,
}

impl<T, const N: usize> Outstanding<T, N> {
    /// An empty table.
    pub const fn new() -> Self {
        Self { places: [const { (0, None) }; N], next: 0, used: 0 }
    }

    /// Keeps a value and gives its identity; the value comes back when the table is full.
    pub fn insert(&mut self, value: T) -> Result<u64, T> {
        for step in 0..N {
            let index = (self.next + step) % N;
            if let Some((uses, place @ None)) = self.places.get_mut(index) {
                *uses = uses.wrapping_add(1);
                *place = Some(value);
                self.next = (index + 1) % N;
                self.used += 1;
                return Ok(u64::from(*uses) << 32 | index as u64);
            }
        }
        Err(value)
    }

    /// Takes the value of an identity out; `None` for one that is not in flight.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let (uses, place) = self.places.get_mut(id as u32 as usize)?;
        if *uses != (id >> 32) as u32 {
            return None;
        }
        let value = place.take()?;
        self.used -= 1;
        Some(value)
    }

    /// How many are in flight.
    pub const fn len(&self) -> usize {
        self.used
    }

    /// True when nothing is in flight.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes out whatever is left, for a peer that is gone.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.used = 0;
        self.places.iter_mut().filter_map(|(_, place)| place.take())
    }
}

impl<T, const N: usize> Default for Outstanding<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
