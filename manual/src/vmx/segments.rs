//! Rules for the guest's segment registers (SDM 3, 26.3.1.2).

use super::View;
use crate::vmx::fields::{self as field, secondary};
use crate::{Rule, is_canonical};

/// The registers, by their place in each group of fields.
#[derive(Clone, Copy)]
enum Name {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

/// One segment register of the copy.
struct Segment {
    selector: u64,
    base: u64,
    limit: u64,
    rights: u64,
}

impl Segment {
    fn of(v: &View, name: Name) -> Self {
        let index = 2 * name as u32;
        Self {
            selector: v.get(field::GUEST_ES + index),
            base: v.get(field::GUEST_ES_BASE + index),
            limit: v.get(field::GUEST_ES_LIMIT + index),
            rights: v.get(field::GUEST_ES_RIGHTS + index),
        }
    }

    fn is_unusable(&self) -> bool {
        self.rights & u64::from(field::UNUSABLE) != 0
    }

    fn kind(&self) -> u64 {
        self.rights & 15
    }

    fn privilege(&self) -> u64 {
        self.rights >> 5 & 3
    }

    /// Granularity and limit fit: low bits all ones with G, high bits zero without.
    fn is_granular(&self) -> bool {
        if self.rights & 1 << 15 != 0 { self.limit & 0xfff == 0xfff } else { self.limit & 0xfff0_0000 == 0 }
    }
}

fn is_unrestricted(v: &View) -> bool {
    v.second(secondary::UNRESTRICTED)
}

/// The table: registers, the part of them that a rule is about, the rule in words and as a condition.
macro_rules! segments {
    ($($part:ident of $($name:ident)+: $rule:literal, |$v:ident, $s:ident| $holds:expr;)*) => {
        /// The rules, in the manual's order.
        pub(super) const RULES: &[Rule<View>] = &[$($(Rule {
            field: concat!(stringify!($name), " ", stringify!($part)),
            rule: $rule,
            section: "SDM 26.3.1.2",
            value: |view| Segment::of(view, Name::$name).$part,
            holds: |$v| { let $s = Segment::of($v, Name::$name); $holds },
        },)+)*];
    };
}

segments! {
    selector of Tr: "TI is zero", |v, s| s.selector & 4 == 0;
    selector of Ldtr: "TI is zero when it is usable", |v, s| s.is_unusable() || s.selector & 4 == 0;
    selector of Ss: "its RPL is CS's, unless the guest is unrestricted", |v, s| {
        v.is_v86() || is_unrestricted(v) || (s.selector ^ Segment::of(v, Name::Cs).selector) & 3 == 0
    };
    base of Es Cs Ss Ds Fs Gs: "in virtual-8086 mode each is its selector times 16",
        |v, s| !v.is_v86() || s.base == s.selector << 4;
    base of Tr Fs Gs: "it is canonical", |v, s| is_canonical(s.base);
    base of Ldtr: "it is canonical when it is usable", |v, s| s.is_unusable() || is_canonical(s.base);
    base of Cs: "bits 32 to 63 are zero", |v, s| s.base >> 32 == 0;
    base of Ss Ds Es: "bits 32 to 63 are zero when it is usable", |v, s| s.is_unusable() || s.base >> 32 == 0;
    limit of Es Cs Ss Ds Fs Gs: "in virtual-8086 mode each is 0xffff", |v, s| !v.is_v86() || s.limit == 0xffff;
    rights of Es Cs Ss Ds Fs Gs: "in virtual-8086 mode each is 0xf3", |v, s| !v.is_v86() || s.rights == 0xf3;
    rights of Cs: "it is accessed code; accessed writable data too in an unrestricted guest", |v, s| {
        v.is_v86() || matches!(s.kind(), 9 | 11 | 13 | 15) || s.kind() == 3 && is_unrestricted(v)
    };
    rights of Ss: "it is accessed writable data when it is usable",
        |v, s| s.is_unusable() || matches!(s.kind(), 3 | 7);
    rights of Ds Es Fs Gs: "when it is usable it is accessed, and readable if it is code",
        |v, s| s.is_unusable() || s.kind() & 1 != 0 && s.kind() & 0b1010 != 0b1000;
    rights of Cs Ss Ds Es Fs Gs: "S is set in usable segments", |v, s| s.is_unusable() || s.rights & 16 != 0;
    rights of Cs: "DPL is 0 for data, SS's for plain code, at most SS's for conforming code", |v, s| {
        let ss = Segment::of(v, Name::Ss).privilege();
        v.is_v86() || match s.kind() {
            3 => s.privilege() == 0,
            9 | 11 => s.privilege() == ss,
            13 | 15 => s.privilege() <= ss,
            _ => true,
        }
    };
    rights of Ss: "DPL is the selector's RPL, unless the guest is unrestricted",
        |v, s| v.is_v86() || is_unrestricted(v) || s.privilege() == s.selector & 3;
    rights of Ss: "DPL is 0 in real mode and with a data segment in CS", |v, s| {
        v.is_v86() || Segment::of(v, Name::Cs).kind() != 3 && v.is_protected() || s.privilege() == 0
    };
    rights of Cs Ss Ds Es Fs Gs: "usable segments are present", |v, s| s.is_unusable() || s.rights & 0x80 != 0;
    rights of Cs Ss Ds Es Fs Gs: "reserved bits are zero", |v, s| s.is_unusable() || s.rights & 0xfffe_0f00 == 0;
    rights of Cs: "D is clear in 64-bit mode", |v, s| !v.is_long() || s.rights & 0x6000 != 0x6000;
    limit of Cs Ss Ds Es Fs Gs: "G agrees with it", |v, s| s.is_unusable() || s.is_granular();
    rights of Tr: "it is a busy TSS: 16-bit or 32-bit, or 64-bit in IA-32e mode",
        |v, s| s.kind() == 11 || s.kind() == 3 && !v.is_long();
    rights of Tr: "S is clear, P is set, it is usable, reserved bits are zero", |v, s| s.rights & 0xffff_0f90 == 0x80;
    limit of Tr: "G agrees with TR's", |v, s| s.is_granular();
    rights of Ldtr: "a usable one is a present LDT with no reserved bit set",
        |v, s| s.is_unusable() || s.rights & 0xfffe_0f9f == 0x82;
    limit of Ldtr: "G agrees with it in a usable one", |v, s| s.is_unusable() || s.is_granular();
}
