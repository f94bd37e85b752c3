//! The script by which firmware puts tables into memory: entries of 128 bytes, little-endian.

use alloc::vec::Vec;

/// The file of the tables, and that of the root pointer.
pub(super) const TABLES: &str = "etc/acpi/tables";
pub(super) const ROOT: &str = "etc/acpi/rsdp";

/// Bytes of an entry, and of a file's name in it.
const ENTRY: usize = 128;
const NAME: usize = 56;

/// Where firmware puts a file.
#[derive(Clone, Copy)]
pub(super) enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// In 0xf0000 to 0xfffff, where root pointers are searched for.
    Segment = 2,
}

/// A script.
#[derive(Default)]
pub(super) struct Script(pub(super) Vec<u8>);

impl Script {
    fn entry(&mut self, command: u32, names: &[&str], numbers: &[u32], last: Option<u8>) {
        let end = self.0.len() + ENTRY;
        self.0.extend_from_slice(&command.to_le_bytes());
        for name in names {
            let next = self.0.len() + NAME;
            self.0.extend_from_slice(name.as_bytes());
            self.0.resize(next, 0);
        }
        for number in numbers {
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        self.0.extend(last);
        self.0.resize(end, 0);
    }

    /// Puts a file into memory.
    pub(super) fn allocate(&mut self, file: &str, alignment: u32, zone: Zone) {
        self.entry(1, &[file], &[alignment], Some(zone as u8));
    }

    /// Adds the address of the tables to the number of `size` bytes at an offset of a file.
    pub(super) fn point(&mut self, file: &str, offset: usize, size: u8) {
        self.entry(2, &[file, TABLES], &[offset as u32], Some(size));
    }

    /// Makes the bytes of a range sum up to zero by the one at `offset`.
    pub(super) fn sum(&mut self, file: &str, offset: usize, start: usize, length: usize) {
        self.entry(3, &[file], &[offset, start, length].map(|number| number as u32), None);
    }
}
