//! The IDE controller of the PIIX3 (Intel 82371SB data sheet, 2.6 and 2.7) with its disks (ATA/ATAPI-6, T13/1410D) and CD
//! drives (ATAPI: SFF-8020i; commands: MMC-3).
//!
//! Storage is a [`BlockDevice`], the same that a paravirtual back end serves, and requests to it take time: a command
//! makes the drive busy until [`Controller::poll`] finds its completion. Data that goes through the data port rests in pages
//! of the device model's own; a DMA goes straight to the guest's pages.

mod channel;
mod command;
mod drive;
mod identify;
mod packet;
mod transfer;

use core::task::Context;

use trunnion_backends::device::BlockDevice;

use crate::memory::GuestMemory;
use crate::pci::{Config, Identity, Space};
use crate::width::Width;
use channel::Channel;
pub use channel::State;
pub use drive::{DriveState, Kind};

/// What a drive stores on.
pub type Storage<P> = alloc::boxed::Box<dyn BlockDevice<P>>;

/// Ports of the bus-master registers, both channels.
pub const MASTER_PORTS: u16 = 16;

/// The controller: function 1 of the PIIX3.
pub struct Controller<M: GuestMemory> {
    /// Configuration space. BAR 4 is the bus-master registers.
    pub config: Config,
    channels: [Channel<M>; 2],
}

impl<M: GuestMemory> Default for Controller<M> {
    fn default() -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7010,
            class: 0x01_0180,
            revision: 0,
            subsystem: 0x1100_1af4,
        };
        let mut config = Config::new(identity).with_bar(4, Space::Port, u32::from(MASTER_PORTS));
        // IDE timing: both channels decode their ports (2.3.9).
        for offset in [0x41, 0x43] {
            config.put(offset, 0x80);
        }
        config.allow(0x40, &[0xff; 5]);
        Self { config, channels: [Channel::default(), Channel::default()] }
    }
}

impl<M: GuestMemory> Controller<M> {
    /// Puts a drive on a channel (0, 1), as its first or second device (0, 1). `serial` is its serial number.
    pub fn attach(
        &mut self,
        channel: usize,
        device: usize,
        kind: Kind,
        storage: Option<Storage<M::Page>>,
        serial: &str,
    ) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.attach(device, kind, storage, serial);
        }
    }

    /// Takes all disks away and leaves the CD drives: what a guest with paravirtual drivers asks for. A request in flight
    /// is finished first, its data goes nowhere.
    pub fn unplug_disks(&mut self) {
        self.channels.iter_mut().for_each(Channel::unplug_disks);
    }

    /// Changes the disc of a CD drive, or takes it out.
    pub fn change(&mut self, channel: usize, device: usize, storage: Option<Storage<M::Page>>) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.change(device, storage);
        }
    }

    /// Resets drives and bus masters, as the PCI bus's reset does.
    pub fn reset(&mut self) {
        self.channels.iter_mut().for_each(Channel::reset);
    }

    fn channel(&mut self, channel: usize) -> Option<&mut Channel<M>> {
        self.channels.get_mut(channel)
    }

    /// Reads a command-block register, 0 to 7; only the data register is wider than a byte.
    pub fn read(&mut self, memory: &M, channel: usize, register: u16, width: Width) -> u32 {
        self.channel(channel).map_or(u32::MAX, |channel| channel.read(memory, register, width))
    }

    /// Writes a command-block register.
    pub fn write(&mut self, memory: &M, channel: usize, register: u16, width: Width, value: u32) {
        if let Some(channel) = self.channel(channel) {
            channel.write(memory, register, width, value);
        }
    }

    /// Reads the alternate status.
    pub fn read_control(&self, channel: usize) -> u8 {
        self.channels.get(channel).map_or(0xff, Channel::alternate_status)
    }

    /// Writes the device control register.
    pub fn write_control(&mut self, channel: usize, value: u8) {
        if let Some(channel) = self.channel(channel) {
            channel.write_control(value);
        }
    }

    /// Reads a bus-master register by its offset in BAR 4.
    pub fn read_master(&mut self, offset: u16, width: Width) -> u32 {
        let channel = usize::from(offset >> 3 & 1);
        let all = self.channels.get(channel).map_or(u64::MAX, Channel::master);
        (all >> (8 * u32::from(offset & 7))) as u32 & width.mask()
    }

    /// Writes a bus-master register.
    pub fn write_master(&mut self, memory: &M, offset: u16, width: Width, value: u32) {
        for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(width.bytes()) {
            let at = offset.wrapping_add(n as u16);
            let master = self.config.is_master();
            if let Some(channel) = self.channel(usize::from(at >> 3 & 1)) {
                channel.write_master(memory, at & 7, byte, master);
            }
        }
    }

    /// Whether interrupt line 14 (channel 0) or 15 (channel 1) is high.
    pub fn line(&self, channel: usize) -> bool {
        self.channels.get(channel).is_some_and(Channel::line)
    }

    /// Takes completions from the storage. When nothing is ready, the context's waker is woken at the next one.
    pub fn poll(&mut self, memory: &M, context: &mut Context<'_>) {
        for channel in &mut self.channels {
            channel.poll(memory, context);
        }
    }

    /// Whether a request is with the storage.
    pub fn is_busy(&self) -> bool {
        self.channels.iter().any(Channel::is_busy)
    }

    /// The state of both channels; `None` while a request is with the storage.
    #[must_use]
    pub fn save(&self) -> Option<[State; 2]> {
        let [first, second] = &self.channels;
        Some([first.save()?, second.save()?])
    }

    /// Takes a saved state over. The storage stays what it is.
    pub fn load(&mut self, state: [State; 2]) {
        for (channel, state) in self.channels.iter_mut().zip(state) {
            channel.load(state);
        }
    }
}
