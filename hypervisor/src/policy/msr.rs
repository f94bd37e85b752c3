//! MSRs as a guest sees them: one row each, with its reason. What has no row is #GP, which Linux expects of MSRs that it
//! only tries.

use trunnion_protocol::cpuid::HYPERCALL_MSR;

use self::Core::{ApicBase, Efer, HypercallPage, Tsc};

/// What reading gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// The context keeps it (`Context::msr`).
    Context,
    /// Always this.
    Value(u64),
    /// The core knows.
    Core(Core),
    /// #GP.
    Fault,
}

/// What writing does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// The context keeps it (`Context::set_msr`), and says when the value is refused.
    Context,
    /// Nothing.
    Ignore,
    /// Nothing if the value is what reading gives, else #GP.
    Same,
    /// The core acts.
    Core(Core),
    /// #GP.
    Fault,
}

/// The MSRs that are more than a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Core {
    /// The guest's time-stamp counter: host TSC plus offset.
    Tsc,
    /// The local APIC's base ([`apic_base`]).
    ApicBase,
    /// EFER; writes go through [`super::control::efer`].
    Efer,
    /// Takes the address of the hypercall page; reads as 0.
    HypercallPage,
}

/// One MSR.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub msr: u32,
    /// Its name in the manuals.
    pub name: &'static str,
    /// What reading gives.
    pub read: Read,
    /// What writing does.
    pub write: Write,
    /// Why.
    pub reason: &'static str,
}

const fn row(msr: u32, name: &'static str, read: Read, write: Write, reason: &'static str) -> Row {
    Row { msr, name, read, write, reason }
}

const fn kept(msr: u32, name: &'static str) -> Row {
    row(msr, name, Read::Context, Write::Context, "the guest's own; processors switch it or the context does")
}

/// MTRRcap (SDM 12.11.1): no variable and no fixed ranges, write-combining known.
const MTRR_CAP: u64 = 1 << 10;
/// Default type: enabled, write-back.
const MTRR_DEFAULT: u64 = 1 << 11 | 6;
/// Fast strings, no branch trace store, no event sampling.
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// Locked, with nothing enabled.
const FEATURE_CONTROL: u64 = 1;
/// The TSC runs at the rate of the highest performance state; Linux warns otherwise.
const HWCR: u64 = 1 << 24;
/// SVM is switched off.
const VM_CR: u64 = 1 << 4;
/// LFENCE serialises.
const DE_CFG: u64 = 1 << 1;

