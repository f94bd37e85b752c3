//! Configuration space (PCI Local Bus Specification 3.0, chapter 6) and configuration mechanism 1 (3.2.2.3.2).

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::width::Width;

/// Bytes of a function's configuration space.
const BYTES: usize = 256;
/// Offsets of the registers that every function has.
#[allow(missing_docs, reason = "the names of the specification")]
pub mod register {
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const CLASS: usize = 0x09;
    pub const HEADER: usize = 0x0e;
    pub const BAR: usize = 0x10;
    pub const SUBSYSTEM: usize = 0x2c;
    pub const ROM: usize = 0x30;
    pub const LINE: usize = 0x3c;
    pub const PIN: usize = 0x3d;
}

/// Who makes what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Class, subclass and programming interface, in this order from the highest byte.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem device and vendor, device in the upper half.
    pub subsystem: u32,
}

/// What a base address register decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Ports.
    Port,
    /// Memory.
    Memory,
    /// Memory without side effects of reads.
    Prefetchable,
}

/// One function's configuration space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Config {
    bytes: Vec<u8>,
    /// Bits that a program may change.
    writable: Vec<u8>,
}

impl Config {
    /// A function with a type 0 header.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut config = Self { bytes: vec![0; BYTES], writable: vec![0; BYTES] };
        config.put16(register::VENDOR, identity.vendor);
        config.put16(register::DEVICE, identity.device);
        config.put32(register::REVISION, identity.class << 8 | u32::from(identity.revision));
        config.put32(register::SUBSYSTEM, identity.subsystem);
        // I/O, memory, bus master, interrupt disable; error reporting bits are kept and mean nothing.
        config.allow(register::COMMAND, &[0x47, 0x05]);
        config.allow(register::LINE, &[0xff]);
        config
    }

    /// With an interrupt pin: 1 is INTA.
    #[must_use]
    pub fn with_pin(mut self, pin: u8) -> Self {
        self.put(register::PIN, pin);
        self
    }

    /// As function 0 of several.
    #[must_use]
    pub fn multifunction(mut self) -> Self {
        self.put(register::HEADER, 0x80);
        self
    }

    /// With a base address register of `size` bytes, a power of two of at least 16.
    #[must_use]
    pub fn with_bar(mut self, index: usize, space: Space, size: u32) -> Self {
        let at = register::BAR + (index & 7) * 4;
        let mask = !(size.wrapping_sub(1)) & if space == Space::Port { 0xffff_fffc } else { 0xffff_fff0 };
        self.put32(
            at,
            match space {
                Space::Port => 1,
                Space::Memory => 0,
                Space::Prefetchable => 8,
            },
        );
        self.allow(at, &mask.to_le_bytes());
        self
    }

    /// With a ROM of `size` bytes, a power of two of at least 2048.
    #[must_use]
    pub fn with_rom(mut self, size: u32) -> Self {
        let mask = !(size.wrapping_sub(1)) & 0xffff_f800 | 1;
        self.allow(register::ROM, &mask.to_le_bytes());
        self
    }

    /// Lets a program change bits from an offset on.
    pub fn allow(&mut self, offset: usize, bits: &[u8]) {
        for (place, bit) in self.writable.iter_mut().skip(offset).zip(bits) {
            *place |= bit;
        }
    }

    /// A byte.
    #[must_use]
    pub fn get(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0xff)
    }

    /// Sets a byte, whoever may change it.
    pub fn put(&mut self, offset: usize, value: u8) {
        if let Some(byte) = self.bytes.get_mut(offset) {
            *byte = value;
        }
    }

    fn put16(&mut self, offset: usize, value: u16) {
        for (n, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.put(offset + n, byte);
        }
    }

    /// Sets four bytes.
    pub fn put32(&mut self, offset: usize, value: u32) {
        for (n, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.put(offset + n, byte);
        }
    }

    /// Four bytes.
    #[must_use]
    pub fn get32(&self, offset: usize) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|n| self.get(offset + n)))
    }

    /// A program reads.
    #[must_use]
    pub fn read(&self, offset: u8, width: Width) -> u32 {
        (0..width.bytes()).fold(0, |value, n| value | u32::from(self.get(usize::from(offset) + n)) << (8 * n))
    }

    /// A program writes what it may.
    pub fn write(&mut self, offset: u8, width: Width, value: u32) {
        for (n, new) in value.to_le_bytes().into_iter().enumerate().take(width.bytes()) {
            let at = usize::from(offset) + n;
            let Some(mask) = self.writable.get(at).copied() else { return };
            self.put(at, self.get(at) & !mask | new & mask);
        }
    }

    /// Whether the function answers at its ports, at its memory, and may start a DMA.
    #[must_use]
    pub fn decodes_ports(&self) -> bool {
        self.get(register::COMMAND) & 1 != 0
    }

    /// Whether it answers at its memory.
    #[must_use]
    pub fn decodes_memory(&self) -> bool {
        self.get(register::COMMAND) & 2 != 0
    }

    /// Whether it may start a DMA.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.get(register::COMMAND) & 4 != 0
    }

    /// Whether its interrupt pin is connected.
    #[must_use]
    pub fn interrupts(&self) -> bool {
        self.get(register::COMMAND + 1) & 4 == 0
    }

    /// Where a register's window lies, while it is decoded. Address 0 is none.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<u64> {
        let value = self.get32(register::BAR + (index & 7) * 4);
        let port = value & 1 != 0;
        let address = value & if port { 0xffff_fffc } else { 0xffff_fff0 };
        let decoded = if port { self.decodes_ports() } else { self.decodes_memory() };
        (decoded && address != 0).then_some(u64::from(address))
    }

    /// The offset of an address in a window of `size` bytes.
    #[must_use]
    pub fn within(&self, index: usize, size: u64, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.bar(index)?)?;
        (offset < size).then_some(offset)
    }

    /// Where the ROM lies, while it is switched on.
    #[must_use]
    pub fn rom(&self) -> Option<u64> {
        let value = self.get32(register::ROM);
        (value & 1 != 0 && self.decodes_memory()).then_some(u64::from(value & 0xffff_f800))
    }
}

