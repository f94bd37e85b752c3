//! Entries of second-level page tables, in what either vendor's have in common.

/// The bits of a second-level table entry: EPT (SDM 28.3.2) or nested paging (APM 15.25.5). Entries are 64-bit words in
/// tables of 512, in four levels; the frame number is in bits 12 to 51 of either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFormat {
    /// Of an entry that points to a next table.
    pub table: u64,
    /// Of every leaf: present, readable, write-back memory.
    pub leaf: u64,
    /// Of a leaf for device memory, in place of [`EntryFormat::leaf`].
    pub device_leaf: u64,
    /// Set when the leaf may be written.
    pub write: u64,
    /// Set when it may be executed.
    pub execute: u64,
    /// Set when it may not be executed.
    pub no_execute: u64,
    /// Marks a leaf above the lowest level.
    pub large: u64,
    /// All zero in an entry that is not present.
    pub present_mask: u64,
    /// Largest level a leaf may have: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.
    pub largest_leaf: u8,
}
