//! Where an emulated card's frames go: the bridge, as from the card's own port.

use alloc::rc::Rc;
use core::cell::Cell;

use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::frame::{Frame, NetPort};
use trunnion_guest::clock;

/// A card's way to its bridge.
pub(super) struct Outlet {
    bridge: Rc<Bridge>,
    port: Cell<Option<PortId>>,
}

impl Outlet {
    pub(super) fn new(bridge: Rc<Bridge>) -> Rc<Self> {
        Rc::new(Self { bridge, port: Cell::new(None) })
    }

    /// Names the card's port.
    pub(super) fn joined(&self, port: PortId) {
        self.port.set(Some(port));
    }
}

impl NetPort for Outlet {
    fn deliver(&self, frame: &Frame<'_>) {
        if let Some(port) = self.port.get() {
            self.bridge.forward(port, frame, clock::now());
        }
    }

    fn flush(&self) {
        self.bridge.flush();
    }
}
