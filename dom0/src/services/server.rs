//! The control server: one line to the tool, requests in, replies, events and console bytes out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::Mutex;
use trunnion_backends::device::CharDevice;
use trunnion_guest::executor::yield_now;

use super::platform::Dom0;
use super::wire::Wire;
use crate::control::frame::Decoder;
use crate::control::{Code, Down, Event, Failure, Request};
use crate::domains::Toolstack;

/// Bytes read in one go.
const PIECE: usize = 4096;
/// Pieces read in one turn.
const TURN: usize = 16;
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

/// Whether no log line waits.
pub(crate) fn is_log_empty() -> bool {
    LOG.lock().is_empty()
}

/// The server's own state.
struct Server {
    toolstack: Rc<Toolstack<Dom0>>,
    wire: Rc<Wire>,
    line: Box<dyn CharDevice>,
    decoder: Decoder,
    /// A frame that is being sent, and how much of it is gone.
    sending: (Vec<u8>, usize),
}

/// Serves the line for ever.
pub async fn serve(toolstack: Rc<Toolstack<Dom0>>, line: Box<dyn CharDevice>) {
    let mut server = Server {
        wire: Rc::clone(&toolstack.platform().wire),
        toolstack,
        line,
        decoder: Decoder::new(),
        sending: (Vec::new(), 0),
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
        ready |= self.wire.output.poll(context).is_ready();
        for (&watch, client) in self.wire.watches.borrow().iter() {
            while let Poll::Ready(Some(event)) = client.poll_event(context) {
                self.wire.event(Event::Store { watch, path: event.path });
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
            self.decoder.push(bytes.get(..count).unwrap_or_default());
        }
        let skipped = self.decoder.skipped();
        while let Some(payload) = self.decoder.next_frame() {
            match Down::from_payload(&payload) {
                Ok(message) => self.hear(message),
                Err(malformed) => log::warn!("control: {malformed}"),
            }
        }
        if self.decoder.skipped() > skipped {
            log::warn!("control: bytes without a frame count={}", self.decoder.skipped() - skipped);
        }
        let lines = core::mem::take(&mut *LOG.lock());
        for line in lines {
            self.wire.event(line);
        }
        self.deliver();
        self.send();
        more
    }

    fn send(&mut self) {
        loop {
            let (frame, sent) = &mut self.sending;
            if *sent == frame.len() {
                let Some(next) = self.wire.with(crate::control::Outbox::next_frame) else { return };
                (*frame, *sent) = (next, 0);
            }
            let count = self.line.send(frame.get(*sent..).unwrap_or_default());
            *sent += count;
            if count == 0 {
                return;
            }
            // Room was made on a channel: there may be more for it.
            self.deliver();
        }
    }

    fn deliver(&self) {
        let platform = self.toolstack.platform();
        self.wire.with(|outbox| {
            platform.consoles.deliver(outbox);
            platform.nets.deliver(outbox);
        });
    }

    fn hear(&mut self, message: Down) {
        match message {
            Down::Request { id, request } => {
                if matches!(request, Request::Hello { .. }) {
                    self.greet();
                }
                // Each request is a task of its own: some take their time. Its first step is taken here, in the order of
                // arrival, so that credit finds open the channel that the request before it opened.
                let (toolstack, wire) = (Rc::clone(&self.toolstack), Rc::clone(&self.wire));
                let mut task = Box::pin(async move {
                    let result = toolstack.answer(request).await;
                    wire.reply(id, result);
                });
                if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    self.toolstack.platform().spawner.spawn(task);
                }
            }
            Down::Unknown { id } => {
                let words = "dom0 does not know this request";
                self.wire.reply(id, Err(Failure::new(Code::UnknownRequest, words)));
            }
            Down::Console { channel, data } => self.toolstack.platform().consoles.typed(channel, &data),
            Down::Data { ticket, offset, data } => self.wire.data(ticket, offset, &data),
            Down::Credit { channel, bytes } => {
                self.wire.with(|outbox| outbox.credit(channel, bytes));
                self.wire.output.raise();
            }
        }
    }

    /// A tool's first words. The line has one tool for its whole life, which repeats them until it is answered: a serial
    /// line loses what comes before its receiver is set up.
    fn greet(&self) {
        self.wire.greeted.set(true);
        self.wire.greeting.raise();
    }
}
