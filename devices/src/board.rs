//! A PC: the devices on their ports, addresses and interrupt lines.
//!
//! | function | device |
//! | --- | --- |
//! | 0.0 | host bridge, i440FX (Intel 290549): its memory attribute registers are kept and mean nothing, all of the first MiB is RAM |
//! | 1.0 | PIIX3: ISA bridge, interrupt router |
//! | 1.1 | PIIX3: IDE |
//! | 1.3 | PIIX4: power management |
//! | 2.0 | VGA |
//! | 3.0 | Xen platform device |
//! | 4.0 and on | network cards |
//!
//! Whoever runs the board brings accesses and the time, and afterwards takes what the board wants: interrupts
//! ([`Board::wants`], [`Board::take_messages`]), what is to become of the guest ([`Board::take_event`]), and the next moment at which
//! something happens by itself ([`Board::deadline`]).

mod bus;
mod lines;
mod ports;
mod state;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Context;

use trunnion_backends::device::CharDevice;

use crate::dma::Dma;
use crate::e1000::E1000;
use crate::floppy::Floppy;
use crate::fwcfg::FwCfg;
use crate::hpet::Hpet;
use crate::i8042::Controller as Keyboard;
use crate::ide;
use crate::ioapic::{IoApic, Message};
use crate::memory::GuestMemory;
use crate::ne2000::Ne2000;
use crate::pci::{Address, Config, Identity};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::platform::{Platform, Unplug};
use crate::pm::{Pm, Request};
use crate::rtc::Rtc;
use crate::time::{Time, earlier};
use crate::uart::Uart;
use crate::vga::Vga;
pub use state::State;

/// Bytes of the firmware's log, and of a serial port's output, that wait to be taken at most; more are dropped.
const LOG: usize = 1 << 16;

/// What a guest wants to become of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Start again.
    Reset,
    /// Be switched off.
    Off,
    /// Sleep, with its memory kept.
    Suspend,
    /// Go on without some emulated devices. They are gone already when this is told.
    Unplug(Unplug),
}

/// A network card.
pub enum Nic {
    /// A gigabit card with descriptor rings.
    E1000(E1000),
    /// A card that moves bytes through ports.
    Ne2000(Ne2000),
}

impl Nic {
    fn config(&mut self) -> &mut Config {
        match self {
            Self::E1000(card) => &mut card.config,
            Self::Ne2000(card) => &mut card.config,
        }
    }

