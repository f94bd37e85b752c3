//! The CPUID leaves by which a guest recognises the platform (`arch-x86/cpuid.h`).
//!
//! A guest looks at each base from [`BASE`] to [`LAST_BASE`] in steps of [`STEP`] for the signature, and wants at least
//! two leaves. Leaf 1 should have bit 31 of ECX set.

/// First base: the usual one.
pub const BASE: u32 = 0x4000_0000;
/// Distance of the bases.
pub const STEP: u32 = 0x100;
/// Last base a guest tries.
pub const LAST_BASE: u32 = 0x4000_ff00;
/// Bit of leaf 1's ECX that says that there is a hypervisor.
pub const HYPERVISOR: u32 = 1 << 31;

/// Offset from the base: highest leaf and signature.
#[doc(alias = "XEN_CPUID_SIGNATURE")]
pub const SIGNATURE: u32 = 0;
/// Offset from the base: EAX is major << 16 | minor, as
/// [`Op::Version`](crate::hypercall::version::Op::Version) returns it.
pub const VERSION: u32 = 1;
/// Offset from the base: EAX hypercall pages, EBX the register that takes the page's address.
#[doc(alias = "XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD")]
pub const HYPERCALLS: u32 = 2;
/// Offset from the base: clock.
pub const TIME: u32 = 3;
/// Offset from the base: what the hypervisor offers a guest with nested paging.
pub const HVM: u32 = 4;
/// Offset from the base: for guests without nested paging.
pub const PV: u32 = 5;
/// Highest leaf there is.
#[doc(alias = "XEN_CPUID_MAX_NUM_LEAVES")]
pub const MAX_LEAF: u32 = 5;

/// EBX, ECX, EDX of the first leaf: "XenVMMXenVMM".
#[doc(alias = "XEN_CPUID_SIGNATURE_EBX")]
pub const SIGNATURE_WORDS: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// The register that takes the hypercall page's address.
pub const HYPERCALL_MSR: u32 = 0x4000_0000;

/// [`TIME`] subleaf 0, EAX: the counter is emulated.
pub const TIME_EMULATED: u32 = 1;
/// [`TIME`] subleaf 0, EAX: the host's counter is reliable.
pub const TIME_RELIABLE: u32 = 2;
/// [`TIME`] subleaf 0, EAX: RDTSCP works.
pub const TIME_RDTSCP: u32 = 4;

/// [`HVM`] EAX: accesses to APIC registers are virtualised.
#[doc(alias = "XEN_HVM_CPUID_APIC_ACCESS_VIRT")]
pub const HVM_APIC_ACCESS: u32 = 1 << 0;
/// [`HVM`] EAX: accesses to x2APIC registers are virtualised.
#[doc(alias = "XEN_HVM_CPUID_X2APIC_VIRT")]
pub const HVM_X2APIC: u32 = 1 << 1;
/// [`HVM`] EAX: pages of other domains get IOMMU mappings.
#[doc(alias = "XEN_HVM_CPUID_IOMMU_MAPPINGS")]
pub const HVM_IOMMU_MAPPINGS: u32 = 1 << 2;
/// [`HVM`] EAX: EBX is the vCPU's number.
#[doc(alias = "XEN_HVM_CPUID_VCPU_ID_PRESENT")]
pub const HVM_VCPU_ID: u32 = 1 << 3;
/// [`HVM`] EAX: ECX is the domain's number.
#[doc(alias = "XEN_HVM_CPUID_DOMID_PRESENT")]
pub const HVM_DOMAIN_ID: u32 = 1 << 4;
/// [`HVM`] EAX: interrupt messages carry 15-bit destinations.
#[doc(alias = "XEN_HVM_CPUID_EXT_DEST_ID")]
pub const HVM_EXTENDED_DESTINATION: u32 = 1 << 5;
/// [`HVM`] EAX: each vCPU can have its own upcall vector. Linux then ends each upcall at its local APIC.
#[doc(alias = "XEN_HVM_CPUID_UPCALL_VECTOR")]
pub const HVM_UPCALL_VECTOR: u32 = 1 << 6;

#[cfg(test)]
mod tests {
    #[test]
    fn signature() {
        let bytes: Vec<u8> = super::SIGNATURE_WORDS.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes, b"XenVMMXenVMM");
    }
}
