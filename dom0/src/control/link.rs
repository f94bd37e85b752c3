//! The order in which dom0 sends: replies and events first, console bytes after them, in turn and against credit.

use super::frame::TooLong;
use super::wire::Up;
use super::{CONSOLE_CHUNK, Channel};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

/// Bytes that wait on a channel without the tool's credit before [`Outbox::room`] says 0.
pub const CHANNEL_QUEUE: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Flow {
    credit: u64,
    queue: VecDeque<u8>,
}

/// What dom0 has to send.
#[derive(Debug, Default)]
pub struct Outbox {
    messages: VecDeque<Vec<u8>>,
    channels: BTreeMap<Channel, Flow>,
    last: Channel,
}

impl Outbox {
    /// Nothing to send.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a reply or an event.
    pub fn message(&mut self, message: &Up) -> Result<(), TooLong> {
        self.messages.push_back(message.to_frame()?);
        Ok(())
    }

    /// Opens a channel without credit; false when it is open already.
    pub fn open(&mut self, channel: Channel) -> bool {
        let free = !self.channels.contains_key(&channel);
        if free {
            self.channels.insert(channel, Flow::default());
        }
        free
    }

    /// Closes a channel and drops what waits on it; false when it was not open.
    pub fn close(&mut self, channel: Channel) -> bool {
        self.channels.remove(&channel).is_some()
    }

    /// The tool allows that many more bytes; false when the channel is not open.
    pub fn credit(&mut self, channel: Channel, bytes: u32) -> bool {
        self.channels
            .get_mut(&channel)
            .map(|flow| flow.credit = flow.credit.saturating_add(bytes.into()))
            .is_some()
    }

    /// How many bytes a channel can take now; 0 when it is not open.
    pub fn room(&self, channel: Channel) -> usize {
        self.channels.get(&channel).map_or(0, |flow| CHANNEL_QUEUE.saturating_sub(flow.queue.len()))
    }

    /// Bytes that wait on a channel.
    pub fn waiting(&self, channel: Channel) -> usize {
        self.channels.get(&channel).map_or(0, |flow| flow.queue.len())
    }

    /// Queues console bytes and returns how many were taken, at most [`Self::room`].
    pub fn console(&mut self, channel: Channel, data: &[u8]) -> usize {
        let taken = self.room(channel).min(data.len());
        if let (Some(flow), Some(data)) = (self.channels.get_mut(&channel), data.get(..taken)) {
            flow.queue.extend(data);
        }
        taken
    }

    /// The next frame for the line. Take one only when the line can take it: what is handed out has lost its place in the order.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.messages.pop_front() {
            return Some(frame);
        }
        let turn = |flow: &Flow| flow.credit > 0 && !flow.queue.is_empty();
        let after = self
            .last
            .checked_add(1)
            .and_then(|from| self.channels.range(from..).find(|(_, flow)| turn(flow)));
        let channel = *after.or_else(|| self.channels.iter().find(|(_, flow)| turn(flow)))?.0;
        let flow = self.channels.get_mut(&channel)?;
        let count =
            flow.queue.len().min(CONSOLE_CHUNK).min(usize::try_from(flow.credit).unwrap_or(usize::MAX));
        flow.credit -= count as u64;
        let data = flow.queue.drain(..count).collect();
        self.last = channel;
        Up::Console { channel, data }.to_frame().ok()
    }

    /// Whether [`Self::next_frame`] has something.
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty()
            && !self.channels.values().any(|flow| flow.credit > 0 && !flow.queue.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Decoder;
    use super::super::{Event, Reply};
    use super::*;
    use alloc::vec;

    fn sent(outbox: &mut Outbox) -> Option<Up> {
        let mut decoder = Decoder::new();
        decoder.push(&outbox.next_frame()?);
        Some(Up::from_payload(&decoder.next_frame().unwrap()).unwrap())
    }

    #[test]
    fn a_flood_waits_for_credit_and_behind_replies() {
        let mut outbox = Outbox::new();
        assert!(outbox.open(1) && outbox.open(2) && !outbox.open(2));
        assert_eq!(outbox.console(1, &vec![b'x'; 100_000]), CHANNEL_QUEUE);
        assert_eq!(outbox.console(2, b"hello"), 5);
        assert!(outbox.is_idle());
        assert!(outbox.credit(1, 1500) && outbox.credit(2, 100) && !outbox.credit(3, 1));
        assert_eq!(sent(&mut outbox), Some(Up::Console { channel: 1, data: vec![b'x'; CONSOLE_CHUNK] }));
        assert_eq!(sent(&mut outbox), Some(Up::Console { channel: 2, data: b"hello".to_vec() }));
        outbox.message(&Up::Reply { id: 1, result: Ok(Reply::Done) }).unwrap();
        outbox.message(&Up::Event(Event::AllEnded)).unwrap();
        assert_eq!(sent(&mut outbox), Some(Up::Reply { id: 1, result: Ok(Reply::Done) }));
        assert_eq!(sent(&mut outbox), Some(Up::Event(Event::AllEnded)));
        assert_eq!(sent(&mut outbox), Some(Up::Console { channel: 1, data: vec![b'x'; 476] }));
        assert_eq!(sent(&mut outbox), None);
        assert_eq!(outbox.waiting(1), CHANNEL_QUEUE - 1500);
        assert!(outbox.close(1) && !outbox.close(1));
        assert_eq!(outbox.room(1), 0);
    }
}
