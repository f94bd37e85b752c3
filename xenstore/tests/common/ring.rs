//! A domain's end of a ring file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;

use trunnion_protocol::store::{Header, Kind, RING_SIZE, page};

use super::{Daemon, wait};

pub(crate) struct Guest {
    number: u32,
    pub(crate) file: File,
    pub(crate) events: File,
}

impl Guest {
    pub(crate) fn new(daemon: &Daemon, number: u32) -> Self {
        let directory = daemon.directory.path();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(directory.join(format!("ring.{number}"))).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        let events = OpenOptions::new().write(true).open(directory.join("evt.in")).unwrap();
        Self { number, file, events }
    }

    pub(crate) fn introduced(daemon: &Daemon, number: u32) -> Self {
        let guest = Self::new(daemon, number);
        let payload = format!("{number}\x001\x009\0");
        assert_eq!(daemon.client().ask(Kind::Introduce, 0, payload.as_bytes()).unwrap(), b"OK\0");
        guest
    }

    pub(crate) fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset as u64).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn set_word(&self, offset: usize, value: u32) {
        self.file.write_all_at(&value.to_le_bytes(), offset as u64).unwrap();
    }

    pub(crate) fn kick(&mut self) {
        self.events.write_all(&(100 + self.number).to_le_bytes()).unwrap();
    }

    /// Puts bytes into the request ring, waiting for room, and kicks the store.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.word(page::REQUEST_PRODUCER);
            let full =
                |guest: &Self| at.wrapping_sub(guest.word(page::REQUEST_CONSUMER)) as usize == RING_SIZE;
            wait("room in the ring", || !full(self));
            let room = RING_SIZE - at.wrapping_sub(self.word(page::REQUEST_CONSUMER)) as usize;
            let place = at as usize % RING_SIZE;
            let (piece, next) = rest.split_at(rest.len().min(room).min(RING_SIZE - place));
            self.file.write_all_at(piece, (page::REQUESTS + place) as u64).unwrap();
            self.set_word(page::REQUEST_PRODUCER, at.wrapping_add(piece.len() as u32));
            self.kick();
            rest = next;
        }
    }

    pub(crate) fn request(&mut self, kind: Kind, tx_id: u32, payload: &[u8]) {
        let header = Header { kind: kind.number(), req_id: 77, tx_id, len: payload.len() as u32 };
        self.send(&[&header.to_bytes()[..], payload].concat());
    }

    /// Takes bytes out of the response ring, waiting for them.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let at = self.word(page::RESPONSE_CONSUMER);
            wait("bytes in the ring", || self.word(page::RESPONSE_PRODUCER) != at);
            let there = self.word(page::RESPONSE_PRODUCER).wrapping_sub(at) as usize;
            let place = at as usize % RING_SIZE;
            let mut piece = vec![0; there.min(count - bytes.len()).min(RING_SIZE - place)];
            self.file.read_exact_at(&mut piece, (page::RESPONSES + place) as u64).unwrap();
            self.set_word(page::RESPONSE_CONSUMER, at.wrapping_add(piece.len() as u32));
            if there == RING_SIZE {
                // The ring was full: the store may have more.
                self.kick();
            }
            bytes.extend(piece);
        }
        bytes
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> (Kind, Vec<u8>) {
        let header = Header::from_bytes(&self.take(Header::SIZE).try_into().unwrap());
        let payload = self.take(header.len as usize);
        (Kind::from_number(header.kind).unwrap(), payload)
    }

    /// A request whose answer is the next message; of an error, its name.
    pub(crate) fn ask(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        self.request(kind, 0, payload);
        let (answered, payload) = self.message();
        assert!(answered == kind || answered == Kind::Error, "{answered:?}");
        payload
    }
}
