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

/// One bit: its number, name and reason.
#[cfg_attr(not(test), expect(dead_code, reason = "names and reasons are for readers, and for the book"))]
pub(super) struct Bit(pub(super) u32, pub(super) &'static str, pub(super) Why);

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

/// Lists of bits by their reason.
macro_rules! features {
    ($($(#[$doc:meta])* $list:ident of $leaf:literal { $($why:ident: $($name:literal $bit:literal),+;)* })*) => {
        $($(#[$doc])* pub(super) const $list: &[Bit] = &[$($(Bit($bit, $name, Why::$why),)+)*];)*

        /// All lists, each with its leaf and register.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &[Bit])] = &[$(($leaf, $list)),*];
    };
}

features! {
    /// Leaf 1 ECX. Hidden: MONITOR (would stop the processor), VMX, TSC-deadline and x2APIC (the virtual APIC has neither),
    /// PCID (its instruction needs a control that not every processor has), PDCM and performance counters, SDBG.
    /// OSXSAVE follows CR4; the hypervisor bit is always set.
    LEAF_1_ECX of "1 ECX" {
        Plain: "SSE3" 0, "PCLMULQDQ" 1, "SSSE3" 9, "CMPXCHG16B" 13, "SSE4.1" 19, "SSE4.2" 20, "MOVBE" 22,
            "POPCNT" 23, "AESNI" 25, "RDRAND" 30;
        Extended: "FMA" 12, "XSAVE" 26, "AVX" 28, "F16C" 29;
    }

    /// Leaf 1 EDX, and the same positions of leaf 0x8000_0001 EDX. Hidden: machine checks (there are no banks), debug store,
    /// ACPI clock modulation, self-snoop, thermal monitor, PBE.
    LEAF_1_EDX of "1 EDX" {
        Plain: "FPU" 0, "DE" 2, "TSC" 4, "MSR" 5, "CX8" 8, "CMOV" 15, "CLFSH" 19, "MMX" 23, "FXSR" 24,
            "SSE" 25, "SSE2" 26;
        Paging: "VME" 1, "PSE" 3, "PAE" 6, "PGE" 13, "PSE36" 17;
        Kept: "SEP" 11, "PAT" 16;
        Provided: "APIC" 9, "MTRR" 12;
    }

    /// Leaf 7 subleaf 0 EBX. Hidden: TSC_ADJUST, SGX, INVPCID, RTM and HLE (abort on exits), MPX, AVX-512 (its state is not
    /// switched), processor trace, RDT.
    LEAF_7_EBX of "7 EBX" {
        Plain: "FSGSBASE" 0, "BMI1" 3, "FDP_EXCPTN_ONLY" 6, "BMI2" 8, "ERMS" 9, "FCS_FDS deprecated" 13,
            "RDSEED" 18, "ADX" 19, "CLFLUSHOPT" 23, "CLWB" 24, "SHA" 29;
        Paging: "SMEP" 7, "SMAP" 20;
        Extended: "AVX2" 5;
    }

    /// Leaf 7 subleaf 0 ECX. Hidden: UMIP (some processors need exits for it), PKU (its register is not switched), LA57 (the
    /// core walks four levels), WAITPKG (would stop the processor), CET, key locker.
    LEAF_7_ECX of "7 ECX" {
        Plain: "GFNI" 8, "MOVDIRI" 27, "MOVDIR64B" 28;
        Extended: "VAES" 9, "VPCLMULQDQ" 10;
        Kept: "RDPID" 22;
    }

    /// Leaf 7 subleaf 0 EDX. Hidden: everything about speculation that needs an MSR, TSX controls, AMX.
    LEAF_7_EDX of "7 EDX" {
        Plain: "FSRM" 4, "SERIALIZE" 14;
    }

    /// Leaf 0xd subleaf 1 EAX. Hidden: XSAVES (needs an MSR).
    LEAF_D_EAX of "0xd.1 EAX" {
        Extended: "XSAVEOPT" 0, "XSAVEC" 1, "XGETBV with ECX 1" 2;
    }

    /// Leaf 0x8000_0001 ECX. Hidden: SVM, the extended APIC space, alternative CR8, OSVW, IBS, XOP and TBM (nobody has them
    /// any more), SKINIT, watchdog, LWP, topology extensions, counters, MWAITX. CMP_LEGACY is set by the number of vCPUs.
    EXTENDED_1_ECX of "0x80000001 ECX" {
        Plain: "LAHF" 0, "ABM" 5, "SSE4A" 6, "MISALIGNSSE" 7, "3DNOWPREFETCH" 8;
    }

    /// Leaf 0x8000_0001 EDX, beside the positions it shares with leaf 1. Hidden: FFXSR, 3DNow.
    EXTENDED_1_EDX of "0x80000001 EDX" {
        Plain: "MMXEXT" 22;
        Paging: "NX" 20, "1 GiB pages" 26, "long mode" 29;
        Kept: "SYSCALL" 11, "RDTSCP" 27;
    }

    /// Leaf 0x8000_0008 EBX. Hidden: everything about speculation that needs an MSR, WBNOINVD.
    EXTENDED_8_EBX of "0x80000008 EBX" {
        Plain: "CLZERO" 0;
        Extended: "XSAVEERPTR" 2;
    }
}

/// Positions of leaf 0x8000_0001 EDX that repeat leaf 1 EDX on AMD processors (APM volume 3, appendix E).
pub(super) const REPEATED: u32 = 0x0183_f3ff;
