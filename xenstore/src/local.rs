//! A client in the same program: requests are carried out at once, watch events are waited for.
//!
//! The owner of the store lends it for each call, so that any lock or cell can hold it.

use alloc::string::String;
use alloc::vec::Vec;
use core::task::{Context, Poll};

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::{Header, Kind, error_from_name};

use crate::connection::ConnectionId;
use crate::server::Store;

/// Requests outside of any transaction.
pub const NO_TRANSACTION: u32 = 0;

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// Where something changed: absolute or relative, as the watch was.
    pub path: String,
    /// The watch's token.
    pub token: String,
}

/// A connection of the program that holds the store. It is not closed when dropped; see [`close`](Self::close).
#[derive(Debug)]
pub struct LocalClient {
    connection: ConnectionId,
    requests: u32,
}

impl LocalClient {
    /// Connects as `domain`; [`DomainId::DOM0`] may do everything.
    pub fn new(store: &mut Store, domain: DomainId) -> Self {
        Self { connection: store.connect(domain), requests: 0 }
    }

    /// Closes the connection.
    pub fn close(self, store: &mut Store) {
        store.disconnect(self.connection);
    }

    /// Sends any request, and returns the payload of the reply.
    pub fn request(
        &mut self,
        store: &mut Store,
        kind: Kind,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        self.requests = self.requests.wrapping_add(1);
        let len = u32::try_from(payload.len()).map_err(|_| Errno::TooBig)?;
        let header = Header { kind: kind.number(), req_id: self.requests, tx_id: transaction, len };
        store.handle(self.connection, &header, payload);
        let reply = store.next_reply(self.connection).ok_or(Errno::Io)?;
        if reply.header.kind == Kind::Error.number() {
            return Err(error_from_name(&reply.payload));
        }
        Ok(reply.payload)
    }

    /// A node's value.
    pub fn read(&mut self, store: &mut Store, transaction: u32, path: &str) -> Result<Vec<u8>, Errno> {
        self.request(store, Kind::Read, transaction, &joined(&[path]))
    }

    /// A node's value as text; [`Errno::Inval`] if it is none.
    pub fn read_text(&mut self, store: &mut Store, transaction: u32, path: &str) -> Result<String, Errno> {
        String::from_utf8(self.read(store, transaction, path)?).map_err(|_| Errno::Inval)
    }

    /// Sets a node's value, creating it if it is missing.
    pub fn write(
        &mut self,
        store: &mut Store,
        transaction: u32,
        path: &str,
        value: &[u8],
    ) -> Result<(), Errno> {
        let payload = [&joined(&[path]), value].concat();
        self.request(store, Kind::Write, transaction, &payload).map(drop)
    }

    /// Creates a node without a value, if it is missing.
    pub fn mkdir(&mut self, store: &mut Store, transaction: u32, path: &str) -> Result<(), Errno> {
        self.request(store, Kind::Mkdir, transaction, &joined(&[path])).map(drop)
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, store: &mut Store, transaction: u32, path: &str) -> Result<(), Errno> {
        self.request(store, Kind::Rm, transaction, &joined(&[path])).map(drop)
    }

    /// Names of a node's children, in pieces if the list is long.
    pub fn list(&mut self, store: &mut Store, transaction: u32, path: &str) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        let mut offset = 0;
        let mut first = None;
        loop {
            let text = alloc::format!("{offset}");
            let payload = joined(&[path, &text]);
            let reply = self.request(store, Kind::DirectoryPart, transaction, &payload)?;
            let mut parts = reply.split(|&byte| byte == 0);
            let generation = parts.next().unwrap_or_default().to_vec();
            if *first.get_or_insert_with(|| generation.clone()) != generation {
                return Err(Errno::Again);
            }
            let before = offset;
            for name in parts {
                if name.is_empty() {
                    break;
                }
                offset += name.len() + 1;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            if reply.ends_with(b"\0\0") || offset == before {
                return Ok(names);
            }
        }
    }

    /// Sets a node's permissions, in the wire's letters: the owner's entry first.
    pub fn set_perms(
        &mut self,
        store: &mut Store,
        transaction: u32,
        path: &str,
        perms: &[&str],
    ) -> Result<(), Errno> {
        let payload = [joined(&[path]), joined(perms)].concat();
        self.request(store, Kind::SetPerms, transaction, &payload).map(drop)
    }

    /// Opens a transaction.
    pub fn start(&mut self, store: &mut Store) -> Result<u32, Errno> {
        let reply = self.request(store, Kind::TransactionStart, NO_TRANSACTION, b"\0")?;
        let text = core::str::from_utf8(&reply).map_err(|_| Errno::Io)?;
        text.trim_end_matches('\0').parse().map_err(|_| Errno::Io)
    }

    /// Commits a transaction, or drops it. [`Errno::Again`]: there was a conflict, nothing has changed.
    pub fn end(&mut self, store: &mut Store, transaction: u32, commit: bool) -> Result<(), Errno> {
        let payload = if commit { b"T\0" } else { b"F\0" };
        self.request(store, Kind::TransactionEnd, transaction, payload).map(drop)
    }

    /// Watches a path and all below it. The first event comes at once.
    pub fn watch(&mut self, store: &mut Store, path: &str, token: &str) -> Result<(), Errno> {
        self.request(store, Kind::Watch, NO_TRANSACTION, &joined(&[path, token])).map(drop)
    }

    /// Ends a watch. Events that wait already still come.
    pub fn unwatch(&mut self, store: &mut Store, path: &str, token: &str) -> Result<(), Errno> {
        self.request(store, Kind::Unwatch, NO_TRANSACTION, &joined(&[path, token])).map(drop)
    }

    /// The next watch event. Pending: the task is woken when there may be one.
    pub fn poll_event(&mut self, store: &mut Store, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        store.poll_event(self.connection, context).map(|message| {
            let message = message?;
            let mut parts = message.payload.split(|&byte| byte == 0);
            let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
            Some(WatchEvent { path: text(), token: text() })
        })
    }
}

/// Strings as they go over the wire, each with a NUL.
fn joined(strings: &[&str]) -> Vec<u8> {
    strings.iter().flat_map(|string| string.bytes().chain([0])).collect()
}
