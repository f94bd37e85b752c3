//! An ELF without what no loader needs: section headers and all bytes behind the last segment (names, symbols, line tables).

/// Returns `elf` without sections, or as it is when it is not a 64-bit little-endian ELF whose headers lie inside it.
pub(crate) fn stripped(elf: &[u8]) -> Vec<u8> {
    let mut out = elf.to_vec();
    if let Some(end) = end_of_segments(elf) {
        out.truncate(end);
        // e_shoff, then e_shentsize, e_shnum, e_shstrndx (System V ABI, figure 4-3).
        for range in [0x28..0x30, 0x3a..0x40] {
            if let Some(field) = out.get_mut(range) {
                field.fill(0);
            }
        }
    }
    out
}

fn end_of_segments(elf: &[u8]) -> Option<usize> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let start = usize::try_from(word(elf, 0x20)?).ok()?;
    let size = half(elf, 0x36)?;
    let count = half(elf, 0x38)?;
    let mut end = start.checked_add(size.checked_mul(count)?)?.max(64);
    for n in 0..count {
        let header = start.checked_add(n.checked_mul(size)?)?;
        let offset = word(elf, header.checked_add(8)?)?;
        let length = word(elf, header.checked_add(32)?)?;
        end = end.max(usize::try_from(offset.checked_add(length)?).ok()?);
    }
    (end <= elf.len()).then_some(end)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_stay_and_the_rest_goes() {
        let mut elf = vec![0; 0x78 + 100];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40; // e_phoff
        elf[0x28] = 0x90; // e_shoff
        elf[0x36] = 56; // e_phentsize
        elf[0x38] = 1; // e_phnum
        elf[0x3c] = 3; // e_shnum
        elf[0x48] = 0x78; // p_offset
        elf[0x60] = 16; // p_filesz
        let out = stripped(&elf);
        assert_eq!(out.len(), 0x78 + 16);
        assert_eq!((out[0x28], out[0x3c]), (0, 0));
    }

    #[test]
    fn what_is_no_elf_stays_as_it_is() {
        assert_eq!(stripped(b"hello"), b"hello");
        let mut lying = vec![0xff; 64];
        lying[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(stripped(&lying), lying);
    }
}
