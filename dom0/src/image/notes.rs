//! The Xen notes of an ELF, from its note segments and, when those have no entry, its note sections.

use super::ImageError;
use alloc::string::String;
use elf::ElfBytes;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use trunnion_protocol::elfnote::{self, Note, Relocation};

#[derive(Default)]
pub(super) struct Notes {
    pub(super) entry: Option<u64>,
    pub(super) relocation: Option<Relocation>,
    pub(super) features: u64,
    pub(super) system: Option<String>,
}

pub(super) fn read(file: &[u8], elf: &ElfBytes<'_, LittleEndian>) -> Result<Notes, ImageError> {
    let mut notes = Notes::default();
    let bytes = |offset: u64, size: u64| {
        let end = offset.checked_add(size)?;
        file.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    };
    for segment in elf.segments().into_iter().flatten().filter(|segment| segment.p_type == PT_NOTE) {
        let end = segment.p_offset.saturating_add(segment.p_filesz);
        let truncated = ImageError::Truncated { needed: end, size: file.len() as u64 };
        notes.collect(bytes(segment.p_offset, segment.p_filesz).ok_or(truncated)?, segment.p_align)?;
    }
    if notes.entry.is_none() {
        for section in
            elf.section_headers().into_iter().flatten().filter(|section| section.sh_type == SHT_NOTE)
        {
            notes.collect(
                bytes(section.sh_offset, section.sh_size).ok_or(ImageError::BadNotes)?,
                section.sh_addralign,
            )?;
        }
    }
    Ok(notes)
}

impl Notes {
    /// Reads a run of notes: name size, content size, type, name, content, each padded to four bytes, or to eight where the segment is
    /// aligned so (the generic ABI for 64-bit notes, which only GNU's property notes follow).
    fn collect(&mut self, mut bytes: &[u8], align: u64) -> Result<(), ImageError> {
        let align = if align == 8 { 8 } else { 4 };
        while let Some((header, rest)) = bytes.split_first_chunk::<12>() {
            let [name_size, content_size, kind] = [0, 4, 8].map(|at| {
                header.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
            });
            let name_end = (name_size as usize).checked_next_multiple_of(4).ok_or(ImageError::BadNotes)?;
            let (name, rest) = rest.split_at_checked(name_end).ok_or(ImageError::BadNotes)?;
            let content = rest.get(..content_size as usize).ok_or(ImageError::BadNotes)?;
            let step = (content_size as usize).checked_next_multiple_of(align).ok_or(ImageError::BadNotes)?;
            // The padding of the last note may be missing.
            bytes = rest.get(step..).unwrap_or_default();
            let name = name.get(..name_size as usize).unwrap_or_default();
            if name.strip_suffix(b"\0").unwrap_or(name) == elfnote::OWNER.as_bytes() {
                self.take(kind, content)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: u32, content: &[u8]) -> Result<(), ImageError> {
        match Note::from_number(kind) {
            Some(Note::Phys32Entry) => {
                self.entry = Some(elfnote::number(content).ok_or(ImageError::BadNotes)?);
            }
            Some(Note::Phys32Reloc) => {
                self.relocation = Some(Relocation::decode(content).ok_or(ImageError::BadNotes)?);
            }
            Some(Note::SupportedFeatures) => {
                self.features = elfnote::number(content).ok_or(ImageError::BadNotes)?;
            }
            Some(Note::GuestOs) => {
                let text = content.split(|&b| b == 0).next().unwrap_or_default();
                self.system = Some(String::from_utf8_lossy(text).into_owned());
            }
            _ => {}
        }
        Ok(())
    }
}
