//! Kernels: an ELF with a PVH entry note, as pieces with guest-physical addresses. Pure: nothing is copied here.
//!
//! Real kernels bend the format: notes may lie in several segments or only in sections; a 32-bit class may hold 64-bit code; link addresses may
//! start at 0; one Linux segment has virtual address 0, so pieces are placed by physical address only.

mod notes;

#[cfg(test)]
pub(crate) mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use serde::{Deserialize, Serialize};
use trunnion_protocol::elfnote::Relocation;

/// Addresses of a kernel lie below this: it starts in 32-bit mode.
const ADDRESS_END: u64 = 1 << 32;

/// A checked kernel. One that came over the control line is a claim until [`Image::checked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Pieces in order of their addresses; they do not overlap.
    pub pieces: Vec<Piece>,
    /// Where it begins, in 32-bit mode with paging off.
    pub entry: u32,
    /// Where it may be moved to, if it may.
    #[serde(with = "relocation")]
    pub relocation: Option<Relocation>,
    /// Feature bits it says it supports (note 17).
    pub features: u64,
    /// Name of the system it says it is.
    pub system: Option<String>,
    /// 64-bit class; says nothing about the code.
    pub wide: bool,
}

/// A part of the guest's memory that comes from the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Guest-physical address of its first byte.
    pub address: u64,
    /// Bytes of the file that go there.
    pub bytes: Range<usize>,
    /// Bytes in the guest's memory; those behind the file's bytes are zero.
    pub size: u64,
}

impl Piece {
    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

impl Image {
    /// Checks a file and finds what to load.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        if file.is_empty() {
            return Err(ImageError::Empty);
        }
        if file.get(0x202..0x206) == Some(b"HdrS") {
            return Err(ImageError::BzImage);
        }
        if !file.starts_with(b"\x7fELF") {
            return Err(ImageError::NotElf);
        }
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|error| match error {
            elf::ParseError::SliceReadError((_, end)) => {
                ImageError::Truncated { needed: end as u64, size: file.len() as u64 }
            }
            _ => ImageError::Damaged,
        })?;
        if !matches!(elf.ehdr.e_machine, EM_386 | EM_X86_64) {
            return Err(ImageError::Machine(elf.ehdr.e_machine));
        }
        if !matches!(elf.ehdr.e_type, ET_EXEC | ET_DYN) {
            return Err(ImageError::NotExecutable);
        }
        let pieces = pieces(&elf)?;
        let notes = notes::read(file, &elf)?;
        let entry = notes.entry.ok_or(ImageError::NoEntryNote)?;
        let image = Self {
            pieces,
            entry: u32::try_from(entry).map_err(|_| ImageError::EntryOutside { entry })?,
            relocation: notes.relocation,
            features: notes.features,
            system: notes.system,
            wide: elf.ehdr.class == Class::ELF64,
        };
        image.checked(file.len() as u64)
    }

    /// Itself, if its pieces lie in a file of `size` bytes, below 4 GiB and apart, and one holds its entry.
    pub fn checked(mut self, size: u64) -> Result<Self, ImageError> {
        if self.pieces.is_empty() {
            return Err(ImageError::NothingToLoad);
        }
        for piece in &self.pieces {
            if piece.bytes.start > piece.bytes.end || piece.bytes.len() as u64 > piece.size {
                return Err(ImageError::Damaged);
            }
            if piece.address.checked_add(piece.size).is_none_or(|end| end > ADDRESS_END) {
                return Err(ImageError::TooHigh { address: piece.address });
            }
            if piece.bytes.end as u64 > size {
                return Err(ImageError::Truncated { needed: piece.bytes.end as u64, size });
            }
        }
        self.pieces.sort_by_key(|piece| piece.address);
        for pair in self.pieces.windows(2) {
            if let [low, high] = pair
                && low.end() > high.address
            {
                return Err(ImageError::Overlap { address: high.address });
            }
        }
        if self.relocation.is_some_and(|relocation| !relocation.align.is_power_of_two()) {
            return Err(ImageError::BadNotes);
        }
        let entry = u64::from(self.entry);
        let inside = |piece: &Piece| (piece.address..piece.end()).contains(&entry);
        if self.pieces.iter().any(inside) { Ok(self) } else { Err(ImageError::EntryOutside { entry }) }
    }

    /// From the first byte to behind the last, guest-physical.
    pub fn span(&self) -> Range<u64> {
        let start = self.pieces.first().map_or(0, |piece| piece.address);
        start..self.pieces.iter().map(Piece::end).max().unwrap_or(start)
    }

    /// The same kernel with its first page at `base` instead; for kernels that have a [`Self::relocation`].
    #[must_use]
    pub fn moved_to(&self, base: u64) -> Option<Self> {
        let shift =
            |address: u64| base.checked_add(address.checked_sub(self.base())?).filter(|&to| to < ADDRESS_END);
        let mut moved = self.clone();
        for piece in &mut moved.pieces {
            piece.address = shift(piece.address)?;
        }
        moved.entry = u32::try_from(shift(self.entry.into())?).ok()?;
        (moved.span().end <= ADDRESS_END).then_some(moved)
    }

    /// The start of the kernel as its relocation counts it: aligned down as that wants.
    pub fn base(&self) -> u64 {
        let align = self.relocation.map_or(4096, |relocation| u64::from(relocation.align).max(1));
        let start = self.span().start;
        start - start % align
    }
}

