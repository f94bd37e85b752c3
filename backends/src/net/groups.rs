//! Ethernet groups that a guest wants to hear.

use alloc::vec::Vec;

/// Most groups of one guest; Linux's own limit.
const MAX: usize = 64;

/// The groups. As long as the guest has not asked for a filter, it hears all.
#[derive(Default, Debug)]
pub(super) struct Groups {
    filter: bool,
    list: Vec<[u8; 6]>,
}

/// True for a group address, also the broadcast address.
pub(crate) const fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}

/// The address of everybody.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

impl Groups {
    pub(super) const fn new(filter: bool) -> Self {
        Self { filter, list: Vec::new() }
    }

    /// False when it is no group, or there are too many.
    pub(super) fn add(&mut self, group: [u8; 6]) -> bool {
        if !is_group(group) {
            return false;
        }
        if self.list.contains(&group) {
            return true;
        }
        if self.list.len() >= MAX {
            return false;
        }
        self.list.push(group);
        true
    }

    pub(super) fn remove(&mut self, group: [u8; 6]) {
        self.list.retain(|known| *known != group);
    }

    pub(super) fn hears(&self, address: [u8; 6]) -> bool {
        !self.filter || !is_group(address) || address == BROADCAST || self.list.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_hears_what_it_asked_for() {
        let mut groups = Groups::default();
        let group = |last| [1, 0, 0x5e, 0, 0, last];
        assert!(groups.hears(group(1)));
        groups.filter = true;
        assert!(!groups.hears(group(1)) && groups.hears(BROADCAST) && groups.hears([2; 6]));
        assert!(groups.add(group(1)) && groups.hears(group(1)) && !groups.hears(group(2)));
        assert!(!groups.add([2; 6]));
        for last in 2..65 {
            assert!(groups.add(group(last)));
        }
        assert!(!groups.add(group(65)) && groups.add(group(64)));
        groups.remove(group(1));
        assert!(!groups.hears(group(1)));
    }
}
