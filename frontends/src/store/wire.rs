//! The client's end of the ring: one request out, replies and events in.

use core::sync::atomic::{Ordering, fence};

use trunnion_protocol::shared::{SharedPage, WordOffset};
use trunnion_protocol::store::{Header, Kind, PAYLOAD_MAX, RING_SIZE, page};

use super::watch::Registry;
use crate::error::Error;

/// What moving bytes has led to.
pub(super) struct Progress {
    /// The store is to be notified.
    pub(super) moved: bool,
    /// A reply has come whole, or a watch was marked, or the wire broke.
    pub(super) news: bool,
}

/// Where the one request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none.
    Idle,
    /// Sent, or being sent.
    Waiting,
    /// The same, and nobody wants the reply.
    Abandoned,
    /// The reply is in `body`.
    Answered(Header),
}

pub(super) struct Wire<T> {
    pages: T,
    out: [u8; Header::SIZE + PAYLOAD_MAX],
    out_length: usize,
    out_sent: usize,
    head: [u8; Header::SIZE],
    body: [u8; PAYLOAD_MAX],
    received: usize,
    requests: u32,
    phase: Phase,
    broken: bool,
    pub(super) watches: Registry,
}

impl<T> Wire<T> {
    pub(super) const fn new(pages: T) -> Self {
        Self {
            pages,
            out: [0; Header::SIZE + PAYLOAD_MAX],
            out_length: 0,
            out_sent: 0,
            head: [0; Header::SIZE],
            body: [0; PAYLOAD_MAX],
            received: 0,
            requests: 0,
            phase: Phase::Idle,
            broken: false,
            watches: Registry::new(),
        }
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes a request if there is none under way.
    pub(super) fn begin(&mut self, kind: Kind, tx_id: u32, pieces: &[&[u8]]) -> Option<Result<(), Error>> {
        if self.phase != Phase::Idle {
            return None;
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if length > PAYLOAD_MAX {
            return Some(Err(Error::TooLong));
        }
        self.requests = self.requests.wrapping_add(1);
        let header = Header { kind: kind.number(), req_id: self.requests, tx_id, len: length as u32 };
        let bytes = header.to_bytes();
        let all = bytes.iter().chain(pieces.iter().copied().flatten());
        for (place, byte) in self.out.iter_mut().zip(all) {
            *place = *byte;
        }
        self.out_length = Header::SIZE + length;
        self.out_sent = 0;
        self.phase = Phase::Waiting;
        Some(Ok(()))
    }

    /// Hands the reply over, if it has come: whether it is an error, and its payload.
    pub(super) fn take_reply<R>(&mut self, take: impl FnOnce(bool, &[u8]) -> R) -> Option<R> {
        let Phase::Answered(header) = self.phase else { return None };
        let payload = self.body.get(..header.len as usize).unwrap_or_default();
        let result = take(header.kind == Kind::Error.number(), payload);
        self.phase = Phase::Idle;
        self.received = 0;
        Some(result)
    }

    /// Nobody waits for the reply any more.
    pub(super) fn abandon(&mut self) {
        match self.phase {
            Phase::Waiting => self.phase = Phase::Abandoned,
            Phase::Answered(_) => {
                self.phase = Phase::Idle;
                self.received = 0;
            }
            Phase::Idle | Phase::Abandoned => {}
        }
    }
}

impl<T: AsRef<[SharedPage]>> Wire<T> {
    /// Moves bytes in both directions as far as they go.
    pub(super) fn pump(&mut self) -> Progress {
        let mut progress = Progress { moved: false, news: false };
        if self.broken {
            return progress;
        }
        if self.send(&mut progress).and_then(|()| self.receive(&mut progress)).is_none() {
            self.broken = true;
            progress.news = true;
        }
        progress
    }

    fn send(&mut self, progress: &mut Progress) -> Option<()> {
        let page = self.pages.as_ref().first()?;
        while self.out_sent < self.out_length {
            let (consumer, producer) = indices(page, page::REQUEST_CONSUMER, page::REQUEST_PRODUCER)?;
            let rest = self.out.get(self.out_sent..self.out_length)?;
            let at = producer as usize % RING_SIZE;
            let room = RING_SIZE - producer.wrapping_sub(consumer) as usize;
            let count = rest.len().min(room).min(RING_SIZE - at);
            if count == 0 {
                break;
            }
            page.copy_in(page::REQUESTS + at, rest.get(..count)?).ok()?;
            advance(page, page::REQUEST_PRODUCER, producer, count);
            self.out_sent += count;
            progress.moved = true;
        }
        Some(())
    }

    fn receive(&mut self, progress: &mut Progress) -> Option<()> {
        // A reply that was not taken yet occupies the buffer.
        while !matches!(self.phase, Phase::Answered(_)) {
            let header = (self.received >= Header::SIZE).then(|| Header::from_bytes(&self.head));
            let wanted = match header {
                None => Header::SIZE,
                Some(header) if header.len as usize > PAYLOAD_MAX => return None,
                Some(header) => Header::SIZE + header.len as usize,
            };
            if self.received == wanted
                && let Some(header) = header
            {
                self.finish(header, progress)?;
                continue;
            }
            let into = match self.received.checked_sub(Header::SIZE) {
                None => self.head.get_mut(self.received..)?,
                Some(done) => self.body.get_mut(done..wanted - Header::SIZE)?,
            };
            let page = self.pages.as_ref().first()?;
            let (consumer, producer) = indices(page, page::RESPONSE_CONSUMER, page::RESPONSE_PRODUCER)?;
            let at = consumer as usize % RING_SIZE;
            let there = producer.wrapping_sub(consumer) as usize;
            let count = into.len().min(there).min(RING_SIZE - at);
            if count == 0 {
                break;
            }
            page.copy_out(page::RESPONSES + at, into.get_mut(..count)?).ok()?;
            advance(page, page::RESPONSE_CONSUMER, consumer, count);
            self.received += count;
            progress.moved = true;
        }
        Some(())
    }

    /// A message has come whole.
    fn finish(&mut self, header: Header, progress: &mut Progress) -> Option<()> {
        let payload = self.body.get(..header.len as usize)?;
        if header.kind == Kind::WatchEvent.number() {
            self.watches.mark(payload);
            self.received = 0;
        } else if self.phase == Phase::Waiting && header.req_id == self.requests {
            self.phase = Phase::Answered(header);
        } else {
            // Nobody wants it: the request was abandoned, or an earlier kernel made it.
            if self.phase == Phase::Abandoned && header.req_id == self.requests {
                self.phase = Phase::Idle;
            }
            self.received = 0;
        }
        progress.news = true;
        Some(())
    }
}

/// Consumer and producer index; nothing if they are impossible.
fn indices(page: &SharedPage, consumer: usize, producer: usize) -> Option<(u32, u32)> {
    let word = |offset| page.word_at(offset).map(|word| u32::from_le(word.load(Ordering::Acquire)));
    let (consumer, producer) = (word(consumer)?, word(producer)?);
    (producer.wrapping_sub(consumer) as usize <= RING_SIZE).then_some((consumer, producer))
}

fn advance(page: &SharedPage, offset: usize, from: u32, count: usize) {
    // The bytes were copied before the store may see the index.
    fence(Ordering::SeqCst);
    if let Some(offset) = WordOffset::new(offset) {
        page.word(offset).store(from.wrapping_add(count as u32).to_le(), Ordering::Release);
    }
}
