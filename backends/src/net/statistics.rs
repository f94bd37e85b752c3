//! What a port did for its guest. Names are the guest's: *received* is what came to it.

use core::cell::Cell;

/// Counters that may be read while the back end works.
#[derive(Default)]
pub struct Statistics {
    counts: Cell<Snapshot>,
}

/// The counters at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Packets to the guest; a large one counts once.
    pub rx_packets: u64,
    /// Bytes to the guest.
    pub rx_bytes: u64,
    /// Packets from the guest.
    pub tx_packets: u64,
    /// Bytes from the guest.
    pub tx_bytes: u64,
    /// Packets to the guest for which it had no buffers in time.
    pub rx_dropped: u64,
    /// Packets from the guest that were malformed, or came from an address that is not its own.
    pub tx_dropped: u64,
    /// Packets to the guest that had to be cut, or to get their checksum, here.
    pub rx_software: u64,
    /// Events that were sent to it.
    pub events: u64,
}

impl Snapshot {
    /// Packets that were dropped, both ways.
    pub const fn dropped(&self) -> u64 {
        self.rx_dropped.wrapping_add(self.tx_dropped)
    }
}

impl Statistics {
    /// The counters now.
    pub const fn snapshot(&self) -> Snapshot {
        self.counts.get()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}
