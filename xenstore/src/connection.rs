//! Connections: who is at the other end, what it holds, and what waits to be sent to it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::task::Waker;

use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::{Header, Kind, PAYLOAD_MAX};

use crate::perms::Subject;
use crate::quota::Quotas;
use crate::transaction::Transaction;
use crate::watch::Watch;

/// Names a connection of one store. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) u64);

/// A message that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The header; its length is that of the payload.
    pub header: Header,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message with a payload of a legal length.
    pub(crate) fn new(kind: Kind, req_id: u32, tx_id: u32, payload: Vec<u8>) -> Self {
        let len = payload.len() as u32;
        Self { header: Header { kind: kind.number(), req_id, tx_id, len }, payload }
    }

    /// True for a watch event.
    pub fn is_event(&self) -> bool {
        self.header.kind == Kind::WatchEvent.number()
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header.to_bytes()[..], &self.payload].concat()
    }

    /// Bytes that count against the receiver's memory.
    pub(crate) fn size(&self) -> usize {
        Header::SIZE + self.payload.len()
    }
}

/// Bytes that may wait for a privileged connection before it counts as dead.
const PRIVILEGED_BACKLOG: usize = 16 * 1024 * 1024;

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    pub(crate) subject: Subject,
    pub(crate) watches: Vec<Watch>,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    pub(crate) next_transaction: u32,
    pub(crate) broken: bool,
    pub(crate) waker: Option<Waker>,
    queue: VecDeque<Message>,
    queued: usize,
    replies: usize,
}

impl Connection {
    /// A connection of `domain` that holds nothing.
    pub(crate) fn new(domain: DomainId) -> Self {
        Self {
            subject: Subject { domain, target: None },
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            broken: false,
            waker: None,
            queue: VecDeque::new(),
            queued: 0,
            replies: 0,
        }
    }

    /// Bytes held in watches, transactions and messages.
    pub(crate) fn bytes(&self) -> usize {
        let watches: usize = self.watches.iter().map(Watch::bytes).sum();
        let transactions: usize = self.transactions.values().map(Transaction::bytes).sum();
        watches + transactions + self.queued
    }

    /// Queues a reply.
    pub(crate) fn reply(&mut self, message: Message) {
        self.replies += 1;
        self.push(message);
    }

    /// Queues a watch event, unless the same one waits already or too much does. Events of domains are all told.
    pub(crate) fn event(&mut self, payload: Vec<u8>, owned: usize, quotas: &Quotas) {
        if payload.len() > PAYLOAD_MAX || self.broken {
            return;
        }
        let same = |waiting: &Message| waiting.is_event() && waiting.payload == payload;
        if payload.first() != Some(&b'@') && self.queue.iter().any(same) {
            return;
        }
        if self.subject.is_privileged() {
            if self.queued > PRIVILEGED_BACKLOG {
                self.broken = true;
                return;
            }
        } else if owned + self.bytes() + payload.len() > quotas.memory {
            return;
        }
        self.push(Message::new(Kind::WatchEvent, 0, 0, payload));
    }

    fn push(&mut self, message: Message) {
        self.queued += message.size();
        self.queue.push_back(message);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next message to send.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.took(&message);
        Some(message)
    }

    /// The next watch event, leaving replies in their places.
    pub(crate) fn pop_event(&mut self) -> Option<Message> {
        let at = self.queue.iter().position(Message::is_event)?;
        let message = self.queue.remove(at)?;
        self.took(&message);
        Some(message)
    }

    /// The next reply, leaving events in their places.
    pub(crate) fn pop_reply(&mut self) -> Option<Message> {
        let at = self.queue.iter().position(|message| !message.is_event())?;
        let message = self.queue.remove(at)?;
        self.took(&message);
        Some(message)
    }

    fn took(&mut self, message: &Message) {
        self.queued = self.queued.saturating_sub(message.size());
        if !message.is_event() {
            self.replies = self.replies.saturating_sub(1);
        }
    }

    /// True if messages wait.
    pub(crate) fn has_output(&self) -> bool {
        !self.queue.is_empty()
    }

    /// True if no further request should be read before messages have been taken; `owned` counts the domain's nodes.
    pub(crate) fn is_stalled(&self, owned: usize, quotas: &Quotas) -> bool {
        if self.subject.is_privileged() {
            return self.queued > PRIVILEGED_BACKLOG;
        }
        self.replies >= quotas.outstanding || (self.has_output() && owned + self.bytes() > quotas.memory)
    }

    /// Drops watches and transactions.
    pub(crate) fn reset_watches(&mut self) {
        self.watches.clear();
        self.transactions.clear();
    }

    /// Drops everything that is held, and the messages that wait.
    pub(crate) fn reset(&mut self) {
        self.reset_watches();
        self.queue.clear();
        self.queued = 0;
        self.replies = 0;
        self.broken = false;
    }
}
