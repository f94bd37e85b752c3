//! Packets of a CD drive (MMC-3; SPC-3 for the commands that every device has).

use alloc::vec;
use alloc::vec::Vec;

use super::channel::Channel;
use super::drive::{DriveState, Phase, Sense, Work, status};
use crate::memory::GuestMemory;

/// Bytes of a packet.
pub(super) const BYTES: usize = 12;
/// Sectors of 512 bytes in one of a CD.
const RATIO: u64 = 4;
/// CD sectors that go to the storage at once.
const CHUNK: u64 = 16;

const NO_MEDIUM: Sense = Sense { key: 2, code: 0x3a };
const CHANGED: Sense = Sense { key: 6, code: 0x28 };
const BAD_COMMAND: Sense = Sense { key: 5, code: 0x20 };
const BAD_FIELD: Sense = Sense { key: 5, code: 0x24 };
const BEYOND_END: Sense = Sense { key: 5, code: 0x21 };
const LOCKED: Sense = Sense { key: 5, code: 0x53 };

/// What a packet leads to.
enum Answer {
    /// No data.
    Good,
    /// Data, cut to what the packet allows.
    Data(Vec<u8>),
    /// Sectors of the disc.
    Read {
        sector: u64,
        count: u64,
    },
    Fail(Sense),
}

fn be16(packet: &[u8; BYTES], at: usize) -> u16 {
    let byte = |n: usize| packet.get(n).copied().unwrap_or(0);
    u16::from_be_bytes([byte(at), byte(at + 1)])
}

fn be32(packet: &[u8; BYTES], at: usize) -> u32 {
    u32::from(be16(packet, at)) << 16 | u32::from(be16(packet, at + 2))
}

impl DriveState {
    fn answer(&mut self, packet: &[u8; BYTES], sectors: Option<u64>) -> Answer {
        let [command, flags, page, ..] = *packet;
        // INQUIRY, REQUEST SENSE and events never wait for the medium.
        if !matches!(command, 0x03 | 0x12 | 0x46 | 0x4a | 0x1e | 0x1b | 0x5a | 0xbd) {
            if sectors.is_none() {
                return Answer::Fail(NO_MEDIUM);
            }
            if core::mem::take(&mut self.changed) {
                return Answer::Fail(CHANGED);
            }
        }
        let discs = sectors.unwrap_or(0) / RATIO;
        let cut = |mut data: Vec<u8>, length: usize| {
            data.truncate(length);
            if data.is_empty() { Answer::Good } else { Answer::Data(data) }
        };
        match command {
            0x00 | 0x2b | 0x35 => Answer::Good,
            0x03 => {
                let Sense { key, code } = core::mem::take(&mut self.sense);
                let mut data = vec![0; 18];
                for (at, value) in [(0, 0x70), (2, key), (7, 10), (12, code)] {
                    if let Some(byte) = data.get_mut(at) {
                        *byte = value;
                    }
                }
                let [.., length, _, _, _, _, _, _, _] = *packet;
                cut(data, usize::from(length))
            }
            0x12 => {
                let mut data = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
                data.extend_from_slice(b"TRUNNIONCD-ROM          1.0 ");
                cut(data, usize::from(be16(packet, 3)))
            }
            // START STOP UNIT: eject is for the toolstack to do, unless the guest has locked the door.
            0x1b => {
                let [_, _, _, _, action, ..] = *packet;
                if action & 3 == 2 && self.locked { Answer::Fail(LOCKED) } else { Answer::Good }
            }
            0x1e => {
                let [_, _, _, _, prevent, ..] = *packet;
                self.locked = prevent & 1 != 0;
                Answer::Good
            }
            0x25 => {
                let last = discs.saturating_sub(1).min(u64::from(u32::MAX)) as u32;
                Answer::Data([last.to_be_bytes(), 2048u32.to_be_bytes()].concat())
            }
            0x28 | 0xa8 | 0xbe => {
                let count = match command {
                    0x28 => u64::from(be16(packet, 7)),
                    0xa8 => u64::from(be32(packet, 6)),
                    _ => u64::from(be32(packet, 5) & 0x00ff_ffff),
                };
                // READ CD gives user data only.
                let [.., what, _, _] = *packet;
                if command == 0xbe && what & 0xf8 != 0x10 {
                    return Answer::Fail(BAD_FIELD);
                }
                let sector = u64::from(be32(packet, 2));
                if sector.saturating_add(count) > discs {
                    return Answer::Fail(BEYOND_END);
                }
                if count == 0 { Answer::Good } else { Answer::Read { sector, count } }
            }
            0x43 => self.toc(packet, flags & 2 != 0, discs, cut),
            // GET CONFIGURATION: a CD-ROM profile, and nothing else.
            0x46 => {
                let profile = if sectors.is_some() { 8 } else { 0 };
                cut(vec![0, 0, 0, 12, 0, 0, 0, profile, 0, 0, 3, 4, 0, 8, 1, 0], usize::from(be16(packet, 7)))
            }
            // GET EVENT STATUS NOTIFICATION, polled: media events.
            0x4a if flags & 1 != 0 => {
                let present = if sectors.is_some() { 2 } else { 0 };
                let event = if self.changed && sectors.is_some() { 2 } else { 0 };
                cut(vec![0, 6, 4, 0x10, event, present, 0, 0], usize::from(be16(packet, 7)))
            }
            0x51 => cut([&[0, 32, 0x0e, 1, 1, 1, 1][..], &[0; 27]].concat(), usize::from(be16(packet, 7))),
            0x5a => match page & 0x3f {
                // Capabilities (MMC-3, 6.3.11): reads, is locked by command, loads by tray.
                0x2a | 0x3f => {
                    let mut data =
                        vec![0, 26, 1, 0, 0, 0, 0, 0, 0x2a, 18, 3, 0, 0x71, 0x60, 0x29, 0, 0x02, 0xc2];
                    data.extend_from_slice(&[0, 2, 0, 0, 0x02, 0xc2, 0, 0, 0, 0]);
                    cut(data, usize::from(be16(packet, 7)))
                }
                // Error recovery.
                1 => cut(vec![0, 14, 1, 0, 0, 0, 0, 0, 1, 6, 0, 5, 0, 0, 0, 0], usize::from(be16(packet, 7))),
                _ => Answer::Fail(BAD_FIELD),
            },
            0xbd => cut(vec![0, 0, 0, 0, 0, 1, 0, 0], usize::from(be16(packet, 8))),
            _ => Answer::Fail(BAD_COMMAND),
        }
    }

