//! The keyboard and the screen of dom0's [terminal](crate::shell::terminal): the hypervisor's console, looked at every few milliseconds.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use trunnion_backends::device::CharDevice;
use trunnion_guest::clock::{self, Sleep};
use trunnion_guest::{console, hypercall};

use crate::shell::terminal::Terminal;

/// From one look to the next: a serial port keeps 16 bytes, which take 1.4 ms at 115200 baud; a person is slower.
const PACE: Duration = Duration::from_millis(5);

/// The terminal as the line to a tool.
#[derive(Default)]
pub struct Keyboard {
    terminal: Terminal,
    timer: Option<Sleep>,
}

impl CharDevice for Keyboard {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let mut byte = [0];
        // One at a time: a byte that the terminal cannot take yet stays where it is.
        while self.terminal.listens() && hypercall::console_read(&mut byte) == Ok(1) {
            self.terminal.key(byte[0]);
        }
        console::write(&self.terminal.text());
        self.terminal.take(into)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.terminal.hear(bytes);
        console::write(&self.terminal.text());
        bytes.len()
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| clock::sleep(PACE));
        let ready = Future::poll(Pin::new(timer), context);
        if ready.is_ready() {
            self.timer = None;
        }
        ready
    }
}
