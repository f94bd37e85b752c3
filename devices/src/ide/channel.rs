//! A channel: two drives, of which one is selected, and their bus master.

use core::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use trunnion_backends::device::{BlockError, BlockRequest, BlockShape, Full, GuestPage, Ticket};

use super::Storage;
use super::drive::{DriveState, Kind, Phase, error, status};
use super::transfer::Master;
use crate::memory::GuestMemory;
use crate::width::Width;

/// A request on its way, and which drive it is for.
enum Flight<P> {
    None,
    /// The storage had no room.
    Waits(usize, BlockRequest<P>),
    With(usize, Ticket),
}

/// What a channel saves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    drives: [Option<DriveState>; 2],
    selected: usize,
    control: u8,
    master: Master,
}

pub(super) struct Channel<M: GuestMemory> {
    pub(super) drives: [Option<DriveState>; 2],
    pub(super) storage: [Option<Storage<M::Page>>; 2],
    pub(super) selected: usize,
    control: u8,
    pub(super) master: Master,
    flight: Flight<M::Page>,
    /// The drive was reset under its request: the completion is thrown away.
    orphan: bool,
}

impl<M: GuestMemory> Default for Channel<M> {
    fn default() -> Self {
        Self {
            drives: [None, None],
            storage: [None, None],
            selected: 0,
            control: 0,
            master: Master::default(),
            flight: Flight::None,
            orphan: false,
        }
    }
}

impl<M: GuestMemory> Channel<M> {
    pub(super) fn attach(
        &mut self,
        device: usize,
        kind: Kind,
        storage: Option<Storage<M::Page>>,
        serial: &str,
    ) {
        if let (Some(drive), Some(place)) = (self.drives.get_mut(device), self.storage.get_mut(device)) {
            *drive = Some(DriveState::new(kind, serial));
            *place = storage;
        }
    }

    pub(super) fn unplug_disks(&mut self) {
        for drive in &mut self.drives {
            if drive.as_ref().is_some_and(|drive| drive.kind == Kind::Disk) {
                *drive = None;
            }
        }
        self.abandon();
    }

    /// A request that nobody waits for any more is on its way: drives are busy until it is back.
    fn abandon(&mut self) {
        if !self.flight.is_some() {
            return;
        }
        self.orphan = true;
        for drive in self.drives.iter_mut().flatten() {
            drive.phase = Phase::Idle;
            drive.status = status::BUSY;
        }
    }

    pub(super) fn change(&mut self, device: usize, storage: Option<Storage<M::Page>>) {
        let busy = self.flight.device() == Some(device);
        if let (Some(Some(drive)), Some(place)) = (self.drives.get_mut(device), self.storage.get_mut(device))
        {
            drive.changed = true;
            *place = storage;
            if busy {
                // Its request went away with the disc.
                self.flight = Flight::None;
                if !self.release() {
                    self.complete_error(device, BlockError::Gone);
                }
            }
        }
    }

    /// A request is over: true when nobody waits for it any more. Drives that were busy for its sake are as after a reset.
    fn release(&mut self) -> bool {
        let orphan = core::mem::take(&mut self.orphan);
        for drive in self.drives.iter_mut().flatten().filter(|drive| orphan && drive.status == status::BUSY) {
            drive.signature();
        }
        orphan
    }

    pub(super) fn reset(&mut self) {
        self.control = 0;
        self.master = Master::default();
        self.sign();
    }

    pub(super) fn shape(&self, device: usize) -> Option<BlockShape> {
        self.storage.get(device)?.as_ref().map(|storage| storage.shape())
    }

    pub(super) fn drive(&mut self) -> Option<&mut DriveState> {
        self.drives.get_mut(self.selected)?.as_mut()
    }

    pub(super) fn line(&self) -> bool {
        let drive = self.drives.get(self.selected).and_then(Option::as_ref);
        self.control & 2 == 0 && drive.is_some_and(|drive| drive.interrupt)
    }

    pub(super) fn alternate_status(&self) -> u8 {
        match self.drives.get(self.selected).and_then(Option::as_ref) {
            Some(_) if self.control & 4 != 0 => status::BUSY,
            Some(drive) => drive.status,
            None => 0,
        }
    }

    pub(super) fn read(&mut self, memory: &M, register: u16, width: Width) -> u32 {
        if register & 7 == 0 {
            return self.read_data(memory, width);
        }
        if self.drives.iter().all(Option::is_none) {
            return 0xff;
        }
        let status = self.alternate_status();
        let earlier = self.control & 0x80 != 0;
        let Some(drive) = self.drive() else {
            // The other device answers for one that is not there (ATA-6, 9.16), with no status.
            return 0;
        };
        let file = if earlier { drive.earlier } else { drive.file };
        let [count, low, mid, high] = file;
        u32::from(match register & 7 {
            1 => drive.error,
            2 => count,
            3 => low,
            4 => mid,
            5 => high,
            6 => drive.device | 0xa0,
            _ => {
                drive.interrupt = false;
                status
            }
        })
    }

    pub(super) fn write(&mut self, memory: &M, register: u16, width: Width, value: u32) {
        let byte = value as u8;
        match register & 7 {
            0 => self.write_data(memory, width, value),
            7 => self.command(memory, byte),
            6 => {
                self.control &= !0x80;
                self.selected = usize::from(byte >> 4 & 1);
                for drive in self.drives.iter_mut().flatten() {
                    drive.device = byte;
                }
            }
            register => {
                self.control &= !0x80;
                for drive in self.drives.iter_mut().flatten() {
                    if register == 1 {
                        drive.features = byte;
                        continue;
                    }
                    let index = usize::from(register - 2);
                    if let (Some(now), Some(earlier)) =
                        (drive.file.get_mut(index), drive.earlier.get_mut(index))
                    {
                        *earlier = core::mem::replace(now, byte);
                    }
                }
            }
        }
    }

