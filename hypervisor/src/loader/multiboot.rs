//! Multiboot2's boot information: a list of tags, each 8-byte aligned (specification 3.6).

use super::info::{BootError, BootInfo};
use super::source::Source;

const COMMAND_LINE: u32 = 1;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const ACPI_OLD: u32 = 14;
const ACPI_NEW: u32 = 15;

/// Reads the information at `address`.
pub fn parse(memory: &impl Source, address: u64) -> Result<BootInfo<'_>, BootError> {
    let mut info = BootInfo { loader: "multiboot2", ..BootInfo::default() };
    let end = address.saturating_add(u64::from(memory.read::<u32>(address)?));
    info.busy.add(address, end);
    let mut has_map = false;
    let mut tag = address.saturating_add(8);
    while tag.saturating_add(8) <= end {
        let [kind, size] = memory.read::<[u32; 2]>(tag)?;
        let size = u64::from(size);
        if size < 8 {
            break;
        }
        match kind {
            COMMAND_LINE => info.command_line = memory.text(tag + 8, size - 8),
            MODULE if size >= 16 => {
                let [from, to] = memory.read::<[u32; 2]>(tag + 8)?.map(u64::from);
                info.add_module(from, to.saturating_sub(from));
            }
            MEMORY_MAP if size >= 16 => {
                has_map = true;
                let step = memory.read::<u32>(tag + 8)?.max(24);
                let mut at = tag + 16;
                while at.saturating_add(24) <= tag.saturating_add(size) {
                    info.add_memory(&memory.read(at)?);
                    at += u64::from(step);
                }
            }
            // The tag carries a copy of the pointer; the newer form wins.
            ACPI_OLD if info.rsdp.is_none() => info.rsdp = Some(tag + 8),
            ACPI_NEW => info.rsdp = Some(tag + 8),
            _ => {}
        }
        tag = tag.saturating_add(size.saturating_add(7) & !7);
    }
    if has_map { Ok(info) } else { Err(BootError::NoMemoryMap) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::source::tests::Piece;
    use super::*;

    fn tag(bytes: &mut Vec<u8>, kind: u32, body: &[u8]) {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((body.len() as u32 + 8).to_le_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }

    pub(crate) fn information() -> Piece {
        let mut bytes = vec![0; 8];
        tag(&mut bytes, COMMAND_LINE, b"selftest\0");
        let mut module = Vec::new();
        module.extend(0x20_0000u32.to_le_bytes());
        module.extend(0x20_1234u32.to_le_bytes());
        module.extend(b"bundle\0");
        tag(&mut bytes, MODULE, &module);
        let mut map = Vec::new();
        map.extend(24u32.to_le_bytes());
        map.extend(0u32.to_le_bytes());
        for (from, size, kind) in
            [(0u64, 0x9_f000u64, 1u32), (0x10_0000, 0x70_0000, 1), (0xf000_0000, 0x1000, 2)]
        {
            map.extend(from.to_le_bytes());
            map.extend(size.to_le_bytes());
            map.extend(kind.to_le_bytes());
            map.extend(0u32.to_le_bytes());
        }
        tag(&mut bytes, MEMORY_MAP, &map);
        tag(&mut bytes, ACPI_OLD, b"RSD PTR ");
        tag(&mut bytes, 0, &[]);
        let size = (bytes.len() as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&size);
        Piece(0x9000, bytes)
    }

    #[test]
    fn all_parts_are_found() {
        let memory = information();
        let info = parse(&memory, 0x9000).unwrap();
        assert_eq!(info.command_line, "selftest");
        assert_eq!(info.module, (0x20_0000, 0x1234));
        assert_eq!(info.ram.as_slice(), &[(0, 0x9_f000), (0x10_0000, 0x80_0000)]);
        assert_eq!(memory.bytes(info.rsdp.unwrap(), 8), Some(&b"RSD PTR "[..]));
    }

    #[test]
    fn broken_information_ends_and_is_refused() {
        let mut memory = information();
        // A tag of size 0 must not loop.
        memory.1[12..16].copy_from_slice(&0u32.to_le_bytes());
        assert_eq!(parse(&memory, 0x9000).unwrap_err(), BootError::NoMemoryMap);
        let mut cut = information();
        cut.1.truncate(60);
        assert_eq!(parse(&cut, 0x9000).unwrap_err(), BootError::Truncated);
        assert_eq!(parse(&cut, 0).unwrap_err(), BootError::Truncated);
    }
}
