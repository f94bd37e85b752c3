//! The uplink: a virtio network card as a port of a bridge.
//!
//! Its buffers are made once and lie in pages of dom0's own; the hypervisor copies a guest's bytes straight into the one
//! that the card reads, and the card's bytes straight into the guest's page. The card is asked for no offloads: blank
//! checksums are completed in the buffer, large packets are cut before they get one.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use bitflags::bitflags;
use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::frame::{Checksum, Frame, HEAD, NetPort, Piece, Place};
use trunnion_backends::host::{CopyPage, GrantCopier, GrantCopy};
use trunnion_backends::net::{Gather, offload};
use trunnion_guest::clock;
use trunnion_guest::executor::{Spawner, yield_now};
use trunnion_guest::memory::{self, Pages};
use trunnion_guest::virtqueue::{Piece as Part, Queue};
use trunnion_protocol::address::{Gfn, MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::shared::SharedPage;
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::bus::{Doorbell, Function, Unusable};
use super::interrupt::{self, Signal};
use crate::services::grants::Kernel;

/// Buffers each way.
const BUFFERS: u16 = 256;
/// Bytes of a buffer: two in a page.
const SIZE: usize = PAGE_SIZE / 2;
/// Bytes of the card's own header in front of a frame (virtio 1.2, 5.1.6).
const HEADER: usize = 12;
/// Bytes of the longest frame: 1,500 bytes of payload with header and tag.
const LONGEST: usize = 1518;
/// Frames handed on in one go.
const RUN: usize = 64;
/// Bytes of frames that wait for a buffer, counting at least so many for each.
const BACKLOG: usize = 1 << 20;
const KEPT: usize = 128;
/// Buffers of such frames that are kept to be used again.
const SPARE: usize = 64;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

bitflags! {
    /// Feature bits (virtio 1.2, 5.1.3 and 6).
    #[derive(Clone, Copy, Debug)]
    struct Feature: u64 {
        const MAC = 1 << 5;
        const INDIRECT = 1 << 28;
        const VERSION_1 = 1 << 32;
    }
}

/// A queue with its buffers.
struct Side {
    queue: Queue,
    doorbell: Doorbell,
    pages: Pages,
    /// Buffers that are not with the card.
    free: Vec<u16>,
    /// The buffer of each slot.
    buffers: Vec<u16>,
}

/// A frame whose bytes come with the next flush.
struct Pending {
    buffer: u16,
    length: usize,
    copies: usize,
    blank: bool,
}

struct Sender {
    side: Side,
    pending: Vec<Pending>,
    copies: Vec<GrantCopy>,
    results: Vec<Result<(), GrantStatus>>,
    backlog: VecDeque<Vec<u8>>,
    waiting: usize,
    spare: Vec<Vec<u8>>,
    gather: Gather<Pages>,
    work: (Vec<u8>, Vec<u8>),
}

/// The card.
pub struct Uplink {
    address: [u8; 6],
    kernel: Kernel,
    /// Reset before the queues' memory goes: fields are dropped in order.
    _function: Function,
    receive: RefCell<Side>,
    send: RefCell<Sender>,
    received: Rc<Signal>,
    sent: Rc<Signal>,
    dropped: Cell<u64>,
}

impl Side {
    fn new(function: &mut Function, number: u16) -> Result<Self, Unusable> {
        let size = function.transport.max_queue_size(number).min(u32::from(BUFFERS)) as u16;
        let size = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
        let queue = Queue::new(size, 1).ok_or(Unusable::Queue)?;
        let areas = queue.areas();
        function.transport.queue_set(
            number,
            size.into(),
            areas.descriptors.0,
            areas.driver.0,
            areas.device.0,
        );
        let pages = memory::pages((usize::from(size) * SIZE).div_ceil(PAGE_SIZE)).ok_or(Unusable::Memory)?;
        let doorbell = function.doorbell(number);
        Ok(Self { queue, doorbell, pages, free: (0..size).rev().collect(), buffers: (0..size).collect() })
    }

    fn page(&self, buffer: u16) -> Option<(&SharedPage, Gfn, usize)> {
        let at = usize::from(buffer) * SIZE;
        let page = self.pages.as_ref().get(at / PAGE_SIZE)?;
        Some((page, Gfn(self.pages.first().0 + (at / PAGE_SIZE) as u64), at % PAGE_SIZE))
    }

    fn part(&self, buffer: u16, length: usize) -> Part {
        let start = self.pages.first().0 << PAGE_SHIFT;
        let address = MachineAddress(start + (usize::from(buffer) * SIZE) as u64);
        Part { address, length: length as u32 }
    }

    /// Hands a buffer to the card.
    fn push(&mut self, buffer: u16, length: usize, to_card: bool) {
        let part = self.part(buffer, length);
        let (read, write) = if to_card { (Some(part), None) } else { (None, Some(part)) };
        match self.queue.push(read, write) {
            Ok(slot) => {
                if let Some(place) = self.buffers.get_mut(usize::from(slot)) {
                    *place = buffer;
                }
            }
            // There are as many slots as buffers.
            Err(_) => self.free.push(buffer),
        }
    }

    /// The next buffer that the card is done with, and the bytes that it wrote.
    fn pop(&mut self) -> Option<(u16, usize)> {
        match self.queue.pop() {
            Ok(Some((slot, length))) => {
                Some((self.buffers.get(usize::from(slot)).copied()?, length as usize))
            }
            Ok(None) => None,
            Err(_) => {
                log::error!("the uplink answered what was not asked");
                None
            }
        }
    }

    fn ring(&self) {
        if self.queue.wants_notification() {
            self.doorbell.ring();
        }
    }
}

impl Uplink {
    /// Sets the card up and starts it.
    pub fn open(mut function: Function, line: u8, spawner: &Spawner) -> Result<Self, Unusable> {
        let features = function.transport.begin_init(Feature::all());
        if !features.contains(Feature::VERSION_1) {
            return Err(Unusable::Legacy);
        }
        if !features.contains(Feature::INDIRECT) {
            return Err(Unusable::Feature("indirect descriptors"));
        }
        if !function.transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(Unusable::Feature("the features it offered"));
        }
        let mut address = [0x02, 0x16, 0x3e, 0, 0, 1];
        if features.contains(Feature::MAC) {
            for (at, byte) in address.iter_mut().enumerate() {
                *byte = function.transport.read_config_space::<u8>(at).map_err(|_| Unusable::Address)?;
            }
        }
        let mut receive = Side::new(&mut function, RECEIVE)?;
        let mut send = Side::new(&mut function, TRANSMIT)?;
        let (received, sent) = (Rc::new(Signal::default()), Rc::new(Signal::default()));
        let signals = [(RECEIVE, Rc::clone(&received)), (TRANSMIT, Rc::clone(&sent))];
        interrupt::connect(&mut function, line, &signals, spawner);
        function.transport.finish_init();
        // Finished frames are noticed when the next is sent; only a backlog waits for them.
        send.queue.set_interrupts(false);
        while let Some(buffer) = receive.free.pop() {
            receive.push(buffer, SIZE, false);
        }
        receive.ring();
        let kernel = Kernel::default();
        let gather = Gather::new(&kernel).ok_or(Unusable::Memory)?;
        let send = Sender {
            side: send,
            pending: Vec::new(),
            copies: Vec::new(),
            results: Vec::new(),
            backlog: VecDeque::new(),
            waiting: 0,
            spare: Vec::new(),
            gather,
            work: Default::default(),
        };
        Ok(Self {
            address,
            kernel,
            _function: function,
            receive: RefCell::new(receive),
            send: RefCell::new(send),
            received,
            sent,
            dropped: Cell::new(0),
        })
    }

    /// The card's own address.
    pub const fn address(&self) -> [u8; 6] {
        self.address
    }

    /// Frames that found no room, or were too long for the wire.
    pub const fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    fn drop_one(&self) {
        self.dropped.set(self.dropped.get().wrapping_add(1));
    }

    /// Joins a bridge, and moves frames for ever.
    pub fn join(self: &Rc<Self>, bridge: &Rc<Bridge>, spawner: &Spawner) {
        let port: Rc<dyn NetPort> = Rc::<Self>::clone(self);
        let id = bridge.join(port, clock::now());
        let (card, to) = (Rc::clone(self), Rc::clone(bridge));
        spawner.spawn(async move {
            loop {
                if card.hand_on(&to, id) {
                    yield_now().await;
                } else {
                    card.received.next().await;
                }
            }
        });
        let card = Rc::clone(self);
        spawner.spawn(async move {
            loop {
                card.sent.next().await;
                card.send.borrow_mut().advance();
            }
        });
    }

    /// Gives a run of frames to the bridge. True if there may be more.
    fn hand_on(&self, bridge: &Bridge, id: PortId) -> bool {
        let now = clock::now();
        let mut done = Vec::with_capacity(RUN);
        {
            let mut side = self.receive.borrow_mut();
            while done.len() < RUN
                && let Some((buffer, length)) = side.pop()
            {
                done.push((buffer, length.saturating_sub(HEADER).min(SIZE - HEADER)));
            }
        }
        if done.is_empty() {
            return false;
        }
        {
            let side = self.receive.borrow();
            for &(buffer, length) in &done {
                let Some((page, gfn, at)) = side.page(buffer) else { continue };
                let mut head = [0; HEAD];
                let Some(head) = head.get_mut(..length.min(HEAD)) else { continue };
                if length == 0 || page.copy_out(at + HEADER, head).is_err() {
                    continue;
                }
                let place = Place::Local { page, gfn, offset: (at + HEADER) as u16 };
                let pieces = [Piece { place, length: length as u16 }];
                let frame = Frame { head, pieces: &pieces, length, checksum: Checksum::Unknown, gso: None };
                bridge.forward(id, &frame, now);
            }
            bridge.flush();
        }
        let mut side = self.receive.borrow_mut();
        let full = done.len() == RUN;
        for (buffer, _) in done {
            side.push(buffer, SIZE, false);
        }
        side.ring();
        full || side.queue.has_used()
    }
}

