//! The whole of a virtual CPU, in words no vendor owns.
//!
//! The only form in which a vCPU enters or leaves the hypervisor's vendor folders as a whole: start of day, crash
//! report, entry checker, INIT and start-up IPIs, save and restore.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// General-purpose registers in encoding order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names of the manual")]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// All, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with an encoding; only the low four bits count.
    pub const fn from_encoding(encoding: u8) -> Self {
        Self::ALL[(encoding & 15) as usize]
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes as in a VMCB (APM 15.5.1): bits 0-3 type, 4 S, 5-6 DPL, 7 P, 8 AVL, 9 L, 10 D/B, 11 G. Not present
    /// means unusable.
    pub attributes: u16,
    /// Limit in bytes, expanded by G.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u64,
}

/// Registers of a vCPU. All zero is not a valid state; start from [`VcpuState::pvh`] or [`VcpuState::real_mode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuState {
    /// General-purpose registers in encoding order, RSP included.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// EFER as the guest sees it.
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// Data segment.
    pub ds: Segment,
    /// Extra segment.
    pub es: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// Stack segment.
    pub ss: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Global descriptor table.
    pub gdtr: Table,
    /// Interrupt descriptor table.
    pub idtr: Table,
    /// MSR STAR.
    pub star: u64,
    /// MSR LSTAR.
    pub lstar: u64,
    /// MSR CSTAR.
    pub cstar: u64,
    /// MSR SFMASK.
    pub sfmask: u64,
    /// MSR KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// MSR SYSENTER_CS.
    pub sysenter_cs: u64,
    /// MSR SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// MSR SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// MSR PAT.
    pub pat: u64,
    /// MSR TSC_AUX.
    pub tsc_aux: u64,
    /// Bit 0: interrupts held for one instruction by STI; bit 1: by MOV SS; bit 2: NMIs blocked.
    pub interruptibility: u64,
}

/// PAT after reset (SDM 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

impl VcpuState {
    /// The PVH entry state: 32-bit protected mode, paging off (`arch-x86/hvm/start_info.h`).
    /// `entry` and `start_info` are guest-physical.
    pub fn pvh(entry: u32, start_info: u32) -> Self {
        let data = Segment { selector: 0, attributes: 0xc93, limit: u32::MAX, base: 0 };
        let mut state = Self {
            rip: u64::from(entry),
            rflags: 2,
            cr0: 0x11,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            xcr0: 1,
            pat: PAT_RESET,
            cs: Segment { attributes: 0xc9b, ..data },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment { selector: 0, attributes: 0x08b, limit: 0x67, base: 0 },
            ..Self::default()
        };
        state.gpr[Gpr::Rbx as usize] = u64::from(start_info);
        state
    }

    /// The state after INIT and a start-up IPI with `vector` (SDM 9.1.1, 8.4.4): real mode at `vector << 12`.
    pub fn real_mode(vector: u8) -> Self {
        let data = Segment { selector: 0, attributes: 0x093, limit: 0xffff, base: 0 };
        let table = Table { base: 0, limit: 0xffff };
        Self {
            rflags: 2,
            cr0: 0x6000_0010,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            xcr0: 1,
            pat: PAT_RESET,
            cs: Segment {
                selector: u16::from(vector) << 8,
                attributes: 0x09b,
                limit: 0xffff,
                base: u64::from(vector) << 12,
            },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment { attributes: 0x08b, ..data },
            ldtr: Segment { attributes: 0x082, ..data },
            gdtr: table,
            idtr: table,
            ..Self::default()
        }
    }

    /// The segment registers in encoding order, then LDTR and TR.
    pub const fn segments(&mut self) -> [&mut Segment; 8] {
        let Self { es, cs, ss, ds, fs, gs, ldtr, tr, .. } = self;
        [es, cs, ss, ds, fs, gs, ldtr, tr]
    }
}

impl fmt::Display for VcpuState {
    /// Several lines, for people who read a crash report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        for (chunk, names) in self.gpr.chunks(4).zip(NAMES.chunks(4)) {
            for (value, name) in chunk.iter().zip(names) {
                write!(f, "{name} {value:016x}  ")?;
            }
            writeln!(f)?;
        }
        let rsp = self.gpr[Gpr::Rsp as usize];
        writeln!(f, "rip {:016x}  rflags {:08x}  rsp {rsp:016x}", self.rip, self.rflags)?;
        let Self { cr0, cr2, cr3, cr4, efer, gdtr, idtr, .. } = self;
        writeln!(f, "cr0 {cr0:08x}  cr2 {cr2:016x}  cr3 {cr3:016x}  cr4 {cr4:08x}  efer {efer:04x}")?;
        let names = ["cs", "ss", "ds", "es", "fs", "gs", "tr", "ldtr"];
        let segments = [self.cs, self.ss, self.ds, self.es, self.fs, self.gs, self.tr, self.ldtr];
        for (name, Segment { selector, attributes, limit, base }) in names.into_iter().zip(segments) {
            writeln!(
                f,
                "{name:4} {selector:04x} base {base:016x} limit {limit:08x} attributes {attributes:04x}"
            )?;
        }
        writeln!(f, "gdtr {:016x}+{:04x}  idtr {:016x}+{:04x}", gdtr.base, gdtr.limit, idtr.base, idtr.limit)
    }
}
