//! The server: one store, its connections and the domains behind them.
//!
//! Whoever runs it feeds requests with [`Store::handle`] and takes what is to be sent with [`Store::next_output`], or
//! lets [`Store::service`] do both for a domain's ring. Requests of one connection are answered in their order. Nothing
//! here blocks, and one call does a bounded amount of work.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::task::{Context, Poll};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::store::{Header, Kind, PAYLOAD_MAX, error_name};

use crate::connection::{Connection, ConnectionId, Message};
use crate::domains::Guest;
use crate::perms::Rights;
use crate::quota::Quotas;
use crate::ring::RingPage;
use crate::transaction::Change;
use crate::tree::Tree;

/// What the store needs of the machine it runs on.
pub trait Host {
    /// Whether there is such a domain, introduced or not. Permissions for others have no effect.
    fn exists(&self, domain: DomainId) -> bool;

    /// Reaches the ring page of a domain and binds its event channel, for an INTRODUCE request. Returns the page and
    /// the local port.
    fn connect(
        &mut self,
        domain: DomainId,
        frame: u64,
        port: Port,
    ) -> Result<(Box<dyn RingPage + Send>, Port), Errno>;

    /// Gives up a local port that [`connect`](Self::connect) returned, when the domain is released or dies or gets
    /// another. The page is dropped by itself.
    fn disconnect(&mut self, domain: DomainId, port: Port);
}

/// A host without a hypervisor: every domain number counts as existing, no domain can be introduced by a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detached;

impl Host for Detached {
    fn exists(&self, domain: DomainId) -> bool {
        domain.is_guest()
    }

    fn connect(&mut self, _: DomainId, _: u64, _: Port) -> Result<(Box<dyn RingPage + Send>, Port), Errno> {
        Err(Errno::Inval)
    }

    fn disconnect(&mut self, _: DomainId, _: Port) {}
}

/// The store.
pub struct Store {
    pub(crate) tree: Tree,
    pub(crate) generation: u64,
    pub(crate) quotas: Quotas,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) guests: BTreeMap<DomainId, Guest>,
    pub(crate) ready: BTreeSet<DomainId>,
    pub(crate) host: Box<dyn Host + Send>,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::planted::Bug>,
    next_connection: u64,
}

impl Store {
    /// A fresh store.
    pub fn new(host: Box<dyn Host + Send>) -> Self {
        Self {
            tree: Tree::new(1),
            generation: 1,
            quotas: Quotas::default(),
            connections: BTreeMap::new(),
            guests: BTreeMap::new(),
            ready: BTreeSet::new(),
            host,
            #[cfg(feature = "planted")]
            planted: None,
            next_connection: 1,
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// Plants a mistake.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: crate::planted::Bug) {
        self.planted = Some(bug);
    }

    /// The tree as it is now.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Opens a connection for a domain. Relative paths lie in its home directory; domain 0 is privileged.
    pub fn connect(&mut self, domain: DomainId) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(id, Connection::new(domain));
        id
    }

    /// Closes a connection: its watches and transactions end, what waits for it is dropped.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Carries out one request and queues the reply. A payload that is longer than the protocol allows, or not as
    /// long as the header says, breaks the connection; see [`is_broken`](Self::is_broken).
    pub fn handle(&mut self, connection: ConnectionId, header: &Header, payload: &[u8]) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if payload.len() > PAYLOAD_MAX || header.len as usize != payload.len() {
            state.broken = true;
            return;
        }
        let (kind, result) = match Kind::from_number(header.kind) {
            None => (Kind::Error, Err(Errno::NoSys)),
            Some(kind) => (kind, self.request(connection, kind, header.tx_id, payload)),
        };
        let result =
            result.and_then(|reply| if reply.len() > PAYLOAD_MAX { Err(Errno::TooBig) } else { Ok(reply) });
        let (kind, reply) = match result {
            Ok(reply) => (kind, reply),
            Err(error) => (Kind::Error, [error_name(error).as_bytes(), b"\0"].concat()),
        };
        if let Some(state) = self.connections.get_mut(&connection) {
            state.reply(Message::new(kind, header.req_id, header.tx_id, reply));
        }
        if kind == Kind::Watch {
            self.first_event(connection);
        }
    }

    /// True if the connection broke the protocol or takes nothing of what waits for it. It should be closed.
    pub fn is_broken(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_none_or(|connection| connection.broken)
    }

    /// True if requests of this connection should not be read before more of its output has been taken.
    pub fn is_stalled(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|connection| {
            connection.is_stalled(self.tree.usage(connection.subject.domain).bytes, &self.quotas)
        })
    }

    /// The next message to send on a connection.
    pub fn next_output(&mut self, connection: ConnectionId) -> Option<Message> {
        self.connections.get_mut(&connection)?.pop()
    }

    /// True if messages wait to be sent on a connection.
    pub fn has_output(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(Connection::has_output)
    }

    /// The next reply on a connection, past watch events.
    pub(crate) fn next_reply(&mut self, connection: ConnectionId) -> Option<Message> {
        self.connections.get_mut(&connection)?.pop_reply()
    }

    /// The next watch event on a connection, past replies. Pending: the task is woken when something is queued.
    pub(crate) fn poll_event(
        &mut self,
        connection: ConnectionId,
        context: &Context<'_>,
    ) -> Poll<Option<Message>> {
        let Some(state) = self.connections.get_mut(&connection) else { return Poll::Ready(None) };
        let event = state.pop_event();
        if event.is_none() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(event)
    }

    /// Tells the watches that a change concerns, if their owners may know of it.
    pub(crate) fn tell(&mut self, changes: Vec<Change>) {
        let most = if planted!(self, LostEvents) { 1 } else { usize::MAX };
        let absolute = planted!(self, AbsoluteEvents);
        for change in changes.into_iter().take(most) {
            for connection in self.connections.values_mut() {
                let subject = connection.subject;
                let may_know = |perms: &crate::perms::Perms| perms.rights(&subject).contains(Rights::READ);
                if !change.readable.iter().any(may_know) {
                    continue;
                }
                let matching =
                    connection.watches.iter().filter(|watch| watch.matches(&change.path, change.exact));
                let events: Vec<_> = matching
                    .map(|watch| {
                        if absolute {
                            [change.path.as_str().as_bytes(), b"\0", &watch.token, b"\0"].concat()
                        } else {
                            watch.event(&change.path)
                        }
                    })
                    .collect();
                let owned = self.tree.usage(subject.domain).bytes;
                for event in events {
                    connection.event(event, owned, &self.quotas);
                    if self.guests.contains_key(&subject.domain) {
                        self.ready.insert(subject.domain);
                    }
                }
            }
        }
    }

    /// A new watch is told of its own path at once.
    fn first_event(&mut self, connection: ConnectionId) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let Some(event) = state.watches.last().map(|watch| watch.event(&watch.path)) else { return };
        let owned = self.tree.usage(state.subject.domain).bytes;
        state.event(event, owned, &self.quotas);
    }
}

impl core::fmt::Debug for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (connections, guests) = (self.connections.len(), self.guests.len());
        f.debug_struct("Store")
            .field("connections", &connections)
            .field("guests", &guests)
            .finish_non_exhaustive()
    }
}