    /// Puts its interrupt to its level at this moment.
    fn settle(&mut self, now: Time) {
        if let Self::E1000(card) = self {
            card.settle(now);
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self {
            Self::E1000(card) => card.deadline(),
            Self::Ne2000(_) => None,
        }
    }

    fn level(&self) -> (&Config, bool) {
        match self {
            Self::E1000(card) => (&card.config, card.line()),
            Self::Ne2000(card) => (&card.config, card.line()),
        }
    }
}

/// How a board is made.
pub struct Parts<M: GuestMemory> {
    /// The guest's memory.
    pub memory: M,
    /// Bytes of RAM, for the firmware.
    pub ram: u64,
    /// Processors.
    pub cpus: u16,
    /// Seconds since 1970 at power-on.
    pub epoch: u64,
    /// The VGA BIOS; without one there is no VGA.
    pub vga_rom: Option<Vec<u8>>,
    /// There is a high precision event timer.
    pub hpet: bool,
    /// There is the Xen platform device.
    pub platform: bool,
    /// What the serial ports are connected to.
    pub serial: [Option<Box<dyn CharDevice>>; 2],
    /// Network cards, in the order of their slots; those beyond the bus's slots are left out.
    pub nics: Vec<Nic>,
}

/// A serial port and what it is connected to.
struct Serial {
    uart: Uart,
    far: Option<Box<dyn CharDevice>>,
    waiting: VecDeque<u8>,
}

/// The board.
pub struct Board<M: GuestMemory> {
    /// The guest's memory.
    pub memory: M,
    /// The real-time clock's memory, for firmware settings.
    pub rtc: Rtc,
    /// Keyboard and mouse.
    pub keyboard: Keyboard,
    /// The screen.
    pub vga: Option<Vga>,
    /// Drives.
    pub ide: ide::Controller<M>,
    /// Floppy drives.
    pub floppy: Floppy<M>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Buttons.
    pub pm: Pm,
    /// Files for the firmware.
    pub fwcfg: FwCfg,
    /// What the guest's drivers say.
    pub platform: Platform,
    has_platform: bool,
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    hpet: Option<Hpet>,
    dma: Dma,
    serial: [Serial; 2],
    address: Address,
    host: Config,
    isa: Config,
    power: Config,
    vga_rom: Vec<u8>,
    /// Port 0x92 and port 0xcf9 as they were written.
    fast_gate: u8,
    reset_control: u8,
    log: Vec<u8>,
    events: VecDeque<Event>,
    /// Port 0xb3, beside the command port.
    smi_status: u8,
    told: lines::Told,
    /// An access may have given a device something to do.
    touched: bool,
}

impl<M: GuestMemory> Board<M> {
    /// A board at power-on.
    pub fn new(parts: Parts<M>) -> Self {
        // The subsystem is what Debian's SeaBIOS takes as the sign that the firmware interface is there.
        let identity = |device, class, revision| Identity {
            vendor: 0x8086,
            device,
            class,
            revision,
            subsystem: 0x1100_1af4,
        };
        let mut host = Config::new(identity(0x1237, 0x06_0000, 2));
        host.allow(0x50, &[0xff; 0x50]);
        let mut isa = Config::new(identity(0x7000, 0x06_0100, 0)).multifunction();
        isa.allow(0x4c, &[0xff; 0x64]);
        for pirq in 0x60..0x64 {
            isa.put(pirq, 0x80);
        }
        let mut power = Config::new(identity(0x7113, 0x06_8000, 3)).with_pin(1);
        power.put32(0x40, 1);
        // DEVACTB bit 25: the system management interrupt of the command port is set up already, for there is none.
        power.put(0x5b, 2);
        power.allow(0x40, &[0xc0, 0xff, 0, 0]);
        power.allow(0x44, &[0xff; 0x90]);
        let mut rtc = Rtc::new(parts.epoch);
        store_memory_size(&mut rtc, parts.ram);
        let [first, second] = parts.serial;
        let serial = |far| Serial { uart: Uart::default(), far, waiting: VecDeque::new() };
        Self {
            memory: parts.memory,
            rtc,
            keyboard: Keyboard::default(),
            vga: parts.vga_rom.is_some().then(Vga::default),
            ide: ide::Controller::default(),
            floppy: Floppy::default(),
            nics: parts.nics.into_iter().take(bus::NICS).collect(),
            pm: Pm::default(),
            fwcfg: FwCfg::new(parts.cpus),
            platform: Platform::default(),
            has_platform: parts.platform,
            pic: Pic::default(),
            ioapic: IoApic::default(),
            pit: Pit::default(),
            hpet: parts.hpet.then(Hpet::default),
            dma: Dma::default(),
            serial: [serial(first), serial(second)],
            address: Address::default(),
            host,
            isa,
            power,
            vga_rom: parts.vga_rom.unwrap_or_default(),
            fast_gate: 2,
            reset_control: 0,
            log: Vec::new(),
            events: VecDeque::new(),
            smi_status: 0,
            told: lines::Told::default(),
            touched: true,
        }
    }

    /// Whether the accesses since this was asked last may have given a device something to do, or moved the deadline up: [`Self::poll`] is
    /// due. Most only look at a register, or set one that counts at a later command.
    pub fn take_touched(&mut self) -> bool {
        core::mem::take(&mut self.touched)
    }

    /// Whether the interrupt controllers' output to the processor is high.
    pub fn wants(&self) -> bool {
        self.pic.wants()
    }

    /// The processor acknowledges an interrupt of the 8259s: its vector.
    pub fn acknowledge(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// Messages that the I/O APIC sends to local APICs.
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.ioapic.take_messages()
    }

    /// A local APIC ended a level-triggered interrupt.
    pub fn end(&mut self, vector: u8) {
        self.ioapic.end(vector);
    }

    /// Whether address line 20 is let through.
    pub const fn a20(&self) -> bool {
        self.keyboard.a20()
    }

    /// What the guest wants to become of itself, in order.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What firmware wrote to its debug ports.
    pub fn take_log(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.log)
    }

    fn log(&mut self, byte: u8) {
        if self.log.len() < LOG {
            self.log.push(byte);
        }
    }

