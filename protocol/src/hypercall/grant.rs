//! `grant_table_op` (20): argument 1 is the [`Op`], argument 2 an array of its structures, argument 3 their count.
//!
//! The call itself fails only when the array cannot be read; each element carries its own
//! [`GrantStatus`](crate::errno::GrantStatus), which is written back into the element. The rules for the entries of the
//! table are in [`crate::grant`].

use crate::address::{Gpa, Gva, MachineAddress};
use crate::id::{DomainId, GrantRef};
use crate::layout::Shrinking;

closed! {
    /// What to do (`grant_table.h`).
    pub enum Op: u32 {
        /// Maps a page of another domain: [`Map`].
        #[doc(alias = "GNTTABOP_map_grant_ref")]
        Map = 0,
        /// Takes a mapping away: [`Unmap`].
        #[doc(alias = "GNTTABOP_unmap_grant_ref")]
        Unmap = 1,
        /// Frames of the table: [`SetupTable`].
        #[doc(alias = "GNTTABOP_setup_table")]
        SetupTable = 2,
        /// Prints a table on the hypervisor's console.
        #[doc(alias = "GNTTABOP_dump_table")]
        DumpTable = 3,
        /// Gives a page away; only without nested paging.
        #[doc(alias = "GNTTABOP_transfer")]
        Transfer = 4,
        /// Copies bytes between pages: [`struct@Copy`].
        #[doc(alias = "GNTTABOP_copy")]
        Copy = 5,
        /// Present and greatest size of the table: [`QuerySize`].
        #[doc(alias = "GNTTABOP_query_size")]
        QuerySize = 6,
        /// Unmaps and maps in one; only without nested paging.
        #[doc(alias = "GNTTABOP_unmap_and_replace")]
        UnmapAndReplace = 7,
        /// Chooses the form of the entries: [`Version`].
        #[doc(alias = "GNTTABOP_set_version")]
        SetVersion = 8,
        /// Frames of the status words of version 2.
        #[doc(alias = "GNTTABOP_get_status_frames")]
        GetStatusFrames = 9,
        /// The form of a domain's entries: [`GetVersion`].
        #[doc(alias = "GNTTABOP_get_version")]
        GetVersion = 10,
        /// Exchanges two entries.
        #[doc(alias = "GNTTABOP_swap_grant_ref")]
        SwapGrantRef = 11,
        /// Cache maintenance.
        #[doc(alias = "GNTTABOP_cache_flush")]
        CacheFlush = 12,
    }
}

/// [`Map::flags`]: for a device's DMA.
#[doc(alias = "GNTMAP_device_map")]
pub const MAP_DEVICE: u32 = 1;
/// [`Map::flags`]: for the processor. The only kind a domain with nested paging may ask for.
#[doc(alias = "GNTMAP_host_map")]
pub const MAP_HOST: u32 = 2;
/// [`Map::flags`]: only for reading.
#[doc(alias = "GNTMAP_readonly")]
pub const MAP_READONLY: u32 = 4;
/// [`Map::flags`]: reachable from user mode.
#[doc(alias = "GNTMAP_application_map")]
pub const MAP_APPLICATION: u32 = 8;
/// [`Map::flags`]: the address is that of a page-table entry.
#[doc(alias = "GNTMAP_contains_pte")]
pub const MAP_CONTAINS_PTE: u32 = 16;

/// [`Copy::flags`]: the source is a grant reference.
#[doc(alias = "GNTCOPY_source_gref")]
pub const COPY_SOURCE_GRANT: u16 = 1;
/// [`Copy::flags`]: the destination is a grant reference.
#[doc(alias = "GNTCOPY_dest_gref")]
pub const COPY_DESTINATION_GRANT: u16 = 2;

