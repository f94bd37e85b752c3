//! Memory-mapped devices, and the functions of the PCI bus.

use super::{Board, Nic};
use crate::e1000::{self, E1000};
use crate::hpet;
use crate::ioapic;
use crate::memory::GuestMemory;
use crate::pci::{Config, Function};
use crate::time::Time;
use crate::vga;
use crate::width::Width;

/// Device numbers.
pub(super) const PIIX: u8 = 1;
pub(super) const VGA: u8 = 2;
pub(super) const PLATFORM: u8 = 3;
pub(super) const FIRST_NIC: u8 = 4;
/// Most network cards: the slots that are left.
pub(super) const NICS: usize = 28;

/// What answers at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Legacy(u64),
    Linear(u64),
    Rom(u64),
    IoApic(u64),
    Hpet(u64),
    Nic(usize, u32),
    Space,
}

/// The card at a place.
fn place_nic(nics: &[Nic], place: Place) -> Option<&E1000> {
    let Place::Nic(index, _) = place else { return None };
    match nics.get(index) {
        Some(Nic::E1000(card)) => Some(card),
        _ => None,
    }
}

impl<M: GuestMemory> Board<M> {
    /// A function's configuration space.
    pub(super) fn function(&mut self, Function { device, function }: Function) -> Option<&mut Config> {
        Some(match (device, function) {
            (0, 0) => &mut self.host,
            (PIIX, 0) => &mut self.isa,
            (PIIX, 1) => &mut self.ide.config,
            (PIIX, 3) => &mut self.power,
            (VGA, 0) => &mut self.vga.as_mut()?.config,
            (PLATFORM, 0) if self.has_platform => &mut self.platform.config,
            (device, 0) => self.nics.get_mut(usize::from(device.checked_sub(FIRST_NIC)?))?.config(),
            _ => return None,
        })
    }

    fn place(&self, at: u64) -> Option<Place> {
        if let Some(card) = &self.vga {
            if let Some(offset) = at.checked_sub(vga::LEGACY).filter(|&offset| offset < vga::LEGACY_SIZE) {
                return Some(Place::Legacy(offset));
            }
            if let Some(offset) = card.config.within(0, u64::from(vga::WINDOW), at) {
                return Some(Place::Linear(offset));
            }
            if let Some(offset) = card.config.rom().and_then(|rom| at.checked_sub(rom))
                && offset < 0x1_0000
            {
                return Some(Place::Rom(offset));
            }
        }
        if let Some(offset) = at.checked_sub(ioapic::BASE).filter(|&offset| offset < 0x1000) {
            return Some(Place::IoApic(offset));
        }
        if self.hpet.is_some()
            && let Some(offset) = at.checked_sub(hpet::BASE).filter(|&offset| offset < hpet::SIZE)
        {
            return Some(Place::Hpet(offset));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            if let Nic::E1000(card) = nic
                && let Some(offset) = card.config.within(0, u64::from(e1000::WINDOW), at)
            {
                return Some(Place::Nic(index, offset as u32));
            }
        }
        self.platform.config.within(1, u64::from(crate::platform::SPACE), at).map(|_| Place::Space)
    }