/// A function on bus 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Function {
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// The address register of mechanism 1, port 0xcf8.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Address(pub u32);

impl Address {
    /// What an access to port 0xcfc to 0xcff means: the function, and the offset in its space. `None` when mechanism 1 is
    /// off or another bus is named.
    #[must_use]
    pub fn target(self, port: u16) -> Option<(Function, u8)> {
        if self.0 >> 31 == 0 || self.0 >> 16 & 0xff != 0 {
            return None;
        }
        let function = Function { device: (self.0 >> 11 & 31) as u8, function: (self.0 >> 8 & 7) as u8 };
        Some((function, (self.0 & 0xfc) as u8 | (port & 3) as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_sized_and_placed() {
        let identity = Identity { vendor: 1, device: 2, class: 0x02_0000, revision: 3, subsystem: 4 };
        let mut config =
            Config::new(identity).with_bar(0, Space::Memory, 0x2_0000).with_bar(1, Space::Port, 64);
        assert_eq!(config.read(0, Width::Double), 0x0002_0001);
        assert_eq!(config.read(8, Width::Double), 0x0200_0003);
        config.write(0x10, Width::Double, u32::MAX);
        config.write(0x14, Width::Double, u32::MAX);
        assert_eq!(config.read(0x10, Width::Double), 0xfffe_0000);
        assert_eq!(config.read(0x14, Width::Double), 0xffff_ffc1);
        config.write(0x10, Width::Double, 0xfeb0_1234);
        assert_eq!(config.bar(0), None, "not decoded yet");
        config.write(4, Width::Word, 2);
        assert_eq!(config.within(0, 0x2_0000, 0xfeb0_0010), Some(0x10));
        assert_eq!(config.within(0, 0x2_0000, 0xfeb2_0010), None);
        config.write(0, Width::Double, 0);
        assert_eq!(config.read(0, Width::Word), 1, "an identity cannot be written");
    }

    #[test]
    fn mechanism_1_names_functions() {
        let function = Function { device: 3, function: 1 };
        assert_eq!(Address(0x8000_1940).target(0xcfe), Some((function, 0x42)));
        assert_eq!(Address(0x0000_1940).target(0xcfc), None);
        assert_eq!(Address(0x8001_1940).target(0xcfc), None);
    }
}
