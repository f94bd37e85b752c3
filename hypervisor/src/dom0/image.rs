//! Reading dom0's ELF file out of the bundle: 64-bit, with a PVH entry and a relocation note.
//!
//! The file is trusted as dom0 is, but a broken one gives a clear error.

use elf::abi::{EM_X86_64, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note as Found;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, ParseError};
use trunnion_protocol::elfnote::{self, Note, Relocation};

use super::Failure;
use crate::prelude::*;

/// dom0's image.
pub(super) struct Image<'a> {
    file: ElfBytes<'a, LittleEndian>,
    entry: u64,
    relocation: Relocation,
}

impl From<ParseError> for Failure {
    fn from(_: ParseError) -> Self {
        Self::Image("missing, or a damaged ELF file")
    }
}

impl<'a> Image<'a> {
    /// Reads headers and notes of a file.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Failure> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes)?;
        if file.ehdr.e_machine != EM_X86_64 {
            return Err(Failure::Image("no 64-bit x86 ELF file"));
        }
        let (mut entry, mut relocation) = (None, None);
        for segment in file.segments().into_iter().flatten().filter(|segment| segment.p_type == PT_NOTE) {
            for note in file.segment_data_as_notes(&segment)? {
                let Found::Unknown(note) = note else { continue };
                if note.name_str().ok() != Some(elfnote::OWNER) {
                    continue;
                }
                match Note::from_number(note.n_type as u32) {
                    Some(Note::Phys32Entry) => entry = elfnote::number(note.desc),
                    Some(Note::Phys32Reloc) => relocation = Relocation::decode(note.desc),
                    _ => {}
                }
            }
        }
        let entry = entry.ok_or(Failure::Image("no PVH entry (PHYS32_ENTRY note)"))?;
        let relocation = relocation.ok_or(Failure::Image("cannot be moved (no PHYS32_RELOC note)"))?;
        Ok(Self { file, entry, relocation })
    }

    fn loads(&self) -> impl Iterator<Item = ProgramHeader> {
        let segments = self.file.segments().into_iter().flatten();
        segments.filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0)
    }

    /// Copies the segments into `room`, whose pages are zero, and returns the address of the entry.
    pub(super) fn load<M: Machine>(&self, machine: &M, room: FrameRange) -> Result<u32, Failure> {
        let none = Failure::Image("nothing to load");
        let lowest = self.loads().map(|segment| segment.p_paddr).min().ok_or(none)?;
        let ends = self.loads().map(|segment| segment.p_paddr.saturating_add(segment.p_memsz));
        let highest = ends.max().ok_or(none)?;
        let align = u64::from(self.relocation.align).max(PAGE_SIZE as u64);
        let base = lowest & !(align - 1);
        let to = room.start.address().0.max(u64::from(self.relocation.lowest)).next_multiple_of(align);
        let end = to.checked_add(highest - base).ok_or(none)?;
        if end > room.end.address().0 || end - 1 > u64::from(self.relocation.highest) {
            return Err(Failure::Image("it does not fit in dom0's memory"));
        }
        for segment in self.loads() {
            let bytes = self.file.segment_data(&segment)?;
            if bytes.len() as u64 > segment.p_memsz {
                return Err(Failure::Image("a segment is larger in the file than in memory"));
            }
            copy(machine, bytes, to + (segment.p_paddr - base))?;
        }
        let entry = self.entry.checked_sub(base).and_then(|offset| to.checked_add(offset));
        entry
            .filter(|&entry| entry < end)
            .and_then(|entry| u32::try_from(entry).ok())
            .ok_or(Failure::Image("its entry is outside of it"))
    }
}

/// Copies bytes to a machine address.
pub(super) fn copy<M: Machine>(machine: &M, mut bytes: &[u8], mut to: u64) -> Result<(), Failure> {
    while !bytes.is_empty() {
        let offset = to as usize % PAGE_SIZE;
        let (part, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
        let page = machine.page(Mfn(to >> PAGE_SHIFT)).ok_or(Failure::Image("it leaves memory"))?;
        page.copy_in(offset, part).map_err(|_| Failure::Image("it leaves memory"))?;
        to += part.len() as u64;
        bytes = rest;
    }
    Ok(())
}
