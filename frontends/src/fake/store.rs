//! A small store: values and watches, no permissions. Transactions act at once; a test can make them conflict.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::id::Port;
use trunnion_protocol::store::{Header, Kind, RING_SIZE, page};

use super::{Fake, FakePages, Peer};

pub(crate) struct FakeStore {
    page: FakePages,
    port: Port,
    input: Vec<u8>,
    output: Vec<u8>,
    watches: Vec<(String, String)>,
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    /// Transactions that end with EAGAIN before one succeeds.
    pub(crate) conflicts: u32,
    /// Bytes that are moved in one step, to cut messages into pieces.
    pub(crate) piece: usize,
    pub(crate) requests: u32,
    /// What the toolstack has removed, for good.
    removed: Vec<String>,
    /// There was something to do the last time.
    awake: bool,
}

impl FakeStore {
    pub(crate) fn new(fake: &Fake) -> Self {
        let (page, port) = fake.place(Param::StorePfn, Param::StoreEvtchn);
        Self {
            page,
            port,
            input: Vec::new(),
            output: Vec::new(),
            watches: Vec::new(),
            values: BTreeMap::new(),
            conflicts: 0,
            piece: RING_SIZE,
            requests: 0,
            removed: Vec::new(),
            awake: true,
        }
    }

    fn full(path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/5/{path}") }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.values.get(&Self::full(path)).map(|value| std::str::from_utf8(value).unwrap())
    }

    /// A change by somebody else.
    pub(crate) fn set(&mut self, path: &str, value: &str) {
        let path = Self::full(path);
        self.values.insert(path.clone(), value.into());
        self.fire(&path);
    }

    /// The toolstack removes a directory in which the guest may make nothing.
    pub(crate) fn remove(&mut self, path: &str) {
        let path = Self::full(path);
        self.values.retain(|key, _| !key.starts_with(&path));
        self.fire(&path);
        self.removed.push(path);
    }

    pub(crate) fn watch_count(&self) -> usize {
        self.watches.len()
    }

    /// Sends bytes that no store would.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.awake = true;
    }

    fn fire(&mut self, path: &str) {
        for (watched, token) in self.watches.clone() {
            let full = Self::full(&watched);
            if path == full || path.starts_with(&format!("{full}/")) {
                let payload = format!("{path}\0{token}\0");
                self.send(Kind::WatchEvent, 0, 0, payload.as_bytes());
            }
        }
    }

    fn send(&mut self, kind: Kind, req_id: u32, tx_id: u32, payload: &[u8]) {
        let header = Header { kind: kind.number(), req_id, tx_id, len: payload.len() as u32 };
        self.awake = true;
        self.output.extend(header.to_bytes());
        self.output.extend(payload);
    }

    fn handle(&mut self, header: Header, payload: &[u8]) {
        self.requests += 1;
        let kind = Kind::from_number(header.kind).unwrap();
        let mut strings =
            payload.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        let mut next = || strings.next().unwrap_or_default();
        let first = next();
        let path = Self::full(&first);
        let mut event = None;
        let result: Result<Vec<u8>, &str> = match kind {
            Kind::Read | Kind::Write if self.removed.iter().any(|gone| path.starts_with(gone)) => {
                Err("EACCES")
            }
            Kind::Read => self.values.get(&path).cloned().ok_or("ENOENT"),
            Kind::Directory => {
                let prefix = format!("{path}/");
                let below = self.values.keys().filter_map(|key| key.strip_prefix(&prefix));
                let mut names: Vec<_> =
                    below.map(|rest| rest.split('/').next().unwrap().to_owned()).collect();
                names.dedup();
                Ok(names.iter().flat_map(|name| name.bytes().chain([0])).collect())
            }
            Kind::Write => {
                self.values.insert(path.clone(), payload[first.len() + 1..].to_vec());
                self.fire(&path);
                Ok(b"OK\0".to_vec())
            }
            Kind::Rm => {
                self.values.retain(|key, _| *key != path && !key.starts_with(&format!("{path}/")));
                Ok(b"OK\0".to_vec())
            }
            Kind::Watch => {
                let token = next();
                event = Some(format!("{first}\0{token}\0"));
                self.watches.push((first, token));
                Ok(b"OK\0".to_vec())
            }
            Kind::Unwatch => {
                let token = next();
                let before = self.watches.len();
                self.watches.retain(|watch| *watch != (first.clone(), token.clone()));
                if self.watches.len() < before { Ok(b"OK\0".to_vec()) } else { Err("ENOENT") }
            }
            Kind::TransactionStart => Ok(b"7\0".to_vec()),
            Kind::TransactionEnd if self.conflicts > 0 => {
                self.conflicts -= 1;
                Err("EAGAIN")
            }
            Kind::TransactionEnd | Kind::ResetWatches => Ok(b"OK\0".to_vec()),
            _ => Err("ENOSYS"),
        };
        match result {
            Ok(reply) => self.send(kind, header.req_id, header.tx_id, &reply),
            Err(name) => {
                self.send(Kind::Error, header.req_id, header.tx_id, format!("{name}\0").as_bytes());
            }
        }
        if let Some(event) = event {
            self.send(Kind::WatchEvent, 0, 0, event.as_bytes());
        }
    }

    fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU32 {
        self.page.as_ref()[0].word_at(offset).unwrap()
    }
}

impl Peer for FakeStore {
    fn step(&mut self, fake: &Fake) -> bool {
        if !fake.kicked(self.port) && !self.awake {
            return false;
        }
        let mut moved = false;
        let (consumer, producer) = (page::REQUEST_CONSUMER, page::REQUEST_PRODUCER);
        for _ in 0..self.piece {
            let at = self.word(consumer).load(Ordering::SeqCst);
            if at == self.word(producer).load(Ordering::SeqCst) {
                break;
            }
            let mut byte = [0];
            self.page.as_ref()[0].copy_out(page::REQUESTS + at as usize % RING_SIZE, &mut byte).unwrap();
            self.input.extend(byte);
            self.word(consumer).store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        while let Some(bytes) = self.input.first_chunk() {
            let header = Header::from_bytes(bytes);
            let end = Header::SIZE + header.len as usize;
            let Some(payload) = self.input.get(Header::SIZE..end).map(<[u8]>::to_vec) else { break };
            self.input.drain(..end);
            self.handle(header, &payload);
        }
        for _ in 0..self.piece {
            let at = self.word(page::RESPONSE_PRODUCER).load(Ordering::SeqCst);
            let full = at.wrapping_sub(self.word(page::RESPONSE_CONSUMER).load(Ordering::SeqCst)) as usize
                == RING_SIZE;
            if full || self.output.is_empty() {
                break;
            }
            let byte = [self.output.remove(0)];
            self.page.as_ref()[0].copy_in(page::RESPONSES + at as usize % RING_SIZE, &byte).unwrap();
            self.word(page::RESPONSE_PRODUCER).store(at.wrapping_add(1), Ordering::SeqCst);
            moved = true;
        }
        self.awake = moved;
        if moved {
            fake.notify(self.port);
        }
        moved
    }
}
