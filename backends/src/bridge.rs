//! Learning bridges: which port a frame leaves by.
//!
//! A bridge looks at addresses and tags and at nothing else; frames pass unchanged. Addresses are learned from senders, per
//! VLAN, in a table of bounded size of which each port can fill only a part. A frame to an address that nobody has sent
//! from, or to a group, goes to every other port, at a limited rate for each sender; a large packet counts as the frames that it
//! becomes.

mod table;

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem;
use core::time::Duration;

use crate::frame::{Frame, NetPort};
use crate::net::limit::Bucket;
use crate::net::offload;
use table::Table;

/// Frames a second that one port may have flooded, and how many at once.
const FLOOD_RATE: u64 = 10_000;
const FLOOD_BURST: u64 = 2_000;

/// A port of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortId(u32);

/// What passed through a port, as the bridge sees it: *in* is what the port's owner sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Frames in.
    pub in_frames: u64,
    /// Bytes in.
    pub in_bytes: u64,
    /// Frames out.
    pub out_frames: u64,
    /// Bytes out.
    pub out_bytes: u64,
    /// Frames in that went to every port.
    pub flooded: u64,
    /// Frames in that were dropped: above the limit for floods, or with an address that is never forwarded.
    pub dropped: u64,
}

struct Entry {
    port: Rc<dyn NetPort>,
    counts: Counts,
    flood: Bucket,
    dirty: bool,
}

/// A bridge.
pub struct Bridge {
    name: String,
    ports: RefCell<BTreeMap<PortId, Entry>>,
    table: RefCell<Table>,
    next: Cell<u32>,
    /// Ports that took a frame since the last flush.
    dirty: RefCell<Vec<Rc<dyn NetPort>>>,
    targets: RefCell<Vec<Rc<dyn NetPort>>>,
}

impl Bridge {
    /// A bridge without ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ports: RefCell::default(),
            table: RefCell::default(),
            next: Cell::new(1),
            dirty: RefCell::default(),
            targets: RefCell::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a port.
    pub fn join(&self, port: Rc<dyn NetPort>, now: Duration) -> PortId {
        let id = PortId(self.next.get());
        self.next.set(id.0.wrapping_add(1));
        let flood = Bucket::new(FLOOD_RATE, FLOOD_BURST, now);
        self.ports.borrow_mut().insert(id, Entry { port, counts: Counts::default(), flood, dirty: false });
        id
    }

    /// Takes a port away, with the addresses behind it.
    pub fn leave(&self, id: PortId) {
        self.ports.borrow_mut().remove(&id);
        self.table.borrow_mut().forget(id);
    }

    /// What passed through a port; `None` when there is none.
    pub fn counts(&self, id: PortId) -> Option<Counts> {
        self.ports.borrow().get(&id).map(|entry| entry.counts)
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.ports.borrow().len()
    }

    /// Sends a frame on its way. The ports that take it are flushed by [`flush`](Self::flush). Returns true when one of
    /// them would rather have had it in local pages.
    pub fn forward(&self, from: PortId, frame: &Frame<'_>, now: Duration) -> bool {
        let mut targets = mem::take(&mut *self.targets.borrow_mut());
        self.choose(from, frame, now, &mut targets);
        let mut local = false;
        for port in targets.drain(..) {
            local |= port.reads();
            port.deliver(frame);
        }
        *self.targets.borrow_mut() = targets;
        local
    }

    fn choose(&self, from: PortId, frame: &Frame<'_>, now: Duration, targets: &mut Vec<Rc<dyn NetPort>>) {
        let mut ports = self.ports.borrow_mut();
        let Some(entry) = ports.get_mut(&from) else { return };
        let length = frame.length as u64;
        entry.counts.in_frames += 1;
        entry.counts.in_bytes += length;
        let (Some(to), Some(source)) = (address(frame.head, 0), address(frame.head, 6)) else {
            entry.counts.dropped += 1;
            return;
        };
        if is_reserved(to) {
            entry.counts.dropped += 1;
            return;
        }
        let tag = offload::payload(frame.head).map_or(0, |(_, _, tag)| tag);
        let mut table = self.table.borrow_mut();
        table.learn(source, tag, from, now);
        let known = if crate::net::is_group(to) { None } else { table.find(to, tag, now) };
        if let Some(port) = known {
            if port != from
                && let Some(entry) = ports.get_mut(&port)
            {
                self.pass(entry, length, targets);
            }
            return;
        }
        if !entry.flood.is_open(now) {
            entry.counts.dropped += 1;
            return;
        }
        entry.flood.take(frame.count() as u64);
        entry.counts.flooded += 1;
        for (id, entry) in ports.iter_mut() {
            if *id != from {
                self.pass(entry, length, targets);
            }
        }
    }

    fn pass(&self, entry: &mut Entry, length: u64, targets: &mut Vec<Rc<dyn NetPort>>) {
        entry.counts.out_frames += 1;
        entry.counts.out_bytes += length;
        if !mem::replace(&mut entry.dirty, true) {
            self.dirty.borrow_mut().push(Rc::clone(&entry.port));
        }
        targets.push(Rc::clone(&entry.port));
    }

    /// Ends a run of frames.
    pub fn flush(&self) {
        let mut dirty = mem::take(&mut *self.dirty.borrow_mut());
        if dirty.is_empty() {
            return;
        }
        self.ports.borrow_mut().values_mut().for_each(|entry| entry.dirty = false);
        for port in dirty.drain(..) {
            port.flush();
        }
        let mut place = self.dirty.borrow_mut();
        if place.is_empty() {
            *place = dirty;
        }
    }
}

fn address(head: &[u8], at: usize) -> Option<[u8; 6]> {
    head.get(at..)?.first_chunk().copied()
}

/// Addresses that bridges keep for each other (802.1D, 7.12.6).
const fn is_reserved(address: [u8; 6]) -> bool {
    matches!(address, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
}
