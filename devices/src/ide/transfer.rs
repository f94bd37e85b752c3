//! Moving sectors: through the data port, and by the bus master's descriptors (82371SB, 2.7; *Programming Interface for Bus
//! Master IDE Controller*, revision 1.0).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use trunnion_backends::device::{BlockOperation, BlockRequest, SECTOR_SIZE, Segment};
use trunnion_protocol::address::{Gpa, PAGE_SIZE};

use super::channel::{Channel, copy_out};
use super::drive::{Phase, error, status};
use crate::memory::GuestMemory;

/// Sectors of one request to the storage at most.
const CHUNK: u64 = 256;
/// Descriptors that one request reads at most. A table is at most 64 KiB, which is 8,192 of them.
const DESCRIPTORS: usize = 8192;

const START: u8 = 1;
/// From the device to memory.
const TO_MEMORY: u8 = 8;
const ACTIVE: u8 = 1;
const ERROR: u8 = 2;
const INTERRUPT: u8 = 4;

/// The bus master of one channel.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Master {
    command: u8,
    status: u8,
    table: u32,
    /// The next descriptor, and what is left of the present one.
    next: u32,
    address: u32,
    length: u32,
    last: bool,
}

/// Why a descriptor table does not describe a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadTable {
    /// It, or what it points to, is not RAM.
    Outside,
    /// It ends before the data does.
    Short,
}

/// Pieces of pages, and how many bytes they hold.
type Gathered<P> = (Vec<Segment<P>>, u64);

impl Master {
    pub(super) fn registers(&self, interrupt: bool) -> u64 {
        let status = self.status | if interrupt { INTERRUPT } else { 0 };
        u64::from(self.command) | u64::from(status) << 16 | u64::from(self.table) << 32
    }

    /// Writes a byte; true when the transfer starts.
    pub(super) fn write(&mut self, offset: u16, value: u8) -> bool {
        match offset {
            0 => {
                let starts = value & START != 0 && self.command & START == 0;
                self.command = value & (START | TO_MEMORY);
                if starts {
                    self.status |= ACTIVE;
                    self.next = self.table;
                    self.length = 0;
                    self.last = false;
                } else if value & START == 0 {
                    self.status &= !ACTIVE;
                }
                return starts;
            }
            2 => self.status = self.status & !(value & (ERROR | INTERRUPT)) & !0x60 | value & 0x60,
            4..=7 => {
                let shift = 8 * u32::from(offset - 4);
                self.table = self.table & !(0xff << shift) | u32::from(value) << shift;
                self.table &= !3;
            }
            _ => {}
        }
        false
    }

    const fn running(&self) -> bool {
        self.status & ACTIVE != 0
    }

    /// The transfer has ended.
    pub(super) fn end(&mut self, failed: bool) {
        self.status = self.status & !ACTIVE | if failed { ERROR } else { 0 } | INTERRUPT;
    }

    /// The next `bytes` of the transfer as pieces of pages, at most `most` of them. May give fewer bytes, but always whole
    /// sectors.
    fn pieces<M: GuestMemory>(
        &mut self,
        memory: &M,
        bytes: u64,
        most: usize,
    ) -> Result<Vec<Segment<M::Page>>, BadTable> {
        let before = self.clone();
        let (mut segments, have) = self.gather(memory, bytes, most)?;
        let odd = have % SECTOR_SIZE;
        if odd != 0 {
            // Too many pieces, and they end inside a sector: once more, up to its begin.
            *self = before;
            (segments, _) = self.gather(memory, have - odd, most)?;
        }
        if segments.is_empty() { Err(BadTable::Short) } else { Ok(segments) }
    }

    /// The next `bytes`, or as many as `most` pieces hold.
    fn gather<M: GuestMemory>(
        &mut self,
        memory: &M,
        bytes: u64,
        most: usize,
    ) -> Result<Gathered<M::Page>, BadTable> {
        let mut segments = Vec::new();
        let mut have = 0u64;
        let mut read = 0;
        while have < bytes {
            if self.length == 0 {
                if self.last || read == DESCRIPTORS {
                    return Err(BadTable::Short);
                }
                let mut raw = [0; 8];
                memory.read(Gpa(u64::from(self.next)), &mut raw).map_err(|_| BadTable::Outside)?;
                let [a, b, c, d, e, f, _, flags] = raw;
                self.address = u32::from_le_bytes([a, b, c, d]) & !1;
                self.length = match u16::from_le_bytes([e, f]) & !1 {
                    0 => 0x1_0000,
                    length => u32::from(length),
                };
                self.last = flags & 0x80 != 0;
                self.next = self.next.wrapping_add(8);
                read += 1;
            }
            if segments.len() == most {
                break;
            }
            let at = Gpa(u64::from(self.address));
            let room = (PAGE_SIZE - at.page_offset()) as u64;
            let length = u64::from(self.length).min(room).min(bytes - have);
            let page = memory.page(at.frame()).ok_or(BadTable::Outside)?;
            let segment =
                Segment::new(page, at.page_offset(), length as usize).map_err(|_| BadTable::Outside)?;
            segments.push(segment);
            self.address = self.address.wrapping_add(length as u32);
            self.length -= length as u32;
            have += length;
        }
        Ok((segments, have))
    }
}

