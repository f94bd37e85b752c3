//! The console daemon: one log for each domain, drained whether anybody watches or not.
//!
//! What a guest prints goes into its log, in which every byte keeps its position; an attachment is a position in the log
//! and moves on as its channel has room. An attachment that *holds* makes the guest wait instead of losing bytes.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::{Context, Poll};

use trunnion_backends::console::{Console, RingLog};
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::Spawner;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::console::OUT_SIZE;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};

use super::charge::{Meter, charged};
use super::foreign::ForeignPage;
use crate::control::{Channel, Event, Outbox};
use crate::devices::interrupt::Signal;

/// Bytes of a domain's log.
const LOG: usize = 128 * 1024;
/// Typed bytes that wait for a guest at most.
const TYPED: usize = 16 * 1024;

struct Attachment {
    channel: Channel,
    position: u64,
    hold: bool,
}

struct Guest {
    console: Option<Console<ForeignPage>>,
    port: Port,
    log: RingLog,
    typed: VecDeque<u8>,
    attachments: Vec<Attachment>,
    /// The serial port of an emulated PC leads here, and is what typed bytes go to; woken when there are some, or room.
    serial: Option<Signal>,
    /// The ring is broken by the guest; nothing more comes of it.
    broken: bool,
}

/// All consoles.
pub struct Consoles {
    guests: RefCell<BTreeMap<DomainId, Guest>>,
    /// There is something for the control connection.
    output: Rc<Signal>,
    spawner: Spawner,
}

impl Consoles {
    /// No consoles yet. `output` is raised when [`Self::deliver`] has something to do.
    pub fn new(output: Rc<Signal>, spawner: Spawner) -> Rc<Self> {
        Rc::new(Self { guests: RefCell::default(), output, spawner })
    }

    /// Serves a domain's console: its ring page and the port that it opened.
    pub fn connect(self: &Rc<Self>, domain: DomainId, frame: Gfn, remote: Port) -> Result<(), Errno> {
        let page = ForeignPage::map(domain, frame)?;
        let port = events::bind_interdomain(domain, remote)?;
        let guest = Guest {
            console: Some(Console::fresh(page)),
            port,
            log: RingLog::new(LOG),
            typed: VecDeque::new(),
            attachments: Vec::new(),
            serial: None,
            broken: false,
        };
        self.guests.borrow_mut().insert(domain, guest);
        let consoles = Rc::clone(self);
        self.spawner.spawn(charged(Meter::new(domain), async move {
            let listener = Listener::new(port);
            while listener.next().await {
                consoles.serve(domain);
            }
        }));
        Ok(())
    }

    /// Leads the serial port of a domain's emulated PC to its console.
    pub fn line(self: &Rc<Self>, domain: DomainId) -> Rc<SerialLine> {
        if let Some(guest) = self.guests.borrow_mut().get_mut(&domain) {
            guest.serial = Some(Signal::default());
        }
        Rc::new(SerialLine { consoles: Rc::clone(self), domain })
    }

    /// Takes the last bytes out of the ring and lets go of the page. The log and its attachments stay until
    /// [`Self::forget`].
    pub fn disconnect(&self, domain: DomainId) {
        let mut guests = self.guests.borrow_mut();
        let Some(guest) = guests.get_mut(&domain) else { return };
        guest.drain(true);
        if guest.console.take().is_some()
            && let Err(error) = events::close(guest.port)
        {
            log::error!("the console's port cannot be closed: {error} domain={domain}");
        }
        drop(guests);
        self.output.raise();
    }

    /// Whether attachments that hold still have to be sent something.
    pub fn is_flushed(&self, domain: DomainId) -> bool {
        let guests = self.guests.borrow();
        guests.get(&domain).is_none_or(|guest| {
            guest.attachments.iter().filter(|a| a.hold).all(|a| a.position >= guest.log.end())
        })
    }

    /// The channels that are attached to a domain.
    pub fn channels(&self, domain: DomainId) -> Vec<Channel> {
        let guests = self.guests.borrow();
        guests
            .get(&domain)
            .map(|guest| guest.attachments.iter().map(|a| a.channel).collect())
            .unwrap_or_default()
    }

    /// Drops a domain's log; its channels are returned, to be closed.
    pub fn forget(&self, domain: DomainId) -> Vec<Channel> {
        let guest = self.guests.borrow_mut().remove(&domain);
        guest.map(|guest| guest.attachments.iter().map(|a| a.channel).collect()).unwrap_or_default()
    }

    /// Opens an attachment; false when the domain has no console.
    pub fn attach(&self, domain: DomainId, channel: Channel, replay: bool, hold: bool) -> bool {
        let mut guests = self.guests.borrow_mut();
        let Some(guest) = guests.get_mut(&domain) else { return false };
        let position = if replay { guest.log.start() } else { guest.log.end() };
        guest.attachments.push(Attachment { channel, position, hold });
        drop(guests);
        self.output.raise();
        true
    }

    /// Ends an attachment.
    pub fn detach(&self, channel: Channel) {
        let mut guests = self.guests.borrow_mut();
        for guest in guests.values_mut() {
            guest.attachments.retain(|attachment| attachment.channel != channel);
        }
        drop(guests);
        self.serve_all();
    }