crate::layout! {
    /// A page of another domain, for the caller.
    #[doc(alias = "gnttab_map_grant_ref")]
    pub struct Map: 32, 32 {
        /// Where: a guest-physical address of the caller that is a hole.
        #[doc(alias = "host_addr")]
        pub address: Gpa = 0, 0;
        /// The `MAP_` constants.
        pub flags: u32 = 8, 8;
        /// Which grant.
        #[doc(alias = "ref")]
        pub reference: GrantRef = 12, 12;
        /// Whose grant.
        #[doc(alias = "dom")]
        pub domain: DomainId = 16, 16;
        /// Out: a grant status.
        pub status: i16 = 18, 18;
        /// Out: names the mapping.
        pub handle: u32 = 20, 20;
        /// Out: the page's address for a device.
        #[doc(alias = "dev_bus_addr")]
        pub bus_address: MachineAddress = 24, 24;
    }

    /// A mapping to take away. When the call returns, no translation is left.
    #[doc(alias = "gnttab_unmap_grant_ref")]
    pub struct Unmap: 24, 24 {
        /// Where it is.
        #[doc(alias = "host_addr")]
        pub address: Gpa = 0, 0;
        /// Its address for a device, or 0.
        #[doc(alias = "dev_bus_addr")]
        pub bus_address: MachineAddress = 8, 8;
        /// Names the mapping.
        pub handle: u32 = 16, 16;
        /// Out: a grant status.
        pub status: i16 = 20, 20;
    }

    /// A request for the frames of a table.
    #[doc(alias = "gnttab_setup_table")]
    pub struct SetupTable: 24, 16 {
        /// Whose table.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
        /// How many frames it should have.
        #[doc(alias = "nr_frames")]
        pub frames: u32 = 4, 4;
        /// Out: a grant status.
        pub status: i16 = 8, 8;
        /// Array for the frame numbers.
        #[doc(alias = "frame_list")]
        pub list: Gva = 16, 12;
    }

    /// Bytes from one page to another, neither crossing a page's end.
    #[doc(alias = "gnttab_copy")]
    pub struct Copy: 40, 24 {
        /// A grant reference, or a frame of the caller, by flag.
        #[doc(alias = "source.u")]
        pub source: u64 as Shrinking = 0, 0;
        /// Whose page.
        #[doc(alias = "source.domid")]
        pub source_domain: DomainId = 8, 4;
        /// First byte in the page.
        #[doc(alias = "source.offset")]
        pub source_offset: u16 = 10, 6;
        /// A grant reference, or a frame of the caller, by flag.
        #[doc(alias = "dest.u")]
        pub destination: u64 as Shrinking = 16, 8;
        /// Whose page.
        #[doc(alias = "dest.domid")]
        pub destination_domain: DomainId = 24, 12;
        /// First byte in the page.
        #[doc(alias = "dest.offset")]
        pub destination_offset: u16 = 26, 14;
        /// Bytes; 0 is allowed.
        #[doc(alias = "len")]
        pub length: u16 = 32, 16;
        /// The `COPY_` constants.
        pub flags: u16 = 34, 18;
        /// Out: a grant status.
        pub status: i16 = 36, 20;
    }

    /// Size of a table.
    #[doc(alias = "gnttab_query_size")]
    pub struct QuerySize: 16, 16 {
        /// Whose table.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
        /// Out: frames now.
        #[doc(alias = "nr_frames")]
        pub frames: u32 = 4, 4;
        /// Out: frames at most.
        #[doc(alias = "max_nr_frames")]
        pub limit: u32 = 8, 8;
        /// Out: a grant status.
        pub status: i16 = 12, 12;
    }

    /// The form of the caller's entries: 1 or 2.
    #[doc(alias = "gnttab_set_version")]
    pub struct Version: 4, 4 {
        /// In: wanted. Out: in use.
        pub version: u32 = 0, 0;
    }

    /// The form of a domain's entries.
    #[doc(alias = "gnttab_get_version")]
    pub struct GetVersion: 8, 8 {
        /// Whose.
        #[doc(alias = "dom")]
        pub domain: DomainId = 0, 0;
        /// Out: 1 or 2.
        pub version: u32 = 4, 4;
    }
}