/// All rows, in ascending order.
pub const TABLE: &[Row] = &[
    row(0x10, "TSC", Read::Core(Tsc), Write::Ignore, "the guest's clock comes from it and never jumps"),
    row(0x17, "PLATFORM_ID", Read::Value(0), Write::Fault, "Linux asks for it with the microcode's revision"),
    row(0x1b, "APIC_BASE", Read::Core(ApicBase), Write::Same, "the APIC stays where it is, and enabled"),
    row(0x3a, "FEATURE_CONTROL", Read::Value(FEATURE_CONTROL), Write::Fault, "locked, without VMX"),
    row(0x79, "BIOS_UPDT_TRIG", Read::Fault, Write::Ignore, "microcode is the host's"),
    row(0x8b, "PATCH_LEVEL", Read::Value(0), Write::Ignore, "microcode is the host's"),
    row(0xce, "PLATFORM_INFO", Read::Value(0), Write::Fault, "no CPUID faulting, no ratios"),
    row(0xfe, "MTRRcap", Read::Value(MTRR_CAP), Write::Fault, "memory types come from the host"),
    kept(0x174, "SYSENTER_CS"),
    kept(0x175, "SYSENTER_ESP"),
    kept(0x176, "SYSENTER_EIP"),
    row(0x179, "MCG_CAP", Read::Value(0), Write::Fault, "no machine-check banks"),
    row(0x17a, "MCG_STATUS", Read::Value(0), Write::Ignore, "no machine check is in progress"),
    row(0x1a0, "MISC_ENABLE", Read::Value(MISC_ENABLE), Write::Ignore, "Linux reads it on all of Intel's"),
    row(0x1d9, "DEBUGCTL", Read::Value(0), Write::Ignore, "no branch records"),
    kept(0x277, "PAT"),
    row(0x2ff, "MTRRdefType", Read::Value(MTRR_DEFAULT), Write::Ignore, "write-back, and so it stays"),
    row(HYPERCALL_MSR, "hypercall page", Read::Core(HypercallPage), Write::Core(HypercallPage), "the core's"),
    row(0xc000_0080, "EFER", Read::Core(Efer), Write::Core(Efer), "the guest's own, by the rules"),
    kept(0xc000_0081, "STAR"),
    kept(0xc000_0082, "LSTAR"),
    kept(0xc000_0083, "CSTAR"),
    kept(0xc000_0084, "SFMASK"),
    kept(0xc000_0100, "FS_BASE"),
    kept(0xc000_0101, "GS_BASE"),
    kept(0xc000_0102, "KERNEL_GS_BASE"),
    kept(0xc000_0103, "TSC_AUX"),
    row(0xc001_0010, "SYSCFG", Read::Value(0), Write::Ignore, "no memory encryption, no MTRR extensions"),
    row(0xc001_0015, "HWCR", Read::Value(HWCR), Write::Ignore, "Linux reads it on every AMD processor"),
    row(0xc001_001a, "TOP_MEM", Read::Value(0), Write::Fault, "the memory map says where memory ends"),
    row(0xc001_001d, "TOP_MEM2", Read::Value(0), Write::Fault, "the memory map says where memory ends"),
    row(0xc001_001f, "NB_CFG", Read::Value(0), Write::Ignore, "Linux opens PCI's extended space here"),
    row(0xc001_0055, "INTPEND", Read::Value(0), Write::Ignore, "Linux looks for the C1E defect here"),
    row(0xc001_0058, "MMIO_CONF_BASE", Read::Value(0), Write::Fault, "no configuration space in memory"),
    row(0xc001_0114, "VM_CR", Read::Value(VM_CR), Write::Fault, "SVM cannot be switched on"),
    row(0xc001_1029, "DE_CFG", Read::Value(DE_CFG), Write::Ignore, "Linux sets this bit, the host's"),
];

/// Where the rows of the low MSRs are, plus one: some of them are read often.
const LOW: [u8; 0x100] = {
    let mut low = [0; 0x100];
    let mut row = 0;
    while row < TABLE.len() && TABLE[row].msr < 0x100 {
        low[TABLE[row].msr as usize] = row as u8 + 1;
        row += 1;
    }
    low
};

/// The row of an MSR; `None` is #GP for reading and writing.
pub fn find(msr: u32) -> Option<&'static Row> {
    TABLE.get(match LOW.get(msr as usize) {
        Some(&row) => usize::from(row).checked_sub(1)?,
        None => TABLE.binary_search_by(|row| row.msr.cmp(&msr)).ok()?,
    })
}

/// What the APIC base of a vCPU reads as: the usual place, enabled, the first vCPU being the boot processor.
pub const fn apic_base(vcpu: u32) -> u64 {
    0xfee0_0000 | 1 << 11 | if vcpu == 0 { 1 << 8 } else { 0 }
}

/// The hypercall page that a value of its register asks for: the guest frame, or `None` for #GP (bits 11:0 are the index
/// of the page, and there is only the first).
pub const fn hypercall_frame(value: u64) -> Option<trunnion_protocol::address::Gfn> {
    if value & 0xfff == 0 { Some(trunnion_protocol::address::Gfn(value >> 12)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found() {
        assert!(TABLE.is_sorted_by_key(|row| row.msr));
        for row in TABLE {
            assert_eq!(find(row.msr).map(|found| found.name), Some(row.name));
            assert!(!row.reason.is_empty());
            // What the context keeps it keeps both ways, and a write can only be the same as something readable.
            assert_eq!(row.read == Read::Context, row.write == Write::Context);
            assert!(row.write != Write::Same || row.read != Read::Fault);
        }
        for unknown in [0, 0x11, 0x48, 0x49, 0x3b, 0x480, 0x6e0, 0x800, 0x8ff, 0xda0, 0x4000_0001, u32::MAX] {
            assert!(find(unknown).is_none(), "{unknown:#x}");
        }
    }

    #[test]
    fn values() {
        assert_eq!((apic_base(0), apic_base(1)), (0xfee0_0900, 0xfee0_0800));
        assert_eq!(hypercall_frame(0x1234_5000), Some(trunnion_protocol::address::Gfn(0x12345)));
        assert_eq!(hypercall_frame(0x1234_5001), None);
    }
}
