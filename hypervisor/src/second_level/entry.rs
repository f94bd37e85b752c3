//! Entries of second-level tables: what a leaf says, and how an entry is read and replaced under a processor's eyes.

use bitflags::bitflags;

use super::span;
use crate::prelude::*;

/// Bits 12 to 51: the frame's address.
pub(super) const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// In an entry that points to a table: how many entries of it are in use.
pub(super) const COUNT_SHIFT: u32 = 52;
pub(super) const COUNT: u64 = 0x3ff << COUNT_SHIFT;
/// In a leaf: its [`Kind`].
pub(super) const KIND_SHIFT: u32 = 52;
pub(super) const KIND: u64 = 7 << KIND_SHIFT;

bitflags! {
    /// What a guest may do with a page besides reading it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rights: u8 {
        /// Write.
        const WRITE = 1;
        /// Execute.
        const EXECUTE = 2;
    }
}

closed! {
/// What a leaf stands for. The entry remembers it, so that tables can be audited on their own.
pub enum Kind: u64 {
    /// The domain's own memory.
    Ram = 0,
    /// A page that the hypervisor shares with the domain: shared info, a grant table.
    Special = 1,
    /// Another domain's page, mapped by grant or by dom0's authority.
    Grant = 2,
    /// Device memory.
    Device = 3,
}
}

/// One translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The machine frame.
    pub mfn: Mfn,
    /// What the guest may do.
    pub rights: Rights,
    /// What it stands for.
    pub kind: Kind,
    /// Pages that the entry covers: 1, 512 or 262144.
    pub pages: u64,
}

pub(super) const fn frame(entry: u64) -> Mfn {
    Mfn((entry & FRAME) >> 12)
}

pub(super) const fn present(format: &EntryFormat, entry: u64) -> bool {
    entry & format.present_mask != 0
}

pub(super) const fn is_leaf(format: &EntryFormat, entry: u64, level: u8) -> bool {
    level == 1 || entry & format.large != 0
}

pub(super) const fn encode(format: &EntryFormat, mfn: Mfn, rights: Rights, kind: Kind, level: u8) -> u64 {
    let base = match kind {
        Kind::Device => format.device_leaf,
        _ => format.leaf,
    };
    base | mfn.address().0 & FRAME
        | kind.number() << KIND_SHIFT
        | if rights.contains(Rights::WRITE) { format.write } else { 0 }
        | if rights.contains(Rights::EXECUTE) { format.execute } else { format.no_execute }
        | if level > 1 { format.large } else { 0 }
}

pub(super) fn decode(format: &EntryFormat, entry: u64, level: u8) -> Leaf {
    let mut rights = Rights::empty();
    rights.set(Rights::WRITE, entry & format.write != 0);
    rights.set(
        Rights::EXECUTE,
        (format.execute == 0 || entry & format.execute != 0) && entry & format.no_execute == 0,
    );
    Leaf {
        mfn: frame(entry),
        rights,
        kind: Kind::from_number((entry & KIND) >> KIND_SHIFT).unwrap_or(Kind::Device),
        pages: span(level),
    }
}
