//! A split virtqueue (virtio 1.2, 2.7) that takes bus addresses: many requests in flight, each with its own indirect
//! table, and nothing allocated after [`Queue::new`].
//!
//! The queue knows nothing of what it moves. Whoever pushes buffers keeps their memory alive until [`Queue::pop`] hands
//! the slot back, or until the device has been reset.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use trunnion_protocol::address::{MachineAddress, PAGE_SHIFT, PAGE_SIZE};

use crate::memory::{self, Pages};

const DESCRIPTOR: usize = 16;
const FLAG_NEXT: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_INDIRECT: u32 = 4;
/// Used-ring flag: the device wants no notification.
const NO_NOTIFY: u32 = 1;

/// A piece of memory as the device sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its address on the bus.
    pub address: MachineAddress,
    /// Bytes.
    pub length: u32,
}

/// Every slot is in flight, or the request has more pieces than a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The device named a slot that is not in flight: it cannot be trusted any more, and is to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// Where the device finds the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Areas {
    /// The descriptors.
    pub descriptors: MachineAddress,
    /// The driver's ring.
    pub driver: MachineAddress,
    /// The device's ring.
    pub device: MachineAddress,
}

/// One queue.
pub struct Queue {
    memory: Pages,
    size: u16,
    pieces: usize,
    free: Vec<u16>,
    in_flight: Vec<bool>,
    /// Next free entry of the driver's ring (free-running).
    available: u16,
    /// Next unseen entry of the device's ring (free-running).
    used: u16,
    /// The flag by which the device is told to send no interrupts.
    quiet: u32,
}

impl Queue {
    /// A queue of `size` slots (a power of two, at most 1024) with up to `pieces` pieces each. `None` when there is not
    /// enough memory, or for another size.
    pub fn new(size: u16, pieces: usize) -> Option<Self> {
        if !size.is_power_of_two() || size > 1024 || pieces == 0 || pieces > 1024 {
            return None;
        }
        let slots = usize::from(size);
        let bytes = Self::tables(size) + slots * pieces * DESCRIPTOR;
        let memory = memory::pages(bytes.div_ceil(PAGE_SIZE))?;
        let queue = Self {
            memory,
            size,
            pieces,
            free: (0..size).rev().collect(),
            in_flight: (0..size).map(|_| false).collect(),
            available: 0,
            used: 0,
            quiet: 0,
        };
        for slot in 0..slots {
            queue.describe(slot * DESCRIPTOR, queue.bus(queue.table(slot)), 0, FLAG_INDIRECT);
        }
        Some(queue)
    }

    /// Slots.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Slots that are free.
    pub const fn room(&self) -> usize {
        self.free.len()
    }

    /// Most pieces of a request.
    pub const fn pieces(&self) -> usize {
        self.pieces
    }

    /// What the device is told.
    pub fn areas(&self) -> Areas {
        Areas {
            descriptors: self.bus(0),
            driver: self.bus(Self::driver(self.size)),
            device: self.bus(Self::device(self.size)),
        }
    }

    const fn driver(size: u16) -> usize {
        size as usize * DESCRIPTOR
    }

    const fn device(size: u16) -> usize {
        // Flags, index, entries, event; the device's ring is 4-aligned.
        (Self::driver(size) + 6 + 2 * size as usize).next_multiple_of(4)
    }

    const fn tables(size: u16) -> usize {
        (Self::device(size) + 6 + 8 * size as usize).next_multiple_of(DESCRIPTOR)
    }

    const fn table(&self, slot: usize) -> usize {
        Self::tables(self.size) + slot * self.pieces * DESCRIPTOR
    }

    /// The pages are this kernel's own and contiguous; a domain with devices is mapped one to one to the bus.
    fn bus(&self, offset: usize) -> MachineAddress {
        MachineAddress((self.memory.first().0 << PAGE_SHIFT) + offset as u64)
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        self.memory.as_ref().get(offset / PAGE_SIZE)?.word_at(offset % PAGE_SIZE)
    }

