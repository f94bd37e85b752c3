//! CPUID as a guest sees it.
//!
//! A domain's leaves are computed once, from the host's and the feature lists, and kept in a small array; at an exit only
//! what differs between vCPUs or follows a register is put in. Leaves without a row read as zero, also those above the
//! highest leaf (as on AMD processors; Intel's would repeat the highest).
//!
//! The vendor is the host's: guests choose their hypercall instruction by it. Each vCPU is a core of one package, and
//! its APIC number is twice its own.

use trunnion_protocol::cpuid as leaves;

use super::features::{
    EXTENDED_1_ECX, EXTENDED_1_EDX, EXTENDED_8_EBX, LEAF_1_ECX, LEAF_1_EDX, LEAF_7_EBX, LEAF_7_ECX,
    LEAF_7_EDX, LEAF_D_EAX, REPEATED, mask,
};
use super::{VERSION, apic_id};
use crate::prelude::*;

/// Leaf 1 ECX: XSAVE.
const XSAVE: u32 = 1 << 26;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// Leaf 1 EDX: more than one processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX: they are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0007 EDX: the TSC never changes its rate.
const INVARIANT_TSC: u32 = 1 << 8;
/// XCR0: x87, SSE, AVX. Only these are switched.
const XSTATE: u32 = 7;
/// Bytes of an XSAVE area with x87 and SSE, and where AVX ends (SDM volume 1, 13.4 and 13.5).
const XSAVE_LEGACY: u32 = 576;
const XSAVE_AVX: u32 = 832;

/// "AuthenticAMD" and "HygonGenuine" begin with these words of EBX.
const AMD: u32 = 0x6874_7541;
const HYGON: u32 = 0x6f67_7948;

/// Highest basic leaf that is shown: extended state. Those above are power, trace and frequencies that may lie.
const LAST_BASIC: u32 = 0xd;
/// Highest extended leaf that is shown.
const LAST_EXTENDED: u32 = 0x8000_0008;

/// What a domain's leaves depend on besides the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The domain.
    pub id: DomainId,
    /// vCPUs, at least 1.
    pub vcpus: u32,
    /// TSC ticks in a millisecond.
    pub tsc_khz: u64,
    /// Whether the TSC is invariant and agrees between CPUs.
    pub tsc_is_stable: bool,
}

impl Shape {
    /// Bits of the numbers of the local APICs.
    const fn apic_bits(self) -> u32 {
        1 + self.vcpus.next_power_of_two().ilog2()
    }
}

/// What a vCPU's answer depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Its number.
    pub vcpu: u32,
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// Leaves with their first subleaves, at fixed places.
const BASIC: usize = 0;
const EXTENDED: usize = BASIC + LAST_BASIC as usize + 1;
const CACHES: usize = EXTENDED + (LAST_EXTENDED & 0xff) as usize + 1;
const TOPOLOGY: usize = CACHES + 4;
const XSTATES: usize = TOPOLOGY + 2;
const PLACES: usize = XSTATES + 3;

/// A domain's leaves.
#[derive(Clone, Debug)]
pub struct Cpuid {
    leaves: [CpuidResult; PLACES],
    shape: Shape,
}

const NOTHING: CpuidResult = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };

