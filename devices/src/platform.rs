//! The Xen platform device: a PCI function that Xen-aware guests know the hypervisor by, and fixed ports at 0x10 by which they
//! take emulated devices away in favour of paravirtual ones (Xen `docs/misc/hvm-emulated-unplug.pandoc`).

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::pci::{Config, Identity, Space};
use crate::width::Width;

/// First of the fixed ports; there are four.
pub const PORT: u16 = 0x10;
/// Bytes of BAR 1: space without RAM, in which guests place grant table frames.
pub const SPACE: u32 = 16 << 20;

const MAGIC: u32 = 0x49d2;
const VERSION: u32 = 1;
/// Most bytes of a line of the log.
const LINE: usize = 256;

/// Which emulated devices a guest wants gone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Unplug {
    /// All disks, not CD drives.
    pub disks: bool,
    /// All network cards.
    pub nics: bool,
    /// Disks other than the first channel's first.
    pub other_disks: bool,
}

/// The device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// Configuration space.
    pub config: Config,
    flags: u8,
    product: u16,
    build: u32,
    line: Vec<u8>,
    lines: Vec<Vec<u8>>,
    unplug: Option<Unplug>,
}

impl Default for Platform {
    fn default() -> Self {
        let identity =
            Identity { vendor: 0x5853, device: 1, class: 0xff_8000, revision: 1, subsystem: 0x0001_5853 };
        let config = Config::new(identity).with_pin(1).with_bar(0, Space::Port, 0x100).with_bar(
            1,
            Space::Prefetchable,
            SPACE,
        );
        Self { config, flags: 0, product: 0, build: 0, line: Vec::new(), lines: Vec::new(), unplug: None }
    }
}

impl Platform {
    /// Reads a fixed port, by its offset from [`PORT`].
    #[must_use]
    pub fn read(&self, offset: u16, width: Width) -> u32 {
        match (offset, width) {
            (0, Width::Word) => MAGIC,
            (0, Width::Byte) => u32::from(self.flags),
            (2, Width::Byte) => VERSION,
            _ => width.mask(),
        }
    }

    /// Writes a fixed port.
    pub fn write(&mut self, offset: u16, width: Width, value: u32) {
        match (offset, width) {
            (0, Width::Byte) => self.flags = value as u8 & 1,
            (0, Width::Word) => {
                let unplug =
                    Unplug { disks: value & 1 != 0, nics: value & 2 != 0, other_disks: value & 4 != 0 };
                self.unplug = Some(unplug);
            }
            (0, Width::Double) => self.build = value,
            (2, Width::Word) => self.product = value as u16,
            (2, Width::Byte) => self.log(value as u8),
            _ => {}
        }
    }

    /// Reads a port of BAR 0; nothing is there but the flags.
    #[must_use]
    pub fn read_bar(&self, offset: u64) -> u8 {
        if offset == 0 { self.flags } else { 0xff }
    }

    /// A byte of a guest's log line; one that grows too long ends there.
    pub fn log(&mut self, byte: u8) {
        if byte != b'\n' {
            self.line.push(byte);
        }
        if (byte == b'\n' || self.line.len() >= LINE) && self.lines.len() < LINE {
            self.lines.push(core::mem::take(&mut self.line));
        }
        self.line.truncate(LINE);
    }

    /// Lines that the guest has logged since this was last asked.
    pub fn take_lines(&mut self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.lines)
    }

    /// What the guest wants gone, once.
    pub fn take_unplug(&mut self) -> Option<Unplug> {
        self.unplug.take()
    }

    /// Product and build that the guest's driver gave.
    #[must_use]
    pub const fn driver(&self) -> (u16, u32) {
        (self.product, self.build)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_unplugs() {
        let mut platform = Platform::default();
        assert_eq!(platform.read(0, Width::Word), 0x49d2);
        assert_eq!(platform.read(2, Width::Byte), 1);
        platform.write(2, Width::Word, 3);
        platform.write(0, Width::Double, 1);
        assert_eq!(platform.read(0, Width::Word), 0x49d2);
        platform.write(0, Width::Word, 3);
        assert_eq!(platform.driver(), (3, 1));
        assert_eq!(platform.take_unplug(), Some(Unplug { disks: true, nics: true, other_disks: false }));
        for byte in *b"hello\n" {
            platform.write(2, Width::Byte, u32::from(byte));
        }
        assert_eq!(platform.take_lines(), [b"hello".to_vec()]);
    }
}
