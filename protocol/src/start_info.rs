//! How a PVH guest finds its command line, modules and memory (`arch-x86/hvm/start_info.h`).
//!
//! The guest starts in 32-bit protected mode with paging off, and EBX holds the guest-physical address of
//! [`StartInfo`]. Addresses are guest-physical and below 4 GiB; 0 means absent. The structures have one form for all
//! guests.

use crate::hypercall::memory::Region;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of [`StartInfo`].
#[doc(alias = "XEN_HVM_START_MAGIC_VALUE")]
pub const MAGIC: u32 = 0x336e_c578;
/// Version with a memory map; version 0 ends at [`VERSION_0_SIZE`].
pub const VERSION: u32 = 1;
/// Bytes of version 0.
pub const VERSION_0_SIZE: usize = 40;
/// [`StartInfo::flags`]: privileged.
#[doc(alias = "SIF_PRIVILEGED")]
pub const FLAG_PRIVILEGED: u32 = 1;
/// [`StartInfo::flags`]: the first domain.
#[doc(alias = "SIF_INITDOMAIN")]
pub const FLAG_INITIAL_DOMAIN: u32 = 2;
/// Entries that Linux can take in a memory map.
pub const MEMORY_MAP_LIMIT: u32 = 128;

/// What the guest is started with.
#[doc(alias = "hvm_start_info")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// `FLAG_` constants.
    pub flags: u32,
    /// How many [`Module`]s.
    #[doc(alias = "nr_modules")]
    pub modules: u32,
    /// Address of the array of [`Module`]s.
    #[doc(alias = "modlist_paddr")]
    pub module_list: u64,
    /// Address of the command line, ended by a zero.
    #[doc(alias = "cmdline_paddr")]
    pub command_line: u64,
    /// Address of the ACPI root pointer.
    #[doc(alias = "rsdp_paddr")]
    pub rsdp: u64,
    /// Address of the array of [`MapEntry`].
    #[doc(alias = "memmap_paddr")]
    pub memory_map: u64,
    /// How many [`MapEntry`].
    #[doc(alias = "memmap_entries")]
    pub memory_map_entries: u32,
    /// Zero.
    pub reserved: u32,
}

/// A file that was loaded with the guest. Linux takes the first for its initial RAM disk.
#[doc(alias = "hvm_modlist_entry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Module {
    /// Where it lies.
    #[doc(alias = "paddr")]
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Address of its own command line.
    #[doc(alias = "cmdline_paddr")]
    pub command_line: u64,
    /// Zero.
    pub reserved: u64,
}

/// A region of memory.
#[doc(alias = "hvm_memmap_table_entry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapEntry {
    /// First byte.
    #[doc(alias = "addr")]
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// A [`RegionKind`](crate::hypercall::memory::RegionKind).
    #[doc(alias = "type")]
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

impl From<&Region> for MapEntry {
    fn from(region: &Region) -> Self {
        Self { address: region.address.0, size: region.length, kind: region.kind, reserved: 0 }
    }
}

/// State of the processor at the entry point, which a loader sets and a guest may rely on.
pub mod entry_state {
    /// Control register 0: protection on, paging off.
    pub const CR0: u32 = 0x11;
    /// Access rights of CS: 32-bit code, present, base 0, limit 4 GiB.
    pub const CS_RIGHTS: u16 = 0xc9b;
    /// Access rights of DS, ES, SS: data, writable, base 0, limit 4 GiB.
    pub const DATA_RIGHTS: u16 = 0xc93;
    /// Access rights of TR: busy 32-bit task segment, base 0.
    pub const TR_RIGHTS: u16 = 0x8b;
    /// Limit of TR.
    pub const TR_LIMIT: u32 = 0x67;
    /// Flags: only the bit that is always set.
    pub const EFLAGS: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn offsets() {
        assert_eq!(size_of::<StartInfo>(), 56);
        assert_eq!(offset_of!(StartInfo, version), 4);
        assert_eq!(offset_of!(StartInfo, flags), 8);
        assert_eq!(offset_of!(StartInfo, modules), 12);
        assert_eq!(offset_of!(StartInfo, module_list), 16);
        assert_eq!(offset_of!(StartInfo, command_line), 24);
        assert_eq!(offset_of!(StartInfo, rsdp), 32);
        assert_eq!(offset_of!(StartInfo, memory_map), VERSION_0_SIZE);
        assert_eq!(offset_of!(StartInfo, memory_map_entries), 48);
        assert_eq!(size_of::<Module>(), 32);
        assert_eq!(offset_of!(Module, command_line), 16);
        assert_eq!(size_of::<MapEntry>(), 24);
        assert_eq!(offset_of!(MapEntry, kind), 16);
    }
}
