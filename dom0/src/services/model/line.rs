//! A serial port whose other end is the domain's console.

use alloc::rc::Rc;
use core::task::{Context, Poll};

use trunnion_backends::device::CharDevice;

use super::super::console::SerialLine;

/// The end at the port.
pub(super) struct Line(pub(super) Rc<SerialLine>);

impl CharDevice for Line {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        self.0.receive(into)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.0.send(bytes)
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_changed(context)
    }
}