    /// Takes what the storage and the serial lines have brought. Wakes the context's waker when there is more.
    pub fn poll(&mut self, context: &mut Context<'_>, now: Time) {
        self.ide.poll(&self.memory, context);
        self.floppy.poll(&self.memory, &mut self.dma, context);
        for nic in &mut self.nics {
            match nic {
                Nic::E1000(card) => card.poll(&self.memory, context.waker()),
                Nic::Ne2000(card) => card.poll(context.waker()),
            }
        }
        for serial in &mut self.serial {
            serial.poll(context);
        }
        self.advance(now);
    }

    /// Puts a disk into floppy drive 0 or 1.
    pub fn insert_floppy(&mut self, drive: usize, storage: Option<ide::Storage<M::Page>>) {
        self.floppy.insert(drive, storage);
        // Firmware finds the drives' types there.
        self.rtc.set_byte(0x10, self.floppy.cmos_type());
    }

    /// Lets time pass, and puts every interrupt line to its level.
    pub fn advance(&mut self, now: Time) {
        self.rtc.advance(now);
        self.pm.advance(now);
        if let Some(hpet) = &mut self.hpet {
            hpet.advance(now);
        }
        self.keyboard.refill();
        if self.keyboard.take_reset() {
            self.events.push_back(Event::Reset);
        }
        match self.pm.take_request() {
            Some(Request::Off) => self.events.push_back(Event::Off),
            Some(Request::Suspend) => self.events.push_back(Event::Suspend),
            None => {}
        }
        if let Some(unplug) = self.platform.take_unplug() {
            if unplug.disks || unplug.other_disks {
                self.ide.unplug_disks();
            }
            if unplug.nics {
                self.nics.clear();
            }
            self.events.push_back(Event::Unplug(unplug));
        }
        // One reset is enough, however often it is asked for.
        self.events.truncate(16);
        self.update_lines(now);
    }

    /// The next moment at which something happens by itself. [`Self::advance`] is to be called then.
    pub fn deadline(&self) -> Option<Time> {
        let hpet = self.hpet.as_ref().and_then(Hpet::deadline);
        // Nothing comes of the old timer while the new one has its place: its edges are not taken, and the next stays in the past.
        let is_legacy = self.hpet.as_ref().is_some_and(Hpet::is_legacy);
        let pit = if is_legacy { None } else { self.pit.deadline() };
        let nics = self.nics.iter().fold(None, |first, nic| earlier(first, nic.deadline()));
        [pit, self.rtc.deadline(), self.pm.deadline(), hpet].into_iter().fold(nics, earlier)
    }
}

impl Serial {
    fn poll(&mut self, context: &mut Context<'_>) {
        let room = LOG.saturating_sub(self.waiting.len());
        let sent = self.uart.take_sent();
        self.waiting.extend(sent.into_iter().take(room));
        let Some(far) = &mut self.far else {
            self.waiting.clear();
            return;
        };
        loop {
            let (front, _) = self.waiting.as_slices();
            if front.is_empty() {
                break;
            }
            let taken = far.send(front);
            self.waiting.drain(..taken.min(front.len()));
            if taken == 0 {
                break;
            }
        }
        while self.uart.room() > 0 {
            let mut bytes = [0; 16];
            let room = self.uart.room().min(bytes.len());
            let taken = far.receive(bytes.get_mut(..room).unwrap_or(&mut []));
            for byte in bytes.into_iter().take(taken) {
                self.uart.receive(byte);
            }
            if taken == 0 {
                break;
            }
        }
        // Only the wake-up matters here: what has changed is taken at the next poll.
        if far.poll_changed(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }
}

/// How much RAM there is, where firmware of PCs looks (QEMU's *CMOS* layout: extended memory above 1 and 16 MiB, above 4 GiB).
fn store_memory_size(rtc: &mut Rtc, ram: u64) {
    /// RAM below the hole for devices.
    const LOW: u64 = 0xe000_0000;
    let low = ram.min(LOW);
    let base = (low >> 10).min(640) as u16;
    let above_1m = (low.saturating_sub(1 << 20) >> 10).min(0xffff) as u16;
    let above_16m = (low.saturating_sub(16 << 20) >> 16).min(0xffff) as u16;
    let above_4g = ram.saturating_sub(LOW) >> 16;
    for (index, value) in [(0x15, base), (0x17, above_1m), (0x30, above_1m), (0x34, above_16m)] {
        let [first, second] = value.to_le_bytes();
        rtc.set_byte(index, first);
        rtc.set_byte(index + 1, second);
    }
    for (index, byte) in (0x5b..=0x5d).zip(above_4g.to_le_bytes()) {
        rtc.set_byte(index, byte);
    }
}
