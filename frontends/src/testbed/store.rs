//! A small store: values and watches for all guests, no permissions. Transactions act at once.

use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::store::{Header, Kind, RING_SIZE, page};

use super::Inner;
use super::guest::Page;
use super::hypervisor::End;

struct Connection {
    page: Page,
    port: Port,
    input: Vec<u8>,
    output: Vec<u8>,
    watches: Vec<(String, String)>,
    /// There may be something to do.
    awake: bool,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) values: BTreeMap<String, Vec<u8>>,
    connections: BTreeMap<u16, Connection>,
}

/// Gives a guest its ring page, its port and its first nodes.
pub(super) fn connect(world: &Rc<Inner>, id: DomainId) {
    let mut domains = world.domains.borrow_mut();
    let Some(domain) = domains.get_mut(&id.0) else { return };
    let (gfn, page) = (domain.space(1), Page::zeroed());
    domain.memory.borrow_mut().insert(gfn, page.clone());
    let port = domain.open(End::Store);
    domain.params.insert(Param::StorePfn.number(), gfn);
    domain.params.insert(Param::StoreEvtchn.number(), u64::from(port.0));
    let (input, output, watches) = Default::default();
    let connection = Connection { page, port, input, output, watches, awake: false };
    let mut server = world.server.borrow_mut();
    server.connections.insert(id.0, connection);
    server.set(&format!("/local/domain/{id}/domid"), id.to_string().as_bytes());
    server.set(&format!("/local/domain/{id}/name"), format!("guest{id}").as_bytes());
}

fn full(domain: u16, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/{domain}/{path}") }
}

fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Server {
    /// Domains with bytes to move.
    pub(super) fn busy(&self) -> Vec<u16> {
        self.connections.iter().filter(|(_, connection)| connection.awake).map(|(&id, _)| id).collect()
    }

    pub(super) fn kick(&mut self, id: DomainId) {
        if let Some(connection) = self.connections.get_mut(&id.0) {
            connection.awake = true;
        }
    }

    pub(super) fn close(&mut self, id: DomainId) {
        self.connections.remove(&id.0);
    }

    pub(super) fn set(&mut self, path: &str, value: &[u8]) {
        self.values.insert(path.to_owned(), value.to_vec());
        self.fire(path);
    }

    pub(super) fn remove(&mut self, top: &str) -> bool {
        let before = self.values.len();
        self.values.retain(|path, _| !is_below(path, top));
        self.fire(top);
        // Those who watch something below are told as well.
        for (&id, connection) in &mut self.connections {
            let told: Vec<_> = connection
                .watches
                .iter()
                .filter(|(path, _)| full(id, path) != top && is_below(&full(id, path), top))
                .cloned()
                .collect();
            told.iter().for_each(|(path, token)| connection.event(path, token));
        }
        self.values.len() < before
    }

    fn fire(&mut self, path: &str) {
        for (&id, connection) in &mut self.connections {
            let told: Vec<_> = connection
                .watches
                .iter()
                .filter(|(watched, _)| is_below(path, &full(id, watched)))
                .cloned()
                .collect();
            told.iter().for_each(|(_, token)| connection.event(path, token));
        }
    }

    /// Answers a request, or names the error.
    fn answer(&mut self, id: u16, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, &'static str> {
        let done = || b"OK\0".to_vec();
        let mut parts =
            payload.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        let first = parts.next().unwrap_or_default();
        let path = full(id, &first);
        match kind {
            Kind::Read => match self.values.get(&path) {
                Some(value) => Ok(value.clone()),
                None if self.values.keys().any(|key| is_below(key, &path)) => Ok(Vec::new()),
                None => Err("ENOENT"),
            },
            Kind::Directory => {
                let prefix = format!("{path}/");
                let below = self.values.keys().filter_map(|key| key.strip_prefix(&prefix));
                let mut names: Vec<_> = below.filter_map(|rest| rest.split('/').next()).collect();
                names.dedup();
                if names.is_empty() && !self.values.contains_key(&path) {
                    return Err("ENOENT");
                }
                Ok(names.iter().flat_map(|name| name.bytes().chain([0])).collect())
            }
            Kind::Write => {
                self.set(&path, payload.get(first.len() + 1..).unwrap_or_default());
                Ok(done())
            }
            Kind::Mkdir => {
                self.values.entry(path).or_default();
                Ok(done())
            }
            Kind::Rm => self.remove(&path).then(done).ok_or("ENOENT"),
            Kind::Watch | Kind::Unwatch => {
                let watch = (first, parts.next().unwrap_or_default());
                let connection = self.connections.get_mut(&id).ok_or("EINVAL")?;
                let known = connection.watches.contains(&watch);
                match (kind, known) {
                    (Kind::Watch, true) => return Err("EEXIST"),
                    (Kind::Watch, false) => connection.watches.push(watch),
                    (_, true) => connection.watches.retain(|other| *other != watch),
                    (_, false) => return Err("ENOENT"),
                }
                Ok(done())
            }
            Kind::TransactionStart => Ok(b"7\0".to_vec()),
            Kind::TransactionEnd | Kind::ResetWatches => Ok(done()),
            _ => Err("ENOSYS"),
        }
    }
}

