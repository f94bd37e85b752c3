//! The messages, one by one: what each expects, what it answers. Source: `docs/misc/xenstore.txt`.

use alloc::format;
use alloc::vec::Vec;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::planted::{self, Bug};
use trunnion_protocol::store::{Kind, PAYLOAD_MAX};

use crate::connection::ConnectionId;
use crate::path::{Path, Special};
use crate::perms::{Perms, Rights};
use crate::server::Store;
use crate::transaction::Transaction;
use crate::view::{Place, View};
use crate::watch::Watch;

/// The strings of a payload, each without its NUL; bytes after the last NUL are no string.
pub(crate) fn strings(payload: &[u8]) -> Vec<&[u8]> {
    let mut strings: Vec<_> = payload.split(|&byte| byte == 0).collect();
    strings.pop();
    strings
}

/// The one string that a payload has to be.
pub(crate) fn single(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::Inval),
    }
}

/// A decimal number as the C library's `atoi` reads it, which clients rely on: digits after blanks and a sign, 0 if
/// there are none, whatever follows them.
pub(crate) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let value =
        digits.fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -value } else { value }
}

/// A domain number; [`DomainId::INVALID`] for what cannot be one.
pub(crate) fn domain(text: &[u8]) -> DomainId {
    DomainId(u16::try_from(number(text)).unwrap_or(DomainId::INVALID.0))
}

const OK: &[u8] = b"OK\0";

impl Store {
    /// Carries out a request; the result is the payload of the reply.
    pub(crate) fn request(
        &mut self,
        id: ConnectionId,
        kind: Kind,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let connection = self.connections.get(&id).ok_or(Errno::Inval)?;
        match kind {
            Kind::WatchEvent
            | Kind::Error
            | Kind::GetFeature
            | Kind::SetFeature
            | Kind::GetQuota
            | Kind::SetQuota => return Err(Errno::NoSys),
            Kind::Control
            | Kind::Introduce
            | Kind::Release
            | Kind::IsDomainIntroduced
            | Kind::Resume
            | Kind::SetTarget
                if !connection.subject.is_privileged() =>
            {
                return Err(Errno::Acces);
            }
            Kind::Watch | Kind::Unwatch => {}
            _ if transaction != 0 && !connection.transactions.contains_key(&transaction) => {
                return Err(Errno::NoEnt);
            }
            _ => {}
        }
        match kind {
            Kind::Directory => {
                let path = self.path(id, single(payload)?, Special::Refused)?;
                let node = self.view(id, transaction, |view| view.find(&path, Rights::READ))?;
                return Ok(node
                    .names()
                    .flat_map(|name| [name.as_bytes(), b"\0"])
                    .collect::<Vec<_>>()
                    .concat());
            }
            Kind::DirectoryPart => return self.directory_part(id, transaction, payload),
            Kind::Read => {
                let path = self.path(id, single(payload)?, Special::Refused)?;
                let node = self.view(id, transaction, |view| view.find(&path, Rights::READ))?;
                return Ok(node.value.to_vec());
            }
            Kind::GetPerms => {
                let path = self.path(id, single(payload)?, Special::Allowed)?;
                let node = self.view(id, transaction, |view| view.find(&path, Rights::READ))?;
                return Ok(node.perms.to_wire());
            }
            Kind::Write => {
                let end = payload.iter().position(|&byte| byte == 0).ok_or(Errno::Inval)?;
                let (text, value) = payload.split_at(end);
                let path = self.path(id, text, Special::Refused)?;
                self.view(id, transaction, |view| view.write(&path, value.get(1..).unwrap_or_default()))?;
            }
            Kind::Mkdir => {
                let path = self.path(id, single(payload)?, Special::Refused)?;
                self.view(id, transaction, |view| view.mkdir(&path))?;
            }
            Kind::Rm => {
                let path = self.path(id, single(payload)?, Special::Refused)?;
                self.view(id, transaction, |view| view.remove(&path))?;
            }
            Kind::SetPerms => self.set_perms(id, transaction, payload)?,
            Kind::Watch => self.watch(id, payload)?,
            Kind::Unwatch => self.unwatch(id, payload)?,
            Kind::TransactionStart => return self.start(id, transaction),
            Kind::TransactionEnd => self.end(id, transaction, payload)?,
            Kind::ResetWatches => {
                let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
                connection.reset_watches();
            }
            Kind::GetDomainPath => {
                let number = number(single(payload)?) as u32;
                return Ok(format!("/local/domain/{number}\0").into_bytes());
            }
            Kind::Control => return self.control(payload),
            Kind::Introduce => self.introduce_request(payload)?,
            Kind::Release => self.release_request(payload)?,
            Kind::Resume => self.resume_request(payload)?,
            Kind::SetTarget => self.set_target(payload)?,
            Kind::IsDomainIntroduced => {
                let introduced = self.is_introduced(domain(single(payload)?));
                return Ok(if introduced { b"T\0".to_vec() } else { b"F\0".to_vec() });
            }
            Kind::WatchEvent
            | Kind::Error
            | Kind::GetFeature
            | Kind::SetFeature
            | Kind::GetQuota
            | Kind::SetQuota => return Err(Errno::NoSys),
        }
        Ok(OK.to_vec())
    }

