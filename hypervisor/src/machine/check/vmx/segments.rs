//! Rules for the guest's segment registers (SDM 3, 26.3.1.2).

use super::View;
use crate::machine::check::{is_canonical, rules, when};
use crate::machine::vmx::control::{self as field, secondary};

const ES: u32 = 0;
const CS: u32 = 1;
const SS: u32 = 2;
const DS: u32 = 3;
const FS: u32 = 4;
const GS: u32 = 5;
const LDTR: u32 = 6;
const TR: u32 = 7;

/// One segment register of the copy.
struct Segment {
    selector: u64,
    base: u64,
    limit: u64,
    rights: u64,
}

impl Segment {
    fn of(v: &View, index: u32) -> Self {
        Self {
            selector: v.get(field::GUEST_ES + 2 * index),
            base: v.get(field::GUEST_ES_BASE + 2 * index),
            limit: v.get(field::GUEST_ES_LIMIT + 2 * index),
            rights: v.get(field::GUEST_ES_RIGHTS + 2 * index),
        }
    }

    fn is_usable(&self) -> bool {
        self.rights & u64::from(field::UNUSABLE) == 0
    }

    fn kind(&self) -> u64 {
        self.rights & 15
    }

    fn privilege(&self) -> u64 {
        self.rights >> 5 & 3
    }

    /// Granularity and limit fit: low bits all ones with G, high bits zero without.
    fn is_granular(&self) -> bool {
        let large = self.rights & 1 << 15 != 0;
        !(large && self.limit & 0xfff != 0xfff || !large && self.limit & 0xfff0_0000 != 0)
    }
}

/// The first of `list` that `broken` holds for, outside virtual-8086 mode.
fn any(v: &View, list: &[u32], broken: impl Fn(&Segment) -> bool) -> Option<u64> {
    if v.is_v86() {
        return None;
    }
    list.iter().map(|index| Segment::of(v, *index)).find(|s| broken(s)).map(|s| s.rights)
}

fn is_unrestricted(v: &View) -> bool {
    v.second(secondary::UNRESTRICTED)
}

