//! Reading dom0's ELF file out of the bundle: 64-bit, with a PVH entry and a relocation note.
//!
//! The file is trusted as dom0 is, but a broken one gives a clear error. It is read by small copies, since host memory is
//! never a slice.

use trunnion_protocol::address::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use trunnion_protocol::elfnote::{self, Note, Relocation};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Failure;
use crate::seam::{FrameRange, Machine};

/// Program headers that are read.
const HEADERS: usize = 16;
/// Bytes of notes that are read in one segment.
const NOTES: usize = 1024;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// The file header (System V ABI, ELF-64 object file format).
#[derive(Clone, Copy, FromBytes, IntoBytes)]
#[repr(C)]
struct Header {
    identity: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    section_names: u16,
}

/// A program header.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// dom0's image in the bundle.
pub(super) struct Image {
    start: u64,
    length: u64,
    segments: [Segment; HEADERS],
    entry: u64,
    relocation: Relocation,
}

/// Copies `length` bytes at machine address `from`.
fn copy_out<M: Machine>(machine: &M, from: u64, into: &mut [u8]) -> Result<(), Failure> {
    let mut at = from;
    let mut rest = into;
    while !rest.is_empty() {
        let offset = at as usize & (PAGE_SIZE - 1);
        let count = rest.len().min(PAGE_SIZE - offset);
        let (part, more) = rest.split_at_mut(count);
        let page = machine.page(Mfn(at >> PAGE_SHIFT)).ok_or(Failure::Image("it leaves memory"))?;
        page.copy_out(offset, part).map_err(|_| Failure::Image("it leaves memory"))?;
        at += count as u64;
        rest = more;
    }
    Ok(())
}

impl Image {
    /// Reads headers and notes of the file at a machine address, with its length.
    pub(super) fn read<M: Machine>(machine: &M, (start, length): (u64, u64)) -> Result<Self, Failure> {
        let inside = |offset: u64, size: u64| offset.checked_add(size).is_some_and(|end| end <= length);
        if !inside(0, size_of::<Header>() as u64) {
            return Err(Failure::Image("it is missing or too short"));
        }
        let mut header = Header::new_zeroed();
        copy_out(machine, start, header.as_mut_bytes())?;
        if !header.identity.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) || header.machine != 62 {
            return Err(Failure::Image("no 64-bit x86 ELF file"));
        }
        let count = usize::from(header.program_header_count);
        let size = count * size_of::<Segment>();
        if usize::from(header.program_header_size) != size_of::<Segment>()
            || count > HEADERS
            || !inside(header.program_headers, size as u64)
        {
            return Err(Failure::Image("unusual program headers"));
        }
        let mut segments = [Segment::default(); HEADERS];
        let bytes = segments.as_mut_bytes().get_mut(..size).unwrap_or(&mut []);
        copy_out(machine, start + header.program_headers, bytes)?;
        let mut image = Self {
            start,
            length,
            segments,
            entry: 0,
            relocation: Relocation { align: 0, lowest: 0, highest: 0 },
        };
        for segment in segments.iter().filter(|segment| segment.kind == NOTE || segment.kind == LOAD) {
            if !inside(segment.offset, segment.file_size)
                || segment.file_size > segment.memory_size.max(NOTES as u64)
            {
                return Err(Failure::Image("a segment leaves the file"));
            }
            if segment.kind == NOTE {
                let mut notes = [0; NOTES];
                let notes = notes.get_mut(..segment.file_size.min(NOTES as u64) as usize).unwrap_or(&mut []);
                copy_out(machine, start + segment.offset, notes)?;
                image.take_notes(notes);
            }
        }
        if image.entry == 0 {
            return Err(Failure::Image("no PVH entry (PHYS32_ENTRY note)"));
        }
        if image.relocation.align == 0 {
            return Err(Failure::Image("cannot be moved (no PHYS32_RELOC note)"));
        }
        Ok(image)
    }

    fn take_notes(&mut self, mut notes: &[u8]) {
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes))
        };
        while let (Some(name_size), Some(size), Some(kind)) = (word(notes, 0), word(notes, 4), word(notes, 8))
        {
            let name_end = 12 + (name_size as usize).next_multiple_of(4).min(NOTES);
            let end = name_end + (size as usize).next_multiple_of(4).min(NOTES);
            let name = notes.get(12..12 + elfnote::OWNER.len());
            let content = notes.get(name_end..name_end + (size as usize).min(NOTES));
            if let (Some(content), true) = (content, name == Some(elfnote::OWNER.as_bytes())) {
                match Note::from_number(kind) {
                    Some(Note::Phys32Entry) => self.entry = elfnote::number(content).unwrap_or(0),
                    Some(Note::Phys32Reloc) => {
                        if let Some(relocation) = Relocation::decode(content) {
                            self.relocation = relocation;
                        }
                    }
                    _ => {}
                }
            }
            notes = notes.get(end..).unwrap_or(&[]);
        }
    }

    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == LOAD && segment.memory_size > 0)
    }

    /// Copies the segments into `room`, whose pages are zero, and returns the address of the entry.
    pub(super) fn load<M: Machine>(&self, machine: &M, room: FrameRange) -> Result<u32, Failure> {
        let none = Failure::Image("nothing to load");
        let lowest = self.loads().map(|segment| segment.physical_address).min().ok_or(none)?;
        let highest = self
            .loads()
            .filter_map(|segment| segment.physical_address.checked_add(segment.memory_size))
            .max()
            .ok_or(none)?;
        let align = u64::from(self.relocation.align).max(PAGE_SIZE as u64);
        let base = lowest & !(align - 1);
        let to = room.start.address().0.max(u64::from(self.relocation.lowest)).next_multiple_of(align);
        let end = to.checked_add(highest - base).ok_or(none)?;
        if end > room.end.address().0 || end - 1 > u64::from(self.relocation.highest) {
            return Err(Failure::Image("it does not fit in dom0's memory"));
        }
        for segment in self.loads() {
            let at = to + (segment.physical_address - base);
            copy(machine, self.start + segment.offset, at, segment.file_size.min(self.length))?;
        }
        let entry = self.entry.checked_sub(base).and_then(|offset| to.checked_add(offset));
        entry
            .filter(|&entry| entry < end)
            .and_then(|entry| u32::try_from(entry).ok())
            .ok_or(Failure::Image("its entry is outside of it"))
    }
}

/// Copies between machine addresses.
fn copy<M: Machine>(machine: &M, from: u64, to: u64, length: u64) -> Result<(), Failure> {
    let outside = Failure::Image("it leaves memory");
    let mut done = 0;
    while done < length {
        let (source, target) = (from + done, to + done);
        let offset = |address: u64| address as usize & (PAGE_SIZE - 1);
        let count = (length - done).min((PAGE_SIZE - offset(source).max(offset(target))) as u64);
        let source_page = machine.page(Mfn(source >> PAGE_SHIFT)).ok_or(outside)?;
        let target_page = machine.page(Mfn(target >> PAGE_SHIFT)).ok_or(outside)?;
        target_page
            .copy_between(offset(target), source_page, offset(source), count as usize)
            .map_err(|_| outside)?;
        done += count;
    }
    Ok(())
}