    /// Reads device memory; false when no device is at the address.
    pub fn memory_read(&mut self, at: u64, into: &mut [u8], now: Time) -> bool {
        let Some(place) = self.place(at) else { return false };
        match place {
            Place::IoApic(offset) => {
                // Registers are double words; other reads give their part of one.
                let value = self.ioapic.read(offset & !3).wrapping_shr(8 * (offset as u32 & 3));
                into.fill(0);
                for (to, from) in into.iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            Place::Hpet(offset) => {
                let value = self.hpet.as_ref().map_or(0, |hpet| hpet.read(offset, now));
                into.fill(0);
                for (to, from) in into.iter_mut().zip(value.to_le_bytes()) {
                    *to = from;
                }
            }
            Place::Nic(index, offset) => {
                into.fill(0);
                // A read of eight bytes is two of four, as the bus makes it.
                for (n, piece) in (0u32..).zip(into.chunks_mut(4)) {
                    let value = match self.nics.get_mut(index) {
                        Some(Nic::E1000(card)) => {
                            card.read(offset.wrapping_add(4 * n)).wrapping_shr(8 * (offset & 3))
                        }
                        _ => u32::MAX,
                    };
                    for (to, from) in piece.iter_mut().zip(value.to_le_bytes()) {
                        *to = from;
                    }
                }
            }
            Place::Legacy(offset) => {
                for (n, byte) in (0..).zip(into.iter_mut()) {
                    *byte = self.vga.as_mut().map_or(0xff, |vga| vga.read_legacy(offset + n));
                }
            }
            Place::Linear(offset) => {
                for (n, byte) in (0..).zip(into.iter_mut()) {
                    *byte = self.vga.as_ref().map_or(0xff, |vga| vga.read_linear(offset + n));
                }
            }
            Place::Rom(offset) => {
                for (n, byte) in (0..).zip(into.iter_mut()) {
                    *byte = usize::try_from(offset + n)
                        .ok()
                        .and_then(|at| self.vga_rom.get(at))
                        .copied()
                        .unwrap_or(0xff);
                }
            }
            Place::Space => into.fill(0),
        }
        self.update_lines(now);
        true
    }

    /// Writes device memory; false when no device is at the address.
    pub fn memory_write(&mut self, at: u64, from: &[u8], now: Time) -> bool {
        let Some(place) = self.place(at) else { return false };
        match place {
            Place::IoApic(offset) => {
                if let Some(&[a, b, c, d]) = from.first_chunk::<4>()
                    && offset & 3 == 0
                {
                    self.told.forget();
                    self.ioapic.write(offset, u32::from_le_bytes([a, b, c, d]));
                }
            }
            Place::Hpet(offset) => {
                let mut value = [0; 8];
                value.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                if let Some(hpet) = &mut self.hpet {
                    hpet.write(offset, from.len(), u64::from_le_bytes(value), now);
                }
            }
            Place::Nic(index, offset) => {
                for (n, piece) in (0u32..).zip(from.chunks(4)) {
                    if let (Some(Nic::E1000(card)), Some(&[a, b, c, d])) =
                        (self.nics.get_mut(index), piece.first_chunk::<4>())
                        && offset & 3 == 0
                    {
                        card.write(
                            &self.memory,
                            offset.wrapping_add(4 * n),
                            u32::from_le_bytes([a, b, c, d]),
                        );
                    }
                }
            }
            Place::Legacy(offset) => {
                if let Some(vga) = &mut self.vga {
                    (0..).zip(from).for_each(|(n, &byte)| vga.write_legacy(offset + n, byte));
                }
            }
            Place::Linear(offset) => {
                if let Some(vga) = &mut self.vga {
                    (0..).zip(from).for_each(|(n, &byte)| vga.write_linear(offset + n, byte));
                }
            }
            Place::Rom(_) | Place::Space => {}
        }
        self.update_lines(now);
        let quiet = match (place, place_nic(&self.nics, place)) {
            (Place::Nic(_, offset), Some(card)) => card.is_quiet(offset),
            (Place::IoApic(_), _) => true,
            _ => false,
        };
        self.touched |= !quiet;
        true
    }

    /// Reads through port 0xcfc.
    pub(super) fn config_read(&mut self, port: u16, width: Width) -> u32 {
        let target = self.address.target(port);
        target
            .and_then(|(function, offset)| Some(self.function(function)?.read(offset, width)))
            .unwrap_or(width.mask())
    }

    /// Writes through port 0xcfc.
    pub(super) fn config_write(&mut self, port: u16, width: Width, value: u32) {
        if let Some((function, offset)) = self.address.target(port)
            && let Some(config) = self.function(function)
        {
            config.write(offset, width, value);
        }
    }
}
