//! Time as a value: nanoseconds of the guest's clock since it was switched on. Whoever calls a device says what time it is.

use serde::{Deserialize, Serialize};

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Time(pub u64);

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

impl Time {
    /// Nanoseconds since an earlier moment; zero if it was later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment so many nanoseconds later.
    #[must_use]
    pub const fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// Ticks of a clock of `hertz` in so many nanoseconds, rounded down.
#[must_use]
pub const fn ticks(nanoseconds: u64, hertz: u64) -> u64 {
    (nanoseconds as u128 * hertz as u128 / SECOND as u128) as u64
}

/// Nanoseconds until a clock of `hertz` has made so many ticks, rounded up.
#[must_use]
pub const fn duration(ticks: u64, hertz: u64) -> u64 {
    let hertz = if hertz == 0 { 1 } else { hertz };
    let nanoseconds = (ticks as u128 * SECOND as u128).div_ceil(hertz as u128);
    if nanoseconds > u64::MAX as u128 { u64::MAX } else { nanoseconds as u64 }
}

/// The earlier of two deadlines.
#[must_use]
pub fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
