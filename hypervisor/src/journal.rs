//! The hypervisor's log: a ring of bytes with positions counted from power-on, copied to the machine's console.

use crate::prelude::*;
use core::fmt::Write;

/// Bytes that are kept.
const KEPT: usize = 64 << 10;

struct Ring {
    bytes: Box<[u8]>,
    /// Bytes ever written.
    end: u64,
}

impl Ring {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            let at = (self.end % KEPT as u64) as usize;
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
            self.end += 1;
        }
    }
}

/// The log.
pub struct Journal(Lock<Ring>);

impl Journal {
    pub(crate) fn new() -> Result<Self, OutOfHeap> {
        Ok(Self(Lock::new(Rank::Log, Ring { bytes: boxed(KEPT, || 0)?, end: 0 })))
    }

    /// Adds what was shown before there was a journal.
    pub(crate) fn keep(&self, text: &[u8]) {
        self.0.lock().push(text);
    }

    /// Adds bytes, and shows them.
    pub fn write(&self, machine: &impl Machine, text: &[u8]) {
        let mut ring = self.0.lock();
        ring.push(text);
        machine.console(text);
    }

    /// Adds a line, and shows it.
    pub fn line(&self, machine: &impl Machine, text: fmt::Arguments<'_>) {
        struct Out<'a, M: Machine>(&'a M, &'a mut Ring);
        impl<M: Machine> Write for Out<'_, M> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1.push(text.as_bytes());
                self.0.console(text.as_bytes());
                Ok(())
            }
        }
        let mut ring = self.0.lock();
        let mut out = Out(machine, &mut ring);
        // Writing to the ring cannot fail.
        let _ = out.write_fmt(text);
        let _ = out.write_str("\n");
    }

    /// Copies what was written at `position` and later; returns the position of the first byte given and how many bytes
    /// there are. Bytes that the ring no longer holds are skipped.
    pub fn read(&self, position: u64, into: &mut [u8]) -> (u64, usize) {
        let ring = self.0.lock();
        let start = position.max(ring.end.saturating_sub(KEPT as u64)).min(ring.end);
        let count = (ring.end - start).min(into.len() as u64) as usize;
        for (at, to) in (start..).zip(into.iter_mut().take(count)) {
            *to = ring.bytes.get((at % KEPT as u64) as usize).copied().unwrap_or(0);
        }
        (start, count)
    }
}
