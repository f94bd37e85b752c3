//! Limits of rate: so much a second, with a burst.

use core::time::Duration;

/// Tokens that come in with time. One use may take more than there are: the debt is waited off afterwards, so that a large
/// packet passes under any limit.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Tokens a second.
    rate: u64,
    burst: u64,
    tokens: i64,
    filled: Duration,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: u64, burst: u64, now: Duration) -> Self {
        Self {
            rate: rate.max(1),
            burst: burst.clamp(1, i64::MAX as u64),
            tokens: burst.min(i64::MAX as u64) as i64,
            filled: now,
        }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_nanos();
        let new = passed.saturating_mul(u128::from(self.rate)) / 1_000_000_000;
        if new == 0 {
            return;
        }
        // What is less than a token is not lost: its time counts for the next.
        let spent =
            u64::try_from(new.saturating_mul(1_000_000_000) / u128::from(self.rate)).unwrap_or(u64::MAX);
        self.filled = self.filled.saturating_add(Duration::from_nanos(spent)).min(now);
        let new = i64::try_from(new).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(new).min(self.burst as i64);
    }

    /// Whether something may pass now.
    pub fn is_open(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.tokens > 0
    }

    /// Takes tokens, into debt if need be.
    pub fn take(&mut self, count: u64) {
        self.tokens = self.tokens.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// When the next thing may pass.
    pub fn opens_at(&self) -> Duration {
        let missing = u128::from(self.tokens.saturating_neg().max(0) as u64 + 1);
        let wait = missing.saturating_mul(1_000_000_000).div_ceil(u128::from(self.rate));
        self.filled.saturating_add(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_in_a_second() {
        let mut now = Duration::ZERO;
        let mut bucket = Bucket::new(1_000_000, 64_000, now);
        let mut passed = 0u64;
        while now < Duration::from_secs(10) {
            if bucket.is_open(now) {
                bucket.take(1500);
                passed += 1500;
            } else {
                assert!(bucket.opens_at() > now);
                now = bucket.opens_at();
            }
        }
        assert!((10_000_000..10_100_000).contains(&passed), "{passed}");
    }

    #[test]
    fn asking_often_costs_nothing() {
        let mut bucket = Bucket::new(10_000, 10, Duration::ZERO);
        let mut passed = 0;
        // A token comes every 100 us.
        for step in 0..10_000u64 {
            while bucket.is_open(Duration::from_micros(step * 150)) {
                bucket.take(1);
                passed += 1;
            }
        }
        assert!((14_900..=15_100).contains(&passed), "{passed}");
    }
}
