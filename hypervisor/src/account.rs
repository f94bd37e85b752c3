//! What a vCPU did with its time: the four run states, and how long it was in each.

use crate::prelude::*;

/// What a vCPU did with its time so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    pub(crate) state: RunState,
    since: HostTime,
    spent: [u64; 4],
}

impl Account {
    /// From `now` on, in a state.
    pub const fn new(state: RunState, now: HostTime) -> Self {
        Self { state, since: now, spent: [0; 4] }
    }

    /// The state changes.
    pub fn enter(&mut self, state: RunState, now: HostTime) {
        if let Some(spent) = self.spent.get_mut(self.state.number() as usize) {
            *spent = spent.wrapping_add(now.0.saturating_sub(self.since.0));
        }
        self.state = state;
        self.since = now;
    }

    /// As of `now`, with the time in the present state counted.
    pub fn as_of(mut self, now: HostTime) -> Runstate {
        let since = self.since;
        self.enter(self.state, now);
        Runstate { state: self.state.number(), state_entry_time: since.0, time: self.spent }
    }

    /// As an area holds it: the time in the present state is not counted yet.
    pub const fn area(&self) -> Runstate {
        Runstate { state: self.state.number(), state_entry_time: self.since.0, time: self.spent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_accounted_once() {
        let mut account = Account::new(RunState::Offline, HostTime(100));
        account.enter(RunState::Running, HostTime(150));
        account.enter(RunState::Blocked, HostTime(170));
        account.enter(RunState::Running, HostTime(171));
        let now = account.as_of(HostTime(180));
        assert_eq!((now.state, now.state_entry_time, now.time), (0, 171, [29, 0, 1, 50]));
        assert_eq!(now.time.iter().sum::<u64>(), 80);
        assert_eq!(account.area().time, [20, 0, 1, 50]);
        assert_eq!(account.state, RunState::Running);
    }
}
