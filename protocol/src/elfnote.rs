//! The notes by which a kernel's ELF file says how it wants to be started (`elfnote.h`).
//!
//! A note has the owner name [`OWNER`] (with its final zero) and a type from [`Note`]. Numbers are 4 or 8 bytes long,
//! whatever the class of the file. Notes may lie in any of several note segments, or only in note sections.

/// Owner name of the notes, without the final zero.
pub const OWNER: &str = "Xen";

closed! {
    /// What a note says.
    pub enum Note: u32 {
        /// Free text.
        #[doc(alias = "XEN_ELFNOTE_INFO")]
        Info = 0,
        /// Entry point of a guest without nested paging.
        #[doc(alias = "XEN_ELFNOTE_ENTRY")]
        Entry = 1,
        /// Where the hypercall page goes.
        #[doc(alias = "XEN_ELFNOTE_HYPERCALL_PAGE")]
        HypercallPage = 2,
        /// Virtual address of physical 0.
        #[doc(alias = "XEN_ELFNOTE_VIRT_BASE")]
        VirtBase = 3,
        /// Offset of the physical addresses in the program headers.
        #[doc(alias = "XEN_ELFNOTE_PADDR_OFFSET")]
        PaddrOffset = 4,
        /// Version of the ABI.
        #[doc(alias = "XEN_ELFNOTE_XEN_VERSION")]
        XenVersion = 5,
        /// Name of the system.
        #[doc(alias = "XEN_ELFNOTE_GUEST_OS")]
        GuestOs = 6,
        /// Its version.
        #[doc(alias = "XEN_ELFNOTE_GUEST_VERSION")]
        GuestVersion = 7,
        /// Kind of loader.
        #[doc(alias = "XEN_ELFNOTE_LOADER")]
        Loader = 8,
        /// Use of PAE.
        #[doc(alias = "XEN_ELFNOTE_PAE_MODE")]
        PaeMode = 9,
        /// Features as text.
        #[doc(alias = "XEN_ELFNOTE_FEATURES")]
        Features = 10,
        /// Load the symbol table.
        #[doc(alias = "XEN_ELFNOTE_BSD_SYMTAB")]
        BsdSymtab = 11,
        /// Lowest address for the hypervisor.
        #[doc(alias = "XEN_ELFNOTE_HV_START_LOW")]
        HvStartLow = 12,
        /// Mask of a valid first-level entry.
        #[doc(alias = "XEN_ELFNOTE_L1_MFN_VALID")]
        L1MfnValid = 13,
        /// Suspending can be called off.
        #[doc(alias = "XEN_ELFNOTE_SUSPEND_CANCEL")]
        SuspendCancel = 14,
        /// Where the frame table goes at first.
        #[doc(alias = "XEN_ELFNOTE_INIT_P2M")]
        InitP2m = 15,
        /// Modules are given by frame number.
        #[doc(alias = "XEN_ELFNOTE_MOD_START_PFN")]
        ModStartPfn = 16,
        /// Features as a number: bits of [`Feature`](crate::hypercall::version::Feature).
        #[doc(alias = "XEN_ELFNOTE_SUPPORTED_FEATURES")]
        SupportedFeatures = 17,
        /// Physical address of the 32-bit entry point: the mark of a PVH kernel.
        #[doc(alias = "XEN_ELFNOTE_PHYS32_ENTRY")]
        Phys32Entry = 18,
        /// The kernel may be moved: [`Relocation`].
        #[doc(alias = "XEN_ELFNOTE_PHYS32_RELOC")]
        Phys32Reloc = 19,
    }
}

/// Where a kernel may be moved to, by multiples of the alignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Lowest address.
    pub lowest: u32,
    /// Highest address of the last byte.
    pub highest: u32,
}

impl Relocation {
    /// Reads the note's content: up to three numbers of four bytes; those that are missing get the defaults 2 MiB, 0 and
    /// 4 GiB - 1. `None` if the alignment is no power of two.
    pub fn decode(content: &[u8]) -> Option<Self> {
        let mut words = content.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let align = words.next().unwrap_or(0x20_0000);
        let lowest = words.next().unwrap_or(0);
        let highest = words.next().unwrap_or(u32::MAX);
        align.is_power_of_two().then_some(Self { align, lowest, highest })
    }
}

/// A numeric note's value: 4 or 8 bytes; `None` for any other length.
pub fn number(content: &[u8]) -> Option<u64> {
    match content.len() {
        4 => content.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        8 => content.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_lengths() {
        assert_eq!(number(&[0x50, 8, 0, 1]), Some(0x0100_0850));
        assert_eq!(number(&[1, 0, 0, 0, 1, 0, 0, 0]), Some(0x1_0000_0001));
        assert_eq!(number(&[1, 2]), None);
        assert_eq!(Relocation::decode(&[]).unwrap().align, 0x20_0000);
        assert_eq!(Relocation::decode(&[3, 0, 0, 0]), None);
    }
}
