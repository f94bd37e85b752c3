//! What every service may say to the tool: replies and events, queued for the control server.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use super::store::Client;
use crate::control::{Event, Failure, Outbox, Reply, Up};
use crate::devices::interrupt::Signal;

/// The queue to the tool.
pub struct Wire {
    outbox: RefCell<Outbox>,
    /// Something is to be sent, or may be.
    pub output: Rc<Signal>,
    /// A tool has said hello.
    pub greeted: Cell<bool>,
    /// Raised at the first hello.
    pub greeting: Signal,
    /// Watches that the tool has asked for, by its numbers.
    pub watches: RefCell<BTreeMap<u32, Client>>,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            outbox: RefCell::new(Outbox::new()),
            output: Rc::new(Signal::default()),
            greeted: Cell::new(false),
            greeting: Signal::default(),
            watches: RefCell::default(),
        }
    }
}

impl Wire {
    /// Uses the queue.
    pub fn with<R>(&self, act: impl FnOnce(&mut Outbox) -> R) -> R {
        act(&mut self.outbox.borrow_mut())
    }

    /// Whether everything has been handed to the line.
    pub fn is_idle(&self) -> bool {
        self.outbox.borrow().is_idle() && super::server::is_log_empty()
    }

    /// Queues an event.
    pub fn event(&self, event: Event) {
        self.message(&Up::Event(event));
    }

    /// Queues the answer to a request.
    pub fn reply(&self, id: u32, result: Result<Reply, Failure>) {
        self.message(&Up::Reply { id, result });
    }

    fn message(&self, message: &Up) {
        let queued = self.outbox.borrow_mut().message(message);
        if let Err(error) = queued {
            // A tool must not wait for an answer that never comes.
            if let Up::Reply { id, .. } = message {
                let failure = Failure::new(crate::control::Code::Limit, alloc::format!("{error}"));
                let _ = self.outbox.borrow_mut().message(&Up::Reply { id: *id, result: Err(failure) });
            }
        }
        self.output.raise();
    }
}