    /// Checks a path that a connection sent.
    fn path(&self, id: ConnectionId, text: &[u8], special: Special) -> Result<Path, Errno> {
        self.parse(id, text, special).map(|parsed| parsed.path)
    }

    fn parse(&self, id: ConnectionId, text: &[u8], special: Special) -> Result<crate::path::Parsed, Errno> {
        let subject = self.connections.get(&id).ok_or(Errno::Inval)?.subject;
        let limit = (!subject.is_privileged()).then_some(self.quotas.path);
        Path::parse(text, subject.domain, special, limit)
    }

    /// Runs `work` on the tree or on a transaction of the connection, then tells watches what has changed.
    fn view<T>(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        work: impl FnOnce(&mut View<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
        let subject = connection.subject;
        let held = connection.bytes();
        let (place, held) = match connection.transactions.get_mut(&transaction) {
            None => (Place::Main(&mut self.tree), held),
            Some(transaction) => {
                let own = transaction.bytes();
                (Place::Transaction(transaction), held.saturating_sub(own))
            }
        };
        let (quotas, generation) = (&self.quotas, &mut self.generation);
        let mut view = View {
            place,
            subject,
            quotas,
            generation,
            held,
            #[cfg(feature = "planted")]
            planted: self.planted,
            changes: Vec::new(),
        };
        let result = work(&mut view);
        let changes = view.changes;
        self.tell(changes);
        result
    }

    /// `path|offset|`: the generation, and names from the byte `offset` of the whole list on; an empty name ends it.
    fn directory_part(
        &mut self,
        id: ConnectionId,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let [path, offset] = strings(payload).try_into().map_err(|_| Errno::Inval)?;
        let path = self.path(id, path, Special::Refused)?;
        let node = self.view(id, transaction, |view| view.find(&path, Rights::READ))?;
        let offset = usize::try_from(number(offset)).unwrap_or(usize::MAX);
        let mut reply = format!("{}\0", node.generation).into_bytes();
        let names = node.names().flat_map(|name| [name.as_bytes(), b"\0"]).collect::<Vec<_>>().concat();
        let rest = names.get(offset..).unwrap_or_default();
        let room = PAYLOAD_MAX - reply.len() - 1;
        let mut length = 0;
        for name in rest.split_inclusive(|&byte| byte == 0) {
            if length + name.len() > room {
                break;
            }
            length += name.len();
        }
        reply.extend_from_slice(rest.get(..length).unwrap_or_default());
        if length == rest.len() {
            reply.push(0);
        }
        Ok(reply)
    }

    /// `path|perm|+`
    fn set_perms(&mut self, id: ConnectionId, transaction: u32, payload: &[u8]) -> Result<(), Errno> {
        let strings = strings(payload);
        let (path, entries) = strings.split_first().ok_or(Errno::Inval)?;
        if entries.is_empty() {
            return Err(Errno::Inval);
        }
        let privileged =
            self.connections.get(&id).is_some_and(|connection| connection.subject.is_privileged());
        if !privileged && entries.len() > self.quotas.perms {
            return Err(Errno::NoSpc);
        }
        let exists = |domain| self.guests.contains_key(&domain) || self.host.exists(domain);
        let perms = Perms::parse(entries.iter().copied(), exists)?;
        let path = self.path(id, path, Special::Allowed)?;
        self.view(id, transaction, |view| view.set_perms(&path, perms))
    }

    /// `wpath|token|[depth|]`
    fn watch(&mut self, id: ConnectionId, payload: &[u8]) -> Result<(), Errno> {
        let strings = strings(payload);
        let (path, token, depth) = match *strings {
            [path, token] => (path, token, None),
            [path, token, depth] => (path, token, Some(levels(depth)?)),
            _ => return Err(Errno::Inval),
        };
        let parsed = self.parse(id, path, Special::Allowed)?;
        let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
        if connection.watches.iter().any(|watch| watch.path == parsed.path && watch.token == token) {
            return Err(Errno::Exist);
        }
        let watch = Watch { path: parsed.path, prefix: parsed.prefix, token: token.to_vec(), depth };
        if !connection.subject.is_privileged() {
            if connection.watches.len() >= self.quotas.watches {
                return Err(Errno::TooBig);
            }
            let owned = self.tree.usage(connection.subject.domain).bytes;
            if owned + connection.bytes() + watch.bytes() > self.quotas.memory {
                return Err(Errno::NoMem);
            }
        }
        connection.watches.push(watch);
        Ok(())
    }

    /// `wpath|token|`
    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Result<(), Errno> {
        let [path, token] = strings(payload).try_into().map_err(|_| Errno::Inval)?;
        let path = self.path(id, path, Special::Allowed)?;
        let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
        let same = |watch: &Watch| watch.path == path && watch.token == token;
        let at = connection.watches.iter().position(same).ok_or(Errno::NoEnt)?;
        connection.watches.remove(at);
        Ok(())
    }

    fn start(&mut self, id: ConnectionId, transaction: u32) -> Result<Vec<u8>, Errno> {
        let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
        if transaction != 0 {
            return Err(Errno::Busy);
        }
        if !connection.subject.is_privileged() && connection.transactions.len() >= self.quotas.transactions {
            return Err(Errno::NoSpc);
        }
        let mut number = connection.next_transaction;
        while number == 0 || connection.transactions.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        connection.next_transaction = number.wrapping_add(1);
        connection.transactions.insert(number, Transaction::new(&self.tree));
        Ok(format!("{number}\0").into_bytes())
    }

    /// `T|` or `F|`
    fn end(&mut self, id: ConnectionId, transaction: u32, payload: &[u8]) -> Result<(), Errno> {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Errno::Inval),
        };
        let connection = self.connections.get_mut(&id).ok_or(Errno::Inval)?;
        let subject = connection.subject;
        let transaction = connection.transactions.remove(&transaction).ok_or(Errno::NoEnt)?;
        #[cfg(feature = "planted")]
        let transaction = if planted!(self, BlindCommit) { transaction.forget_reads() } else { transaction };
        if !commit {
            return Ok(());
        }
        self.generation += 1;
        let (tree, changes) = transaction.commit(&self.tree, self.generation)?;
        let (before, after) = (self.tree.usage(subject.domain).nodes, tree.usage(subject.domain).nodes);
        if !subject.is_privileged() && after > self.quotas.nodes && after > before {
            return Err(Errno::NoSpc);
        }
        self.tree = tree;
        if planted::is(Bug::MissedWatch) {
            return Ok(());
        }
        self.tell(changes);
        Ok(())
    }
}

/// A watch's depth: a decimal number.
fn levels(text: &[u8]) -> Result<usize, Errno> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { Ok(usize::try_from(number(text)).unwrap_or(usize::MAX)) } else { Err(Errno::Inval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_parts() {
        assert_eq!(strings(b"a\0b\0rest"), [b"a", b"b"]);
        assert!(strings(b"").is_empty() && strings(b"none").is_empty());
        assert_eq!(single(b"a\0"), Ok(&b"a"[..]));
        for bad in [&b""[..], b"a", b"a\0b\0", b"a\0b"] {
            assert_eq!(single(bad), Err(Errno::Inval));
        }
    }

    #[test]
    fn numbers_as_clients_write_them() {
        for (text, value) in [("12", 12), (" 7x", 7), ("", 0), ("x", 0), ("-3", -3), ("+4", 4)] {
            assert_eq!(number(text.as_bytes()), value, "{text:?}");
        }
        assert_eq!(number(&[b'9'; 40]), i64::MAX);
        assert_eq!(domain(b"70000"), DomainId::INVALID);
    }
}
