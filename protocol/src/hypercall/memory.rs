//! `memory_op` (12): argument 1 is the operation, argument 2 a pointer.
//!
//! The low six bits of argument 1 are the [`Op`]; the higher bits carry the position of a continued call and are 0 when a
//! guest starts one.

use crate::address::{Gfn, Gva};
use crate::id::DomainId;
use crate::layout::Shrinking;

/// Bits of argument 1 that are the operation.
#[doc(alias = "MEMOP_CMD_MASK")]
pub const OP_MASK: u64 = 0x3f;
/// Where the continuation's position starts in argument 1.
#[doc(alias = "MEMOP_EXTENT_SHIFT")]
pub const EXTENT_SHIFT: u32 = 6;

closed! {
    /// What to do (`memory.h`).
    pub enum Op: u32 {
        /// Adds memory: [`Reservation`]. Returns the number of extents done.
        #[doc(alias = "XENMEM_increase_reservation")]
        IncreaseReservation = 0,
        /// Gives memory back: [`Reservation`]. Returns the number of extents done; stops at a frame that is no RAM.
        #[doc(alias = "XENMEM_decrease_reservation")]
        DecreaseReservation = 1,
        /// Highest machine frame of the host.
        #[doc(alias = "XENMEM_maximum_ram_page")]
        MaximumRamPage = 2,
        /// Pages a domain has: pointer to a domain id.
        #[doc(alias = "XENMEM_current_reservation")]
        CurrentReservation = 3,
        /// Pages a domain may have: pointer to a domain id.
        #[doc(alias = "XENMEM_maximum_reservation")]
        MaximumReservation = 4,
        /// Puts memory at given frames: [`Reservation`]. Returns the number of extents done. For guests with nested
        /// paging the array of frames is only read.
        #[doc(alias = "XENMEM_populate_physmap")]
        PopulatePhysmap = 6,
        /// Puts a special page at a frame: [`AddToPhysmap`].
        #[doc(alias = "XENMEM_add_to_physmap")]
        AddToPhysmap = 7,
        /// The domain's own memory map: [`MemoryMap`].
        #[doc(alias = "XENMEM_memory_map")]
        MemoryMap = 9,
        /// Sets a domain's memory map: [`SetMemoryMap`].
        #[doc(alias = "XENMEM_set_memory_map")]
        SetMemoryMap = 13,
        /// Highest guest frame of a domain: pointer to a domain id.
        #[doc(alias = "XENMEM_maximum_gpfn")]
        MaximumGpfn = 14,
        /// Makes a frame a hole: [`RemoveFromPhysmap`].
        #[doc(alias = "XENMEM_remove_from_physmap")]
        RemoveFromPhysmap = 15,
        /// Sets the target of a domain with populate-on-demand.
        #[doc(alias = "XENMEM_set_pod_target")]
        SetPodTarget = 16,
        /// Reads the target of a domain with populate-on-demand.
        #[doc(alias = "XENMEM_get_pod_target")]
        GetPodTarget = 17,
        /// Maps many frames, also of another domain: [`AddToPhysmapBatch`].
        #[doc(alias = "XENMEM_add_to_physmap_batch")]
        AddToPhysmapBatch = 23,
        /// Frames that belong to the hypervisor's side of a domain: [`AcquireResource`].
        #[doc(alias = "XENMEM_acquire_resource")]
        AcquireResource = 28,
    }
}

closed! {
    /// What [`AddToPhysmap`] maps.
    pub enum Space: u32 {
        /// The shared info page; index 0.
        #[doc(alias = "XENMAPSPACE_shared_info")]
        SharedInfo = 0,
        /// A frame of the grant table by index; bit 31 of the index means a status frame of version 2. The table grows up
        /// to the domain's limit.
        #[doc(alias = "XENMAPSPACE_grant_table")]
        GrantTable = 1,
        /// Another frame of the same domain, which moves.
        #[doc(alias = "XENMAPSPACE_gmfn")]
        Gmfn = 2,
        /// A run of frames of the same domain ([`AddToPhysmap::size`]).
        #[doc(alias = "XENMAPSPACE_gmfn_range")]
        GmfnRange = 3,
        /// A frame of another domain; only in a batch.
        #[doc(alias = "XENMAPSPACE_gmfn_foreign")]
        GmfnForeign = 4,
        /// Device memory (Arm).
        #[doc(alias = "XENMAPSPACE_dev_mmio")]
        DeviceMemory = 5,
    }
}

closed! {
    /// Kinds of a region in a memory map, as in the firmware's map.
    pub enum RegionKind: u32 {
        /// Usable memory.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_RAM")]
        Ram = 1,
        /// Not to be touched.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_RESERVED")]
        Reserved = 2,
        /// ACPI tables, reusable once read.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_ACPI")]
        AcpiReclaimable = 3,
        /// ACPI tables that stay.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_NVS")]
        AcpiNvs = 4,
        /// Memory with errors.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_UNUSABLE")]
        Unusable = 5,
        /// Memory that is switched off.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_DISABLED")]
        Disabled = 6,
        /// Persistent memory.
        #[doc(alias = "XEN_HVM_MEMMAP_TYPE_PMEM")]
        Persistent = 7,
    }
}

/// `mem_flags` bit: populate on demand.
#[doc(alias = "XENMEMF_populate_on_demand")]
pub const FLAG_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// `mem_flags` bit: only the named memory node will do.
#[doc(alias = "XENMEMF_exact_node_request")]
pub const FLAG_EXACT_NODE: u32 = 1 << 17;
/// Bit of a grant-table index that asks for a status frame.
#[doc(alias = "XENMAPIDX_grant_table_status")]
pub const INDEX_GRANT_STATUS: u64 = 1 << 31;
/// Resource type of [`AcquireResource`]: frames of the grant table.
#[doc(alias = "XENMEM_resource_grant_table")]
pub const RESOURCE_GRANT_TABLE: u16 = 1;
/// Bytes of one entry of a memory map: address 8, length 8, kind 4, packed.
#[doc(alias = "e820entry")]
pub const REGION_SIZE: usize = 20;