impl<M: GuestMemory> Channel<M> {
    /// A request for the next sectors of the drive's work, through pages of our own.
    fn own_request(&mut self, memory: &M) -> Option<BlockRequest<M::Page>> {
        let drive = self.drive()?;
        let sectors = drive.work.left.min(drive.work.block);
        let mut bytes = usize::try_from(sectors * SECTOR_SIZE).ok()?;
        let mut from = drive.buffer.as_slice();
        let mut segments = Vec::new();
        while bytes > 0 {
            let length = bytes.min(PAGE_SIZE);
            let page = memory.own()?;
            if drive.work.write {
                let (piece, rest) = from.split_at_checked(length)?;
                trunnion_backends::device::GuestPage::shared(&page).copy_in(0, piece).ok()?;
                from = rest;
            }
            segments.push(Segment::new(page, 0, length).ok()?);
            bytes -= length;
        }
        let operation = if drive.work.write { BlockOperation::Write } else { BlockOperation::Read };
        Some(BlockRequest { operation, sector: drive.work.sector, segments })
    }

    /// Goes on with the work that the drive has.
    pub(super) fn go_on(&mut self, memory: &M) {
        let Some(drive) = self.drive() else { return };
        if drive.work.left == 0 {
            if drive.work.dma {
                self.master.end(false);
            }
            if let Some(drive) = self.drive() {
                drive.finish();
            }
            return;
        }
        if drive.work.dma {
            drive.phase = Phase::Dma;
            drive.status = status::READY | status::SEEK | status::DATA;
            return self.start_dma(memory);
        }
        if drive.work.write {
            let bytes = drive.work.left.min(drive.work.block) * SECTOR_SIZE;
            return drive.ask(bytes as usize);
        }
        match self.own_request(memory) {
            Some(request) => self.submit(request),
            None => self.abort(),
        }
    }

    pub(super) fn abort(&mut self) {
        if let Some(drive) = self.drive() {
            drive.fail(error::ABORTED);
        }
    }

    /// The guest has read up to the stop.
    pub(super) fn read_on(&mut self, memory: &M) {
        let Some(drive) = self.drive() else { return };
        if drive.position < drive.buffer.len() {
            return drive.next_stop();
        }
        drive.buffer.clear();
        if drive.work.left > 0 {
            self.go_on(memory);
        } else if drive.kind == super::Kind::Cd && drive.work.limit > 0 {
            drive.finish();
        } else {
            // The last block of a read: no interrupt follows.
            drive.phase = Phase::Idle;
            drive.status = status::READY | status::SEEK;
        }
    }

    /// The guest has filled the buffer.
    pub(super) fn write_on(&mut self, memory: &M) {
        match self.own_request(memory) {
            Some(request) => self.submit(request),
            None => self.abort(),
        }
    }

    /// Starts the DMA when the drive and the bus master are both ready for it.
    pub(super) fn start_dma(&mut self, memory: &M) {
        if !self.master.running() || self.is_busy() {
            return;
        }
        let device = self.selected;
        let most = self.shape(device).map_or(1, |shape| shape.max_segments.max(1));
        let Some(drive) = self.drive() else { return };
        if drive.phase != Phase::Dma {
            return;
        }
        let work = drive.work;
        // Data of a packet that is in the buffer already.
        if !drive.buffer.is_empty() {
            return self.copy_dma(memory);
        }
        let bytes = work.left.min(CHUNK) * SECTOR_SIZE;
        if let Ok(segments) = self.master.pieces(memory, bytes, most) {
            let operation = if work.write { BlockOperation::Write } else { BlockOperation::Read };
            self.submit(BlockRequest { operation, sector: work.sector, segments });
        } else {
            self.master.end(true);
            self.abort();
        }
    }

    /// A packet's answer, copied into the guest's pages.
    fn copy_dma(&mut self, memory: &M) {
        let Some(drive) = self.drive() else { return };
        let data = core::mem::take(&mut drive.buffer);
        let mut rest = data.as_slice();
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            // Answers need not be whole sectors.
            let bytes = (rest.len() as u64).next_multiple_of(SECTOR_SIZE);
            result = self.master.pieces(memory, bytes, 16).map(|segments| {
                for segment in segments {
                    let piece = rest.split_off(..segment.length().min(rest.len())).unwrap_or(&[]);
                    let page = trunnion_backends::device::GuestPage::shared(segment.page());
                    let _ = page.copy_in(segment.offset(), piece);
                }
            });
        }
        // A table that is shorter than a padded answer is right when it takes the answer itself.
        self.master.end(result == Err(BadTable::Outside));
        if let Some(drive) = self.drive() {
            drive.finish();
        }
    }

    /// The storage has done a request.
    pub(super) fn complete(&mut self, memory: &M, request: &BlockRequest<M::Page>) {
        let Some(drive) = self.drive() else { return };
        let sectors = request.sectors();
        drive.work.sector = drive.work.sector.saturating_add(sectors);
        drive.work.left = drive.work.left.saturating_sub(sectors);
        if drive.work.dma || sectors == 0 {
            return self.go_on(memory);
        }
        if drive.work.write {
            drive.buffer.clear();
            self.go_on(memory);
            if let Some(drive) = self.drive() {
                // After each block the drive interrupts: for more, or because it is done.
                drive.interrupt = true;
            }
            return;
        }
        drive.buffer.clear();
        copy_out(request, &mut drive.buffer);
        let limit = drive.work.limit;
        drive.offer(limit);
    }
}
