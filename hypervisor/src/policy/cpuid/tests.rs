use proptest::prelude::*;

use super::*;

const SHAPE: Shape = Shape { id: DomainId(3), vcpus: 4, tsc_khz: 2_500_000, tsc_is_stable: true };

/// A host that claims everything.
fn everything(leaf: u32, subleaf: u32) -> CpuidResult {
    match (leaf, subleaf) {
        (0, _) => CpuidResult { eax: 0x20, ebx: AMD, ecx: 0x444d_4163, edx: 0x6974_6e65 },
        (0x8000_0000, _) => CpuidResult { eax: 0x8000_0021, ..NOTHING },
        _ => CpuidResult { eax: !0, ebx: !0, ecx: !0, edx: !0 },
    }
}

fn now(vcpu: u32) -> Now {
    Now { vcpu, cr4: 0, xcr0: 1 }
}

#[test]
fn dangerous_features_are_hidden() {
    let table = Cpuid::new(everything, SHAPE);
    let one = table.answer(1, 0, now(2));
    for hidden in [3, 5, 6, 7, 8, 15, 17, 18, 21, 24, 27] {
        assert_eq!(one.ecx >> hidden & 1, 0, "leaf 1 ECX bit {hidden}");
    }
    assert_eq!(one.ecx >> 31, 1);
    assert_eq!(one.ebx >> 24, 4);
    assert_eq!(one.edx & (1 << 7 | 1 << 14 | 1 << 22), 0);
    let seven = table.answer(7, 0, now(0));
    assert_eq!((seven.eax, seven.ebx & 0xdc03_fe16, seven.edx & 0xfc00_0400), (0, 0x2200, 0));
    let extended = table.answer(0x8000_0001, 0, now(0));
    assert_eq!(extended.ecx & (1 << 2 | 1 << 3 | 1 << 4 | 1 << 22), 0);
    assert_eq!(table.answer(0x8000_000a, 0, now(0)), NOTHING);
    assert_eq!(table.answer(0x8000_001f, 0, now(0)), NOTHING);
    assert_eq!(table.answer(0x14, 0, now(0)), NOTHING);
    assert_eq!(table.answer(5, 0, now(0)), NOTHING);
}

#[test]
fn topology_is_of_one_package() {
    for vcpus in 1..=4 {
        let table = Cpuid::new(everything, Shape { vcpus, ..SHAPE });
        for vcpu in 0..vcpus {
            let id = 2 * vcpu;
            assert_eq!(table.answer(1, 0, now(vcpu)).ebx >> 24, id);
            let threads = table.answer(0xb, 0, now(vcpu));
            assert_eq!((threads.ebx, threads.ecx, threads.edx), (1, 0x100, id));
            assert_eq!(threads.eax, 1);
            let cores = table.answer(0xb, 1, now(vcpu));
            assert_eq!((cores.ebx, cores.ecx, cores.edx), (vcpus, 0x201, id));
            assert_eq!(id >> cores.eax, 0, "one package");
            assert_eq!(table.answer(0xb, 2, now(vcpu)).ebx, 0);
            let eight = table.answer(0x8000_0008, 0, now(vcpu));
            assert_eq!(id >> (eight.ecx >> 12 & 15), 0);
            assert_eq!(eight.eax, 0x3030);
        }
    }
}

#[test]
fn extended_state_follows_xcr0_and_cr4() {
    let table = Cpuid::new(everything, SHAPE);
    assert_eq!(table.xcr0(), 7);
    let with = |xcr0| table.answer(0xd, 0, Now { xcr0, ..now(0) });
    assert_eq!(with(7), CpuidResult { eax: 7, ebx: 832, ecx: 832, edx: 0 });
    assert_eq!(with(3).ebx, 576);
    assert_eq!(table.answer(0xd, 1, now(0)).eax, 7);
    assert_eq!(table.answer(0xd, 2, now(0)), CpuidResult { eax: 256, ebx: 576, ecx: 0, edx: 0 });
    assert_eq!(table.answer(0xd, 9, now(0)), NOTHING);
    assert_eq!(table.answer(1, 0, Now { cr4: CR4_OSXSAVE, ..now(0) }).ecx >> 26 & 3, 3);
    let old = |leaf: u32, _: u32| if leaf == 0 { CpuidResult { eax: 1, ..NOTHING } } else { NOTHING };
    let table = Cpuid::new(old, SHAPE);
    assert_eq!((table.xcr0(), table.answer(0xb, 0, now(1))), (0, NOTHING));
    assert_eq!(table.answer(1, 0, Now { cr4: CR4_OSXSAVE, ..now(0) }).ecx, 1 << 31);
}

#[test]
fn the_platform_is_found() {
    let table = Cpuid::new(everything, SHAPE);
    let signature = table.answer(0x4000_0000, 0, now(0));
    assert_eq!(signature.eax, 0x4000_0005);
    assert_eq!([signature.ebx, signature.ecx, signature.edx], leaves::SIGNATURE_WORDS);
    assert_eq!(table.answer(0x4000_0001, 0, now(0)).eax, 0x0004_0011);
    assert_eq!(table.answer(0x4000_0002, 0, now(0)).ebx, 0x4000_0000);
    let time = table.answer(0x4000_0003, 0, now(0));
    assert_eq!((time.eax, time.ecx), (6, 2_500_000));
    let scale = table.answer(0x4000_0003, 1, now(0));
    assert_eq!(Some((scale.ecx, scale.edx as i32 as i8)), TimeInfo::scale(2_500_000_000));
    let hvm = table.answer(0x4000_0004, 0, now(2));
    assert_eq!((hvm.eax, hvm.ebx, hvm.ecx), (0x18, 2, 3));
    assert_eq!(table.answer(0x4000_0006, 0, now(0)), NOTHING);
    assert_eq!(table.answer(0x4000_0100, 0, now(0)), NOTHING);
}

#[test]
fn the_vendor_is_the_hosts() {
    let table = Cpuid::new(everything, SHAPE);
    let zero = table.answer(0, 0, now(0));
    assert_eq!((zero.eax, zero.ebx), (0xd, AMD));
}

proptest! {
    /// Nothing panics, and every basic and extended feature shown is one the host has.
    #[test]
    fn any_leaf(leaf: u32, subleaf: u32, vcpus in 0..300u32, vcpu in 0..128u32, word: u32, max in 0..40u32) {
        let host = |leaf: u32, _: u32| match leaf {
            0 => CpuidResult { eax: max, ..NOTHING },
            0x8000_0000 => CpuidResult { eax: 0x8000_0000 + max, ..NOTHING },
            _ => CpuidResult { eax: word, ebx: word, ecx: word, edx: word },
        };
        let table = Cpuid::new(host, Shape { vcpus, tsc_khz: u64::from(word), ..SHAPE });
        let _ = table.answer(leaf, subleaf, now(vcpu));
        let _ = table.answer(leaf & 0xf, subleaf & 7, now(vcpu));
        let seven = table.answer(7, 0, now(vcpu));
        prop_assert_eq!((seven.ebx | seven.ecx | seven.edx) & !word, 0);
        let one = table.answer(1, 0, now(vcpu));
        prop_assert_eq!(one.ecx & !word & !leaves::HYPERVISOR, 0);
        prop_assert_eq!(one.edx & !word & !HTT, 0);
    }
}
