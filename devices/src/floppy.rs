//! The floppy controller (Intel 82077AA data sheet) with two drives, on DMA channel 2 and interrupt line 6.
//!
//! A disk is 1.44 MB: 80 cylinders, 2 heads, 18 sectors; a shorter medium is that with sectors missing.

use alloc::vec::Vec;
use core::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use trunnion_backends::device::{BlockOperation, BlockRequest, GuestPage, Segment, Ticket};

use crate::dma::Dma;
use crate::ide::Storage;
use crate::memory::GuestMemory;

const CYLINDERS: u8 = 80;
const HEADS: u8 = 2;
const SECTORS: u8 = 18;
const BYTES: usize = 512;
/// The controller's channel.
const CHANNEL: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
enum Phase {
    #[default]
    Command,
    /// A sector is with the storage.
    Transfer,
    Result,
}

/// Registers of the controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    output: u8,
    phase: Phase,
    command: Vec<u8>,
    result: Vec<u8>,
    position: usize,
    interrupt: bool,
    /// Cylinder of each drive.
    cylinder: [u8; 4],
    /// What SENSE INTERRUPT STATUS will say, and how many more drives have a change to tell.
    status: u8,
    polls: u8,
    changed: [bool; 2],
    /// The sector that is moved: cylinder, head, sector.
    place: [u8; 3],
    /// PIO instead of DMA was asked for, which this controller does not do.
    no_dma: bool,
    locked: bool,
    config: u8,
}

/// The controller.
pub struct Floppy<M: GuestMemory> {
    state: State,
    drives: [Option<Storage<M::Page>>; 2],
    flight: Option<(usize, Ticket)>,
    /// Nobody waits for the request any more. A command that begins meanwhile waits for its end.
    orphan: bool,
}

impl<M: GuestMemory> Default for Floppy<M> {
    fn default() -> Self {
        let state = State {
            output: 0x0c,
            phase: Phase::Command,
            command: Vec::new(),
            result: Vec::new(),
            position: 0,
            interrupt: false,
            cylinder: [0; 4],
            status: 0xc0,
            polls: 0,
            changed: [true; 2],
            place: [0; 3],
            no_dma: false,
            locked: false,
            config: 0,
        };
        Self { state, drives: [None, None], flight: None, orphan: false }
    }
}

/// Bytes of a command, by its first one.
const fn length(command: u8) -> usize {
    match command & 0x1f {
        0x03 | 0x0f => 3,
        0x04 | 0x07 | 0x0a | 0x12 => 2,
        0x13 => 4,
        0x0d => 6,
        0x02 | 0x05 | 0x06 | 0x09 | 0x0c | 0x11 | 0x16 | 0x19 | 0x1d => 9,
        _ => 1,
    }
}

impl<M: GuestMemory> Floppy<M> {
    /// Puts a disk into drive 0 or 1, or takes it out.
    pub fn insert(&mut self, drive: usize, storage: Option<Storage<M::Page>>) {
        if let (Some(place), Some(changed)) = (self.drives.get_mut(drive), self.state.changed.get_mut(drive))
        {
            *place = storage;
            *changed = true;
            if self.flight.is_some_and(|(with, _)| with == drive) {
                // Its request went away with the disk.
                self.flight = None;
                self.orphan = false;
                if self.state.phase == Phase::Transfer {
                    self.fail(0x40, 0x04, 0);
                }
            }
        }
    }

    /// The drive type of the clock's memory: 4 is 1.44 MB.
    #[must_use]
    pub fn cmos_type(&self) -> u8 {
        let [first, second] = &self.drives;
        (u8::from(first.is_some()) * 0x40) | (u8::from(second.is_some()) * 4)
    }

    /// Whether interrupt line 6 is high.
    #[must_use]
    pub fn line(&self) -> bool {
        self.state.interrupt && self.state.output & 8 != 0
    }

    /// The state; `None` while a sector is with the storage.
    #[must_use]
    pub fn save(&self) -> Option<State> {
        self.flight.is_none().then(|| self.state.clone())
    }

    /// Takes a saved state over.
    pub fn load(&mut self, state: State) {
        self.orphan |= self.flight.is_some();
        self.state = state;
    }

    fn selected(&self) -> usize {
        usize::from(self.state.output & 3)
    }

    /// Reads a port, by its offset from 0x3f0.
    pub fn read(&mut self, offset: u16) -> u8 {
        match offset {
            2 => self.state.output,
            4 => {
                let mut status = match self.state.phase {
                    Phase::Command if self.state.output & 4 == 0 => 0,
                    Phase::Command => 0x80,
                    Phase::Transfer => 0x10,
                    Phase::Result => 0xd0,
                };
                if self.state.phase == Phase::Command && !self.state.command.is_empty() {
                    status |= 0x10;
                }
                status
            }
            5 => self.data(),
            7 => {
                let changed = self.state.changed.get(self.selected()).copied().unwrap_or(true);
                u8::from(changed) << 7
            }
            _ => 0,
        }
    }

