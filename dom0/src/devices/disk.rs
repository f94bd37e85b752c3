//! A virtio disk: many requests in flight, straight between the device and the pages that the requests own.
//!
//! The request owns its pages from `submit` until the completion hands them back; the device is reset before anything
//! else could take them. Device errors are reported as such, counted, and logged at a bounded rate.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::task::{Context, Poll};
use core::time::Duration;

use bitflags::bitflags;
use trunnion_backends::device::{
    BlockDevice, BlockError, BlockOperation, BlockRequest, BlockShape, Completion, DiscardShape, Full,
    GuestPage, SECTOR_SIZE, Ticket,
};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::memory::{self, Pages};
use trunnion_guest::virtqueue::{Piece, Queue};
use trunnion_protocol::address::{MachineAddress, PAGE_SHIFT, PAGE_SIZE};
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::bus::{Doorbell, Function, Unusable};
use super::interrupt::{self, Signal};

/// Requests in flight at most.
const SLOTS: u16 = 64;
/// Segments of a request at most.
const SEGMENTS: usize = 64;
/// Bytes kept for each slot: header, status, discard range.
const STRIDE: usize = 64;
const STATUS: usize = 16;
const RANGE: usize = 32;
/// How long the device may take to name itself.
const PATIENCE: Duration = Duration::from_secs(2);

bitflags! {
    /// Feature bits (virtio 1.2, 5.2.3 and 6).
    #[derive(Clone, Copy, Debug)]
    struct Feature: u64 {
        const SEG_MAX = 1 << 2;
        const READ_ONLY = 1 << 5;
        const BLOCK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const DISCARD = 1 << 13;
        const INDIRECT = 1 << 28;
        const VERSION_1 = 1 << 32;
    }
}

/// Request types (virtio 1.2, 5.2.6).
mod kind {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const NAME: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
}

/// One disk. `P` is the kind of page that its requests own.
pub struct Disk<P> {
    name: String,
    shape: BlockShape,
    signal: Rc<Signal>,
    state: RefCell<State<P>>,
    users: Cell<u32>,
}

struct State<P> {
    /// Reset before the queue's memory goes: fields are dropped in order.
    function: Function,
    queue: Queue,
    doorbell: Doorbell,
    headers: Pages,
    in_flight: Vec<Option<(Ticket, BlockRequest<P>)>>,
    /// Requests that never reach the device.
    refused: Vec<Completion<P>>,
    scratch: Vec<Piece>,
    next: u64,
    broken: bool,
}

impl<P: GuestPage> Disk<P> {
    /// Sets the device up, asks its name and starts it.
    pub fn open(mut function: Function, line: u8, spawner: &Spawner) -> Result<Self, Unusable> {
        let wanted = Feature::all();
        let features = function.transport.begin_init(wanted);
        if !features.contains(Feature::VERSION_1) {
            return Err(Unusable::Legacy);
        }
        if !features.contains(Feature::INDIRECT) {
            return Err(Unusable::Feature("indirect descriptors"));
        }
        if !function.transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(Unusable::Feature("the features it offered"));
        }
        let size = function.transport.max_queue_size(0).min(u32::from(SLOTS)) as u16;
        let size = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
        let queue = Queue::new(size, SEGMENTS + 3).ok_or(Unusable::Queue)?;
        let areas = queue.areas();
        function.transport.queue_set(0, size.into(), areas.descriptors.0, areas.driver.0, areas.device.0);
        let signal = Rc::new(Signal::default());
        interrupt::connect(&mut function, line, &[(0, Rc::clone(&signal))], spawner);
        let shape = shape(&function, features).ok_or(Unusable::Address)?;
        function.transport.finish_init();
        let doorbell = function.doorbell(0);
        let headers =
            memory::pages((usize::from(size) * STRIDE).div_ceil(PAGE_SIZE)).ok_or(Unusable::Memory)?;
        let mut state = State {
            function,
            queue,
            doorbell,
            headers,
            in_flight: (0..size).map(|_| None).collect(),
            refused: Vec::new(),
            scratch: Vec::with_capacity(SEGMENTS + 1),
            next: 0,
            broken: false,
        };
        let name = state.ask_name()?;
        Ok(Self { name, shape, signal, state: RefCell::new(state), users: Cell::new(0) })
    }
}

