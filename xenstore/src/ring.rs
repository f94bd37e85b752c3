//! The ring page: a domain's requests in, replies and events out.
//!
//! The four indices lie in the page, where the guest can write all of them. They are read anew each time and checked:
//! firmware clears the whole page when it hands over to a kernel, and the connection has to survive that. So no index
//! is trusted; one that is impossible ends the connection with an error word that says so.

use core::borrow::Borrow;
use core::sync::atomic::{Ordering, fence};

use alloc::boxed::Box;
use alloc::vec::Vec;

use trunnion_protocol::shared::{SharedPage, WordOffset};
use trunnion_protocol::store::{
    Header, PAYLOAD_MAX, RING_SIZE, RingError, connection, feature, page as layout,
};

use crate::connection::Message;

/// A ring page, however it is reached. Offsets are in bytes and inside the page.
pub trait RingPage {
    /// One word.
    fn word(&self, offset: usize) -> u32;
    /// Sets one word.
    fn set_word(&self, offset: usize, value: u32);
    /// Copies bytes out of the page.
    fn copy_out(&self, offset: usize, into: &mut [u8]);
    /// Copies bytes into the page.
    fn copy_in(&self, offset: usize, from: &[u8]);
}

/// A ring page in memory: owned, borrowed or shared.
#[derive(Debug)]
pub struct MemoryRing<T>(pub T);

impl<T: Borrow<SharedPage>> RingPage for MemoryRing<T> {
    fn word(&self, offset: usize) -> u32 {
        let offset = WordOffset::new(offset);
        offset.map_or(0, |offset| u32::from_le(self.0.borrow().word(offset).load(Ordering::Acquire)))
    }

    fn set_word(&self, offset: usize, value: u32) {
        if let Some(offset) = WordOffset::new(offset) {
            self.0.borrow().word(offset).store(value.to_le(), Ordering::Release);
        }
    }

    // Offsets come from this module alone and lie in the page, so that the copies cannot be refused.
    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        let _ = self.0.borrow().copy_out(offset, into);
    }

    fn copy_in(&self, offset: usize, from: &[u8]) {
        let _ = self.0.borrow().copy_in(offset, from);
    }
}

/// One of the two rings of a page.
struct Lane {
    data: usize,
    producer: usize,
    consumer: usize,
}

const REQUESTS: Lane =
    Lane { data: layout::REQUESTS, producer: layout::REQUEST_PRODUCER, consumer: layout::REQUEST_CONSUMER };
const RESPONSES: Lane = Lane {
    data: layout::RESPONSES,
    producer: layout::RESPONSE_PRODUCER,
    consumer: layout::RESPONSE_CONSUMER,
};

/// A domain's end of the wire: its page, the request that has come in part, the message that has gone in part.
pub struct Link {
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    page: Box<dyn RingPage + Send>,
}

impl Link {
    /// A link over `page`.
    pub fn new(page: Box<dyn RingPage + Send>) -> Self {
        Self { input: Vec::new(), output: Vec::new(), sent: 0, page }
    }

    /// Starts afresh: no message is under way, all indices are 0, the guest is told what the server can do.
    pub fn reset(&mut self) {
        self.input.clear();
        self.output.clear();
        self.sent = 0;
        for lane in [REQUESTS, RESPONSES] {
            self.page.set_word(lane.producer, 0);
            self.page.set_word(lane.consumer, 0);
        }
        self.page.set_word(layout::ERROR, RingError::None as u32);
        let features = feature::RECONNECTION | feature::ERROR | feature::WATCH_DEPTH;
        self.page.set_word(layout::SERVER_FEATURES, features);
    }

    /// True while the guest asks for a fresh start.
    pub fn wants_reset(&self) -> bool {
        self.page.word(layout::CONNECTION) == connection::RECONNECT
    }

    /// Tells the guest that the fresh start it asked for has been made.
    pub fn connected(&self) {
        self.page.set_word(layout::CONNECTION, connection::CONNECTED);
    }

    /// Tells the guest why its connection ended.
    pub fn fail(&self, error: RingError) {
        self.page.set_word(layout::ERROR, error as u32);
    }

