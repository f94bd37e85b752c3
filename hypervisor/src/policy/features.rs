//! The feature bits that a guest may see, each with its reason. What is not here is hidden.

/// Why a bit is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// Instructions without state of their own, or with state that every vCPU switch carries.
    Plain,
    /// Acts on the guest's own page tables or control registers, which nested paging leaves to it.
    Paging,
    /// State in XCR0 bits 0 to 2, which the machine switches.
    Extended,
    /// An MSR that the context keeps.
    Kept,
    /// The core provides it: virtual APIC, MTRR answers.
    Provided,
}

/// One bit.
pub(super) struct Bit(pub(super) u32, pub(super) &'static str, pub(super) Why);

impl Why {
    const fn text(self) -> &'static str {
        match self {
            Self::Plain => "instructions without state of their own, or whose state every switch carries",
            Self::Paging => "acts on the guest's own tables and control registers",
            Self::Extended => "state in XCR0 bits 0 to 2, which is switched",
            Self::Kept => "an MSR that the context keeps",
            Self::Provided => "the core provides it",
        }
    }
}

/// Writes the lists as a table for the documentation.
pub fn describe(out: &mut impl core::fmt::Write) -> core::fmt::Result {
    writeln!(out, "| leaf | bit | feature | shown because |\n|---|---|---|---|")?;
    for (leaf, bits) in [
        ("1 ECX", LEAF_1_ECX),
        ("1 EDX", LEAF_1_EDX),
        ("7 EBX", LEAF_7_EBX),
        ("7 ECX", LEAF_7_ECX),
        ("7 EDX", LEAF_7_EDX),
        ("0xd.1 EAX", LEAF_D_EAX),
        ("0x80000001 ECX", EXTENDED_1_ECX),
        ("0x80000001 EDX", EXTENDED_1_EDX),
        ("0x80000008 EBX", EXTENDED_8_EBX),
    ] {
        for Bit(bit, name, why) in bits {
            writeln!(out, "| {leaf} | {bit} | {name} | {} |", why.text())?;
        }
    }
    Ok(())
}

use Why::{Extended, Kept, Paging, Plain, Provided};

/// The bits of a list as a mask.
pub(super) const fn mask(bits: &[Bit]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < bits.len() {
        mask |= 1 << bits[index].0;
        index += 1;
    }
    mask
}

/// Leaf 1 ECX. Hidden: MONITOR (would stop the processor), VMX, TSC-deadline and x2APIC (the virtual APIC has neither),
/// PCID (its instruction needs a control that not every processor has), PDCM and performance counters, SDBG.
/// OSXSAVE follows CR4; the hypervisor bit is always set.
pub(super) const LEAF_1_ECX: &[Bit] = &[
    Bit(0, "SSE3", Plain),
    Bit(1, "PCLMULQDQ", Plain),
    Bit(9, "SSSE3", Plain),
    Bit(12, "FMA", Extended),
    Bit(13, "CMPXCHG16B", Plain),
    Bit(19, "SSE4.1", Plain),
    Bit(20, "SSE4.2", Plain),
    Bit(22, "MOVBE", Plain),
    Bit(23, "POPCNT", Plain),
    Bit(25, "AESNI", Plain),
    Bit(26, "XSAVE", Extended),
    Bit(28, "AVX", Extended),
    Bit(29, "F16C", Extended),
    Bit(30, "RDRAND", Plain),
];

/// Leaf 1 EDX, and the same positions of leaf 0x8000_0001 EDX. Hidden: machine checks (there are no banks), debug store,
/// ACPI clock modulation, self-snoop, thermal monitor, PBE.
pub(super) const LEAF_1_EDX: &[Bit] = &[
    Bit(0, "FPU", Plain),
    Bit(1, "VME", Paging),
    Bit(2, "DE", Plain),
    Bit(3, "PSE", Paging),
    Bit(4, "TSC", Plain),
    Bit(5, "MSR", Plain),
    Bit(6, "PAE", Paging),
    Bit(8, "CX8", Plain),
    Bit(9, "APIC", Provided),
    Bit(11, "SEP", Kept),
    Bit(12, "MTRR", Provided),
    Bit(13, "PGE", Paging),
    Bit(15, "CMOV", Plain),
    Bit(16, "PAT", Kept),
    Bit(17, "PSE36", Paging),
    Bit(19, "CLFSH", Plain),
    Bit(23, "MMX", Plain),
    Bit(24, "FXSR", Plain),
    Bit(25, "SSE", Plain),
    Bit(26, "SSE2", Plain),
];