    /// READ TOC: one data track and the lead-out.
    fn toc(
        &self,
        packet: &[u8; BYTES],
        msf: bool,
        discs: u64,
        cut: impl Fn(Vec<u8>, usize) -> Answer,
    ) -> Answer {
        let length = usize::from(be16(packet, 7));
        let [_, _, format, _, _, _, start, _, _, control, ..] = *packet;
        let place = |sector: u64| {
            let sector = sector.min(u64::from(u32::MAX)) as u32;
            if msf {
                let frame = sector.saturating_add(150);
                [0, (frame / 4500) as u8, (frame / 75 % 60) as u8, (frame % 75) as u8]
            } else {
                sector.to_be_bytes()
            }
        };
        match format & 0xf | control >> 6 {
            0 if start <= 1 => {
                let mut data = vec![0, 18, 1, 1, 0, 0x14, 1, 0];
                data.extend_from_slice(&place(0));
                data.extend_from_slice(&[0, 0x14, 0xaa, 0]);
                data.extend_from_slice(&place(discs));
                cut(data, length)
            }
            0 => {
                let mut data = vec![0, 10, 1, 1, 0, 0x14, 0xaa, 0];
                data.extend_from_slice(&place(discs));
                cut(data, length)
            }
            1 => {
                let mut data = vec![0, 10, 1, 1, 0, 0x14, 1, 0];
                data.extend_from_slice(&place(0));
                cut(data, length)
            }
            _ => Answer::Fail(BAD_FIELD),
        }
    }

    fn refuse(&mut self, sense: Sense) {
        self.sense = sense;
        // The sense key is in the error register's upper half, with ABRT.
        self.fail(sense.key << 4 | 4);
    }
}

impl<M: GuestMemory> Channel<M> {
    /// A packet has come.
    pub(super) fn packet(&mut self, memory: &M) {
        let sectors = self.shape(self.selected).map(|shape| shape.sectors);
        let Some(drive) = self.drive() else { return };
        let mut packet = [0; BYTES];
        for (to, from) in packet.iter_mut().zip(&drive.buffer) {
            *to = *from;
        }
        drive.buffer.clear();
        let dma = drive.features & 1 != 0;
        let [_, _, low, high] = drive.file;
        // Bytes between interrupts: what the guest wrote, even; 0 means as many as there can be.
        let limit = match u16::from_le_bytes([low, high]) & !1 {
            0 => 0xfffe,
            limit => usize::from(limit),
        };
        match drive.answer(&packet, sectors) {
            Answer::Good => drive.finish(),
            Answer::Fail(sense) => drive.refuse(sense),
            Answer::Data(data) => {
                drive.buffer = data;
                drive.work = Work { dma, limit, ..Work::default() };
                if dma {
                    drive.phase = Phase::Dma;
                    drive.status = status::READY | status::SEEK | status::DATA;
                    self.start_dma(memory);
                } else {
                    drive.offer(limit);
                }
            }
            Answer::Read { sector, count } => {
                drive.work = Work {
                    write: false,
                    dma,
                    sector: sector.saturating_mul(RATIO),
                    left: count.saturating_mul(RATIO),
                    block: CHUNK * RATIO,
                    limit,
                };
                self.go_on(memory);
            }
        }
    }
}