    /// Takes the next whole request out of the ring, if it is there. `moved` is set if bytes were taken.
    pub fn receive(&mut self, moved: &mut bool) -> Result<Option<(Header, Vec<u8>)>, RingError> {
        loop {
            let header = self.input.first_chunk().map(Header::from_bytes);
            let wanted = match header {
                None => Header::SIZE,
                Some(header) if header.len as usize > PAYLOAD_MAX => return Err(RingError::Protocol),
                Some(header) => Header::SIZE + header.len as usize,
            };
            let missing = wanted.saturating_sub(self.input.len());
            if let (Some(header), 0) = (header, missing) {
                let payload = self.input.get(Header::SIZE..).unwrap_or_default().to_vec();
                self.input.clear();
                return Ok(Some((header, payload)));
            }
            let mut bytes = [0; RING_SIZE];
            let count = self.take(bytes.get_mut(..missing.min(RING_SIZE)).unwrap_or_default())?;
            if count == 0 {
                return Ok(None);
            }
            *moved = true;
            self.input.extend_from_slice(bytes.get(..count).unwrap_or_default());
        }
    }

    /// True if bytes wait in the request ring, or the indices are impossible.
    pub fn has_input(&self) -> bool {
        self.page.word(REQUESTS.producer) != self.page.word(REQUESTS.consumer)
    }

    /// Puts what waits into the response ring as far as it fits, getting messages from `next`. True once nothing is
    /// left. `moved` is set if bytes were put.
    pub fn send(
        &mut self,
        mut next: impl FnMut() -> Option<Message>,
        moved: &mut bool,
    ) -> Result<bool, RingError> {
        loop {
            if self.sent == self.output.len() {
                let Some(message) = next() else { return Ok(true) };
                self.output = message.to_bytes();
                self.sent = 0;
            }
            let rest = self.output.get(self.sent..).unwrap_or_default();
            let count = self.put(rest)?;
            if count == 0 {
                return Ok(false);
            }
            *moved = true;
            self.sent += count;
        }
    }

    fn take(&self, into: &mut [u8]) -> Result<usize, RingError> {
        let (consumer, producer) = self.indices(&REQUESTS)?;
        let count = (producer.wrapping_sub(consumer) as usize).min(into.len());
        let into = into.get_mut(..count).unwrap_or_default();
        let at = consumer as usize % RING_SIZE;
        let (first, second) = into.split_at_mut(count.min(RING_SIZE - at));
        self.page.copy_out(REQUESTS.data + at, first);
        self.page.copy_out(REQUESTS.data, second);
        // The bytes are read before the guest may write others in their place.
        fence(Ordering::SeqCst);
        self.page.set_word(REQUESTS.consumer, consumer.wrapping_add(count as u32));
        Ok(count)
    }

    fn put(&self, from: &[u8]) -> Result<usize, RingError> {
        let (consumer, producer) = self.indices(&RESPONSES)?;
        let count = RING_SIZE.saturating_sub(producer.wrapping_sub(consumer) as usize).min(from.len());
        let from = from.get(..count).unwrap_or_default();
        let at = producer as usize % RING_SIZE;
        let (first, second) = from.split_at(count.min(RING_SIZE - at));
        self.page.copy_in(RESPONSES.data + at, first);
        self.page.copy_in(RESPONSES.data, second);
        // The bytes are there before the guest may see the index.
        fence(Ordering::SeqCst);
        self.page.set_word(RESPONSES.producer, producer.wrapping_add(count as u32));
        Ok(count)
    }

    fn indices(&self, lane: &Lane) -> Result<(u32, u32), RingError> {
        let (consumer, producer) = (self.page.word(lane.consumer), self.page.word(lane.producer));
        let possible = producer.wrapping_sub(consumer) as usize <= RING_SIZE;
        if possible { Ok((consumer, producer)) } else { Err(RingError::RingIndex) }
    }
}

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (input, output) = (self.input.len(), self.output.len());
        f.debug_struct("Link").field("input", &input).field("output", &output).finish_non_exhaustive()
    }
}
