//! `xen_version` (17): argument 1 is the [`Op`], argument 2 a pointer, null where the result is the register alone.

use crate::layout::Shrinking;

closed! {
    /// What to ask (`version.h`).
    pub enum Op: u32 {
        /// Returns major << 16 | minor. The pointer is ignored.
        #[doc(alias = "XENVER_version")]
        Version = 0,
        /// Text of [`EXTRAVERSION_SIZE`] bytes.
        #[doc(alias = "XENVER_extraversion")]
        Extraversion = 1,
        /// [`CompileInfo`].
        #[doc(alias = "XENVER_compile_info")]
        CompileInfo = 2,
        /// Text of [`CAPABILITIES_SIZE`] bytes.
        #[doc(alias = "XENVER_capabilities")]
        Capabilities = 3,
        /// Text of [`CHANGESET_SIZE`] bytes.
        #[doc(alias = "XENVER_changeset")]
        Changeset = 4,
        /// [`PlatformParameters`].
        #[doc(alias = "XENVER_platform_parameters")]
        PlatformParameters = 5,
        /// [`FeatureInfo`].
        #[doc(alias = "XENVER_get_features")]
        GetFeatures = 6,
        /// Returns the page size.
        #[doc(alias = "XENVER_pagesize")]
        PageSize = 7,
        /// The domain's 16-byte identity.
        #[doc(alias = "XENVER_guest_handle")]
        GuestHandle = 8,
        /// Text of [`COMMANDLINE_SIZE`] bytes.
        #[doc(alias = "XENVER_commandline")]
        Commandline = 9,
        /// [`VarBuf`] with bytes.
        #[doc(alias = "XENVER_build_id")]
        BuildId = 10,
        /// [`VarBuf`] with text.
        #[doc(alias = "XENVER_extraversion2")]
        Extraversion2 = 11,
        /// [`VarBuf`] with text.
        #[doc(alias = "XENVER_capabilities2")]
        Capabilities2 = 12,
        /// [`VarBuf`] with text.
        #[doc(alias = "XENVER_changeset2")]
        Changeset2 = 13,
        /// [`VarBuf`] with text.
        #[doc(alias = "XENVER_commandline2")]
        Commandline2 = 14,
    }
}

/// Bytes of the extra version.
#[doc(alias = "xen_extraversion_t")]
pub const EXTRAVERSION_SIZE: usize = 16;
/// Bytes of the capabilities.
#[doc(alias = "xen_capabilities_info_t")]
pub const CAPABILITIES_SIZE: usize = 1024;
/// Bytes of the change set.
#[doc(alias = "xen_changeset_info_t")]
pub const CHANGESET_SIZE: usize = 64;
/// Bytes of the command line.
#[doc(alias = "xen_commandline_t")]
pub const COMMANDLINE_SIZE: usize = 1024;

crate::layout! {
    /// Which features, by [`Feature`] bit. Only submap 0 exists.
    #[doc(alias = "xen_feature_info")]
    pub struct FeatureInfo: 8, 8 {
        /// Which 32 features.
        #[doc(alias = "submap_idx")]
        pub index: u32 = 0, 0;
        /// Out: their bits.
        pub submap: u32 = 4, 4;
    }

    /// Start of the hypervisor's own address range; 0 for guests with nested paging.
    #[doc(alias = "xen_platform_parameters")]
    pub struct PlatformParameters: 8, 4 {
        /// The address.
        pub virt_start: u64 as Shrinking = 0, 0;
    }

    /// A length, followed by the buffer. A null pointer instead asks for the length.
    #[doc(alias = "xen_varbuf")]
    pub struct VarBuf: 4, 4 {
        /// Bytes in the buffer, which starts right behind.
        #[doc(alias = "len")]
        pub length: u32 = 0, 0;
    }
}

/// Who built the hypervisor: text fields at fixed offsets, each ended by a zero.
#[doc(alias = "xen_compile_info")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileInfo;

impl CompileInfo {
    /// Bytes of the structure.
    pub const SIZE: usize = 144;
    /// Offset and size of the compiler's name.
    pub const COMPILER: (usize, usize) = (0, 64);
    /// Offset and size of the builder's name.
    pub const BY: (usize, usize) = (64, 16);
    /// Offset and size of the builder's domain.
    pub const DOMAIN: (usize, usize) = (80, 32);
    /// Offset and size of the date.
    pub const DATE: (usize, usize) = (112, 32);

    /// The structure with these texts in it; what is too long is cut off.
    pub fn encode(compiler: &str, by: &str, domain: &str, date: &str) -> [u8; Self::SIZE] {
        let mut info = [0; Self::SIZE];
        for ((start, size), text) in
            [(Self::COMPILER, compiler), (Self::BY, by), (Self::DOMAIN, domain), (Self::DATE, date)]
        {
            fill(info.get_mut(start..start + size).unwrap_or_default(), text);
        }
        info
    }
}

