//! COM2, for machines without virtio: the control connection in small messages.
//!
//! The receiver's interrupt fetches the bytes; the transmitter is waited for. The FIFOs stay off: Bochs then takes a byte from its host
//! only when the one before has been read, and with a FIFO it drops what does not fit.

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
/// In the status register: a byte has come; the transmitter takes one.
const RECEIVED: u8 = 1 << 0;
const ROOM: u8 = 1 << 5;
/// Bytes that are sent at once at most: dom0 has other work too.
const DEPTH: usize = 64;
/// The transmitter has room so soon, at 87 us a byte.
const NEXT: Duration = Duration::from_micros(400);
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
        while ports::read::<u8>(STATUS) & RECEIVED != 0 {
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
    /// Sets the port to 115200 baud, 8 bits, without FIFOs. `None` when there is no such port.
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
        ports::write(FIFO, 0u8);
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

/// Sends a byte, if there is room soon.
fn put(byte: u8) -> bool {
    let end = clock::now().saturating_add(NEXT);
    while ports::read::<u8>(STATUS) & ROOM == 0 {
        if clock::now() > end {
            return false;
        }
    }
    ports::write(BASE, byte);
    true
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
        let count = bytes.iter().take(DEPTH).take_while(|byte| put(**byte)).count();
        self.stalled = count == 0;
        if self.stalled {
            // The long pause may be under way.
            self.timer = None;
        }
        count
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
