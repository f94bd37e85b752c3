//! One drive: its registers and what it is doing.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Bits of the status register (ATA-6, 7.15).
pub(super) mod status {
    pub(in crate::ide) const ERROR: u8 = 1;
    pub(in crate::ide) const DATA: u8 = 8;
    pub(in crate::ide) const SEEK: u8 = 0x10;
    pub(in crate::ide) const READY: u8 = 0x40;
    pub(in crate::ide) const BUSY: u8 = 0x80;
}

/// Bits of the error register (ATA-6, 7.11).
pub(super) mod error {
    pub(in crate::ide) const ABORTED: u8 = 4;
    pub(in crate::ide) const NOT_FOUND: u8 = 0x10;
    pub(in crate::ide) const UNCORRECTABLE: u8 = 0x40;
}

/// What a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A disk.
    Disk,
    /// A CD drive.
    Cd,
}

/// What a drive waits for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) enum Phase {
    /// A command.
    #[default]
    Idle,
    /// The guest, to read the buffer.
    In,
    /// The guest, to fill the buffer.
    Out,
    /// The guest, to write a packet.
    Packet,
    /// The bus master, to be started.
    Dma,
    /// The storage.
    Storage,
}

/// Sectors that a command still has to move.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) write: bool,
    pub(super) dma: bool,
    /// Next sector of 512 bytes, and how many are left.
    pub(super) sector: u64,
    pub(super) left: u64,
    /// Sectors that go to the storage at once.
    pub(super) block: u64,
    /// Bytes after which the guest is interrupted.
    pub(super) limit: usize,
}

/// Why a packet failed, for REQUEST SENSE (SPC-3, 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Sense {
    pub(super) key: u8,
    pub(super) code: u8,
}

/// The registers of a drive. A register that is written twice keeps the earlier value for 48-bit commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriveState {
    pub(super) kind: Kind,
    pub(super) serial: String,
    pub(super) features: u8,
    pub(super) error: u8,
    pub(super) status: u8,
    pub(super) device: u8,
    /// Count, then the three address registers; `earlier` are their previous values.
    pub(super) file: [u8; 4],
    pub(super) earlier: [u8; 4],
    pub(super) phase: Phase,
    pub(super) work: Work,
    pub(super) buffer: Vec<u8>,
    pub(super) position: usize,
    /// Where the guest is interrupted next.
    pub(super) stop: usize,
    /// Sectors of a block of READ MULTIPLE, 0 while it is not set.
    pub(super) multiple: u8,
    /// The geometry that INITIALIZE DEVICE PARAMETERS set.
    pub(super) heads: u8,
    pub(super) track: u8,
    /// The DMA mode, as SET FEATURES has it.
    pub(super) mode: u8,
    pub(super) sense: Sense,
    pub(super) changed: bool,
    pub(super) locked: bool,
    pub(super) interrupt: bool,
}

impl DriveState {
    pub(super) fn new(kind: Kind, serial: &str) -> Self {
        let mut state = Self {
            kind,
            serial: serial.into(),
            features: 0,
            error: 1,
            status: 0,
            device: 0,
            file: [0; 4],
            earlier: [0; 4],
            phase: Phase::Idle,
            work: Work::default(),
            buffer: Vec::new(),
            position: 0,
            stop: 0,
            multiple: 16,
            heads: 16,
            track: 63,
            mode: 0,
            sense: Sense::default(),
            changed: true,
            locked: false,
            interrupt: false,
        };
        state.signature();
        state
    }

    /// What a drive's registers hold after a reset (ATA-6, 9.12).
    pub(super) fn signature(&mut self) {
        self.phase = Phase::Idle;
        self.work = Work::default();
        self.buffer.clear();
        self.interrupt = false;
        self.error = 1;
        self.device &= 0x10;
        (self.file, self.status) = match self.kind {
            Kind::Disk => ([1, 1, 0, 0], status::READY | status::SEEK),
            Kind::Cd => ([1, 1, 0x14, 0xeb], 0),
        };
    }

    /// The command is done.
    pub(super) fn finish(&mut self) {
        self.phase = Phase::Idle;
        self.buffer.clear();
        self.status = status::READY | status::SEEK;
        self.interrupt = true;
        if self.kind == Kind::Cd {
            // Interrupt reason: input, command (SFF-8020i, 5.3).
            self.set_count(3);
        }
    }

    /// The command has failed.
    pub(super) fn fail(&mut self, error: u8) {
        self.finish();
        self.error = error;
        self.status |= status::ERROR;
    }

    pub(super) fn set_count(&mut self, value: u8) {
        let [count, ..] = &mut self.file;
        *count = value;
    }

    /// The byte count registers of a packet command.
    pub(super) fn set_bytes(&mut self, bytes: u16) {
        let [_, _, low, high] = &mut self.file;
        [*low, *high] = bytes.to_le_bytes();
    }

    /// Lets the guest read the buffer, an interrupt every `limit` bytes.
    pub(super) fn offer(&mut self, limit: usize) {
        self.phase = Phase::In;
        self.position = 0;
        self.work.limit = limit;
        self.next_stop();
    }

    /// Begins the next piece of the buffer that the guest reads.
    pub(super) fn next_stop(&mut self) {
        let rest = self.buffer.len().saturating_sub(self.position);
        let piece = rest.min(self.work.limit.max(2));
        self.stop = self.position.saturating_add(piece);
        self.status = status::READY | status::SEEK | status::DATA;
        self.interrupt = true;
        if self.kind == Kind::Cd {
            self.set_count(2);
            self.set_bytes(piece.min(0xfffe) as u16);
        }
    }

    /// Lets the guest fill so many bytes.
    pub(super) fn ask(&mut self, bytes: usize) {
        self.phase = Phase::Out;
        self.position = 0;
        self.stop = bytes;
        self.buffer.clear();
        self.buffer.resize(bytes, 0);
        self.status = status::READY | status::SEEK | status::DATA;
    }
}
