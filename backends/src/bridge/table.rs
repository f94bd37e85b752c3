//! The addresses that a bridge has seen.

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::PortId;

/// Most addresses, and most of one port.
const MAX: usize = 2048;
const MAX_OF_PORT: usize = 256;
/// How long an address is believed.
const AGE: Duration = Duration::from_mins(5);
/// How often a full table is searched for what is too old, at most: a search looks at all of it, and senders choose how many addresses
/// and tags they send.
const SEARCH: Duration = Duration::from_secs(1);

struct Seen {
    port: PortId,
    at: Duration,
}

/// Addresses by VLAN.
#[derive(Default)]
pub(super) struct Table {
    seen: BTreeMap<([u8; 6], u16), Seen>,
    of_port: BTreeMap<PortId, usize>,
    /// When it was searched last.
    searched: Option<Duration>,
}

impl Table {
    pub(super) fn learn(&mut self, address: [u8; 6], tag: u16, port: PortId, now: Duration) {
        if crate::net::is_group(address) {
            return;
        }
        if let Some(seen) = self.seen.get_mut(&(address, tag)) {
            seen.at = now;
            if seen.port != port {
                let old = core::mem::replace(&mut seen.port, port);
                self.count(old, -1);
                self.count(port, 1);
            }
            return;
        }
        if self.is_full(port) {
            // What is too old makes room.
            if self.searched.is_some_and(|before| now.saturating_sub(before) < SEARCH) {
                return;
            }
            self.searched = Some(now);
            self.age(now);
            if self.is_full(port) {
                return;
            }
        }
        self.seen.insert((address, tag), Seen { port, at: now });
        self.count(port, 1);
    }

    fn is_full(&self, port: PortId) -> bool {
        self.seen.len() >= MAX || self.of_port.get(&port).is_some_and(|count| *count >= MAX_OF_PORT)
    }

    fn count(&mut self, port: PortId, change: isize) {
        let count = self.of_port.entry(port).or_default();
        *count = count.saturating_add_signed(change);
    }

    fn age(&mut self, now: Duration) {
        let of_port = &mut self.of_port;
        self.seen.retain(|_, seen| {
            let keep = now.saturating_sub(seen.at) < AGE;
            if !keep && let Some(count) = of_port.get_mut(&seen.port) {
                *count = count.saturating_sub(1);
            }
            keep
        });
    }

    pub(super) fn find(&self, address: [u8; 6], tag: u16, now: Duration) -> Option<PortId> {
        let seen = self.seen.get(&(address, tag))?;
        (now.saturating_sub(seen.at) < AGE).then_some(seen.port)
    }

    pub(super) fn forget(&mut self, port: PortId) {
        self.seen.retain(|_, seen| seen.port != port);
        self.of_port.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_does_not_fill_the_table() {
        let mut table = Table::default();
        let now = Duration::from_secs(1);
        for n in 0..5000u32 {
            let [a, b, c, d] = n.to_be_bytes();
            table.learn([2, a, b, c, d, 0], 0, PortId(1), now);
        }
        assert_eq!(table.seen.len(), MAX_OF_PORT);
        assert_eq!(table.searched, Some(now), "one search");
        table.learn([2, 0, 0, 0x12, 0, 0], 1, PortId(1), now + SEARCH / 2);
        assert_eq!(table.searched, Some(now));
        table.learn([2; 6], 0, PortId(2), now);
        assert_eq!(table.find([2; 6], 0, now), Some(PortId(2)));
        assert_eq!(table.find([2; 6], 5, now), None);
        let later = now + AGE;
        assert_eq!(table.find([2; 6], 0, later), None);
        table.learn([4; 6], 0, PortId(1), later);
        assert_eq!(table.find([4; 6], 0, later), Some(PortId(1)));
        table.learn([4; 6], 0, PortId(3), later);
        assert_eq!(table.find([4; 6], 0, later), Some(PortId(3)));
        table.forget(PortId(3));
        assert_eq!(table.find([4; 6], 0, later), None);
    }
}
