//! Rules for writes to control registers: what a processor with the features that the guest is shown would accept.
//! A refusal is #GP(0). SDM 2.5 and 4.1, APM 3.1.

use super::cpuid::Cpuid;

const PE: u64 = 1 << 0;
const MP_TO_TS: u64 = 0xe;
const ET: u64 = 1 << 4;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
const CR0_KNOWN: u64 = 0xe005_003f;

const PAE: u64 = 1 << 5;
const PCE_AND_BELOW: u64 = 0x1ff;
const OSFXSR: u64 = 1 << 9;
const OSXMMEXCPT: u64 = 1 << 10;
const FSGSBASE: u64 = 1 << 16;
const OSXSAVE: u64 = 1 << 18;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;

const SCE: u64 = 1 << 0;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;

/// The write is refused: #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The registers that the rules look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// The code segment is 64-bit (CS.L).
    pub long: bool,
}

/// CR0 and EFER after a write of CR0: paging switches long mode on and off.
pub const fn cr0(now: Registers, value: u64) -> Result<(u64, u64), Refused> {
    let paging = value & PG != 0;
    if value & !0xffff_ffff != 0 || (paging && value & PE == 0) || (value & NW != 0 && value & CD == 0) {
        return Err(Refused);
    }
    let mut efer = now.efer & !LMA;
    if paging && efer & LME != 0 {
        if now.cr4 & PAE == 0 || (now.cr0 & PG == 0 && now.long) {
            return Err(Refused);
        }
        efer |= LMA;
    }
    if !paging && now.cr0 & PG != 0 && now.long {
        return Err(Refused);
    }
    // Reserved bits of the low half are ignored, and ET is always set.
    Ok((value & CR0_KNOWN | ET, efer))
}

/// CR0 after LMSW, which changes PE (never back to 0), MP, EM and TS.
pub const fn lmsw(now: Registers, value: u16) -> u64 {
    now.cr0 & !MP_TO_TS | value as u64 & MP_TO_TS | (now.cr0 | value as u64) & PE
}

/// CR0 after CLTS.
pub const fn clts(now: Registers) -> u64 {
    now.cr0 & !8
}

/// The bits of CR4 that a guest may set.
pub fn cr4_allowed(cpuid: &Cpuid) -> u64 {
    let (one, seven) = (cpuid.leaf_1_ecx(), cpuid.leaf_7_ebx());
    let mut allowed = PCE_AND_BELOW | OSFXSR | OSXMMEXCPT;
    for (is_shown, bit) in [
        (seven & 1 != 0, FSGSBASE),
        (one & 1 << 26 != 0 && cpuid.xcr0() != 0, OSXSAVE),
        (seven & 1 << 7 != 0, SMEP),
        (seven & 1 << 20 != 0, SMAP),
    ] {
        allowed |= if is_shown { bit } else { 0 };
    }
    allowed
}

/// CR4 after a write. `allowed` is what [`cr4_allowed`] gave.
pub const fn cr4(now: Registers, value: u64, allowed: u64) -> Result<u64, Refused> {
    if value & !allowed != 0 || (now.efer & LMA != 0 && value & PAE == 0) {
        return Err(Refused);
    }
    Ok(value)
}

/// EFER after a write: system calls, long mode and no-execute, as CPUID shows them. LMA cannot be written, and long mode
/// cannot be switched while paging is on.
pub fn efer(now: Registers, value: u64, cpuid: &Cpuid) -> Result<u64, Refused> {
    let features = cpuid.extended_1_edx();
    let mut allowed = LMA;
    for (feature, bit) in [(11, SCE), (20, NXE), (29, LME)] {
        allowed |= if features & 1 << feature != 0 { bit } else { 0 };
    }
    if value & !allowed != 0 || (now.cr0 & PG != 0 && (value ^ now.efer) & LME != 0) {
        return Err(Refused);
    }
    Ok(value & !LMA | now.efer & LMA)
}

