//! The local APIC of a vCPU, in its memory-mapped form (SDM volume 3, chapter 11).
//!
//! A state machine without side effects: writing a register gives an [`Action`] that the core carries out. There is no
//! x2APIC form and no TSC-deadline timer. The end of a level-triggered interrupt, which only a device model sends, is told to it.
//! The upcall by callback vector does not come through here.

mod icr;
#[cfg(test)]
mod tests;
mod timer;

pub use icr::{Delivery, Destination, Ipi, LEVEL, message};
pub use timer::TICK_NS;

use crate::prelude::*;
use timer::Timer;

/// Guest-physical address of the registers.
pub const BASE: u64 = 0xfee0_0000;
/// Bytes of the page they are in.
pub const SIZE: u64 = 0x1000;

/// Offsets of registers. Each is 32 bits wide and aligned to 16 bytes.
mod register {
    pub(super) const ID: u16 = 0x20;
    pub(super) const VERSION: u16 = 0x30;
    pub(super) const TASK_PRIORITY: u16 = 0x80;
    pub(super) const ARBITRATION_PRIORITY: u16 = 0x90;
    pub(super) const PROCESSOR_PRIORITY: u16 = 0xa0;
    pub(super) const END: u16 = 0xb0;
    pub(super) const REMOTE_READ: u16 = 0xc0;
    pub(super) const LOGICAL_DESTINATION: u16 = 0xd0;
    pub(super) const DESTINATION_FORMAT: u16 = 0xe0;
    pub(super) const SPURIOUS: u16 = 0xf0;
    pub(super) const IN_SERVICE: u16 = 0x100;
    pub(super) const TRIGGER: u16 = 0x180;
    pub(super) const REQUESTED: u16 = 0x200;
    pub(super) const ERROR: u16 = 0x280;
    pub(super) const ICR_LOW: u16 = 0x300;
    pub(super) const ICR_HIGH: u16 = 0x310;
    pub(super) const LVT: u16 = 0x320;
    pub(super) const LVT_LAST: u16 = 0x370;
    pub(super) const TIMER_INITIAL: u16 = 0x380;
    pub(super) const TIMER_CURRENT: u16 = 0x390;
    pub(super) const TIMER_DIVIDE: u16 = 0x3e0;
}

/// Version 0x14, six local vectors.
const VERSION: u32 = 0x0005_0014;
/// Spurious-vector register: the APIC is enabled by software.
const ENABLED: u32 = 1 << 8;
/// Bits of the spurious-vector register that can be written: vector, enable, focus checking.
const SPURIOUS_KNOWN: u32 = 0x3ff;
/// A local vector is masked.
const MASKED: u32 = 1 << 16;
/// Local vectors in order of their registers: timer, thermal, performance, LINT0, LINT1, error; the bits each has.
const LVT_KNOWN: [u32; 6] = [0x0003_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
const TIMER: usize = 0;
const LINT0: usize = 3;
const ERROR: usize = 5;
/// Delivery mode of a local vector, with [`MASKED`]; and the mode in which the 8259 pair has the vector.
const MODE: u32 = MASKED | 7 << 8;
const EXTERNAL: u32 = 7 << 8;
/// The timer's local vector: count again after the end.
const PERIODIC: u32 = 1 << 17;
/// Error status: a vector below 16 was to be sent, or was received.
const SEND_ILLEGAL: u32 = 1 << 5;
const RECEIVE_ILLEGAL: u32 = 1 << 6;
/// Error status: no such register.
const NO_REGISTER: u32 = 1 << 7;

/// What a write asks of the core.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing. What can be injected may have changed.
    None,
    /// Send this to the vCPUs it names. The sender's own is among them where the destination says so.
    Send(Ipi),
    /// Call [`Lapic::expire`] at this time; `None` takes it back.
    Timer(Option<HostTime>),
    /// A level-triggered interrupt has ended.
    End(u8),
    /// The APIC was enabled: vectors that were held back until now may be posted.
    Enabled,
}

/// 256 bits, one for each vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    fn highest(&self) -> Option<u8> {
        self.0
            .iter()
            .enumerate()
            .rev()
            .find(|(_, word)| **word != 0)
            .map(|(index, word)| (index as u32 * 32 + word.ilog2()) as u8)
    }

    fn word(&self, offset: u16) -> u32 {
        self.0[usize::from(offset >> 4 & 7)]
    }
}

