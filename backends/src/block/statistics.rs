//! What a disk did for its guest, counted when a request is answered.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counters that may be read while the back end works.
#[derive(Default)]
pub struct Statistics {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    errors: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes that they moved.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes that they moved.
    pub write_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards that succeeded.
    pub discards: u64,
    /// Requests that failed, whoever is to blame.
    pub errors: u64,
}

impl Statistics {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            reads: load(&self.reads),
            read_bytes: load(&self.read_bytes),
            writes: load(&self.writes),
            write_bytes: load(&self.write_bytes),
            flushes: load(&self.flushes),
            discards: load(&self.discards),
            errors: load(&self.errors),
        }
    }

    pub(super) fn read(&self, bytes: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
    }

    pub(super) fn written(&self, bytes: u64) {
        add(&self.writes, 1);
        add(&self.write_bytes, bytes);
    }

    pub(super) fn flushed(&self) {
        add(&self.flushes, 1);
    }

    pub(super) fn discarded(&self) {
        add(&self.discards, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.errors, 1);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