impl Cpuid {
    /// The leaves of a domain. `host` is the processor's own CPUID.
    pub fn new(host: impl Fn(u32, u32) -> CpuidResult, shape: Shape) -> Self {
        let shape = Shape { vcpus: shape.vcpus.max(1), tsc_khz: shape.tsc_khz.max(1), ..shape };
        let first = host(0, 0);
        let amd = first.ebx == AMD || first.ebx == HYGON;
        let basic = first.eax.min(LAST_BASIC);
        let extended = host(0x8000_0000, 0);
        let extended_last =
            if extended.eax & 0xffff_0000 == 0x8000_0000 { extended.eax.min(LAST_EXTENDED) } else { 0 };
        let mut leaves = [NOTHING; PLACES];
        for leaf in 0..=basic {
            leaves[BASIC + leaf as usize] = basic_leaf(host(leaf, 0), leaf, basic, shape);
        }
        for leaf in 0x8000_0000..=extended_last {
            leaves[EXTENDED + (leaf & 0xff) as usize] =
                extended_leaf(host(leaf, 0), leaf, extended_last, shape, amd);
        }
        if basic >= 4 {
            for subleaf in 0..4 {
                leaves[CACHES + subleaf as usize] = cache(host(4, subleaf), shape);
            }
        }
        if basic >= 0xb {
            leaves[TOPOLOGY] = CpuidResult { eax: 1, ebx: 1, ecx: 0x100, edx: 0 };
            let bits = shape.apic_bits();
            leaves[TOPOLOGY + 1] = CpuidResult { eax: bits, ebx: shape.vcpus, ecx: 0x201, edx: 0 };
        }
        if basic >= 0xd && leaves[BASIC + 1].ecx & XSAVE != 0 {
            let components = host(0xd, 0).eax & XSTATE;
            let ecx = if components & 4 != 0 { XSAVE_AVX } else { XSAVE_LEGACY };
            leaves[XSTATES] = CpuidResult { eax: components, ebx: 0, ecx, edx: 0 };
            leaves[XSTATES + 1] = CpuidResult { eax: host(0xd, 1).eax & mask(LEAF_D_EAX), ..NOTHING };
            if components & 4 != 0 {
                leaves[XSTATES + 2] = CpuidResult { eax: 256, ebx: XSAVE_LEGACY, ..NOTHING };
            }
        }
        Self { leaves, shape }
    }

    /// The answer to a vCPU.
    pub fn answer(&self, leaf: u32, subleaf: u32, now: Now) -> CpuidResult {
        match leaf {
            1 => {
                let mut result = self.at(BASIC + 1);
                result.ebx |= apic_id(now.vcpu) << 24;
                if now.cr4 & CR4_OSXSAVE != 0 {
                    result.ecx |= (result.ecx & XSAVE) << 1;
                }
                result
            }
            4 if subleaf < 4 => self.at(CACHES + subleaf as usize),
            7 if subleaf != 0 => NOTHING,
            0xb => {
                let edx = if self.at(TOPOLOGY).ebx == 0 { 0 } else { apic_id(now.vcpu) };
                match subleaf {
                    0 | 1 => CpuidResult { edx, ..self.at(TOPOLOGY + subleaf as usize) },
                    _ => CpuidResult { ecx: subleaf & 0xff, edx, ..NOTHING },
                }
            }
            0xd => self.extended_state(subleaf, now),
            4 => NOTHING,
            0..=LAST_BASIC => self.at(BASIC + leaf as usize),
            0x8000_0000..=LAST_EXTENDED => self.at(EXTENDED + (leaf & 0xff) as usize),
            leaves::BASE..=0x4000_00ff => self.platform(leaf - leaves::BASE, subleaf, now),
            _ => NOTHING,
        }
    }

    fn at(&self, place: usize) -> CpuidResult {
        self.leaves.get(place).copied().unwrap_or(NOTHING)
    }

    fn extended_state(&self, subleaf: u32, now: Now) -> CpuidResult {
        let size = if now.xcr0 & 4 != 0 { XSAVE_AVX } else { XSAVE_LEGACY };
        match subleaf {
            0 if self.at(XSTATES).eax != 0 => CpuidResult { ebx: size, ..self.at(XSTATES) },
            // The compacted form has the same size: AVX follows the header directly.
            1 if self.at(XSTATES + 1).eax & 2 != 0 => CpuidResult { ebx: size, ..self.at(XSTATES + 1) },
            0..=2 => self.at(XSTATES + subleaf as usize),
            _ => NOTHING,
        }
    }

    fn platform(&self, leaf: u32, subleaf: u32, now: Now) -> CpuidResult {
        let shape = self.shape;
        let rdtscp = self.at(EXTENDED + 1).edx >> 27 & 1;
        match (leaf, subleaf) {
            (leaves::SIGNATURE, _) => {
                let [ebx, ecx, edx] = leaves::SIGNATURE_WORDS;
                CpuidResult { eax: leaves::BASE + leaves::MAX_LEAF, ebx, ecx, edx }
            }
            (leaves::VERSION, _) => CpuidResult { eax: VERSION, ..NOTHING },
            (leaves::HYPERCALLS, _) => CpuidResult { eax: 1, ebx: leaves::HYPERCALL_MSR, ..NOTHING },
            (leaves::TIME, 0) => CpuidResult {
                eax: if shape.tsc_is_stable { leaves::TIME_RELIABLE } else { 0 }
                    | (rdtscp * leaves::TIME_RDTSCP),
                ecx: shape.tsc_khz as u32,
                ..NOTHING
            },
            (leaves::TIME, 1) => {
                let (ecx, shift) = TimeInfo::scale(shape.tsc_khz.saturating_mul(1000)).unwrap_or((1, 0));
                CpuidResult { ecx, edx: i32::from(shift) as u32, ..NOTHING }
            }
            (leaves::TIME, 2) => CpuidResult { eax: shape.tsc_khz as u32, ..NOTHING },
            (leaves::HVM, 0) => CpuidResult {
                eax: leaves::HVM_VCPU_ID | leaves::HVM_DOMAIN_ID,
                ebx: now.vcpu,
                ecx: u32::from(shape.id.0),
                edx: 0,
            },
            _ => NOTHING,
        }
    }

