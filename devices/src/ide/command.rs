//! ATA commands (ATA-6, chapter 8).

use trunnion_backends::device::{BlockOperation, BlockRequest};

use super::channel::Channel;
use super::drive::{DriveState, Kind, Phase, Work, error, status};
use super::identify::identify;
use crate::memory::GuestMemory;

/// Most sectors of a block of READ MULTIPLE.
const MULTIPLE: u8 = 16;

/// How a command moves data.
#[derive(Clone, Copy)]
struct Move {
    write: bool,
    wide: bool,
    dma: bool,
    multiple: bool,
}

const fn moves(command: u8) -> Option<Move> {
    let (write, wide, dma, multiple) = match command {
        0x20 | 0x21 => (false, false, false, false),
        0x24 => (false, true, false, false),
        0x25 => (false, true, true, false),
        0x29 => (false, true, false, true),
        0x30 | 0x31 | 0x3c => (true, false, false, false),
        0x34 => (true, true, false, false),
        0x35 => (true, true, true, false),
        0x39 => (true, true, false, true),
        0xc4 => (false, false, false, true),
        0xc5 => (true, false, false, true),
        0xc8 | 0xc9 => (false, false, true, false),
        0xca | 0xcb => (true, false, true, false),
        _ => return None,
    };
    Some(Move { write, wide, dma, multiple })
}

impl DriveState {
    /// The sector that the registers name.
    fn sector(&self, wide: bool) -> Option<u64> {
        let [_, low, mid, high] = self.file.map(u64::from);
        if wide {
            let [_, low2, mid2, high2] = self.earlier.map(u64::from);
            return Some(low | mid << 8 | high << 16 | low2 << 24 | mid2 << 32 | high2 << 40);
        }
        let head = u64::from(self.device & 0xf);
        if self.device & 0x40 != 0 {
            return Some(low | mid << 8 | high << 16 | head << 24);
        }
        let cylinder = mid | high << 8;
        let track = u64::from(self.track);
        Some((cylinder * u64::from(self.heads) + head) * track + low.checked_sub(1)?)
    }

    /// How many sectors they name.
    fn count(&self, wide: bool) -> u64 {
        let [count, ..] = self.file.map(u64::from);
        let [earlier, ..] = self.earlier.map(u64::from);
        match (wide, count | if wide { earlier << 8 } else { 0 }) {
            (true, 0) => 65_536,
            (false, 0) => 256,
            (_, count) => count,
        }
    }
}

