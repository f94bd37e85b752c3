//! PVH's start info, as an image that is started through its Xen note receives it.
//!
//! Source: Xen `xen/include/public/arch-x86/hvm/start_info.h`.

use super::info::{BootError, BootInfo, Module};
use super::source::Source;

/// `XEN_HVM_START_MAGIC_VALUE`.
pub const MAGIC: u32 = 0x336e_c578;
const SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;
const ENTRY_SIZE: u64 = 24;
/// Most memory map entries that are read.
const ENTRIES: u64 = 128;

/// Reads the start info at `address`.
pub fn parse(memory: &impl Source, address: u64) -> Result<BootInfo<'_>, BootError> {
    let word = |offset| memory.u32(address.wrapping_add(offset)).ok_or(BootError::Truncated);
    let long = |offset| memory.u64(address.wrapping_add(offset)).ok_or(BootError::Truncated);
    if word(0)? != MAGIC {
        return Err(BootError::UnknownLoader);
    }
    let mut info = BootInfo::empty("pvh");
    info.busy.add(address, address.saturating_add(SIZE));
    let command_line = long(24)?;
    if command_line != 0 {
        info.command_line = memory.text(command_line, 4096);
        info.busy.add(command_line, command_line.saturating_add(info.command_line.len() as u64 + 1));
    }
    info.rsdp = Some(long(32)?).filter(|rsdp| *rsdp != 0);
    let list = long(16)?;
    for index in 0..u64::from(word(12)?).min(super::info::MODULES as u64) {
        let at = list.wrapping_add(index * MODULE_SIZE);
        let read = |offset| memory.u64(at.wrapping_add(offset)).ok_or(BootError::Truncated);
        info.add_module(Module { address: read(0)?, size: read(8)? });
    }
    info.busy.add(list, list.saturating_add(u64::from(word(12)?) * MODULE_SIZE));
    // Version 0 ends before the memory map.
    if word(4)? == 0 || word(48)? == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let map = long(40)?;
    for index in 0..u64::from(word(48)?).min(ENTRIES) {
        let at = map.wrapping_add(index * ENTRY_SIZE);
        let read = |offset| memory.u64(at.wrapping_add(offset)).ok_or(BootError::Truncated);
        let (from, size, kind) = (read(0)?, read(8)?, read(16)? as u32);
        if kind == 1 {
            info.ram.add(from, from.saturating_add(size));
        }
    }
    Ok(info)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::source::tests::Piece;
    use super::*;

    pub(crate) fn start_info(version: u32) -> Piece {
        let mut bytes = vec![0u8; 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(4, &version.to_le_bytes());
        put(12, &1u32.to_le_bytes());
        for (at, value) in [(16, 0x1064u64), (24, 0x1100), (32, 0xf5000), (40, 0x1084)] {
            put(at, &value.to_le_bytes());
        }
        put(48, &2u32.to_le_bytes());
        put(0x64, &0x20_0000u64.to_le_bytes());
        put(0x6c, &0x3000u64.to_le_bytes());
        for (at, from, size, kind) in [(0x84, 0u64, 0x9_f000u64, 1u32), (0x9c, 0xf_0000, 0x1_0000, 2)] {
            put(at, &from.to_le_bytes());
            put(at + 8, &size.to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
        }
        put(0x100, b"selftest log=debug\0");
        Piece(0x1000, bytes)
    }

    #[test]
    fn all_parts_are_found() {
        let memory = start_info(1);
        let info = parse(&memory, 0x1000).unwrap();
        assert_eq!(info.command_line, "selftest log=debug");
        assert_eq!(crate::machine::boot::value(info.command_line, "log"), Some("debug"));
        assert_eq!(info.modules(), &[Module { address: 0x20_0000, size: 0x3000 }]);
        assert_eq!(info.rsdp, Some(0xf5000));
        assert_eq!(info.ram.as_slice(), &[(0, 0x9_f000)]);
    }

    #[test]
    fn broken_information_is_refused() {
        assert_eq!(parse(&start_info(0), 0x1000).unwrap_err(), BootError::NoMemoryMap);
        assert_eq!(parse(&start_info(1), 0x1004).unwrap_err(), BootError::UnknownLoader);
        assert_eq!(parse(&start_info(1), 0x9000).unwrap_err(), BootError::Truncated);
        let mut cut = start_info(1);
        cut.1.truncate(0x90);
        assert_eq!(parse(&cut, 0x1000).unwrap_err(), BootError::Truncated);
    }
}