/// Leaf 7 subleaf 0 EBX. Hidden: TSC_ADJUST, SGX, INVPCID, RTM and HLE (abort on exits), MPX, AVX-512 (its state is not
/// switched), processor trace, RDT.
pub(super) const LEAF_7_EBX: &[Bit] = &[
    Bit(0, "FSGSBASE", Plain),
    Bit(3, "BMI1", Plain),
    Bit(5, "AVX2", Extended),
    Bit(6, "FDP_EXCPTN_ONLY", Plain),
    Bit(7, "SMEP", Paging),
    Bit(8, "BMI2", Plain),
    Bit(9, "ERMS", Plain),
    Bit(13, "FCS_FDS deprecated", Plain),
    Bit(18, "RDSEED", Plain),
    Bit(19, "ADX", Plain),
    Bit(20, "SMAP", Paging),
    Bit(23, "CLFLUSHOPT", Plain),
    Bit(24, "CLWB", Plain),
    Bit(29, "SHA", Plain),
];

/// Leaf 7 subleaf 0 ECX. Hidden: UMIP (some processors need exits for it), PKU (its register is not switched), LA57 (the
/// core walks four levels), WAITPKG (would stop the processor), CET, key locker.
pub(super) const LEAF_7_ECX: &[Bit] = &[
    Bit(8, "GFNI", Plain),
    Bit(9, "VAES", Extended),
    Bit(10, "VPCLMULQDQ", Extended),
    Bit(22, "RDPID", Kept),
    Bit(27, "MOVDIRI", Plain),
    Bit(28, "MOVDIR64B", Plain),
];

/// Leaf 7 subleaf 0 EDX. Hidden: everything about speculation that needs an MSR, TSX controls, AMX.
pub(super) const LEAF_7_EDX: &[Bit] = &[Bit(4, "FSRM", Plain), Bit(14, "SERIALIZE", Plain)];

/// Leaf 0xd subleaf 1 EAX. Hidden: XSAVES (needs an MSR).
pub(super) const LEAF_D_EAX: &[Bit] =
    &[Bit(0, "XSAVEOPT", Extended), Bit(1, "XSAVEC", Extended), Bit(2, "XGETBV with ECX 1", Extended)];

/// Leaf 0x8000_0001 ECX. Hidden: SVM, the extended APIC space, alternative CR8, OSVW, IBS, XOP and TBM (nobody has them
/// any more), SKINIT, watchdog, LWP, topology extensions, counters, MWAITX. CMP_LEGACY is set by the number of vCPUs.
pub(super) const EXTENDED_1_ECX: &[Bit] = &[
    Bit(0, "LAHF", Plain),
    Bit(5, "ABM", Plain),
    Bit(6, "SSE4A", Plain),
    Bit(7, "MISALIGNSSE", Plain),
    Bit(8, "3DNOWPREFETCH", Plain),
];

/// Leaf 0x8000_0001 EDX, beside the positions it shares with leaf 1. Hidden: FFXSR, 3DNow.
pub(super) const EXTENDED_1_EDX: &[Bit] = &[
    Bit(11, "SYSCALL", Kept),
    Bit(20, "NX", Paging),
    Bit(22, "MMXEXT", Plain),
    Bit(26, "1 GiB pages", Paging),
    Bit(27, "RDTSCP", Kept),
    Bit(29, "long mode", Paging),
];

/// Positions of leaf 0x8000_0001 EDX that repeat leaf 1 EDX on AMD processors (APM volume 3, appendix E).
pub(super) const REPEATED: u32 = 0x0183_f3ff;

/// Leaf 0x8000_0008 EBX. Hidden: everything about speculation that needs an MSR, WBNOINVD.
pub(super) const EXTENDED_8_EBX: &[Bit] = &[Bit(0, "CLZERO", Plain), Bit(2, "XSAVEERPTR", Extended)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ascending() {
        let lists =
            [LEAF_1_ECX, LEAF_1_EDX, LEAF_7_EBX, LEAF_7_ECX, LEAF_7_EDX, EXTENDED_1_ECX, EXTENDED_1_EDX];
        for list in lists {
            assert!(list.is_sorted_by_key(|bit| bit.0));
            assert_eq!(mask(list).count_ones() as usize, list.len());
        }
        let mut text = String::new();
        describe(&mut text).unwrap();
        assert!(text.contains("| 7 EBX | 5 | AVX2 | state in XCR0"));
    }
}