impl Sender {
    /// A buffer for a frame.
    fn buffer(&mut self) -> Option<u16> {
        if self.side.free.is_empty() {
            while let Some((buffer, _)) = self.side.pop() {
                self.side.free.push(buffer);
            }
        }
        self.side.free.pop()
    }

    /// Sends bytes, or keeps them; false when they are dropped.
    fn send(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > LONGEST {
            return false;
        }
        if self.backlog.is_empty()
            && let Some(buffer) = self.buffer()
        {
            self.fill(buffer, bytes);
            return true;
        }
        self.keep(bytes)
    }

    fn fill(&mut self, buffer: u16, bytes: &[u8]) {
        if let Some((page, _, at)) = self.side.page(buffer) {
            let _ = page.copy_in(at + HEADER, bytes);
        }
        self.pending.push(Pending { buffer, length: bytes.len(), copies: 0, blank: false });
    }

    fn keep(&mut self, bytes: &[u8]) -> bool {
        if self.waiting.saturating_add(bytes.len().max(KEPT)) > BACKLOG {
            return false;
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        self.waiting += kept.len().max(KEPT);
        self.backlog.push_back(kept);
        true
    }

    /// Makes the copies and hands the frames to the card.
    fn flush(&mut self, kernel: &Kernel) -> u64 {
        let mut dropped = 0;
        if !self.copies.is_empty() {
            self.results.clear();
            kernel.copy(&self.copies, &mut self.results);
            self.copies.clear();
        }
        let mut results = self.results.drain(..);
        for frame in self.pending.drain(..) {
            let good = (0..frame.copies).fold(true, |good, _| good & matches!(results.next(), Some(Ok(()))));
            if !good || (frame.blank && !complete(&self.side, frame.buffer, frame.length)) {
                self.side.free.push(frame.buffer);
                dropped += 1;
                continue;
            }
            self.side.push(frame.buffer, HEADER + frame.length, true);
        }
        drop(results);
        self.side.ring();
        self.wait();
        dropped
    }

    /// Asks for an interrupt if something waits for a buffer.
    fn wait(&mut self) {
        if !self.backlog.is_empty() {
            self.side.queue.set_interrupts(true);
            if self.side.queue.has_used() {
                self.advance();
            }
        }
    }

    /// Sends what waited.
    fn advance(&mut self) {
        while !self.backlog.is_empty() {
            let Some(buffer) = self.buffer() else { break };
            let Some(bytes) = self.backlog.pop_front() else { break };
            self.waiting = self.waiting.saturating_sub(bytes.len().max(KEPT));
            self.fill(buffer, &bytes);
            if self.spare.len() < SPARE {
                self.spare.push(bytes);
            }
        }
        for frame in core::mem::take(&mut self.pending) {
            self.side.push(frame.buffer, HEADER + frame.length, true);
        }
        self.side.ring();
        if self.backlog.is_empty() {
            self.side.queue.set_interrupts(false);
        }
    }
}

/// Fills in the checksum of a frame in its buffer.
fn complete(side: &Side, buffer: u16, length: usize) -> bool {
    let mut bytes = [0; LONGEST];
    let (Some((page, _, at)), Some(bytes)) = (side.page(buffer), bytes.get_mut(..length)) else {
        return false;
    };
    page.copy_out(at + HEADER, bytes).is_ok()
        && offload::complete(bytes)
        && page.copy_in(at + HEADER, bytes).is_ok()
}

impl NetPort for Uplink {
    fn deliver(&self, frame: &Frame<'_>) {
        let mut sender = self.send.borrow_mut();
        let sender = &mut *sender;
        let (mut buffer, mut cut) = core::mem::take(&mut sender.work);
        let good = if let Some(gso) = frame.gso {
            let pulled = sender.gather.pull(&self.kernel, frame, &mut buffer);
            pulled.is_some_and(|bytes| {
                let mut lost = 0;
                let count = offload::segment(bytes, gso, &mut cut, |bytes| {
                    lost += u64::from(!sender.send(bytes));
                });
                self.dropped.set(self.dropped.get().wrapping_add(lost));
                count.is_some()
            })
        } else if frame.length > LONGEST {
            false
        } else if sender.backlog.is_empty()
            && let Some(buffer) = sender.buffer()
        {
            let copies = sender.copies.len();
            let placed = place(sender, buffer, frame);
            if placed {
                let copies = sender.copies.len() - copies;
                let blank = frame.checksum == Checksum::Blank;
                sender.pending.push(Pending { buffer, length: frame.length, copies, blank });
            } else {
                sender.copies.truncate(copies);
                sender.side.free.push(buffer);
            }
            placed
        } else {
            let pulled = sender.gather.pull(&self.kernel, frame, &mut buffer);
            pulled.is_some_and(|bytes| {
                (frame.checksum != Checksum::Blank || offload::complete(bytes)) && sender.keep(bytes)
            })
        };
        sender.work = (buffer, cut);
        if !good {
            self.drop_one();
        }
    }

    fn flush(&self) {
        let lost = self.send.borrow_mut().flush(&self.kernel);
        self.dropped.set(self.dropped.get().wrapping_add(lost));
    }
}

/// Brings a frame into a buffer: local bytes at once, a guest's by the next flush.
fn place(sender: &mut Sender, buffer: u16, frame: &Frame<'_>) -> bool {
    let Some((page, gfn, start)) = sender.side.page(buffer) else { return false };
    let mut at = start + HEADER;
    for piece in frame.pieces {
        match piece.place {
            Place::Local { page: from, offset, .. } => {
                if page.copy_between(at, from, usize::from(offset), usize::from(piece.length)).is_err() {
                    return false;
                }
            }
            Place::Granted { domain, reference, offset } => sender.copies.push(GrantCopy {
                from: CopyPage::Granted(domain, reference),
                from_offset: offset,
                to: CopyPage::Local(gfn),
                to_offset: at as u16,
                length: piece.length,
            }),
        }
        at += usize::from(piece.length);
    }
    true
}
