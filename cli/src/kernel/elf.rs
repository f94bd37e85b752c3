//! What the tool looks at in a kernel's ELF: that a PVH guest can be started from it. dom0 loads it, and checks it again.

use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use std::ops::Range;

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen's `public/elfnote.h`): where a PVH guest begins.
const PHYS32_ENTRY: u64 = 18;

/// Whether the bytes begin like an ELF.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Checks that `bytes` is an x86 ELF whose segments lie in the file and which has a PVH entry note; returns the span of guest-physical
/// addresses of its segments, in bytes. Errors say in words what is wrong.
pub fn check(bytes: &[u8]) -> Result<Range<u64>, String> {
    let file =
        ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|e| format!("it is a damaged ELF ({e})"))?;
    let machine = file.ehdr.e_machine;
    if machine != EM_386 && machine != EM_X86_64 {
        return Err(format!("it is an ELF for another processor (machine {machine}); x86 is wanted"));
    }
    let segments = file.segments().ok_or("the ELF has no program headers: it is not a kernel")?;
    let mut span = Range { start: u64::MAX, end: 0 };
    let mut has_entry = false;
    for segment in segments {
        let end = segment.p_offset.saturating_add(segment.p_filesz);
        if matches!(segment.p_type, PT_LOAD | PT_NOTE) && end > bytes.len() as u64 {
            return Err(format!(
                "the ELF is truncated: a segment ends at byte {end}, the file at byte {}",
                bytes.len()
            ));
        }
        if segment.p_type == PT_LOAD {
            span.start = span.start.min(segment.p_paddr);
            span.end = span.end.max(segment.p_paddr.saturating_add(segment.p_memsz));
        }
        if segment.p_type == PT_NOTE {
            let notes =
                file.segment_data_as_notes(&segment).map_err(|e| format!("its notes are damaged ({e})"))?;
            has_entry |= notes.into_iter().any(|note| matches!(note, Note::Unknown(note) if note.n_type == PHYS32_ENTRY && is_xen(note.name)));
        }
    }
    if span.start >= span.end {
        return Err("the ELF has nothing to load: it is not a kernel".into());
    }
    if !has_entry {
        return Err(
            "the ELF has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); for Linux, that is CONFIG_PVH".into(),
        );
    }
    Ok(span)
}

fn is_xen(name: &[u8]) -> bool {
    name.strip_suffix(b"\0").unwrap_or(name) == b"Xen"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest kernel: one segment, and the note unless `note` is another type.
    pub(crate) fn kernel(note: u32) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let half = |elf: &mut Vec<u8>, v: u16| elf.extend_from_slice(&v.to_le_bytes());
        let word = |elf: &mut Vec<u8>, v: u32| elf.extend_from_slice(&v.to_le_bytes());
        let long = |elf: &mut Vec<u8>, v: u64| elf.extend_from_slice(&v.to_le_bytes());
        half(&mut elf, 2);
        half(&mut elf, EM_X86_64);
        word(&mut elf, 1);
        long(&mut elf, 0x100000);
        long(&mut elf, 64);
        long(&mut elf, 0);
        word(&mut elf, 0);
        for v in [64, 56, 2, 0, 0, 0] {
            half(&mut elf, v);
        }
        for (kind, size) in [(PT_LOAD, 20), (PT_NOTE, 20)] {
            word(&mut elf, kind);
            word(&mut elf, 5);
            for v in [176, 0x100000, 0x100000, size, size, 4] {
                long(&mut elf, v);
            }
        }
        for v in [4, 4, note] {
            word(&mut elf, v);
        }
        elf.extend_from_slice(b"Xen\0");
        word(&mut elf, 0x100000);
        elf
    }

    #[test]
    fn a_kernel_is_accepted_and_measured() {
        assert_eq!(check(&kernel(18)).unwrap(), 0x100000..0x100014);
    }

    #[test]
    fn what_is_not_a_pvh_kernel_is_named() {
        let good = kernel(18);
        assert!(check(&kernel(17)).unwrap_err().contains("PHYS32_ENTRY"));
        assert!(check(&good[..190]).unwrap_err().contains("truncated"));
        assert!(check(&good[..70]).unwrap_err().contains("ELF"));
        let mut arm = good.clone();
        arm[18] = 183;
        assert!(check(&arm).unwrap_err().contains("another processor"));
        assert!(check(b"\x7fELF").unwrap_err().contains("damaged"));
    }
}
