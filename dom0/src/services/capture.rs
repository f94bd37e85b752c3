//! Records of what passes through a port, in the format of libpcap with nanoseconds, for Wireshark and tcpdump.
//!
//! A capture is a stream of bytes on a channel of the control connection, from the file's header on. Frames are those that the
//! guest has sent and those that were meant for it, as they passed: large packets whole, blank checksums blank. What the tool
//! does not fetch fast enough is kept up to a limit; frames beyond that are left out and counted.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use trunnion_backends::frame::{Frame, MAX_FRAME, Tap};
use trunnion_backends::net::Gather;
use trunnion_guest::memory::Pages;

use super::grants::Kernel;
use crate::control::{Channel, Outbox};
use crate::devices::interrupt::Signal;

/// Bytes that wait for the tool at most.
const WAITING: usize = 2 << 20;
/// The format's number when times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Ethernet, in the format's list of link types.
const ETHERNET: u32 = 1;

/// The file's header: magic, version 2.4, time zone, accuracy, longest frame, link type.
fn header() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(4u16.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((MAX_FRAME as u32).to_le_bytes());
    bytes.extend(ETHERNET.to_le_bytes());
    bytes
}

/// What stands before each frame: when it passed, in seconds since power-on and nanoseconds; its bytes here, and on the wire.
fn record(now_ns: u64, length: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let words =
        [(now_ns / 1_000_000_000) as u32, (now_ns % 1_000_000_000) as u32, length as u32, length as u32];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A record that is being made.
pub struct Capture {
    kernel: Kernel,
    gather: RefCell<Gather<Pages>>,
    /// A frame that is being recorded.
    frame: RefCell<Vec<u8>>,
    waiting: RefCell<VecDeque<u8>>,
    channel: Channel,
    lost: Cell<u64>,
    output: Rc<Signal>,
}

impl Capture {
    /// A capture that begins with the file's header. `None` when there is not enough memory.
    pub fn new(channel: Channel, output: Rc<Signal>) -> Option<Self> {
        let kernel = Kernel::default();
        Some(Self {
            gather: RefCell::new(Gather::new(&kernel)?),
            kernel,
            frame: RefCell::default(),
            waiting: RefCell::new(header().into()),
            channel,
            lost: Cell::new(0),
            output,
        })
    }

    /// Frames that were left out.
    pub const fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Whether nothing waits for the tool.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Moves bytes to the tool as far as there is room.
    pub fn deliver(&self, outbox: &mut Outbox) {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            let (piece, _) = waiting.as_slices();
            let taken = if piece.is_empty() { 0 } else { outbox.console(self.channel, piece) };
            if taken == 0 {
                return;
            }
            waiting.drain(..taken);
        }
    }
}

impl Tap for Capture {
    fn passes(&self, frame: &Frame<'_>) {
        let mut buffer = self.frame.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        let has_room = waiting.len() + frame.length <= WAITING;
        let mut gather = self.gather.borrow_mut();
        let bytes = if has_room { gather.pull(&self.kernel, frame, &mut buffer) } else { None };
        let Some(bytes) = bytes else {
            self.lost.set(self.lost.get() + 1);
            return;
        };
        let now = trunnion_guest::clock::now().as_nanos() as u64;
        waiting.extend(record(now, bytes.len()));
        waiting.extend(bytes.iter());
        drop(waiting);
        self.output.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_libpcaps() {
        let header = header();
        assert_eq!(header.len(), 24);
        assert_eq!(header[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(header[20..], [1, 0, 0, 0]);
        assert_eq!(record(3_000_000_007, 60)[..12], [3, 0, 0, 0, 7, 0, 0, 0, 60, 0, 0, 0]);
    }
}