/// XCR0 after XSETBV with `index` in ECX, by code at privilege level `cpl`: x87 always, AVX only with SSE.
pub fn xcr0(cpl: u8, index: u32, value: u64, cpuid: &Cpuid) -> Result<u64, Refused> {
    let bad = value & !cpuid.xcr0() != 0 || value & 1 == 0 || value & 6 == 4;
    if cpl != 0 || index != 0 || bad { Err(Refused) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::super::cpuid::{Now, Shape};
    use super::*;
    use crate::seam::CpuidResult;
    use trunnion_protocol::id::DomainId;

    const REAL: Registers = Registers { cr0: 0x6000_0010, cr4: 0, efer: 0, long: false };

    fn modern() -> Cpuid {
        let host = |leaf: u32, _: u32| match leaf {
            0 => CpuidResult { eax: 0x16, ..CpuidResult::default() },
            0x8000_0000 => CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() },
            _ => CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        };
        Cpuid::new(host, Shape { id: DomainId(1), vcpus: 1, tsc_khz: 1, tsc_is_stable: false })
    }

    #[test]
    fn into_long_mode_and_out() {
        let mut now = REAL;
        let cpuid = modern();
        now.cr0 = cr0(now, 0x11).unwrap().0;
        assert_eq!(cr0(Registers { efer: LME, ..now }, 0x8000_0011), Err(Refused), "PAE is missing");
        now.cr4 = cr4(now, PAE, cr4_allowed(&cpuid)).unwrap();
        now.efer = efer(now, LME | NXE | SCE, &cpuid).unwrap();
        (now.cr0, now.efer) = cr0(now, 0x8000_0011).unwrap();
        assert_eq!(now.efer, LME | NXE | SCE | LMA);
        assert_eq!(efer(now, NXE | SCE, &cpuid), Err(Refused), "paging is on");
        assert_eq!(efer(now, LME | NXE, &cpuid), Ok(LME | NXE | LMA));
        assert_eq!(cr4(now, 0, cr4_allowed(&cpuid)), Err(Refused));
        now.long = true;
        assert_eq!(cr0(now, 0x11), Err(Refused), "from 64-bit code");
        now.long = false;
        assert_eq!(cr0(now, 0x11), Ok((0x11, LME | NXE | SCE)));
    }

    #[test]
    fn impossible_values() {
        for bad in [PG, NW | 1, 1 << 32, 1 << 63 | 1] {
            assert_eq!(cr0(REAL, bad), Err(Refused), "{bad:#x}");
        }
        assert_eq!(cr0(REAL, 0), Ok((ET, 0)));
        assert_eq!(cr0(REAL, 0x1_ffc0), Ok((1 << 16 | ET, 0)), "reserved bits are ignored");
        let cpuid = modern();
        let allowed = cr4_allowed(&cpuid);
        for bad in [11, 12, 13, 14, 17, 22, 23, 24, 32, 63] {
            assert_eq!(cr4(REAL, 1 << bad, allowed), Err(Refused), "CR4 bit {bad}");
        }
        assert_eq!(
            cr4(REAL, SMEP | SMAP | OSXSAVE | FSGSBASE, allowed),
            Ok(SMEP | SMAP | OSXSAVE | FSGSBASE)
        );
        for bad in [12, 13, 14, 15, 1] {
            assert_eq!(efer(REAL, 1 << bad, &cpuid), Err(Refused), "EFER bit {bad}");
        }
    }

    #[test]
    fn lmsw_cannot_leave_protected_mode() {
        let protected = Registers { cr0: 0x11, ..REAL };
        assert_eq!(lmsw(protected, 0), 0x11);
        assert_eq!(lmsw(REAL, 0xffff), 0x6000_001f);
        assert_eq!(clts(Registers { cr0: 0x19, ..REAL }), 0x11);
    }

    #[test]
    fn extended_state() {
        let cpuid = modern();
        for good in [1, 3, 7] {
            assert_eq!(xcr0(0, 0, good, &cpuid), Ok(good));
        }
        for (cpl, index, value) in
            [(3, 0, 1), (0, 1, 1), (0, 0, 0), (0, 0, 2), (0, 0, 5), (0, 0, 15), (0, 0, u64::MAX)]
        {
            assert_eq!(xcr0(cpl, index, value, &cpuid), Err(Refused));
        }
        assert_eq!(cpuid.answer(0xd, 0, Now { vcpu: 0, cr4: 0, xcr0: 1 }).eax, 7);
    }
}
