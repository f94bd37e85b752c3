//! Ports. An access that is wider than a device's registers is split into bytes, as the ISA bus does.

use super::{Board, Event, Nic};
use crate::fwcfg::FwCfg;
use crate::ide;
use crate::memory::GuestMemory;
use crate::ne2000;
use crate::pci::Address;
use crate::platform;
use crate::pm;
use crate::time::Time;
use crate::width::Width;

/// First ports of the two serial ports, and of the two IDE channels with their control ports.
const SERIAL: [u16; 2] = [0x3f8, 0x2f8];
const IDE: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];

/// Registers of the IDE channels' windows that are only kept, to be looked at by a command: all but data and command.
const KEPT: core::ops::RangeInclusive<u16> = 1..=6;

impl<M: GuestMemory> Board<M> {
    /// Whether an access gives no device anything to do: registers of the interrupt controllers and of the interval timer, of the drives,
    /// and of their bus master but for its command.
    fn is_quiet(&self, port: u16, width: Width, read: bool) -> bool {
        if width != Width::Byte {
            // The address of a bus master's table.
            return width == Width::Double && self.master_offset(port).is_some_and(|offset| offset & 7 == 4);
        }
        for (base, control) in IDE {
            let register = port.wrapping_sub(base);
            if register < 8 {
                return KEPT.contains(&register) || read && register == 7;
            }
            if port == control {
                return read;
            }
        }
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => true,
            0x40..=0x43 | 0x61 => read,
            _ => self.master_offset(port).is_some_and(|offset| read || offset & 7 != 0),
        }
    }

    fn touch(&mut self, port: u16, width: Width, read: bool) {
        self.touched = self.touched || !self.is_quiet(port, width, read);
    }

    /// Reads a port.
    pub fn port_read(&mut self, port: u16, width: Width, now: Time) -> u32 {
        self.touch(port, width, true);
        let value = match self.wide_read(port, width, now) {
            Some(value) => value,
            None => (0..width.bytes() as u16)
                .fold(0, |all, n| all | u32::from(self.byte_read(port.wrapping_add(n), now)) << (8 * n)),
        };
        self.update_lines(now);
        value & width.mask()
    }

    /// Reads a port again and again, into accesses of `width` one behind the other. Interrupt lines are looked at once where only a
    /// drive's data are read, or a card's memory.
    pub fn port_read_string(&mut self, port: u16, width: Width, into: &mut [u8], now: Time) {
        self.touched = true;
        let drive = IDE.iter().position(|(base, _)| *base == port);
        let card = self.card_memory(port);
        for piece in into.chunks_mut(width.bytes()) {
            let value = match (drive, card) {
                (Some(channel), _) => self.ide.read(&self.memory, channel, 0, width),
                (None, Some(index)) => match self.nics.get_mut(index) {
                    Some(Nic::Ne2000(card)) => card.read(ne2000::DATA, width),
                    _ => u32::MAX,
                },
                (None, None) => self.port_read(port, width, now),
            };
            piece.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        self.update_lines(now);
    }

    /// Writes a port again and again, from accesses of `width` one behind the other.
    pub fn port_write_string(&mut self, port: u16, width: Width, from: &[u8], now: Time) {
        self.touched = true;
        let drive = IDE.iter().position(|(base, _)| *base == port);
        let card = self.card_memory(port);
        for piece in from.chunks(width.bytes()) {
            let mut value = [0; 4];
            value.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            let value = u32::from_le_bytes(value);
            match (drive, card) {
                (Some(channel), _) => self.ide.write(&self.memory, channel, 0, width, value),
                (None, Some(index)) => {
                    if let Some(Nic::Ne2000(card)) = self.nics.get_mut(index) {
                        card.write(&self.memory, ne2000::DATA, width, value);
                    }
                }
                (None, None) => self.port_write(port, width, value, now),
            }
        }
        self.advance(now);
    }

    /// The card whose memory is read and written through a port. Below 0x1000 others may have it, wherever a guest puts the card.
    fn card_memory(&mut self, port: u16) -> Option<usize> {
        if port < 0x1000 || self.pm_offset(port).is_some() || self.master_offset(port).is_some() {
            return None;
        }
        let (index, offset) = self.nic(port)?;
        (offset == ne2000::DATA && matches!(self.nics.get(index), Some(Nic::Ne2000(_)))).then_some(index)
    }

    /// Writes a port.
    pub fn port_write(&mut self, port: u16, width: Width, value: u32, now: Time) {
        self.touch(port, width, false);
        let value = value & width.mask();
        if !self.wide_write(port, width, value, now) {
            for (n, byte) in (0..).zip(value.to_le_bytes()).take(width.bytes()) {
                self.byte_write(port.wrapping_add(n), byte, now);
            }
        }
        self.advance(now);
    }

    fn pm_offset(&self, port: u16) -> Option<u16> {
        // PMREGMISC bit 0 switches the window on (82371AB, 7.1).
        let base = self.power.get32(0x40) as u16 & 0xffc0;
        let offset = port.checked_sub(base)?;
        (self.power.get(0x80) & 1 != 0 && base != 0 && offset < pm::PORTS).then_some(offset)
    }

    fn master_offset(&self, port: u16) -> Option<u16> {
        self.ide.config.within(4, u64::from(ide::MASTER_PORTS), u64::from(port)).map(|offset| offset as u16)
    }

    /// The network card whose ports these are, and the offset.
    fn nic(&mut self, port: u16) -> Option<(usize, u16)> {
        self.nics.iter().enumerate().find_map(|(index, nic)| {
            let offset = match nic {
                Nic::E1000(card) => card.config.within(1, 64, u64::from(port))?,
                Nic::Ne2000(card) => card.config.within(0, u64::from(ne2000::PORTS), u64::from(port))?,
            };
            Some((index, offset as u16))
        })
    }

    /// Devices with registers wider than a byte.
    fn wide_read(&mut self, port: u16, width: Width, now: Time) -> Option<u32> {
        for (channel, (base, _)) in IDE.into_iter().enumerate() {
            if port == base {
                return Some(self.ide.read(&self.memory, channel, 0, width));
            }
        }
        Some(match port {
            0x10..=0x13 if self.has_platform => self.platform.read(port - platform::PORT, width),
            0x1ce | 0x1cf => self.vga.as_mut()?.port_read(port, width),
            0x514 | 0x518 if width == Width::Double => FwCfg::read_dma(port == 0x518),
            0xcf8 if width == Width::Double => self.address.0,
            0xcfc..=0xcff => self.config_read(port, width),
            _ => {
                if let Some(offset) = self.pm_offset(port) {
                    self.pm.read(offset, width, now)
                } else {
                    if let Some((index, offset)) = self.nic(port) {
                        return Some(match self.nics.get_mut(index)? {
                            Nic::E1000(card) => card.read_port(offset),
                            Nic::Ne2000(card) => card.read(offset, width),
                        });
                    }
                    let offset = self.master_offset(port)?;
                    self.ide.read_master(offset, width)
                }
            }
        })
    }

    fn wide_write(&mut self, port: u16, width: Width, value: u32, now: Time) -> bool {
        for (channel, (base, _)) in IDE.into_iter().enumerate() {
            if port == base {
                self.ide.write(&self.memory, channel, 0, width, value);
                return true;
            }
        }
        match port {
            0x10..=0x13 if self.has_platform => self.platform.write(port - platform::PORT, width, value),
            0x1ce | 0x1cf => match &mut self.vga {
                Some(vga) => vga.port_write(port, width, value),
                None => return false,
            },
            0x510 if width == Width::Word => self.fwcfg.select(value as u16),
            0x514 | 0x518 if width == Width::Double => {
                self.fwcfg.write_dma(&self.memory, port == 0x518, value);
            }
            0xcf8 if width == Width::Double => self.address = Address(value & 0x80ff_fffc),
            0xcfc..=0xcff => self.config_write(port, width, value),
            _ => {
                if let Some(offset) = self.pm_offset(port) {
                    self.pm.write(offset, width, value, now);
                } else if let Some(offset) = self.master_offset(port) {
                    self.ide.write_master(&self.memory, offset, width, value);
                } else if let Some((index, offset)) = self.nic(port) {
                    match self.nics.get_mut(index) {
                        Some(Nic::E1000(card)) => card.write_port(&self.memory, offset, value),
                        Some(Nic::Ne2000(card)) => card.write(&self.memory, offset, width, value),
                        None => {}
                    }
                } else {
                    return false;
                }
            }
        }
        true
    }

    fn byte_read(&mut self, port: u16, now: Time) -> u8 {
        for (serial, base) in self.serial.iter_mut().zip(SERIAL) {
            if let Some(register) = port.checked_sub(base).filter(|&register| register < 8) {
                return serial.uart.read(register);
            }
        }
        for (channel, (base, control)) in IDE.into_iter().enumerate() {
            if let Some(register) = port.checked_sub(base).filter(|&register| register < 8) {
                return self.ide.read(&self.memory, channel, register, Width::Byte) as u8;
            }
            if port == control {
                return self.ide.read_control(channel);
            }
        }
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                self.told.forget();
                self.pic.read(port)
            }
            0x40..=0x43 | 0x61 => self.pit.read(port, now),
            0x60 | 0x64 => self.keyboard.read(port),
            0x70..=0x73 => self.rtc.read(port, now),
            0x00..=0x0f | 0x80..=0x8f | 0xc0..=0xdf => self.dma.read(port),
            0x92 => self.fast_gate & !2 | u8::from(self.a20()) << 1,
            0xb2 => self.pm.smi_command,
            0xb3 => self.smi_status,
            0xe9 => 0xe9,
            // QEMU's debug console says that it is there.
            0x402 => 0xe9,
            0x3b0..=0x3df if self.vga.is_some() => self.vga.as_mut().map_or(0xff, |vga| vga.read(port)),
            0x3f0..=0x3f7 => self.floppy.read(port - 0x3f0),
            0x511 => self.fwcfg.read(),
            0xcf9 => self.reset_control,
            _ => 0xff,
        }
    }

    fn byte_write(&mut self, port: u16, value: u8, now: Time) {
        for (serial, base) in self.serial.iter_mut().zip(SERIAL) {
            if let Some(register) = port.checked_sub(base).filter(|&register| register < 8) {
                return serial.uart.write(register, value);
            }
        }
        for (channel, (base, control)) in IDE.into_iter().enumerate() {
            if let Some(register) = port.checked_sub(base).filter(|&register| register < 8) {
                return self.ide.write(&self.memory, channel, register, Width::Byte, u32::from(value));
            }
            if port == control {
                return self.ide.write_control(channel, value);
            }
        }
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                self.told.forget();
                self.pic.write(port, value);
            }
            0x40..=0x43 | 0x61 => {
                self.told.forget();
                self.pit.write(port, value, now);
            }
            0x60 | 0x64 => self.keyboard.write(port, value),
            0x70..=0x73 => self.rtc.write(port, value, now),
            0x92 => {
                self.keyboard.set_a20(value & 2 != 0);
                if value & 1 != 0 && self.fast_gate & 1 == 0 {
                    self.events.push_back(Event::Reset);
                }
                self.fast_gate = value & 3;
            }
            0xb2 => self.pm.command(value),
            0x00..=0x0f | 0x80..=0x8f | 0xc0..=0xdf => self.dma.write(port, value),
            0x3f0..=0x3f7 => self.floppy.write(&self.memory, &mut self.dma, port - 0x3f0, value),
            0xb3 => self.smi_status = value,
            0xe9 | 0x402 => self.log(value),
            0x3b0..=0x3df => {
                if let Some(vga) = &mut self.vga {
                    vga.write(port, value);
                }
            }
            0xcf9 => {
                // A reset happens when bit 2 rises (82371SB, 2.5.4).
                if value & 4 != 0 && self.reset_control & 4 == 0 {
                    self.events.push_back(Event::Reset);
                }
                self.reset_control = value & 0xa;
            }
            _ => {}
        }
    }
}