    /// Leaf 1 ECX, without what follows a register. For the rules of control registers.
    pub fn leaf_1_ecx(&self) -> u32 {
        self.at(BASIC + 1).ecx
    }

    /// Leaf 7 EBX.
    pub fn leaf_7_ebx(&self) -> u32 {
        self.at(BASIC + 7).ebx
    }

    /// Leaf 0x8000_0001 EDX.
    pub fn extended_1_edx(&self) -> u32 {
        self.at(EXTENDED + 1).edx
    }

    /// The components of extended state that a guest may enable in XCR0.
    pub fn xcr0(&self) -> u64 {
        u64::from(self.at(XSTATES).eax)
    }
}

fn basic_leaf(own: CpuidResult, leaf: u32, last: u32, shape: Shape) -> CpuidResult {
    match leaf {
        // Vendor.
        0 => CpuidResult { eax: last, ..own },
        1 => CpuidResult {
            eax: own.eax,
            ebx: own.ebx & 0xff00 | apic_id(shape.vcpus).min(255) << 16,
            ecx: own.ecx & mask(LEAF_1_ECX) | leaves::HYPERVISOR,
            edx: own.edx & mask(LEAF_1_EDX) | if shape.vcpus > 1 { HTT } else { 0 },
        },
        // Cache descriptors.
        2 => own,
        7 => CpuidResult {
            eax: 0,
            ebx: own.ebx & mask(LEAF_7_EBX),
            ecx: own.ecx & mask(LEAF_7_ECX),
            edx: own.edx & mask(LEAF_7_EDX),
        },
        _ => NOTHING,
    }
}

fn extended_leaf(own: CpuidResult, leaf: u32, last: u32, shape: Shape, amd: bool) -> CpuidResult {
    match leaf & 0xff {
        0 => CpuidResult { eax: last, ..own },
        1 => {
            let repeated = if amd { own.edx & REPEATED & mask(LEAF_1_EDX) } else { 0 };
            let cores = if amd && shape.vcpus > 1 { CMP_LEGACY } else { 0 };
            CpuidResult {
                eax: own.eax,
                ebx: own.ebx,
                ecx: own.ecx & mask(EXTENDED_1_ECX) | cores,
                edx: own.edx & mask(EXTENDED_1_EDX) | repeated,
            }
        }
        // Name, and sizes of the caches.
        2..=6 => own,
        7 => {
            let edx = if shape.tsc_is_stable { own.edx & INVARIANT_TSC } else { 0 };
            CpuidResult { edx, ..NOTHING }
        }
        8 => {
            // 48 bits at most: four levels of second-level tables translate no more.
            let eax = (own.eax & 0xff).min(48) | 48 << 8;
            let ecx = if amd { shape.apic_bits() << 12 | (apic_id(shape.vcpus) - 1).min(255) } else { 0 };
            CpuidResult { eax, ebx: own.ebx & mask(EXTENDED_8_EBX), ecx, edx: 0 }
        }
        _ => NOTHING,
    }
}

/// A cache (SDM, CPUID leaf 4): the first two levels belong to a core, the others to the package.
fn cache(own: CpuidResult, shape: Shape) -> CpuidResult {
    if own.eax & 0x1f == 0 {
        return NOTHING;
    }
    let package = (1 << shape.apic_bits().min(6)) - 1;
    let sharing = if own.eax >> 5 & 7 <= 2 { 1 } else { package };
    CpuidResult { eax: own.eax & 0x3ff | sharing << 14 | package << 26, ..own }
}

#[cfg(test)]
mod tests;