impl<M: GuestMemory> Channel<M> {
    /// A command is written.
    pub(super) fn command(&mut self, memory: &M, command: u8) {
        let shape = self.shape(self.selected);
        let busy = self.is_busy();
        // DEVICE DIAGNOSTIC is for both.
        if command == 0x90 && !busy {
            for drive in self.drives.iter_mut().flatten() {
                drive.signature();
                drive.interrupt = true;
            }
            self.selected = 0;
            return;
        }
        let Some(drive) = self.drive() else { return };
        if drive.status & status::BUSY != 0 || busy {
            return;
        }
        drive.error = 0;
        drive.interrupt = false;
        drive.buffer.clear();
        drive.work = Work::default();
        if drive.kind == Kind::Cd {
            return self.cd_command(command);
        }
        if let Some(how) = moves(command) {
            return self.transfer(memory, how);
        }
        match command {
            0xec => {
                drive.buffer = identify(drive, shape);
                drive.offer(512);
            }
            // FLUSH CACHE and its extended form.
            0xe7 | 0xea if shape.is_some_and(|shape| shape.flush) => {
                let request = BlockRequest {
                    operation: BlockOperation::Flush,
                    sector: 0,
                    segments: alloc::vec::Vec::new(),
                };
                self.submit(request);
            }
            0xe7 | 0xea => drive.finish(),
            // VERIFY: the sectors have to exist.
            0x40..=0x42 => {
                let wide = command == 0x42;
                let end = drive.sector(wide).and_then(|sector| sector.checked_add(drive.count(wide)));
                match (end, shape) {
                    (Some(end), Some(shape)) if end <= shape.sectors => drive.finish(),
                    _ => drive.fail(error::NOT_FOUND),
                }
            }
            0x91 => {
                let [count, ..] = drive.file;
                drive.heads = (drive.device & 0xf) + 1;
                drive.track = count.max(1);
                drive.finish();
            }
            0xc6 => {
                let [count, ..] = drive.file;
                if count > MULTIPLE || !count.is_power_of_two() && count != 0 {
                    drive.multiple = 0;
                    drive.fail(error::ABORTED);
                } else {
                    drive.multiple = count;
                    drive.finish();
                }
            }
            0xef => self.set_features(),
            0xe5 | 0x98 => {
                drive.set_count(0xff);
                drive.finish();
            }
            // READ NATIVE MAX ADDRESS.
            0xf8 | 0x27 => {
                let last = shape.map_or(0, |shape| shape.sectors.saturating_sub(1));
                let last = if command == 0xf8 { last.min(0x0fff_ffff) } else { last };
                let [a, b, c, d, e, f, ..] = last.to_le_bytes();
                let [count, ..] = drive.file;
                drive.file = [count, a, b, c];
                drive.earlier = [0, d, e, f];
                if command == 0xf8 {
                    drive.device = drive.device & 0xf0 | d & 0xf;
                }
                drive.finish();
            }
            0x10..=0x1f | 0x70 | 0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99 => drive.finish(),
            _ => drive.fail(error::ABORTED),
        }
    }

    fn set_features(&mut self) {
        let Some(drive) = self.drive() else { return };
        let [count, ..] = drive.file;
        match drive.features {
            3 => {
                drive.mode = count;
                drive.finish();
            }
            // Write cache, look-ahead, power-on defaults.
            0x02 | 0x82 | 0xaa | 0x55 | 0x66 | 0xcc => drive.finish(),
            _ => drive.fail(error::ABORTED),
        }
    }

    fn transfer(&mut self, memory: &M, how: Move) {
        let shape = self.shape(self.selected);
        let Some(drive) = self.drive() else { return };
        let count = drive.count(how.wide);
        let (Some(shape), Some(sector)) = (shape, drive.sector(how.wide)) else {
            return drive.fail(error::NOT_FOUND);
        };
        if sector.checked_add(count).is_none_or(|end| end > shape.sectors) {
            return drive.fail(error::NOT_FOUND);
        }
        if how.write && shape.read_only || how.multiple && drive.multiple == 0 {
            return drive.fail(error::ABORTED);
        }
        let block = if how.multiple { u64::from(drive.multiple) } else { 1 };
        drive.work =
            Work { write: how.write, dma: how.dma, sector, left: count, block, limit: block as usize * 512 };
        self.go_on(memory);
    }

    fn cd_command(&mut self, command: u8) {
        let Some(drive) = self.drive() else { return };
        match command {
            0xa0 => {
                drive.phase = Phase::Packet;
                drive.position = 0;
                drive.stop = super::packet::BYTES;
                drive.buffer.resize(super::packet::BYTES, 0);
                drive.status = status::READY | status::SEEK | status::DATA;
                drive.set_count(1);
            }
            0xa1 => {
                drive.buffer = identify(drive, None);
                drive.offer(512);
                drive.work.limit = 0;
            }
            0x08 => drive.signature(),
            0xef => self.set_features(),
            // IDENTIFY DEVICE and the reads leave the signature, so that drivers find out what this is.
            0xec | 0x20 | 0x21 => {
                let device = drive.device;
                drive.signature();
                drive.device = device;
                drive.fail(error::ABORTED);
                drive.set_count(1);
            }
            0xe0..=0xe3 | 0xe6 => drive.finish(),
            0xe5 => {
                drive.finish();
                drive.set_count(0xff);
            }
            _ => drive.fail(error::ABORTED),
        }
    }
}
