//! The timer of a local APIC (SDM 11.5.4): counts down from the initial count, once or again and again.

use crate::prelude::*;

/// Nanoseconds of a tick before division: a bus of 100 MHz, as Xen has it.
pub const TICK_NS: u64 = 10;
/// Shortest period, so that a guest cannot keep a processor busy with its timer alone.
const SHORTEST_NS: u64 = 100_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    pub(super) initial: u32,
    pub(super) divide: u32,
    pub(super) periodic: bool,
    /// When the count was, or will be, 0; `None` when it is not running.
    pub(super) end: Option<HostTime>,
}

impl Timer {
    /// Nanoseconds of a tick. Bits 3, 1 and 0 are the power of two less one; 7 divides by 1.
    const fn tick(&self) -> u64 {
        let code = self.divide >> 1 & 4 | self.divide & 3;
        TICK_NS << ((code + 1) & 7)
    }

    /// Nanoseconds of a whole count.
    const fn period(&self) -> u64 {
        self.initial as u64 * self.tick()
    }

    pub(super) fn start(&mut self, initial: u32, now: HostTime) {
        self.initial = initial;
        self.end = (initial != 0).then(|| HostTime(now.0.saturating_add(self.period())));
    }

    /// The count goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, divide: u32, now: HostTime) {
        let left = self.current(now);
        self.divide = divide & 0xb;
        if self.end.is_some() {
            self.end = Some(HostTime(now.0.saturating_add(u64::from(left) * self.tick())));
        }
    }

    pub(super) fn current(&self, now: HostTime) -> u32 {
        let left = self.end.map_or(0, |end| end.0.saturating_sub(now.0));
        left.div_ceil(self.tick()).min(u64::from(self.initial)) as u32
    }

    /// True when the count has come to its end. Periods that were missed are one.
    pub(super) fn expire(&mut self, now: HostTime) -> bool {
        let Some(end) = self.end.filter(|end| *end <= now) else { return false };
        self.end = self.periodic.then(|| {
            let period = self.period().max(SHORTEST_NS);
            let missed = (now.0 - end.0) / period;
            HostTime(end.0.saturating_add((missed + 1).saturating_mul(period)))
        });
        true
    }
}
