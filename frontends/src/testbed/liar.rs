//! Back ends that lie, for whoever writes a front end: disks ([`Liar::disk`]) and network ports ([`Liar::port`]) with everything that
//! a bad back end may do. A front end that meets one must end every task of its own, and get every page back.
//!
//! They run in any guest, of this [`World`](super::World) or of another platform.

mod block;
mod net;

use std::string::{String, ToString};

use trunnion_protocol::xenbus::State;

use crate::error::Error;
use crate::platform::Platform;
use crate::store::Transaction;
use crate::xenbus::BackDevice;

/// A back end that lies.
pub struct Liar<'a> {
    below: &'a dyn Fn(u64) -> u64,
    turns: u64,
    honest: bool,
}

impl<'a> Liar<'a> {
    /// One whose lies come from a source of numbers (each below the one it is given); a connection has fewer than `turns` turns.
    pub const fn new(below: &'a dyn Fn(u64) -> u64, turns: u64) -> Self {
        Self { below, turns, honest: false }
    }

    /// The same back end when it is honest: what a test of liars is worth shows when nobody lies.
    pub const fn honest(below: &'a dyn Fn(u64) -> u64, turns: u64) -> Self {
        Self { below, turns, honest: true }
    }

    fn below(&self, end: u64) -> u64 {
        (self.below)(end)
    }

    /// Whether a lie is told that is told once in so many times.
    fn chance(&self, one_in: u64) -> bool {
        !self.honest && self.below(one_in) == 0
    }

    /// A value that is likely to be near something interesting.
    fn nonsense(&self) -> String {
        match self.below(8) {
            0 => "0".into(),
            1 => self.below(64).to_string(),
            2 => u64::MAX.to_string(),
            3 => "-1".into(),
            4 => "x".repeat(self.below(40) as usize),
            5 => (1u64 << self.below(64)).to_string(),
            _ => self.below(1 << 20).to_string(),
        }
    }

    /// The end of a turn: others get theirs, and now and then the state is any state.
    async fn rest<P: Platform>(&self, device: &BackDevice<'_, '_, P>, one_in: u64) -> Result<(), Error> {
        if self.chance(one_in) {
            let state = self.below(State::ALL.len() as u64) as usize;
            return device.set_state(*State::ALL.get(state).unwrap_or(&State::Unknown)).await;
        }
        device.write(Transaction::NONE, "turn", &self.nonsense()).await
    }
}

impl core::fmt::Debug for Liar<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Liar").field("honest", &self.honest).finish_non_exhaustive()
    }
}
