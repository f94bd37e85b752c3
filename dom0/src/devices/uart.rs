//! COM2, for machines without virtio: the control connection in small messages.
//!
//! The receiver holds 16 bytes, which at 115200 baud come in 1.4 ms; its interrupt fetches them in time. The transmitter
//! is fed by a timer, which needs no interrupt.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_backends::device::CharDevice;
use trunnion_guest::clock::{self, Sleep};
use trunnion_guest::executor::Spawner;
use trunnion_guest::ports;

use super::interrupt::{self, Signal};

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
/// The port's interrupt line, which is wired so on every PC.
const INTERRUPT: u8 = 3;
/// While bytes wait for the transmitter, or when there is no interrupt.
const BUSY: Duration = Duration::from_millis(1);
/// Otherwise: should an interrupt be lost, this finds the bytes.
const IDLE: Duration = Duration::from_millis(50);

/// What the interrupt and the line's owner share.
#[derive(Default)]
struct Receiver {
    bytes: RefCell<VecDeque<u8>>,
    signal: Signal,
}

impl Receiver {
    /// Fetches what has come.
    fn fetch(&self) {
        let mut bytes = self.bytes.borrow_mut();
        while ports::read::<u8>(STATUS) & 1 != 0 {
            bytes.push_back(ports::read(BASE));
        }
    }
}

/// The serial line.
pub struct Uart {
    receiver: Rc<Receiver>,
    timer: Option<Sleep>,
    /// Its interrupt is connected.
    interrupts: bool,
    /// The transmitter was full.
    stalled: bool,
}

impl Uart {
    /// Sets the port to 115200 baud, 8 bits, with FIFOs. `None` when there is no such port.
    pub fn open(spawner: &Spawner) -> Option<Self> {
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
        let receiver = Rc::new(Receiver::default());
        let shared = Rc::clone(&receiver);
        let connected = interrupt::listen(INTERRUPT, spawner, move || {
            shared.fetch();
            shared.signal.raise();
        });
        match connected {
            Ok(()) => ports::write(INTERRUPTS, 1u8),
            Err(error) => log::warn!("COM2: no interrupt ({error}); it is polled every {BUSY:?}"),
        }
        // Data terminal ready, request to send, and the gate of the interrupt.
        ports::write(MODEM, 0x0bu8);
        Some(Self { receiver, timer: None, interrupts: connected.is_ok(), stalled: false })
    }
}

impl CharDevice for Uart {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        self.receiver.fetch();
        let mut bytes = self.receiver.bytes.borrow_mut();
        let count = into.len().min(bytes.len());
        for (to, from) in into.iter_mut().zip(bytes.drain(..count)) {
            *to = from;
        }
        count
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        // Empty transmitter: the whole FIFO is free.
        self.stalled = ports::read::<u8>(STATUS) & 0x20 == 0;
        if self.stalled {
            // The long pause may be under way.
            self.timer = None;
            return 0;
        }
        let piece = bytes.get(..bytes.len().min(DEPTH)).unwrap_or(bytes);
        for byte in piece {
            ports::write(BASE, *byte);
        }
        piece.len()
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.receiver.signal.poll(context).is_ready() {
            return Poll::Ready(());
        }
        let pause = if self.stalled || !self.interrupts { BUSY } else { IDLE };
        let timer = self.timer.get_or_insert_with(|| clock::sleep(pause));
        let ready = Future::poll(Pin::new(timer), context);
        if ready.is_ready() {
            self.timer = None;
        }
        ready
    }
}
