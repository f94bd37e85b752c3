//! COM1, by polling: it must work when nothing else does.

use crate::machine::prelude::*;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const RECEIVED: u8 = 1;
const CAN_SEND: u8 = 0x20;
const ALL_SENT: u8 = 0x40;
/// Polls before a byte is given up: a machine without a UART answers all ones or nothing at all.
const PATIENCE: u32 = 1_000_000;

static LOCK: Mutex<()> = Mutex::new(());

/// 115200 baud, 8N1, no interrupts, FIFO on.
pub fn init() {
    for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 3)] {
        out8(COM1 + offset, value);
    }
}

fn waits_for(bit: u8) -> bool {
    (0..PATIENCE).any(|_| in8(LINE_STATUS) & bit != 0)
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    let _guard = LOCK.lock();
    for byte in bytes {
        if waits_for(CAN_SEND) {
            out8(COM1, *byte);
        }
    }
}

/// Takes bytes that have come, and says how many.
pub fn read(into: &mut [u8]) -> usize {
    let _guard = LOCK.lock();
    // A machine without a UART answers all ones.
    let come = || matches!(in8(LINE_STATUS), status if status & RECEIVED != 0 && status != 0xff);
    into.iter_mut().take_while(|_| come()).map(|place| *place = in8(COM1)).count()
}

/// Waits until the last byte is on the wire.
pub fn drain() {
    waits_for(ALL_SENT);
}

/// Takes the lock from whoever holds it: for the crash screen, after which nobody writes any more.
pub fn force_unlock() {
    // SAFETY: the holder never runs again.
    unsafe { LOCK.force_unlock() };
}

/// COM1 for formatted text.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}