impl Connection {
    fn send(&mut self, header: Header, payload: &[u8]) {
        self.awake = true;
        self.output.extend(header.to_bytes());
        self.output.extend(payload);
    }

    fn event(&mut self, path: &str, token: &str) {
        let payload = format!("{path}\0{token}\0");
        let len = payload.len() as u32;
        self.send(Header { kind: Kind::WatchEvent.number(), req_id: 0, tx_id: 0, len }, payload.as_bytes());
    }

    /// Moves up to `most` bytes in each direction; true if any.
    fn pump(&mut self, most: u64) -> Option<bool> {
        let page = self.page.get()?;
        let word = |offset: usize| -> Option<&AtomicU32> { page.word_at(offset) };
        let mut moved = false;
        for _ in 0..most {
            let at = word(page::REQUEST_CONSUMER)?.load(Ordering::SeqCst);
            if at == word(page::REQUEST_PRODUCER)?.load(Ordering::SeqCst) {
                break;
            }
            let mut byte = [0];
            page.copy_out(page::REQUESTS + at as usize % RING_SIZE, &mut byte).ok()?;
            self.input.extend(byte);
            word(page::REQUEST_CONSUMER)?.store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        for _ in 0..most {
            let at = word(page::RESPONSE_PRODUCER)?.load(Ordering::SeqCst);
            let used = at.wrapping_sub(word(page::RESPONSE_CONSUMER)?.load(Ordering::SeqCst)) as usize;
            if used >= RING_SIZE || self.output.is_empty() {
                break;
            }
            page.copy_in(page::RESPONSES + at as usize % RING_SIZE, &[self.output.remove(0)]).ok()?;
            word(page::RESPONSE_PRODUCER)?.store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        Some(moved)
    }
}

/// Serves a guest for a while.
pub(super) fn serve(world: &Rc<Inner>, domain: u16) {
    let most = 1 + world.below(RING_SIZE as u64);
    let mut server = world.server.borrow_mut();
    let Some(connection) = server.connections.get_mut(&domain) else { return };
    connection.awake = connection.pump(most).unwrap_or(false);
    if connection.awake {
        world.events.borrow_mut().insert((domain, connection.port.0));
    }
    while let Some(connection) = server.connections.get_mut(&domain)
        && let Some(bytes) = connection.input.first_chunk()
    {
        let header = Header::from_bytes(bytes);
        let end = Header::SIZE + header.len as usize;
        let Some(payload) = connection.input.get(Header::SIZE..end).map(<[u8]>::to_vec) else { break };
        connection.input.drain(..end);
        let kind = Kind::from_number(header.kind).unwrap_or(Kind::Error);
        let answer = server.answer(domain, kind, &payload);
        let Some(connection) = server.connections.get_mut(&domain) else { return };
        let (kind, reply) = match answer {
            Ok(reply) => (header.kind, reply),
            Err(name) => (Kind::Error.number(), format!("{name}\0").into_bytes()),
        };
        connection.send(Header { kind, len: reply.len() as u32, ..header }, &reply);
        if header.kind == Kind::Watch.number() && kind == header.kind {
            // A new watch is told of once at once.
            if let Some((path, token)) = connection.watches.last().cloned() {
                connection.event(&path, &token);
            }
        }
    }
}
