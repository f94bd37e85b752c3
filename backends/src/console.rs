//! The console back end: a ring page on one side, a log with absolute positions on the other.
//!
//! Guests busy-wait for their output to be taken, so [`Console::drain`] is called at every event, whether anybody
//! watches or not. What was printed goes to a [`RingLog`]; whoever attaches later reads the log from any position that is
//! still there. A dying guest's last words are still in the ring: drain once more before the page is taken away.

mod log;

pub use log::RingLog;

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use trunnion_protocol::console::{
    CONNECTION, IN, IN_CONS, IN_PROD, IN_SIZE, OUT, OUT_CONS, OUT_PROD, OUT_SIZE,
};
use trunnion_protocol::shared::{SharedPage, WordOffset};

const IN_CONS_WORD: WordOffset = WordOffset::at::<IN_CONS>();
const IN_PROD_WORD: WordOffset = WordOffset::at::<IN_PROD>();
const OUT_CONS_WORD: WordOffset = WordOffset::at::<OUT_CONS>();
const OUT_PROD_WORD: WordOffset = WordOffset::at::<OUT_PROD>();

/// The guest wrote an index that it cannot honestly have written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadIndex {
    /// Its index.
    pub index: u32,
    /// Ours.
    pub ours: u32,
}

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "console ring index {} against {}", self.index, self.ours)
    }
}

impl core::error::Error for BadIndex {}

/// One guest's console. The cursors of this side are private; the page only gets copies.
pub struct Console<P> {
    page: P,
    /// Bytes taken from the guest.
    taken: u32,
    /// Bytes given to the guest.
    given: u32,
}

impl<P: AsRef<SharedPage>> Console<P> {
    /// Sets a fresh ring page up: every index is 0 and the back end is connected.
    pub fn fresh(page: P) -> Self {
        page.as_ref().fill_zero();
        Self { page, taken: 0, given: 0 }
    }

    /// Takes over a ring page as it is.
    pub fn resume(page: P) -> Self {
        let shared = page.as_ref();
        let taken = shared.word(OUT_CONS_WORD).load(Ordering::Acquire);
        let given = shared.word(IN_PROD_WORD).load(Ordering::Acquire);
        let _ = shared.store(CONNECTION, &0u8);
        Self { page, taken, given }
    }

    /// Takes what the guest has printed, at most a ring's worth, and hands it on piece by piece. Returns how many bytes;
    /// when it is not 0, the guest is to be notified.
    pub fn drain(&mut self, mut to: impl FnMut(&[u8])) -> Result<usize, BadIndex> {
        let page = self.page.as_ref();
        let produced = page.word(OUT_PROD_WORD).load(Ordering::Acquire);
        let waiting = produced.wrapping_sub(self.taken);
        if waiting > OUT_SIZE {
            return Err(BadIndex { index: produced, ours: self.taken });
        }
        let mut rest = waiting;
        let mut buffer = [0; 256];
        while rest > 0 {
            let start = self.taken % OUT_SIZE;
            let length = rest.min(OUT_SIZE - start).min(buffer.len() as u32);
            let Some(piece) = buffer.get_mut(..length as usize) else { break };
            if page.copy_out(OUT + start as usize, piece).is_err() {
                break;
            }
            to(piece);
            self.taken = self.taken.wrapping_add(length);
            rest -= length;
        }
        if waiting > 0 {
            // The bytes were copied before the guest may reuse their place.
            fence(Ordering::SeqCst);
            page.word(OUT_CONS_WORD).store(self.taken, Ordering::Release);
        }
        Ok(waiting as usize)
    }

    /// Gives typed bytes to the guest, as many as its ring has room for. Returns how many; when it is not 0, the guest is
    /// to be notified. The rest is offered again after the guest's next event.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, BadIndex> {
        let page = self.page.as_ref();
        let consumed = page.word(IN_CONS_WORD).load(Ordering::Acquire);
        let waiting = self.given.wrapping_sub(consumed);
        if waiting > IN_SIZE {
            return Err(BadIndex { index: consumed, ours: self.given });
        }
        let room = (IN_SIZE - waiting) as usize;
        let mut rest = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
        let count = rest.len();
        while !rest.is_empty() {
            let start = (self.given % IN_SIZE) as usize;
            let (piece, next) = rest.split_at(rest.len().min(IN_SIZE as usize - start));
            if page.copy_in(IN + start, piece).is_err() {
                break;
            }
            self.given = self.given.wrapping_add(piece.len() as u32);
            rest = next;
        }
        if count > 0 {
            page.word(IN_PROD_WORD).store(self.given, Ordering::Release);
        }
        Ok(count)
    }

    /// Gives the page back.
    pub fn into_page(self) -> P {
        self.page
    }
}

#[cfg(test)]
mod tests;