impl<P> Disk<P> {
    /// The serial number it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many virtual disks are on it. The owner keeps it.
    pub const fn users(&self) -> &Cell<u32> {
        &self.users
    }
}

/// Reads the configuration (virtio 1.2, 5.2.4).
fn shape(function: &Function, features: Feature) -> Option<BlockShape> {
    let transport = &function.transport;
    let word = |offset: usize| transport.read_config_space::<u32>(offset).ok();
    let sectors = u64::from(word(0)?) | u64::from(word(4)?) << 32;
    let segments = if features.contains(Feature::SEG_MAX) { word(12)? as usize } else { 1 };
    let size = if features.contains(Feature::BLOCK_SIZE) { word(20)? } else { 512 };
    let size = if size.is_power_of_two() && size >= 512 { size } else { 512 };
    let exponent = if features.contains(Feature::TOPOLOGY) {
        u32::from(transport.read_config_space::<u8>(24).ok()?)
    } else {
        0
    };
    let discard = features.contains(Feature::DISCARD).then(|| DiscardShape {
        granularity: word(44).unwrap_or(1).max(1).saturating_mul(SECTOR_SIZE as u32).max(size),
        alignment: 0,
    });
    Some(BlockShape {
        sectors,
        sector_size: size,
        physical_sector_size: size.checked_shl(exponent).filter(|size| *size != 0).unwrap_or(size),
        read_only: features.contains(Feature::READ_ONLY),
        flush: features.contains(Feature::FLUSH),
        discard,
        max_segments: segments.clamp(1, SEGMENTS),
    })
}

impl<P> State<P> {
    fn bus(&self, slot: u16, offset: usize) -> MachineAddress {
        let start = self.headers.first().0 << PAGE_SHIFT;
        MachineAddress(start + (usize::from(slot) * STRIDE + offset) as u64)
    }

    fn put(&self, slot: u16, offset: usize, bytes: &[u8]) {
        let at = usize::from(slot) * STRIDE + offset;
        if let Some(page) = self.headers.as_ref().get(at / PAGE_SIZE) {
            let _ = page.copy_in(at % PAGE_SIZE, bytes);
        }
    }

    fn status(&self, slot: u16) -> u8 {
        let at = usize::from(slot) * STRIDE + STATUS;
        let page = self.headers.as_ref().get(at / PAGE_SIZE);
        page.and_then(|page| page.load(at % PAGE_SIZE).ok()).unwrap_or(u8::MAX)
    }

    /// Offers a request whose data pieces are in `scratch`. The slot that the queue will give is known in advance.
    fn offer(&mut self, kind: u32, sector: u64, to_device: bool) -> Option<u16> {
        let slot = self.queue.next_slot()?;
        let mut header = [0; 17];
        for (to, from) in
            header.iter_mut().zip(kind.to_le_bytes().into_iter().chain([0; 4]).chain(sector.to_le_bytes()))
        {
            *to = from;
        }
        // The status byte behind the header is not one that the device writes.
        header[16] = u8::MAX;
        self.put(slot, 0, &header);
        let head = [Piece { address: self.bus(slot, 0), length: 16 }];
        let tail = [Piece { address: self.bus(slot, STATUS), length: 1 }];
        let (read, write) = if to_device { (&*self.scratch, &[][..]) } else { (&[][..], &*self.scratch) };
        let read = head.into_iter().chain(read.iter().copied());
        let write = write.iter().copied().chain(tail);
        let slot = self.queue.push(read, write).ok()?;
        if self.queue.wants_notification() {
            self.doorbell.ring();
        }
        Some(slot)
    }

    /// The device's serial number: at most 20 bytes.
    fn ask_name(&mut self) -> Result<String, Unusable> {
        self.scratch.clear();
        let slot = self.queue.next_slot().ok_or(Unusable::Queue)?;
        self.scratch.push(Piece { address: self.bus(slot, RANGE), length: 20 });
        self.put(slot, RANGE, &[0; 20]);
        self.offer(kind::NAME, 0, false).ok_or(Unusable::Queue)?;
        let deadline = clock::now() + PATIENCE;
        loop {
            match self.queue.pop() {
                Ok(Some(_)) => break,
                Ok(None) if clock::now() < deadline => core::hint::spin_loop(),
                _ => return Err(Unusable::Silent),
            }
        }
        let mut name = [0; 20];
        let at = usize::from(slot) * STRIDE + RANGE;
        if let Some(page) = self.headers.as_ref().get(at / PAGE_SIZE).filter(|_| self.status(slot) == 0) {
            let _ = page.copy_out(at % PAGE_SIZE, &mut name);
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned())
    }

