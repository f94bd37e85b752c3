//! COM2, for machines without virtio: the control connection in small messages.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_backends::device::CharDevice;
use trunnion_guest::clock::{self, Sleep};
use trunnion_guest::ports;

/// Registers of the second serial port of a PC (16550).
const BASE: u16 = 0x2f8;
const INTERRUPTS: u16 = BASE + 1;
const FIFO: u16 = BASE + 2;
const LINE: u16 = BASE + 3;
const MODEM: u16 = BASE + 4;
const STATUS: u16 = BASE + 5;
const SCRATCH: u16 = BASE + 7;
/// Bytes that the transmitter takes at once.
const DEPTH: usize = 16;
/// The receiver holds 16 bytes, which at 115200 baud come in 1.4 ms.
const POLL: Duration = Duration::from_millis(1);

/// The serial line. It is polled: its interrupt would be a line shared with COM4, and it carries little.
pub struct Uart {
    timer: Option<Sleep>,
}

impl Uart {
    /// Sets the port to 115200 baud, 8 bits, with FIFOs. `None` when there is no such port.
    pub fn open() -> Option<Self> {
        ports::write(SCRATCH, 0x5au8);
        if ports::read::<u8>(SCRATCH) != 0x5a {
            return None;
        }
        ports::write(INTERRUPTS, 0u8);
        ports::write(LINE, 0x80u8);
        ports::write(BASE, 1u8);
        ports::write(INTERRUPTS, 0u8);
        ports::write(LINE, 3u8);
        ports::write(FIFO, 7u8);
        ports::write(MODEM, 3u8);
        Some(Self { timer: None })
    }
}

impl CharDevice for Uart {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let mut count = 0;
        for byte in into {
            if ports::read::<u8>(STATUS) & 1 == 0 {
                break;
            }
            *byte = ports::read(BASE);
            count += 1;
        }
        count
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        // Empty transmitter: the whole FIFO is free.
        if ports::read::<u8>(STATUS) & 0x20 == 0 {
            return 0;
        }
        let piece = bytes.get(..bytes.len().min(DEPTH)).unwrap_or(bytes);
        for byte in piece {
            ports::write(BASE, *byte);
        }
        piece.len()
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| clock::sleep(POLL));
        let ready = Future::poll(Pin::new(timer), context);
        if ready.is_ready() {
            self.timer = None;
        }
        ready
    }
}
