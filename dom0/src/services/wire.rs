//! What every service may say to the tool: replies and events, queued for the control server.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_protocol::errno::Errno;

use super::store::Client;
use crate::control::{Event, Failure, Outbox, Reply, Up};
use crate::devices::interrupt::Signal;

/// How long the tool may be silent while a piece of a file is awaited.
const SILENCE: Duration = Duration::from_mins(1);

/// A piece of a file on its way.
#[derive(Default)]
struct Pull {
    ticket: u32,
    wanted: usize,
    bytes: Vec<u8>,
    lost: Option<Errno>,
}

/// The queue to the tool.
pub struct Wire {
    outbox: RefCell<Outbox>,
    /// Something is to be sent, or may be.
    pub output: Rc<Signal>,
    /// A tool has said hello.
    pub greeted: Cell<bool>,
    /// Raised at the first hello.
    pub greeting: Signal,
    /// The piece of a file that is being fetched. Domains are built one at a time, so there is one.
    pull: RefCell<Pull>,
    /// Raised when more of it came.
    pulled: Signal,
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
            pull: RefCell::default(),
            pulled: Signal::default(),
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

    /// Fetches a piece of a file that is with the tool.
    pub async fn fetch(&self, file: u32, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| Errno::NoMem)?;
        let wanted = u32::try_from(length).map_err(|_| Errno::Inval)?;
        let ticket = {
            let mut pull = self.pull.borrow_mut();
            *pull = Pull { ticket: pull.ticket.wrapping_add(1), wanted: length, bytes, lost: None };
            pull.ticket
        };
        self.event(Event::Want { ticket, file, offset, length: wanted });
        loop {
            {
                let mut pull = self.pull.borrow_mut();
                if let Some(error) = pull.lost {
                    return Err(error);
                }
                if pull.bytes.len() == length {
                    return Ok(core::mem::take(&mut pull.bytes));
                }
            }
            let mut silence = pin!(clock::sleep(SILENCE));
            let came = poll_fn(|context| match self.pulled.poll(context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => silence.as_mut().poll(context).map(|()| false),
            });
            if !came.await {
                return Err(Errno::TimedOut);
            }
        }
    }

    /// More of a piece came from the tool.
    pub fn data(&self, ticket: u32, offset: u32, data: &[u8]) {
        let mut pull = self.pull.borrow_mut();
        let have = pull.bytes.len();
        if ticket != pull.ticket || have == pull.wanted || pull.lost.is_some() {
            log::warn!("control: a piece of a file that nobody waits for ticket={ticket}");
        } else if data.is_empty() {
            pull.lost = Some(Errno::NoEnt);
        } else if offset as usize != have || data.len() > pull.wanted - have {
            // The line lost a frame.
            pull.lost = Some(Errno::Io);
        } else {
            pull.bytes.extend_from_slice(data);
        }
        self.pulled.raise();
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
