//! The control server: one line to the tool, requests in, replies, events and console bytes out.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;

use spin::Mutex;
use trunnion_backends::device::CharDevice;
use trunnion_guest::clock;
use trunnion_guest::executor::yield_now;
use trunnion_protocol::control::Operation;
use trunnion_protocol::control::PowerOff;

use super::answers;
use super::figures::Baseline;
use super::files::Files;
use super::life::Life;
use super::store::Client;
use super::wire::Wire;
use crate::control::frame::Decoder;
use crate::control::request::StoreRequest;
use crate::control::{Channel, Code, Down, Event, Failure, Reply, Request, VERSION};

/// Bytes read in one go.
const PIECE: usize = 4096;
/// Pieces read in one turn.
const TURN: usize = 16;
/// Silence after which a frame that has begun is given up.
const SILENCE: Duration = Duration::from_secs(1);
/// Log lines that wait for the line at most; older ones go first.
const LINES: usize = 512;

/// dom0's log lines on their way to the tool. The logger cannot reach the server's own state.
static LOG: Mutex<VecDeque<Event>> = Mutex::new(VecDeque::new());

/// Takes a log line.
pub fn log_line(now: Duration, record: &log::Record<'_>) {
    let subsystem = record.target();
    let event = Event::Log {
        at_ns: now.as_nanos() as u64,
        level: record.level() as u8,
        subsystem: subsystem.strip_prefix("trunnion_").unwrap_or(subsystem).into(),
        message: record.args().to_string(),
    };
    let mut lines = LOG.lock();
    if lines.len() >= LINES {
        lines.pop_front();
    }
    lines.push_back(event);
}

/// What the server serves.
pub struct Services {
    /// The domains.
    pub life: Rc<Life>,
    /// The files.
    pub files: Rc<Files>,
    /// The queue to the tool.
    pub wire: Rc<Wire>,
    /// What was in use at first.
    pub baseline: RefCell<Baseline>,
    /// dom0 builds domains.
    pub ready: core::cell::Cell<bool>,
}

/// The server's own state.
struct Server {
    services: Rc<Services>,
    line: Box<dyn CharDevice>,
    decoder: Decoder,
    /// A frame that is being sent, and how much of it is gone.
    sending: (Vec<u8>, usize),
    watches: BTreeMap<u32, Client>,
    heard: Duration,
}

/// Serves the line for ever.
pub async fn serve(services: Rc<Services>, line: Box<dyn CharDevice>) {
    let mut server = Server {
        services,
        line,
        decoder: Decoder::new(),
        sending: (Vec::new(), 0),
        watches: BTreeMap::new(),
        heard: Duration::ZERO,
    };
    loop {
        poll_fn(|context| server.poll(context)).await;
        if server.turn() {
            yield_now().await;
        }
    }
}

impl Server {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // All are asked, so that all have the waker.
        let mut ready = self.line.poll_changed(context).is_ready();
        ready |= self.services.wire.output.poll(context).is_ready();
        for (&watch, client) in &self.watches {
            while let Poll::Ready(Some(event)) = client.poll_event(context) {
                self.services.wire.event(Event::Store { watch, path: event.path });
                ready = true;
            }
        }
        ready |= !LOG.lock().is_empty();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One turn of work. True when it stopped in the middle.
    fn turn(&mut self) -> bool {
        let mut bytes = [0; PIECE];
        let mut more = true;
        for _ in 0..TURN {
            let count = self.line.receive(&mut bytes);
            if count == 0 {
                more = false;
                break;
            }
            self.heard = clock::now();
            self.decoder.push(bytes.get(..count).unwrap_or_default());
        }
        if self.decoder.is_waiting() && clock::now().saturating_sub(self.heard) > SILENCE {
            self.decoder.resynchronise();
        }
        while let Some(payload) = self.decoder.next_frame() {
            match Down::from_payload(&payload) {
                Ok(message) => self.hear(message),
                Err(malformed) => log::warn!("control: {malformed}"),
            }
        }
        let lines = core::mem::take(&mut *LOG.lock());
        for line in lines {
            self.services.wire.event(line);
        }
        self.services.wire.with(|outbox| self.services.life.tools().consoles.deliver(outbox));
        self.send();
        more
    }

    fn send(&mut self) {
        loop {
            let (frame, sent) = &mut self.sending;
            if *sent == frame.len() {
                let Some(next) = self.services.wire.with(crate::control::Outbox::next_frame) else { return };
                (*frame, *sent) = (next, 0);
            }
            let count = self.line.send(frame.get(*sent..).unwrap_or_default());
            *sent += count;
            if count == 0 {
                return;
            }
            // Room was made on a channel: there may be more for it.
            self.services.wire.with(|outbox| self.services.life.tools().consoles.deliver(outbox));
        }
    }