/// One local APIC.
#[derive(Clone, Debug, Default)]
pub struct Lapic {
    id: u8,
    task_priority: u8,
    logical: u32,
    format: u32,
    spurious: u32,
    error: u32,
    error_noted: u32,
    icr: [u32; 2],
    lvt: [u32; 6],
    timer: Timer,
    in_service: Vectors,
    requested: Vectors,
    trigger: Vectors,
}

impl Lapic {
    /// After reset (SDM 11.4.7.1): disabled by software, everything masked.
    pub fn new(id: u8) -> Self {
        Self { id, format: u32::MAX, spurious: 0xff, lvt: [MASKED; 6], ..Self::default() }
    }

    /// INIT: as after reset, with the same number. The core takes the timer back.
    pub fn reset(&mut self) {
        *self = Self::new(self.id);
    }

    /// Whether software has enabled it.
    pub const fn is_enabled(&self) -> bool {
        self.spurious & ENABLED != 0
    }

    /// Reads a register. What does not exist reads as 0 and is noted as an error.
    pub fn read(&mut self, offset: u16, now: HostTime) -> u32 {
        match offset {
            register::ID => u32::from(self.id) << 24,
            register::VERSION => VERSION,
            register::TASK_PRIORITY => u32::from(self.task_priority),
            register::PROCESSOR_PRIORITY => u32::from(self.priority()),
            register::ARBITRATION_PRIORITY | register::END | register::REMOTE_READ => 0,
            register::LOGICAL_DESTINATION => self.logical,
            register::DESTINATION_FORMAT => self.format,
            register::SPURIOUS => self.spurious,
            register::IN_SERVICE..register::TRIGGER if offset & 15 == 0 => self.in_service.word(offset),
            register::TRIGGER..register::REQUESTED if offset & 15 == 0 => self.trigger.word(offset),
            register::REQUESTED..register::ERROR if offset & 15 == 0 => self.requested.word(offset),
            register::ERROR => self.error,
            register::ICR_LOW => self.icr[0],
            register::ICR_HIGH => self.icr[1],
            register::LVT..=register::LVT_LAST if offset & 15 == 0 => self.lvt[lvt_index(offset)],
            register::TIMER_INITIAL => self.timer.initial,
            register::TIMER_CURRENT => self.timer.current(now),
            register::TIMER_DIVIDE => self.timer.divide,
            _ => {
                self.note_error(NO_REGISTER);
                0
            }
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u16, value: u32, now: HostTime) -> Action {
        match offset {
            register::TASK_PRIORITY => self.task_priority = value as u8,
            register::END => {
                if let Some(vector) = self.in_service.highest() {
                    self.in_service.clear(vector);
                    if self.trigger.has(vector) {
                        return Action::End(vector);
                    }
                }
            }
            register::LOGICAL_DESTINATION => self.logical = value & 0xff00_0000,
            register::DESTINATION_FORMAT => self.format = value | 0x0fff_ffff,
            register::SPURIOUS => return self.set_spurious(value),
            register::ERROR => self.error = core::mem::take(&mut self.error_noted),
            register::ICR_LOW => return self.send(value),
            register::ICR_HIGH => self.icr[1] = value & 0xff00_0000,
            register::LVT..=register::LVT_LAST if offset & 15 == 0 => {
                let index = lvt_index(offset);
                let masked = if self.is_enabled() { 0 } else { MASKED };
                self.lvt[index] = value & LVT_KNOWN[index] | masked;
                if index == TIMER {
                    self.timer.periodic = value & PERIODIC != 0;
                    return Action::Timer(self.timer.end);
                }
            }
            register::TIMER_INITIAL => {
                self.timer.start(value, now);
                return Action::Timer(self.timer.end);
            }
            register::TIMER_DIVIDE => {
                self.timer.set_divide(value, now);
                return Action::Timer(self.timer.end);
            }
            // Read-only registers ignore writes.
            register::ID
            | register::VERSION
            | register::ARBITRATION_PRIORITY..=register::PROCESSOR_PRIORITY
            | register::REMOTE_READ
            | register::IN_SERVICE..register::ERROR
            | register::TIMER_CURRENT => {}
            _ => self.note_error(NO_REGISTER),
        }
        Action::None
    }

    fn set_spurious(&mut self, value: u32) -> Action {
        let was = self.is_enabled();
        self.spurious = value & SPURIOUS_KNOWN;
        if !self.is_enabled() {
            for entry in &mut self.lvt {
                *entry |= MASKED;
            }
        }
        if self.is_enabled() && !was { Action::Enabled } else { Action::None }
    }

    fn send(&mut self, value: u32) -> Action {
        self.icr[0] = value & icr::KNOWN;
        match icr::decode(value, (self.icr[1] >> 24) as u8) {
            Ok(Some(ipi)) => Action::Send(ipi),
            Ok(None) => Action::None,
            Err(icr::IllegalVector) => {
                self.note_error(SEND_ILLEGAL);
                Action::None
            }
        }
    }

    fn note_error(&mut self, error: u32) {
        let new = self.error_noted & error == 0;
        self.error_noted |= error;
        let entry = self.lvt[ERROR];
        // An error vector that is itself illegal must not lead here again.
        if new && entry & MASKED == 0 && entry & 0xf0 != 0 {
            self.requested.set(entry as u8);
        }
    }

    /// LINT0 as the firmware of a PC without interrupt routing wants it: the 8259 pair's (virtual wire mode).
    pub const fn wire(&mut self) {
        self.lvt[LINT0] = EXTERNAL;
    }

    /// Whether the 8259 pair reaches the processor.
    pub const fn is_wired(&self) -> bool {
        self.lvt[LINT0] & MODE == EXTERNAL
    }

    /// A fixed interrupt arrives, as an edge or a level. False when it is not accepted: the APIC is disabled, or the vector is below
    /// 16, which is noted as an error.
    pub fn post(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if vector < 16 {
            self.note_error(RECEIVE_ILLEGAL);
            return false;
        }
        self.requested.set(vector);
        if level {
            self.trigger.set(vector);
        } else {
            self.trigger.clear(vector);
        }
        true
    }

    /// The processor priority (SDM 11.8.3.1).
    fn priority(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= service { self.task_priority } else { service }
    }

    /// The vector that the processor would be interrupted with now.
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (self.is_enabled() && vector & 0xf0 > self.priority() & 0xf0).then_some(vector)
    }