    fn complete(&mut self) -> Option<Completion<P>> {
        if let Some(completion) = self.refused.pop() {
            return Some(completion);
        }
        if self.broken {
            return self.abandon();
        }
        match self.queue.pop() {
            Ok(None) => None,
            Ok(Some((slot, _))) => {
                let (ticket, request) = self.in_flight.get_mut(usize::from(slot))?.take()?;
                let result = match self.status(slot) {
                    0 => Ok(()),
                    2 => Err(BlockError::Unsupported),
                    _ => Err(BlockError::Device),
                };
                if result.is_err() {
                    log::warn!(
                        "{}: {:?} failed sector={} sectors={}",
                        self.function.function,
                        request.operation,
                        request.sector,
                        request.bytes() / SECTOR_SIZE
                    );
                }
                Some(Completion { ticket, request, result })
            }
            Err(_) => {
                log::error!(
                    "{}: the device answered what was not asked; it is given up",
                    self.function.function
                );
                // After the reset it touches no page any more.
                self.function.transport.set_status(DeviceStatus::empty());
                self.broken = true;
                self.abandon()
            }
        }
    }

    /// The next request of a device that was given up.
    fn abandon(&mut self) -> Option<Completion<P>> {
        let (ticket, request) = self.in_flight.iter_mut().find_map(Option::take)?;
        Some(Completion { ticket, request, result: Err(BlockError::Gone) })
    }
}

impl<P: GuestPage> BlockDevice<P> for Disk<P> {
    fn shape(&self) -> BlockShape {
        self.shape
    }

    fn submit(&self, request: BlockRequest<P>) -> Result<Ticket, Full<BlockRequest<P>>> {
        let mut state = self.state.borrow_mut();
        let ticket = Ticket(state.next);
        let fault = if state.broken { Err(BlockError::Gone) } else { self.shape.check(&request) };
        if let Err(error) = fault {
            state.next = state.next.wrapping_add(1);
            state.refused.push(Completion { ticket, request, result: Err(error) });
            self.signal.raise();
            return Ok(ticket);
        }
        let Some(slot) = state.queue.next_slot() else { return Err(Full(request)) };
        state.scratch.clear();
        let (kind, to_device) = match request.operation {
            BlockOperation::Read => (kind::READ, false),
            BlockOperation::Write => (kind::WRITE, true),
            BlockOperation::Flush => (kind::FLUSH, true),
            BlockOperation::Discard { sectors } => {
                let mut range = [0; 16];
                let count = u32::try_from(sectors).unwrap_or(u32::MAX).to_le_bytes();
                for (to, from) in range.iter_mut().zip(request.sector.to_le_bytes().into_iter().chain(count))
                {
                    *to = from;
                }
                state.put(slot, RANGE, &range);
                let piece = Piece { address: state.bus(slot, RANGE), length: 16 };
                state.scratch.push(piece);
                (kind::DISCARD, true)
            }
        };
        for segment in &request.segments {
            let piece = Piece { address: segment.bus_address(), length: segment.length() as u32 };
            match state.scratch.last_mut() {
                // Pages that lie together are one piece.
                Some(last) if last.address.0 + u64::from(last.length) == piece.address.0 => {
                    last.length += piece.length;
                }
                _ => state.scratch.push(piece),
            }
        }
        let sector =
            if matches!(request.operation, BlockOperation::Discard { .. }) { 0 } else { request.sector };
        if state.offer(kind, sector, to_device).is_none() {
            return Err(Full(request));
        }
        state.next = state.next.wrapping_add(1);
        if let Some(place) = state.in_flight.get_mut(usize::from(slot)) {
            *place = Some((ticket, request));
        }
        Ok(ticket)
    }

    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<P>> {
        let mut state = self.state.borrow_mut();
        if let Some(completion) = state.complete() {
            return Poll::Ready(completion);
        }
        // Interrupts are only looked at between polls, so one that comes now is not lost.
        self.signal.wait(context.waker());
        state.complete().map_or(Poll::Pending, Poll::Ready)
    }
}