    fn put(&self, offset: usize, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn describe(&self, offset: usize, address: MachineAddress, length: u32, flags_next: u32) {
        self.put(offset, address.0 as u32);
        self.put(offset + 4, (address.0 >> 32) as u32);
        self.put(offset + 8, length);
        self.put(offset + 12, flags_next);
    }

    /// Offers a request: pieces that the device reads, then pieces that it writes. Returns its slot.
    pub fn push(
        &mut self,
        read: impl IntoIterator<Item = Piece>,
        write: impl IntoIterator<Item = Piece>,
    ) -> Result<u16, Full> {
        let slot = *self.free.last().ok_or(Full)?;
        let table = self.table(usize::from(slot));
        let pieces = read
            .into_iter()
            .map(|piece| (piece, 0))
            .chain(write.into_iter().map(|piece| (piece, FLAG_WRITE)));
        let mut count = 0;
        for (piece, flags) in pieces {
            if count == self.pieces {
                return Err(Full);
            }
            let next = (count as u32 + 1) << 16;
            self.describe(table + count * DESCRIPTOR, piece.address, piece.length, flags | FLAG_NEXT | next);
            count += 1;
        }
        let Some(last) = count.checked_sub(1).and_then(|last| self.word(table + last * DESCRIPTOR + 12))
        else {
            return Err(Full);
        };
        last.store(last.load(Ordering::Relaxed) & FLAG_WRITE, Ordering::Relaxed);
        self.put(usize::from(slot) * DESCRIPTOR + 8, (count * DESCRIPTOR) as u32);
        self.free.pop();
        if let Some(flag) = self.in_flight.get_mut(usize::from(slot)) {
            *flag = true;
        }
        self.offer(slot);
        Ok(slot)
    }

    fn offer(&mut self, slot: u16) {
        let driver = Self::driver(self.size);
        let entry = driver + 4 + usize::from(self.available & (self.size - 1)) * 2;
        // Two entries share a word that only this side writes.
        let shift = (entry % 4) * 8;
        if let Some(word) = self.word(entry & !3) {
            let others = word.load(Ordering::Relaxed) & !(0xffff << shift);
            word.store(others | u32::from(slot) << shift, Ordering::Relaxed);
        }
        self.available = self.available.wrapping_add(1);
        // Flags in the low half, the index in the high half; everything before is visible first.
        if let Some(word) = self.word(driver) {
            word.store(u32::from(self.available) << 16 | self.quiet, Ordering::Release);
        }
    }

    /// Whether the device is to send interrupts for what it finishes; a wish, not a rule. After turning them on, look once
    /// more.
    pub fn set_interrupts(&mut self, wanted: bool) {
        self.quiet = u32::from(!wanted);
        if let Some(word) = self.word(Self::driver(self.size)) {
            word.store(u32::from(self.available) << 16 | self.quiet, Ordering::Release);
        }
        fence(Ordering::SeqCst);
    }

    /// Whether the device wants to be told of what was pushed.
    pub fn wants_notification(&self) -> bool {
        fence(Ordering::SeqCst);
        self.word(Self::device(self.size)).is_none_or(|word| word.load(Ordering::Acquire) & NO_NOTIFY == 0)
    }

    /// Whether [`pop`](Self::pop) would find something.
    pub fn has_used(&self) -> bool {
        let index = self.word(Self::device(self.size)).map_or(0, |word| word.load(Ordering::Acquire) >> 16);
        index as u16 != self.used
    }

    /// The slot that the next [`push`](Self::push) takes; `None` when all are in flight.
    pub fn next_slot(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// The next finished request: its slot, which is free again, and the bytes that the device wrote.
    pub fn pop(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        let done = self.pop_keeping()?;
        if let Some((slot, _)) = done {
            self.release(slot);
        }
        Ok(done)
    }

    /// Frees a slot that [`pop_keeping`](Self::pop_keeping) returned.
    pub fn release(&mut self, slot: u16) {
        self.free.push(slot);
    }

    /// As [`pop`](Self::pop), but the slot stays taken until it is [released](Self::release).
    pub fn pop_keeping(&mut self) -> Result<Option<(u16, u32)>, Broken> {
        if !self.has_used() {
            return Ok(None);
        }
        let entry = Self::device(self.size) + 4 + usize::from(self.used & (self.size - 1)) * 8;
        let id = self.word(entry).map_or(u32::MAX, |word| word.load(Ordering::Relaxed));
        let length = self.word(entry + 4).map_or(0, |word| word.load(Ordering::Relaxed));
        let flag = self.in_flight.get_mut(id as usize).filter(|flag| **flag).ok_or(Broken)?;
        *flag = false;
        self.used = self.used.wrapping_add(1);
        Ok(Some((id as u16, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(address: u64, length: u32) -> Piece {
        Piece { address: MachineAddress(address), length }
    }

    /// A slot, and its pieces: address, length, flags with the next.
    type Offered = (u16, Vec<(u64, u32, u32)>);

    /// Plays the device: takes the next offered slot.
    fn take(queue: &Queue, seen: u16) -> Option<Offered> {
        let driver = Queue::driver(queue.size);
        let index = (queue.word(driver)?.load(Ordering::Acquire) >> 16) as u16;
        if index == seen {
            return None;
        }
        let entry = driver + 4 + usize::from(seen % queue.size) * 2;
        let slot = (queue.word(entry & !3)?.load(Ordering::Relaxed) >> ((entry % 4) * 8)) as u16;
        let load = |offset: usize| queue.word(offset).unwrap().load(Ordering::Relaxed);
        let descriptor = usize::from(slot) * DESCRIPTOR;
        let base = queue.bus(0).0;
        let table = (u64::from(load(descriptor)) | u64::from(load(descriptor + 4)) << 32) - base;
        assert_eq!(load(descriptor + 12), FLAG_INDIRECT);
        let count = load(descriptor + 8) as usize / DESCRIPTOR;
        let pieces = (0..count).map(|n| {
            let at = table as usize + n * DESCRIPTOR;
            (u64::from(load(at)) | u64::from(load(at + 4)) << 32, load(at + 8), load(at + 12))
        });
        Some((slot, pieces.collect()))
    }

    fn complete(queue: &Queue, used: u16, slot: u32, length: u32) {
        let device = Queue::device(queue.size);
        let entry = device + 4 + usize::from(used % queue.size) * 8;
        queue.put(entry, slot);
        queue.put(entry + 4, length);
        queue.put(device, u32::from(used.wrapping_add(1)) << 16);
    }

    #[test]
    fn requests_go_round_many_times() {
        let mut queue = Queue::new(4, 3).unwrap();
        for round in 0..70_000u32 {
            let slot = queue.push([piece(0x1000, 16)], [piece(1 << 33, 4096), piece(0x3000, 1)]).unwrap();
            let (taken, pieces) = take(&queue, round as u16).unwrap();
            assert_eq!(taken, slot);
            assert_eq!(pieces, [(0x1000, 16, 1 | 1 << 16), (1 << 33, 4096, 3 | 2 << 16), (0x3000, 1, 2)]);
            assert_eq!(queue.pop(), Ok(None));
            complete(&queue, round as u16, u32::from(slot), 4097);
            assert_eq!(queue.pop(), Ok(Some((slot, 4097))));
        }
    }

    #[test]
    fn limits_are_errors() {
        let mut queue = Queue::new(2, 2).unwrap();
        assert_eq!(queue.push([piece(1, 1), piece(2, 1), piece(3, 1)], []), Err(Full));
        assert_eq!(queue.push([], []), Err(Full));
        assert_eq!(queue.room(), 2);
        let first = queue.push([piece(1, 1)], []).unwrap();
        let second = queue.push([piece(1, 1)], []).unwrap();
        assert_ne!(first, second);
        assert_eq!(queue.push([piece(1, 1)], []), Err(Full));
        complete(&queue, 0, 2, 0);
        assert_eq!(queue.pop(), Err(Broken));
        assert!(Queue::new(3, 1).is_none() && Queue::new(0, 1).is_none());
    }

    #[test]
    fn areas_do_not_overlap() {
        for size in [1, 2, 16, 128, 1024] {
            let areas = Queue::new(size, 1).unwrap().areas();
            let size = u64::from(size);
            assert_eq!(areas.descriptors.0 % 16, 0);
            assert!(areas.driver.0 >= areas.descriptors.0 + 16 * size && areas.driver.0.is_multiple_of(2));
            assert!(areas.device.0 >= areas.driver.0 + 6 + 2 * size && areas.device.0.is_multiple_of(4));
        }
    }
}