    pub(super) fn write_control(&mut self, value: u8) {
        let begins = value & 4 != 0 && self.control & 4 == 0;
        self.control = value;
        if begins {
            self.sign();
        }
    }

    /// What both kinds of reset do to the drives.
    fn sign(&mut self) {
        self.selected = 0;
        for drive in self.drives.iter_mut().flatten() {
            drive.device = 0;
            drive.signature();
        }
        self.abandon();
    }

    fn read_data(&mut self, memory: &M, width: Width) -> u32 {
        let Some(drive) = self.drive() else { return width.mask() };
        if drive.phase != Phase::In {
            return 0;
        }
        let mut value = 0;
        for shift in 0..width.bytes() {
            if drive.position < drive.stop {
                value |= u32::from(drive.buffer.get(drive.position).copied().unwrap_or(0)) << (8 * shift);
                drive.position += 1;
            }
        }
        if drive.position >= drive.stop {
            self.read_on(memory);
        }
        value
    }

    fn write_data(&mut self, memory: &M, width: Width, value: u32) {
        let Some(drive) = self.drive() else { return };
        if !matches!(drive.phase, Phase::Out | Phase::Packet) {
            return;
        }
        for byte in value.to_le_bytes().into_iter().take(width.bytes()) {
            if drive.position < drive.stop
                && let Some(place) = drive.buffer.get_mut(drive.position)
            {
                *place = byte;
                drive.position += 1;
            }
        }
        if drive.position >= drive.stop {
            if drive.phase == Phase::Packet {
                self.packet(memory);
            } else {
                self.write_on(memory);
            }
        }
    }

    /// Gives a request to the storage; the drive is busy until it comes back.
    pub(super) fn submit(&mut self, request: BlockRequest<M::Page>) {
        let device = self.selected;
        let Some(drive) = self.drive() else { return };
        drive.phase = Phase::Storage;
        drive.status = status::BUSY;
        drive.interrupt = false;
        self.flight = Flight::Waits(device, request);
        self.push();
    }

    /// Whether a request is on its way, so that no other can be.
    pub(super) fn is_busy(&self) -> bool {
        self.flight.is_some()
    }

    fn push(&mut self) {
        let Flight::Waits(device, request) = core::mem::replace(&mut self.flight, Flight::None) else {
            return;
        };
        let Some(storage) = self.storage.get(device).and_then(Option::as_ref) else {
            return self.complete_error(device, BlockError::Gone);
        };
        self.flight = match storage.submit(request) {
            Ok(ticket) => Flight::With(device, ticket),
            Err(Full(request)) => Flight::Waits(device, request),
        };
    }

    pub(super) fn poll(&mut self, memory: &M, context: &mut Context<'_>) {
        loop {
            if matches!(self.flight, Flight::Waits(..)) {
                self.push();
            }
            let Flight::With(device, wanted) = self.flight else { return };
            let Some(storage) = self.storage.get(device).and_then(Option::as_ref) else { return };
            let Poll::Ready(done) = storage.poll_completed(context) else { return };
            if done.ticket != wanted {
                continue;
            }
            self.flight = Flight::None;
            if self.release() {
                continue;
            }
            let Some(Some(drive)) = self.drives.get(device) else { continue };
            if drive.phase != Phase::Storage {
                continue;
            }
            // A command goes on for the drive that has it, whichever is selected by now.
            let selected = core::mem::replace(&mut self.selected, device);
            match done.result {
                Ok(()) => self.complete(memory, &done.request),
                Err(error) => self.complete_error(device, error),
            }
            self.selected = selected;
        }
    }

    pub(super) fn complete_error(&mut self, device: usize, why: BlockError) {
        let Some(Some(drive)) = self.drives.get_mut(device) else { return };
        if drive.work.dma {
            self.master.end(true);
        }
        if drive.kind == Kind::Cd {
            // Medium error, unrecovered read error.
            drive.sense = super::drive::Sense { key: 3, code: 0x11 };
            return drive.fail(0x30);
        }
        drive.fail(match why {
            BlockError::OutOfRange => error::NOT_FOUND,
            BlockError::Device => error::UNCORRECTABLE,
            _ => error::ABORTED,
        });
    }

    /// The bus-master registers as eight bytes.
    pub(super) fn master(&self) -> u64 {
        let interrupt = self.drives.iter().flatten().any(|drive| drive.interrupt);
        self.master.registers(interrupt)
    }

    pub(super) fn write_master(&mut self, memory: &M, offset: u16, value: u8, allowed: bool) {
        if self.master.write(offset, value) && allowed {
            self.start_dma(memory);
        }
    }

    pub(super) fn save(&self) -> Option<State> {
        (!self.flight.is_some()).then(|| State {
            drives: self.drives.clone(),
            selected: self.selected,
            control: self.control,
            master: self.master.clone(),
        })
    }

    pub(super) fn load(&mut self, state: State) {
        self.drives = state.drives;
        self.selected = state.selected & 1;
        self.control = state.control;
        self.master = state.master;
        self.abandon();
    }
}

impl<P> Flight<P> {
    const fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
    const fn device(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Waits(device, _) | Self::With(device, _) => Some(*device),
        }
    }
}

/// Bytes of the segments of a request, in order.
pub(super) fn copy_out<P: GuestPage>(request: &BlockRequest<P>, into: &mut alloc::vec::Vec<u8>) {
    for segment in &request.segments {
        let start = into.len();
        into.resize(start.saturating_add(segment.length()), 0);
        if let Some(piece) = into.get_mut(start..) {
            let _ = segment.page().shared().copy_out(segment.offset(), piece);
        }
    }
}
