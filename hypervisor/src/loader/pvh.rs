//! PVH's start info, as an image that is started through its Xen note receives it.
//!
//! Source: Xen `xen/include/public/arch-x86/hvm/start_info.h`.

use trunnion_protocol::start_info::{MAGIC, MEMORY_MAP_LIMIT, Module, StartInfo};

use super::info::{BootError, BootInfo};
use super::source::Source;

/// Most modules that are looked at.
const MODULES: u32 = 4;

/// Reads the start info at `address`.
pub fn parse(memory: &impl Source, address: u64) -> Result<BootInfo<'_>, BootError> {
    let start: StartInfo = memory.read(address)?;
    if start.magic != MAGIC {
        return Err(BootError::UnknownLoader);
    }
    let mut info =
        BootInfo { loader: "pvh", rsdp: Some(start.rsdp).filter(|rsdp| *rsdp != 0), ..BootInfo::default() };
    info.busy.add(address, address.saturating_add(size_of::<StartInfo>() as u64));
    if start.command_line != 0 {
        info.command_line = memory.text(start.command_line, 4096);
        info.busy
            .add(start.command_line, start.command_line.saturating_add(info.command_line.len() as u64 + 1));
    }
    for index in 0..start.modules.min(MODULES) {
        let module: Module = memory.element(start.module_list, index)?;
        info.add_module(module.address, module.size);
    }
    let list_end = start.module_list.saturating_add(u64::from(start.modules) * size_of::<Module>() as u64);
    info.busy.add(start.module_list, list_end);
    // Version 0 ends before the memory map.
    if start.version == 0 || start.memory_map_entries == 0 {
        return Err(BootError::NoMemoryMap);
    }
    for index in 0..start.memory_map_entries.min(MEMORY_MAP_LIMIT) {
        info.add_memory(&memory.element(start.memory_map, index)?);
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
        assert_eq!(crate::loader::value(info.command_line, "log"), Some("debug"));
        assert_eq!(info.module, (0x20_0000, 0x3000));
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