    fn hear(&mut self, message: Down) {
        let services = Rc::clone(&self.services);
        match message {
            Down::Request { id, request } => self.request(id, request),
            Down::Unknown { id } => {
                let words = "dom0 does not know this request";
                services.wire.reply(id, Err(Failure::new(Code::UnknownRequest, words)));
            }
            Down::Console { channel, data } => services.life.tools().consoles.typed(channel, &data),
            Down::Credit { channel, bytes } => {
                services.wire.with(|outbox| outbox.credit(channel, bytes));
                services.wire.output.raise();
            }
        }
    }

    /// Carries a request out; those that take their time become tasks.
    fn request(&mut self, id: u32, request: Request) {
        let services = Rc::clone(&self.services);
        let wire = Rc::clone(&services.wire);
        let spawner = services.life.tools().spawner.clone();
        let result = match request {
            Request::Hello { version } => Ok(self.hello(version)),
            Request::Create { domain, paused } => {
                spawner.spawn(async move {
                    if !services.ready.get() {
                        wire.reply(id, Err(Failure::new(Code::NotReady, "dom0 is not ready yet")));
                        return;
                    }
                    let result = services.life.create(&domain, paused).await;
                    let reply = |(domid, name, warnings): (trunnion_protocol::id::DomainId, _, _)| {
                        Reply::Created { domid: domid.0, name, warnings }
                    };
                    wire.reply(id, result.map(reply));
                });
                return;
            }
            Request::PowerOff => {
                wire.reply(id, Ok(Reply::Done));
                spawner.spawn(async move { power_off(&services).await });
                return;
            }
            Request::ConsoleAttach { domain, channel, replay, hold } => {
                self.attach(&domain, channel, replay, hold)
            }
            Request::ConsoleDetach { channel } => {
                services.life.tools().consoles.detach(channel);
                closed(services.wire.with(|outbox| outbox.close(channel)))
            }
            Request::Xenstore(StoreRequest::Watch { path, watch }) => self.watch(&path, watch),
            Request::Xenstore(StoreRequest::Unwatch { watch }) => match self.watches.remove(&watch) {
                Some(_) => Ok(Reply::Done),
                None => Err(Failure::new(Code::Store, format!("there is no watch {watch}"))),
            },
            other => answers::answer(&services, other),
        };
        wire.reply(id, result);
    }

    /// A tool's first words: what an earlier one opened is closed.
    fn hello(&mut self, version: u16) -> Reply {
        let services = &self.services;
        if version != VERSION {
            log::warn!("control: the tool speaks version {version}, dom0 {VERSION}");
        }
        self.watches.clear();
        for channel in services.life.tools().consoles.detach_all() {
            services.wire.with(|outbox| outbox.close(channel));
        }
        services.wire.greeted.set(true);
        services.wire.greeting.raise();
        Reply::Hello { version: VERSION, ready: services.ready.get() }
    }

    fn attach(
        &self,
        domain: &crate::control::request::DomainName,
        channel: Channel,
        replay: bool,
        hold: bool,
    ) -> Result<Reply, Failure> {
        let services = &self.services;
        let domain = services.life.find(domain)?;
        if !services.wire.with(|outbox| outbox.open(channel)) {
            return Err(Failure::new(Code::Channel, format!("channel {channel} is in use")));
        }
        if services.life.tools().consoles.attach(domain, channel, replay, hold) {
            return Ok(Reply::Done);
        }
        services.wire.with(|outbox| outbox.close(channel));
        Err(Failure::new(Code::State, format!("domain {domain} has no console")))
    }

    fn watch(&mut self, path: &str, watch: u32) -> Result<Reply, Failure> {
        if self.watches.contains_key(&watch) {
            return Err(Failure::new(Code::Store, format!("watch {watch} is in use")));
        }
        let client = self.services.life.tools().store.handle().client();
        let watching = client.with(|client, store| client.watch(store, path, "tool"));
        watching.map_err(|errno| answers::store_failure(errno, path))?;
        self.watches.insert(watch, client);
        self.services.wire.output.raise();
        Ok(Reply::Done)
    }
}

fn closed(was_open: bool) -> Result<Reply, Failure> {
    if was_open {
        Ok(Reply::Done)
    } else {
        Err(Failure::new(Code::Channel, String::from("the channel is not open")))
    }
}

/// Destroys what still runs, says the last words, and ends the platform.
pub async fn power_off(services: &Services) {
    services.life.destroy_all().await;
    log::info!("powering off");
    // The reply and the last log lines get a moment to leave.
    for _ in 0..50 {
        services.wire.output.raise();
        clock::sleep(Duration::from_millis(1)).await;
        if LOG.lock().is_empty() && services.wire.with(|outbox| outbox.is_idle()) {
            break;
        }
    }
    clock::sleep(Duration::from_millis(5)).await;
    if let Err(error) = trunnion_guest::hypercall::control(Operation::PowerOff, &mut PowerOff::default()) {
        log::error!("the platform cannot be powered off: {error}");
    }
}