crate::layout! {
    /// Extents to add, give back or populate.
    #[doc(alias = "xen_memory_reservation")]
    pub struct Reservation: 32, 20 {
        /// Array of frame numbers, one for each extent (`xen_pfn_t`, so of the caller's width).
        #[doc(alias = "extent_start")]
        pub extents: Gva = 0, 0;
        /// How many extents.
        #[doc(alias = "nr_extents")]
        pub count: u64 as Shrinking = 8, 4;
        /// log2 of the pages in one extent.
        #[doc(alias = "extent_order")]
        pub order: u32 = 16, 8;
        /// Bits 7:0 address bits, 15:8 memory node + 1, and the `FLAG_` constants.
        #[doc(alias = "mem_flags")]
        pub flags: u32 = 20, 12;
        /// Whose memory.
        #[doc(alias = "domid")]
        pub domain: DomainId = 24, 16;
    }

    /// A special page for a frame of the caller.
    ///
    /// A frame that holds normal RAM loses it: that page is freed. A special page that was elsewhere moves.
    #[doc(alias = "xen_add_to_physmap")]
    pub struct AddToPhysmap: 24, 16 {
        /// Whose physical map.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Pages, for [`Space::GmfnRange`].
        pub size: u16 = 2, 2;
        /// A [`Space`].
        pub space: u32 = 4, 4;
        /// Which page of that space.
        #[doc(alias = "idx")]
        pub index: u64 as Shrinking = 8, 8;
        /// Where it goes.
        #[doc(alias = "gpfn")]
        pub gfn: Gfn = 16, 12;
    }

    /// A buffer for regions of [`REGION_SIZE`] bytes.
    #[doc(alias = "xen_memory_map")]
    pub struct MemoryMap: 16, 8 {
        /// In: room in the buffer, in entries. Out: entries written.
        #[doc(alias = "nr_entries")]
        pub count: u32 = 0, 0;
        /// The buffer.
        pub buffer: Gva = 8, 4;
    }

    /// A domain and its memory map.
    #[doc(alias = "xen_foreign_memory_map")]
    pub struct SetMemoryMap: 24, 12 {
        /// Whose map.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Entries in the buffer.
        #[doc(alias = "nr_entries")]
        pub count: u32 = 8, 4;
        /// The buffer.
        pub buffer: Gva = 16, 8;
    }

    /// A frame that becomes a hole.
    #[doc(alias = "xen_remove_from_physmap")]
    pub struct RemoveFromPhysmap: 16, 8 {
        /// Whose physical map.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Which frame.
        #[doc(alias = "gpfn")]
        pub gfn: Gfn = 8, 4;
    }

    /// Many frames at once, each with its own error.
    #[doc(alias = "xen_add_to_physmap_batch")]
    pub struct AddToPhysmapBatch: 32, 20 {
        /// Whose physical map.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// A [`Space`].
        pub space: u16 = 2, 2;
        /// How many.
        #[doc(alias = "size")]
        pub count: u16 = 4, 4;
        /// Whose frames, for [`Space::GmfnForeign`].
        #[doc(alias = "foreign_domid")]
        pub foreign: DomainId = 6, 6;
        /// Array of indices or foreign frames (`xen_ulong_t`).
        #[doc(alias = "idxs")]
        pub indices: Gva = 8, 8;
        /// Array of frames (`xen_pfn_t`).
        #[doc(alias = "gpfns")]
        pub gfns: Gva = 16, 12;
        /// Array of results (`int`).
        #[doc(alias = "errs")]
        pub errors: Gva = 24, 16;
    }

    /// Frames of a resource, mapped or counted.
    #[doc(alias = "xen_mem_acquire_resource")]
    pub struct AcquireResource: 32, 28 {
        /// Whose resource.
        #[doc(alias = "domid")]
        pub domain: DomainId = 0, 0;
        /// Which kind.
        #[doc(alias = "type")]
        pub kind: u16 = 2, 2;
        /// Which one of that kind.
        pub id: u32 = 4, 4;
        /// In: how many frames. Out, with no list: how many there are.
        #[doc(alias = "nr_frames")]
        pub count: u32 = 8, 8;
        /// First frame.
        #[doc(alias = "frame")]
        pub first: u64 = 16, 16;
        /// Array of frames to map at; null asks for the count.
        #[doc(alias = "frame_list")]
        pub list: Gva = 24, 24;
    }
}

/// One region of a memory map: [`REGION_SIZE`] bytes, packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First byte.
    pub address: crate::address::Gpa,
    /// Bytes.
    pub length: u64,
    /// A [`RegionKind`] number.
    pub kind: u32,
}

impl Region {
    /// The bytes of the entry.
    pub fn to_bytes(self) -> [u8; REGION_SIZE] {
        let mut bytes = [0; REGION_SIZE];
        let fields = self.address.0.to_le_bytes().into_iter().chain(self.length.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields.chain(self.kind.to_le_bytes())) {
            *to = from;
        }
        bytes
    }

    /// The entry of the bytes.
    pub fn from_bytes(bytes: &[u8; REGION_SIZE]) -> Self {
        let word = |at: usize| {
            bytes
                .get(at..)
                .and_then(|bytes| bytes.first_chunk())
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        Self {
            address: crate::address::Gpa(word(0)),
            length: word(8),
            kind: bytes.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)),
        }
    }
}