    /// The processor has taken a vector: it is in service until the end of interrupt.
    pub fn accept(&mut self, vector: u8) {
        self.requested.clear(vector);
        self.in_service.set(vector);
    }

    /// The timer's deadline has come. Gives the next one.
    pub fn expire(&mut self, now: HostTime) -> Option<HostTime> {
        if self.timer.expire(now) && self.lvt[TIMER] & MASKED == 0 {
            self.post(self.lvt[TIMER] as u8, false);
        }
        self.timer.end
    }

    /// The task priority as CR8 shows it.
    pub const fn cr8(&self) -> u64 {
        (self.task_priority >> 4) as u64
    }

    /// Sets the task priority by CR8; `None` for a value above 15 (#GP).
    pub const fn set_cr8(&mut self, value: u64) -> Option<()> {
        if value > 15 {
            return None;
        }
        self.task_priority = (value as u8) << 4;
        Some(())
    }

    /// Whether an interrupt to `destination` is for this APIC. `own` says that it is the sender's.
    pub const fn is_addressed(&self, destination: Destination, own: bool) -> bool {
        match destination {
            Destination::Own => own,
            Destination::All => true,
            Destination::Others => !own,
            Destination::Physical(id) => id == self.id || id == 0xff,
            Destination::Logical(address) => {
                let mine = (self.logical >> 24) as u8;
                if address == 0xff {
                    true
                } else if self.format >> 28 == 0xf {
                    address & mine != 0
                } else {
                    address >> 4 == mine >> 4 && address & mine & 0xf != 0
                }
            }
        }
    }
}

const fn lvt_index(offset: u16) -> usize {
    (offset.saturating_sub(register::LVT) >> 4) as usize % LVT_KNOWN.len()
}