fn pieces(elf: &ElfBytes<'_, LittleEndian>) -> Result<Vec<Piece>, ImageError> {
    let mut pieces = Vec::new();
    for segment in elf.segments().ok_or(ImageError::NothingToLoad)? {
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let end = segment.p_offset.checked_add(segment.p_filesz).ok_or(ImageError::Damaged)?;
        let bytes = segment.p_offset as usize..end as usize;
        pieces.push(Piece { address: segment.p_paddr, bytes, size: segment.p_memsz });
    }
    Ok(pieces)
}

/// A relocation as three numbers, because the protocol's types know no encoding.
mod relocation {
    use super::Relocation;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes the field by reference")]
    pub(super) fn serialize<S: Serializer>(from: &Option<Relocation>, to: S) -> Result<S::Ok, S::Error> {
        from.map(|Relocation { align, lowest, highest }| (align, lowest, highest)).serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Relocation>, D::Error> {
        let numbers = Option::<(u32, u32, u32)>::deserialize(from)?;
        Ok(numbers.map(|(align, lowest, highest)| Relocation { align, lowest, highest }))
    }
}

/// Why a kernel cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file has no bytes.
    Empty,
    /// The file is a compressed Linux kernel, which only the host's tool unpacks.
    BzImage,
    /// The file is no ELF.
    NotElf,
    /// The file is shorter than its headers say.
    Truncated {
        /// Bytes it should have at least.
        needed: u64,
        /// Bytes it has.
        size: u64,
    },
    /// Headers that make no sense.
    Damaged,
    /// For another processor (`e_machine`).
    Machine(u16),
    /// An object file, a core file.
    NotExecutable,
    /// No segment to load.
    NothingToLoad,
    /// A segment beyond 4 GiB.
    TooHigh {
        /// Where it should go.
        address: u64,
    },
    /// Two segments want the same memory.
    Overlap {
        /// Where.
        address: u64,
    },
    /// Notes that run out of their segment or section, or have values of a wrong size.
    BadNotes,
    /// No PVH entry.
    NoEntryNote,
    /// The entry is in no segment.
    EntryOutside {
        /// Where the note says.
        entry: u64,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the kernel's file is empty"),
            Self::BzImage => f.write_str("the kernel is a bzImage, which the host's tool unpacks; dom0 was given it as it is"),
            Self::NotElf => f.write_str("the kernel is neither an ELF nor a bzImage"),
            Self::Truncated { needed, size } => {
                write!(f, "the kernel is truncated: its headers speak of {needed} bytes, the file has {size}")
            }
            Self::Damaged => f.write_str("the kernel's ELF headers are damaged"),
            Self::Machine(machine) => write!(f, "the kernel is for another processor (ELF machine {machine}), not for x86"),
            Self::NotExecutable => f.write_str("the kernel's ELF is not an executable"),
            Self::NothingToLoad => f.write_str("the kernel's ELF has no segment to load"),
            Self::TooHigh { address } => write!(f, "the kernel has a segment at {address:#x}, which does not fit below 4 GiB"),
            Self::Overlap { address } => write!(f, "two segments of the kernel overlap at {address:#x}"),
            Self::BadNotes => f.write_str("the kernel's ELF notes are damaged"),
            Self::NoEntryNote => f.write_str(
                "the kernel has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); for Linux, that takes CONFIG_PVH",
            ),
            Self::EntryOutside { entry } => write!(f, "the kernel's PVH entry {entry:#x} is in none of its segments"),
        }
    }
}
