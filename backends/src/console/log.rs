//! A bounded log of bytes in which every byte keeps its position.

use alloc::boxed::Box;
use alloc::vec;

/// The last bytes of a stream. Positions count from the stream's start and never repeat.
pub struct RingLog {
    bytes: Box<[u8]>,
    /// Position after the last byte.
    end: u64,
}

impl RingLog {
    /// A log that keeps so many bytes.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), end: 0 }
    }

    /// Position after the last byte.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte that is still there.
    pub fn start(&self) -> u64 {
        self.end.saturating_sub(self.bytes.len() as u64)
    }

    /// Adds bytes; the oldest make room.
    pub fn push(&mut self, bytes: &[u8]) {
        let capacity = self.bytes.len();
        if capacity == 0 {
            self.end = self.end.wrapping_add(bytes.len() as u64);
            return;
        }
        // Only the tail of a piece that is longer than the log can stay.
        let skipped = bytes.len().saturating_sub(capacity);
        self.end = self.end.wrapping_add(skipped as u64);
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        while !rest.is_empty() {
            let at = (self.end % capacity as u64) as usize;
            let (piece, next) = rest.split_at(rest.len().min(capacity - at));
            if let Some(place) = self.bytes.get_mut(at..at + piece.len()) {
                place.copy_from_slice(piece);
            }
            self.end = self.end.wrapping_add(piece.len() as u64);
            rest = next;
        }
    }

    /// The longest piece from a position on that lies together, and its position: later than asked for when those bytes
    /// are gone. An empty piece means that nothing newer is there; otherwise ask again from behind it.
    pub fn read(&self, from: u64) -> (u64, &[u8]) {
        let from = from.clamp(self.start(), self.end);
        let capacity = self.bytes.len() as u64;
        let at = from.checked_rem(capacity).unwrap_or(0);
        let length = (self.end - from).min(capacity - at);
        (from, self.bytes.get(at as usize..(at + length) as usize).unwrap_or_default())
    }
}