    /// Bytes typed on a channel. What finds no room is dropped.
    pub fn typed(&self, channel: Channel, bytes: &[u8]) {
        let mut guests = self.guests.borrow_mut();
        let found =
            guests.iter_mut().find(|(_, guest)| guest.attachments.iter().any(|a| a.channel == channel));
        let Some((&domain, guest)) = found else { return };
        let room = TYPED.saturating_sub(guest.typed.len()).min(bytes.len());
        guest.typed.extend(bytes.get(..room).unwrap_or_default());
        drop(guests);
        self.serve(domain);
    }

    /// Moves bytes between the logs and the control connection, as far as there is room.
    pub fn deliver(&self, outbox: &mut Outbox) {
        let mut moved = false;
        for guest in self.guests.borrow_mut().values_mut() {
            for attachment in &mut guest.attachments {
                moved |= attachment.deliver(&guest.log, outbox);
            }
        }
        if moved {
            // There may be room now for what guests hold back.
            self.serve_all();
        }
    }

    fn serve_all(&self) {
        let domains: Vec<_> = self.guests.borrow().keys().copied().collect();
        for domain in domains {
            self.serve(domain);
        }
    }

    fn serve(&self, domain: DomainId) {
        let mut guests = self.guests.borrow_mut();
        let Some(guest) = guests.get_mut(&domain) else { return };
        if let Some(serial) = &guest.serial {
            serial.raise();
        }
        let drained = guest.drain(false);
        let fed = guest.feed();
        if (drained || fed) && guest.console.is_some() {
            let _ = events::send(guest.port);
        }
        drop(guests);
        if drained {
            self.output.raise();
        }
    }
}

/// The console's end of a serial line.
pub struct SerialLine {
    consoles: Rc<Consoles>,
    domain: DomainId,
}

impl SerialLine {
    /// Takes typed bytes.
    pub fn receive(&self, into: &mut [u8]) -> usize {
        let mut guests = self.consoles.guests.borrow_mut();
        let Some(guest) = guests.get_mut(&self.domain) else { return 0 };
        let count = into.len().min(guest.typed.len());
        for (to, from) in into.iter_mut().zip(guest.typed.drain(..count)) {
            *to = from;
        }
        count
    }

    /// Puts bytes into the log, as far as attachments that hold let it.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut guests = self.consoles.guests.borrow_mut();
        // Of a console that is forgotten nobody reads.
        let Some(guest) = guests.get_mut(&self.domain) else { return bytes.len() };
        if guest.is_held(bytes.len() as u64) {
            return 0;
        }
        guest.log.push(bytes);
        drop(guests);
        self.consoles.output.raise();
        bytes.len()
    }

    /// Ready when there may be typed bytes, or room.
    pub fn poll_changed(&self, context: &mut Context<'_>) -> Poll<()> {
        let guests = self.consoles.guests.borrow();
        let serial = guests.get(&self.domain).and_then(|guest| guest.serial.as_ref());
        serial.map_or(Poll::Pending, |serial| serial.poll(context))
    }
}

impl Attachment {
    fn deliver(&mut self, log: &RingLog, outbox: &mut Outbox) -> bool {
        let mut moved = false;
        loop {
            let (position, piece) = log.read(self.position);
            if position > self.position {
                let lost = Event::ConsoleLost { channel: self.channel, bytes: position - self.position };
                // An event is small; it fits.
                let _ = outbox.message(&crate::control::Up::Event(lost));
                self.position = position;
            }
            let taken = if piece.is_empty() { 0 } else { outbox.console(self.channel, piece) };
            self.position += taken as u64;
            moved |= taken > 0;
            if taken == 0 || taken < piece.len() {
                return moved;
            }
        }
    }
}

impl Guest {
    /// Whether so many bytes more would make an attachment that holds lose some.
    fn is_held(&self, bytes: u64) -> bool {
        let backlog = |a: &Attachment| self.log.end().saturating_sub(a.position).saturating_add(bytes);
        self.attachments.iter().filter(|a| a.hold).any(|a| backlog(a) > LOG as u64)
    }

    /// Takes what the guest has printed, unless that would make an attachment that holds lose bytes. `last`: take it anyway.
    fn drain(&mut self, last: bool) -> bool {
        if !last && self.is_held(u64::from(OUT_SIZE)) {
            return false;
        }
        let Some(console) = self.console.as_mut().filter(|_| !self.broken) else { return false };
        let log = &mut self.log;
        match console.drain(|bytes| log.push(bytes)) {
            Ok(count) => count > 0,
            Err(error) => {
                log::warn!("console given up: {error}");
                self.broken = true;
                false
            }
        }
    }

    fn feed(&mut self) -> bool {
        if self.serial.is_some() {
            return false;
        }
        let Some(console) = self.console.as_mut().filter(|_| !self.broken) else { return false };
        let (bytes, _) = self.typed.as_slices();
        match console.feed(bytes) {
            Ok(count) => {
                self.typed.drain(..count);
                count > 0
            }
            Err(error) => {
                log::warn!("console given up: {error}");
                self.broken = true;
                false
            }
        }
    }
}
