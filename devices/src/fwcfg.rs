//! Files for the firmware (QEMU's *`fw_cfg`* interface, `docs/specs/fw_cfg`: selector port 0x510, data port 0x511, DMA at
//! 0x514), which Debian's `SeaBIOS` reads.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use trunnion_protocol::address::Gpa;

use crate::memory::GuestMemory;
use crate::tables::apic_limit;

/// Selectors with a fixed meaning.
mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const FEATURES: u16 = 0x01;
    pub(super) const CPUS: u16 = 0x05;
    /// One more than the highest number of a local APIC.
    pub(super) const APICS: u16 = 0x0f;
    pub(super) const DIRECTORY: u16 = 0x19;
    pub(super) const FIRST_FILE: u16 = 0x20;
}

/// Most bytes of a file's name, with its zero.
const NAME: usize = 56;
/// Bytes that one DMA moves at most; a longer one fails.
const DMA_MAX: usize = 16 << 20;

/// The interface and its files. What firmware writes into a file (table addresses) is dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FwCfg {
    cpus: u16,
    files: Vec<(String, Vec<u8>)>,
    selected: u16,
    position: usize,
    /// The upper half of the DMA's address.
    address: u32,
}

impl FwCfg {
    /// An interface without files, for a guest of so many processors.
    #[must_use]
    pub const fn new(cpus: u16) -> Self {
        Self { cpus, files: Vec::new(), selected: 0, position: 0, address: 0 }
    }

    /// Adds a file; a name that is too long is cut.
    pub fn add(&mut self, name: &str, content: Vec<u8>) {
        let name = name.get(..NAME - 1).unwrap_or(name);
        self.files.push((name.into(), content));
    }

    fn directory(&self) -> Vec<u8> {
        let mut bytes = (self.files.len() as u32).to_be_bytes().to_vec();
        for (index, (name, content)) in self.files.iter().enumerate() {
            bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&(key::FIRST_FILE.wrapping_add(index as u16)).to_be_bytes());
            bytes.extend_from_slice(&[0; 2]);
            let end = bytes.len() + NAME;
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }

    /// The selected item, or a part of it.
    fn with_item<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        match self.selected {
            key::SIGNATURE => look(b"QEMU"),
            // Traditional interface and DMA.
            key::FEATURES => look(&3u32.to_le_bytes()),
            key::CPUS => look(&self.cpus.to_le_bytes()),
            key::APICS => look(&apic_limit(self.cpus).to_le_bytes()),
            key::DIRECTORY => look(&self.directory()),
            selected => {
                let index = selected.checked_sub(key::FIRST_FILE).map(usize::from);
                look(index.and_then(|index| self.files.get(index)).map_or(&[][..], |(_, content)| content))
            }
        }
    }

    /// Writes the selector.
    pub fn select(&mut self, selector: u16) {
        // Bit 14 asks for writing, which no file here takes.
        self.selected = selector & !0x4000;
        self.position = 0;
    }

    /// Reads the next byte of the selected item; past its end zeroes.
    pub fn read(&mut self) -> u8 {
        let value = self.with_item(|item| item.get(self.position).copied().unwrap_or(0));
        self.position = self.position.saturating_add(1);
        value
    }

    /// Reads the DMA register, which holds a signature: the upper half of its eight bytes, or the lower.
    #[must_use]
    pub const fn read_dma(low: bool) -> u32 {
        if low { u32::from_le_bytes(*b" CFG") } else { u32::from_le_bytes(*b"QEMU") }
    }

    /// Writes half of the DMA register, big-endian as it is; the lower half starts.
    pub fn write_dma<M: GuestMemory>(&mut self, memory: &M, low: bool, value: u32) {
        let value = value.swap_bytes();
        if !low {
            self.address = value;
            return;
        }
        let at = Gpa(u64::from(core::mem::take(&mut self.address)) << 32 | u64::from(value));
        let mut raw = [0; 16];
        if memory.read(at, &mut raw).is_err() {
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = raw;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let ok = self.dma(memory, control, length, Gpa(u64::from_be_bytes(address)));
        let result: u32 = u32::from(!ok);
        let _ = memory.write(at, &result.to_be_bytes());
    }

    fn dma<M: GuestMemory>(&mut self, memory: &M, control: u32, length: usize, to: Gpa) -> bool {
        if control & 8 != 0 {
            self.select((control >> 16) as u16);
        }
        if length > DMA_MAX {
            return false;
        }
        let start = self.position;
        if control & 2 != 0 {
            self.position = start.saturating_add(length);
            let mut data = self.with_item(|item| {
                let end = start.saturating_add(length).min(item.len());
                item.get(start..end).unwrap_or(&[]).to_vec()
            });
            data.resize(length, 0);
            return memory.write(to, &data).is_ok();
        }
        if control & 4 != 0 {
            self.position = start.saturating_add(length);
        }
        // Writing: refused.
        control & 16 == 0
    }
}