/// A text as `xen_version` returns it: with a NUL behind it, cut off where it is too long.
pub fn padded<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    fill(&mut bytes, text);
    bytes
}

fn fill(field: &mut [u8], text: &str) {
    let room = field.len().saturating_sub(1);
    for (to, from) in field.iter_mut().take(room).zip(text.bytes()) {
        *to = from;
    }
}

closed! {
    /// A bit of the first feature submap (`features.h`).
    pub enum Feature: u32 {
        /// Page tables may be written directly.
        #[doc(alias = "XENFEAT_writable_page_tables")]
        WritablePageTables = 0,
        /// Descriptor tables may be written directly.
        #[doc(alias = "XENFEAT_writable_descriptor_tables")]
        WritableDescriptorTables = 1,
        /// Guest frames are not machine frames.
        #[doc(alias = "XENFEAT_auto_translated_physmap")]
        AutoTranslatedPhysmap = 2,
        /// The kernel runs in ring 0.
        #[doc(alias = "XENFEAT_supervisor_mode_kernel")]
        SupervisorModeKernel = 3,
        /// Page directories may lie above 4 GiB.
        #[doc(alias = "XENFEAT_pae_pgdir_above_4gb")]
        PaePgdirAbove4Gb = 4,
        /// Updates keep accessed and dirty bits.
        #[doc(alias = "XENFEAT_mmu_pt_update_preserve_ad")]
        MmuPtUpdatePreserveAd = 5,
        /// Help with high memory.
        #[doc(alias = "XENFEAT_highmem_assist")]
        HighmemAssist = 6,
        /// Grant mappings can set available bits.
        #[doc(alias = "XENFEAT_gnttab_map_avail_bits")]
        GnttabMapAvailBits = 7,
        /// Events can come by a vector.
        #[doc(alias = "XENFEAT_hvm_callback_vector")]
        HvmCallbackVector = 8,
        /// The time structure may be used.
        #[doc(alias = "XENFEAT_hvm_safe_pvclock")]
        HvmSafePvclock = 9,
        /// Emulated interrupts can come as events.
        #[doc(alias = "XENFEAT_hvm_pirqs")]
        HvmPirqs = 10,
        /// The caller is the privileged domain.
        #[doc(alias = "XENFEAT_dom0")]
        Dom0 = 11,
        /// Memory calls know virtual nodes.
        #[doc(alias = "XENFEAT_memory_op_vnode_supported")]
        MemoryOpVnodeSupported = 13,
        /// The ACPI root pointer may be anywhere (a guest's note; never set by a hypervisor).
        #[doc(alias = "XENFEAT_linux_rsdp_unrestricted")]
        LinuxRsdpUnrestricted = 15,
        /// Guest frames are not machine frames.
        #[doc(alias = "XENFEAT_not_direct_mapped")]
        NotDirectMapped = 16,
        /// Guest frames are machine frames.
        #[doc(alias = "XENFEAT_direct_mapped")]
        DirectMapped = 17,
        /// Runstate areas may be given by physical address.
        #[doc(alias = "XENFEAT_runstate_phys_area")]
        RunstatePhysArea = 18,
        /// Time areas may be given by physical address.
        #[doc(alias = "XENFEAT_vcpu_time_phys_area")]
        VcpuTimePhysArea = 19,
        /// The device model wants every write to an interrupt table.
        #[doc(alias = "XENFEAT_dm_msix_all_writes")]
        DmMsixAllWrites = 20,
    }
}

impl Feature {
    /// The feature's bit in the submap.
    pub const fn bit(self) -> u32 {
        1 << self.number()
    }

    /// What a guest with nested paging needs to see at least.
    pub const GUEST: u32 = Self::WritablePageTables.bit()
        | Self::AutoTranslatedPhysmap.bit()
        | Self::HvmCallbackVector.bit()
        | Self::HvmSafePvclock.bit()
        | Self::NotDirectMapped.bit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_off() {
        assert_eq!((padded::<4>("ab"), padded::<4>("abcd")), (*b"ab\0\0", *b"abc\0"));
        let info = CompileInfo::encode("c", "someone with a long name", "d", "today");
        assert_eq!(
            (&info[..2], &info[64..80], &info[112..117]),
            (&b"c\0"[..], &b"someone with a \0"[..], &b"today"[..])
        );
    }

    #[test]
    fn the_guest_mask_is_the_one_linux_needs() {
        assert_eq!(Feature::GUEST, 0x0001_0305);
    }
}