    fn data(&mut self) -> u8 {
        if self.state.phase != Phase::Result {
            return 0;
        }
        self.state.interrupt = false;
        let value = self.state.result.get(self.state.position).copied().unwrap_or(0);
        self.state.position += 1;
        if self.state.position >= self.state.result.len() {
            self.state.phase = Phase::Command;
            self.state.command.clear();
        }
        value
    }

    /// Writes a port.
    pub fn write(&mut self, memory: &M, dma: &mut Dma, offset: u16, value: u8) {
        match offset {
            2 => {
                let was = self.state.output;
                self.state.output = value;
                if value & 4 == 0 {
                    self.stop();
                } else if was & 4 == 0 {
                    // Leaving reset, every drive has a change to tell.
                    self.state.status = 0xc0;
                    self.state.polls = 4;
                    self.state.interrupt = true;
                }
            }
            4 if value & 0x80 != 0 => {
                self.stop();
                self.state.status = 0xc0;
                self.state.polls = 4;
                self.state.interrupt = true;
            }
            5 if self.state.phase == Phase::Command && self.state.output & 4 != 0 => {
                self.state.command.push(value);
                let first = self.state.command.first().copied().unwrap_or(0);
                if self.state.command.len() >= length(first) {
                    self.execute(memory, dma);
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self) {
        self.orphan |= self.flight.is_some();
        self.state.phase = Phase::Command;
        self.state.command.clear();
        self.state.interrupt = false;
        self.state.polls = 0;
    }

    fn byte(&self, index: usize) -> u8 {
        self.state.command.get(index).copied().unwrap_or(0)
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.state.result = bytes.to_vec();
        self.state.position = 0;
        self.state.phase = Phase::Result;
    }

    fn done(&mut self) {
        self.state.phase = Phase::Command;
        self.state.command.clear();
    }

    fn cylinder(&mut self, drive: u8) -> &mut u8 {
        let [first, second, third, fourth] = &mut self.state.cylinder;
        match drive & 3 {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        }
    }

    fn execute(&mut self, memory: &M, dma: &mut Dma) {
        let drive = self.byte(1) & 3;
        let head = self.byte(1) >> 2 & 1;
        let present = self.drives.get(usize::from(drive)).is_some_and(Option::is_some);
        match self.byte(0) & 0x1f {
            0x03 => {
                self.state.no_dma = self.byte(2) & 1 != 0;
                self.done();
            }
            0x04 => {
                let track0 = u8::from(*self.cylinder(drive) == 0) << 4;
                self.answer(&[0x28 | track0 | head << 2 | drive]);
            }
            0x07 | 0x0f => {
                let to = if self.byte(0) & 0x1f == 7 { 0 } else { self.byte(2) };
                *self.cylinder(drive) = to.min(CYLINDERS + 2);
                if let Some(changed) = self.state.changed.get_mut(usize::from(drive)) {
                    *changed = !present;
                }
                // Recalibrating a drive that is not there fails; seeking ends.
                self.state.status = 0x20 | head << 2 | drive;
                self.state.interrupt = true;
                self.state.polls = 0;
                self.done();
            }
            0x08 => {
                let pending = self.state.interrupt || self.state.polls > 0;
                self.state.interrupt = false;
                if !pending {
                    return self.answer(&[0x80]);
                }
                let mut status = self.state.status;
                if self.state.polls > 0 {
                    status = 0xc0 | 4u8.wrapping_sub(self.state.polls) & 3;
                    self.state.polls -= 1;
                }
                let at = *self.cylinder(status);
                self.answer(&[status, at]);
            }
            0x0a => {
                let at = *self.cylinder(drive);
                self.state.interrupt = true;
                if present {
                    self.answer(&[head << 2 | drive, 0, 0, at, head, 1, 2]);
                } else {
                    self.answer(&[0x40 | head << 2 | drive, 1, 0, at, head, 1, 2]);
                }
            }
            0x0e => {
                let [a, b, c, d] = self.state.cylinder;
                let config = self.state.config;
                let lock = u8::from(self.state.locked) << 7;
                self.answer(&[a, b, c, d, 0, 2, SECTORS, lock, config, 0]);
            }
            0x10 => self.answer(&[0x90]),
            0x12 => self.done(),
            0x13 => {
                self.state.config = self.byte(2);
                self.done();
            }
            0x14 => {
                self.state.locked = self.byte(0) & 0x80 != 0;
                let lock = u8::from(self.state.locked) << 4;
                self.answer(&[lock]);
            }
            0x18 => self.answer(&[0x41]),
            0x05 | 0x06 | 0x0c => {
                self.state.place = [self.byte(2), self.byte(3), self.byte(4)];
                if self.state.no_dma {
                    return self.fail(0x40, 0x10, 0);
                }
                self.sector(memory, dma);
            }
            // Formatting, scanning and reading a track are refused as a write to a protected disk is.
            0x02 | 0x09 | 0x0d | 0x11 | 0x16 | 0x19 | 0x1d => self.fail(0x40, 0x02, 0),
            _ => self.answer(&[0x80]),
        }
    }

    /// Ends a command with its seven result bytes.
    fn fail(&mut self, st0: u8, st1: u8, st2: u8) {
        let select = self.byte(1) & 7;
        let [cylinder, head, sector] = self.state.place;
        self.state.interrupt = true;
        self.answer(&[st0 | select, st1, st2, cylinder, head, sector, 2]);
    }

    /// Moves the next sector.
    fn sector(&mut self, memory: &M, dma: &mut Dma) {
        let [cylinder, head, sector] = self.state.place;
        let drive = usize::from(self.byte(1) & 3);
        let Some(storage) = self.drives.get(drive).and_then(Option::as_ref) else {
            return self.fail(0x40, 0x01, 0);
        };
        if cylinder >= CYLINDERS || head >= HEADS || sector == 0 || sector > SECTORS || self.byte(5) != 2 {
            return self.fail(0x40, 0x04, 0);
        }
        let write = self.byte(0) & 0x1f == 5;
        if write && storage.shape().read_only {
            return self.fail(0x40, 0x02, 0);
        }
        let number = (u64::from(cylinder) * u64::from(HEADS) + u64::from(head)) * u64::from(SECTORS)
            + u64::from(sector)
            - 1;
        if self.flight.is_some() {
            self.state.phase = Phase::Transfer;
            return;
        }
        let Some(page) = memory.own() else { return self.fail(0x40, 0x20, 0) };
        if write {
            let mut bytes = [0; BYTES];
            if dma.from_memory(memory, CHANNEL, &mut bytes) == 0 {
                return self.fail(0x40, 0x10, 0);
            }
            let _ = page.shared().copy_in(0, &bytes);
        }
        let Ok(segment) = Segment::new(page, 0, BYTES) else { return };
        let operation = if write { BlockOperation::Write } else { BlockOperation::Read };
        let request = BlockRequest { operation, sector: number, segments: alloc::vec![segment] };
        match storage.submit(request) {
            Ok(ticket) => {
                self.flight = Some((drive, ticket));
                self.state.phase = Phase::Transfer;
            }
            Err(_) => self.fail(0x40, 0x20, 0),
        }
    }

    /// Takes completions.
    pub fn poll(&mut self, memory: &M, dma: &mut Dma, context: &mut Context<'_>) {
        while let Some((drive, wanted)) = self.flight {
            let Some(storage) = self.drives.get(drive).and_then(Option::as_ref) else { return };
            let Poll::Ready(done) = storage.poll_completed(context) else { return };
            if done.ticket != wanted {
                continue;
            }
            self.flight = None;
            let orphan = core::mem::take(&mut self.orphan);
            if self.state.phase != Phase::Transfer {
                continue;
            }
            if orphan {
                self.sector(memory, dma);
                continue;
            }
            if done.result.is_err() {
                self.fail(0x40, 0x20, 0x20);
                continue;
            }
            let mut moved = BYTES;
            if self.byte(0) & 0x1f != 5 {
                let mut bytes = [0; BYTES];
                if let Some(segment) = done.request.segments.first() {
                    let _ = segment.page().shared().copy_out(segment.offset(), &mut bytes);
                }
                moved = dma.to_memory(memory, CHANNEL, &bytes);
            }
            self.advance();
            let [_, head, sector] = self.state.place;
            // The channel's terminal count ends the command; so does the end of the track.
            if moved == 0 || dma.ended(CHANNEL) {
                self.fail(0, 0, 0);
            } else if sector == 1 && (self.byte(0) & 0x80 == 0 || head == 0) {
                self.fail(0x40, 0x80, 0);
            } else {
                self.sector(memory, dma);
            }
        }
    }

    /// The place after the present sector: the next, on the other side in multi-track commands, on the next cylinder.
    fn advance(&mut self) {
        let multi = self.byte(0) & 0x80 != 0;
        let last = self.byte(6).min(SECTORS);
        let [cylinder, head, sector] = &mut self.state.place;
        if *sector < last {
            *sector += 1;
            return;
        }
        *sector = 1;
        if multi && *head == 0 {
            *head = 1;
        } else {
            if multi {
                *head = 0;
            }
            *cylinder = cylinder.saturating_add(1);
        }
    }
}