rules! {
    /// The rules, in the manual's order.
    pub(super) const RULES;
    "guest TR selector", "TI is zero", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, TR); when(s.selector & 4 != 0, s.selector) };
    "guest LDTR selector", "TI is zero when it is usable", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, LDTR); when(s.is_usable() && s.selector & 4 != 0, s.selector) };
    "guest SS selector", "its RPL is CS's, unless the guest is unrestricted", "SDM 26.3.1.2" =>
        |v| { let (ss, cs) = (Segment::of(v, SS), Segment::of(v, CS)); when(!v.is_v86() && !is_unrestricted(v) &&
            (ss.selector ^ cs.selector) & 3 != 0, ss.selector) };
    "guest segment bases", "in virtual-8086 mode each is its selector times 16", "SDM 26.3.1.2" =>
        |v| { (ES..=GS).map(|i| Segment::of(v, i)).find_map(|s| when(v.is_v86() && s.base != s.selector << 4,
            s.base)) };
    "guest TR, FS and GS bases", "they are canonical", "SDM 26.3.1.2" =>
        |v| { [TR, FS, GS].map(|i| Segment::of(v, i).base).into_iter().find_map(|base| when(!is_canonical(base),
            base)) };
    "guest LDTR base", "it is canonical when it is usable", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, LDTR); when(s.is_usable() && !is_canonical(s.base), s.base) };
    "guest CS base", "bits 32 to 63 are zero", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, CS); when(s.base >> 32 != 0, s.base) };
    "guest SS, DS and ES bases", "bits 32 to 63 are zero in usable segments", "SDM 26.3.1.2" =>
        |v| { [SS, DS, ES].map(|i| Segment::of(v, i)).into_iter().find_map(|s| when(s.is_usable() && s.base >> 32
            != 0, s.base)) };
    "guest segment limits", "in virtual-8086 mode each is 0xffff", "SDM 26.3.1.2" =>
        |v| { (ES..=GS).map(|i| Segment::of(v, i)).find_map(|s| when(v.is_v86() && s.limit != 0xffff, s.limit)) };
    "guest segment rights", "in virtual-8086 mode each is 0xf3", "SDM 26.3.1.2" =>
        |v| { (ES..=GS).map(|i| Segment::of(v, i)).find_map(|s| when(v.is_v86() && s.rights != 0xf3, s.rights)) };
    "guest CS rights", "it is accessed code; accessed writable data too in an unrestricted guest", "SDM 26.3.1.2" =>
        |v| { any(v, &[CS], |s| !(matches!(s.kind(), 9 | 11 | 13 | 15) || s.kind() == 3 && is_unrestricted(v))) };
    "guest SS rights", "it is accessed writable data when it is usable", "SDM 26.3.1.2" =>
        |v| any(v, &[SS], |s| s.is_usable() && !matches!(s.kind(), 3 | 7));
    "guest DS, ES, FS and GS rights", "usable ones are accessed, and readable if they are code", "SDM 26.3.1.2" =>
        |v| { any(v, &[DS, ES, FS, GS], |s| s.is_usable() && (s.kind() & 1 == 0 || s.kind() & 0b1010 == 0b1000)) };
    "guest segment rights", "S is set in CS and in usable segments", "SDM 26.3.1.2" =>
        |v| { any(v, &[CS], |s| s.rights & 16 == 0).or_else(|| any(v, &[SS, DS, ES, FS, GS], |s| s.is_usable() &&
            s.rights & 16 == 0)) };
    "guest CS rights", "DPL fits the type: 0 for data, SS's for plain code, at most SS's for conforming code", "SDM 26.3.1.2" =>
        |v| { let ss = Segment::of(v, SS).privilege(); any(v, &[CS], |s| match s.kind() { 3 => s.privilege() != 0,
            9 | 11 => s.privilege() != ss, 13 | 15 => s.privilege() > ss, _ => false, }) };
    "guest SS rights", "DPL is the selector's RPL, unless the guest is unrestricted", "SDM 26.3.1.2" =>
        |v| any(v, &[SS], |s| !is_unrestricted(v) && s.privilege() != s.selector & 3);
    "guest SS rights", "DPL is 0 in real mode and with a data segment in CS", "SDM 26.3.1.2" =>
        |v| { let cs = Segment::of(v, CS).kind(); any(v, &[SS], |s| (cs == 3 || !v.is_protected()) && s.privilege()
            != 0) };
    "guest segment rights", "CS and usable segments are present", "SDM 26.3.1.2" =>
        |v| { any(v, &[CS], |s| s.rights & 0x80 == 0).or_else(|| any(v, &[SS, DS, ES, FS, GS], |s| s.is_usable() &&
            s.rights & 0x80 == 0)) };
    "guest segment rights", "reserved bits are zero", "SDM 26.3.1.2" =>
        |v| { any(v, &[CS], |s| s.rights & 0xfffe_0f00 != 0).or_else(|| any(v, &[SS, DS, ES, FS, GS], |s|
            s.is_usable() && s.rights & 0xfffe_0f00 != 0)) };
    "guest CS rights", "D is clear in 64-bit mode", "SDM 26.3.1.2" =>
        |v| any(v, &[CS], |s| v.is_long() && s.rights & 0x6000 == 0x6000);
    "guest segment rights", "G agrees with the limit", "SDM 26.3.1.2" =>
        |v| { any(v, &[CS], |s| !s.is_granular()).or_else(|| any(v, &[SS, DS, ES, FS, GS], |s| s.is_usable() &&
            !s.is_granular())) };
    "guest TR rights", "it is a busy TSS: 16-bit or 32-bit, or 64-bit in IA-32e mode", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, TR); when(!(s.kind() == 11 || s.kind() == 3 && !v.is_long()), s.rights) };
    "guest TR rights", "S is clear, P is set, it is usable, reserved bits are zero", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, TR); when(s.rights & 0xffff_0f90 != 0x80, s.rights) };
    "guest TR rights", "G agrees with the limit", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, TR); when(!s.is_granular(), s.rights) };
    "guest LDTR rights", "a usable one is a present LDT with no reserved bit set", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, LDTR); when(s.is_usable() && s.rights & 0xfffe_0f9f != 0x82, s.rights) };
    "guest LDTR rights", "G agrees with the limit in a usable one", "SDM 26.3.1.2" =>
        |v| { let s = Segment::of(v, LDTR); when(s.is_usable() && !s.is_granular(), s.rights) };
}
