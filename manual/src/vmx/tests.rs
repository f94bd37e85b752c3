//! One structure that breaks no rule, and for each rule a change that breaks it.

use alloc::vec::Vec;

use super::{Fixed, Host, View, controls, diagnose, segments, states};
use crate::vmx::fields::{self as field, entry, exit, pin, primary, secondary};
use crate::{self as manual, Rule};

const HOST: Host = Host {
    controls: [
        Fixed::of_controls(0x0000_00ff_0000_0016),
        Fixed::of_controls(0xffff_ffff_0401_e172),
        Fixed::of_controls(0x0fff_ffff_0000_0000),
        Fixed::of_controls(0x01ff_ffff_0003_6dff),
        Fixed::of_controls(0x0003_ffff_0000_11ff),
    ],
    cr0: Fixed { must: 0x8000_0021, may: 0xffff_ffff },
    cr4: Fixed { must: 0x2000, may: 0x0077_2fff },
    ept: 0x0613_4141,
    address_bits: 40,
};

/// 64-bit code on a 64-bit host.
fn sound() -> View {
    let segment = |index: u32, selector: u64, rights: u64, limit: u64| {
        [
            (field::GUEST_ES + 2 * index, selector),
            (field::GUEST_ES_RIGHTS + 2 * index, rights),
            (field::GUEST_ES_LIMIT + 2 * index, limit),
            (field::GUEST_ES_BASE + 2 * index, 0),
        ]
    };
    let mut values = vec![
        (field::PIN_CONTROLS, u64::from(0x16 | pin::INTERRUPT | pin::NMI | pin::VIRTUAL_NMI)),
        (
            field::PROCESSOR_CONTROLS,
            u64::from(0x0401_e172 | primary::SECONDARY | primary::IO_BITMAPS | primary::MSR_BITMAPS),
        ),
        (field::SECONDARY_CONTROLS, u64::from(secondary::EPT | secondary::VPID | secondary::UNRESTRICTED)),
        (field::EXIT_CONTROLS, u64::from(0x3_6dff | exit::HOST_64 | exit::LOAD_EFER | exit::LOAD_PAT)),
        (field::ENTRY_CONTROLS, u64::from(0x11ff | entry::LONG_MODE | entry::LOAD_EFER | entry::LOAD_PAT)),
        (field::IO_BITMAP_A, 0x1000),
        (field::IO_BITMAP_B, 0x2000),
        (field::MSR_BITMAPS, 0x3000),
        (field::VPID, 1),
        (field::EPT_POINTER, 0x501e),
        (field::LINK_POINTER, u64::MAX),
        (field::HOST_CR0, 0x8001_0033),
        (field::HOST_CR4, 0x2020),
        (field::HOST_CR3, 0x9000),
        (field::HOST_PAT, 0x0007_0406_0007_0406),
        (field::HOST_EFER, 0xd00),
        (field::HOST_CS, 8),
        (field::HOST_SS, 16),
        (field::HOST_TR, 24),
        (field::HOST_RIP, 0x10_0000),
        (field::GUEST_CR0, 0x8001_0033),
        (field::GUEST_CR3, 0x6000),
        (field::GUEST_CR4, 0x2020),
        (field::GUEST_EFER, 0x500),
        (field::GUEST_PAT, 0x0007_0406_0007_0406),
        (field::GUEST_DR7, 0x400),
        (field::GUEST_RFLAGS, 0x202),
        (field::GUEST_RIP, 0x1000),
    ];
    values.extend(segment(1, 8, 0xa09b, 0xffff_ffff));
    for index in [0, 2, 3, 4, 5] {
        values.extend(segment(index, 16, 0xc093, 0xffff_ffff));
    }
    values.extend(segment(6, 0, 0x1_0000, 0));
    values.extend(segment(7, 0, 0x8b, 0x67));
    View { values, host: HOST }
}

fn with(changes: &[(u32, u64)]) -> View {
    let mut view = sound();
    for (field, value) in changes {
        view.values.retain(|known| known.0 != *field);
        view.values.push((*field, *value));
    }
    view
}

fn or(field: u32, bits: u64) -> (u32, u64) {
    (field, sound().get(field) | bits)
}

fn not(field: u32, bits: u64) -> (u32, u64) {
    (field, sound().get(field) & !bits)
}

/// Virtual-8086 mode, sound but for what is added.
fn v86(changes: &[(u32, u64)]) -> Vec<(u32, u64)> {
    let mut all =
        vec![not(field::ENTRY_CONTROLS, 0x200), (field::GUEST_EFER, 0), (field::GUEST_RFLAGS, 0x2_0202)];
    for index in 0..6 {
        all.push((field::GUEST_ES + 2 * index, 0x100));
        all.push((field::GUEST_ES_BASE + 2 * index, 0x1000));
        all.push((field::GUEST_ES_LIMIT + 2 * index, 0xffff));
        all.push((field::GUEST_ES_RIGHTS + 2 * index, 0xf3));
    }
    all.extend(changes);
    all
}

const VALID: u64 = 1 << 31;

/// Each row breaks the rule of the same place in the table: `(field, changes)`.
fn expect(table: &[Rule<View>], rows: &[(&str, Vec<(u32, u64)>)]) {
    manual::expect(table, &sound(), rows, |changes| with(changes));
}

#[test]
fn a_sound_structure_breaks_nothing() {
    let diagnosis = diagnose(&sound());
    assert_eq!(diagnosis.field, "", "{diagnosis:?}");
    let diagnosis = diagnose(&with(&v86(&[])));
    assert_eq!(diagnosis.field, "", "{diagnosis:?}");
}

#[test]
fn each_control_rule_is_broken_by_its_row() {
    use field::{ENTRY_CONTROLS, ENTRY_EVENT, EPT_POINTER, EXIT_CONTROLS, PIN_CONTROLS, PROCESSOR_CONTROLS};
    let second = |bits: u32| or(field::SECONDARY_CONTROLS, bits.into());
    expect(
        controls::RULES,
        &[
            ("PIN_CONTROLS", vec![not(PIN_CONTROLS, 2)]),
            ("PROCESSOR_CONTROLS", vec![not(PROCESSOR_CONTROLS, 2)]),
            ("SECONDARY_CONTROLS", vec![second(1 << 31)]),
            ("CR3_TARGETS", vec![(field::CR3_TARGETS, 5)]),
            ("IO_BITMAP_A", vec![(field::IO_BITMAP_A, 0x1001)]),
            ("MSR_BITMAPS", vec![(field::MSR_BITMAPS, 0x10)]),
            ("PIN_CONTROLS", vec![not(PIN_CONTROLS, 8)]),
            (
                "PROCESSOR_CONTROLS",
                vec![or(PROCESSOR_CONTROLS, primary::NMI_WINDOW.into()), not(PIN_CONTROLS, 0x20)],
            ),
            ("SECONDARY_CONTROLS", vec![second(secondary::APIC_REGISTERS)]),
            ("SECONDARY_CONTROLS", vec![second(secondary::VIRTUAL_X2APIC | secondary::VIRTUAL_APIC)]),
            ("SECONDARY_CONTROLS", vec![second(secondary::INTERRUPT_DELIVERY), not(PIN_CONTROLS, 1)]),
            ("PIN_CONTROLS", vec![or(PIN_CONTROLS, pin::POSTED.into())]),
            ("VPID", vec![(field::VPID, 0)]),
            ("EPT_POINTER", vec![(EPT_POINTER, 0x5019)]),
            ("EPT_POINTER", vec![(EPT_POINTER, 0x5026)]),
            ("EPT_POINTER", vec![(EPT_POINTER, 0x505e)]),
            ("EPT_POINTER", vec![(EPT_POINTER, 0x511e)]),
            ("SECONDARY_CONTROLS", vec![(field::SECONDARY_CONTROLS, u64::from(secondary::PML))]),
            ("SECONDARY_CONTROLS", vec![(field::SECONDARY_CONTROLS, u64::from(secondary::UNRESTRICTED))]),
            ("EXIT_CONTROLS", vec![not(EXIT_CONTROLS, 1)]),
            ("EXIT_CONTROLS", vec![or(EXIT_CONTROLS, exit::SAVE_TIMER.into())]),
            ("ENTRY_CONTROLS", vec![not(ENTRY_CONTROLS, 1)]),
            ("ENTRY_CONTROLS", vec![or(ENTRY_CONTROLS, entry::SMM.into())]),
            ("ENTRY_EVENT", vec![(ENTRY_EVENT, VALID | 0x140)]),
            ("ENTRY_EVENT", vec![(ENTRY_EVENT, VALID | 0x203)]),
            ("ENTRY_EVENT", vec![(ENTRY_EVENT, VALID | 0x1041)]),
            ("ENTRY_EVENT", vec![(ENTRY_EVENT, VALID | 0x30d)]),
            ("ENTRY_ERROR", vec![(ENTRY_EVENT, VALID | 0xb0d), (field::ENTRY_ERROR, 0x1_0000)]),
            ("ENTRY_LENGTH", vec![(ENTRY_EVENT, VALID | 0x441), (field::ENTRY_LENGTH, 16)]),
        ],
    );
}

#[test]
fn each_host_rule_is_broken_by_its_row() {
    expect(
        states::HOST,
        &[
            ("HOST_CR0", vec![not(field::HOST_CR0, 0x20)]),
            ("HOST_CR4", vec![not(field::HOST_CR4, 0x2000)]),
            ("HOST_CR3", vec![(field::HOST_CR3, 1 << 41)]),
            ("HOST_SYSENTER_ESP", vec![(field::HOST_SYSENTER_ESP, 1 << 47)]),
            ("HOST_PAT", vec![(field::HOST_PAT, 2)]),
            ("HOST_EFER", vec![(field::HOST_EFER, 0x100)]),
            ("HOST_DS", vec![(field::HOST_DS, 0x13)]),
            ("HOST_CS", vec![(field::HOST_CS, 0)]),
            ("HOST_GS_BASE", vec![(field::HOST_GS_BASE, 1 << 63)]),
            ("EXIT_CONTROLS", vec![not(field::EXIT_CONTROLS, exit::HOST_64.into())]),
            ("HOST_CR4", vec![not(field::HOST_CR4, 0x20)]),
            ("HOST_RIP", vec![(field::HOST_RIP, 1 << 48)]),
        ],
    );
}

#[test]
fn each_guest_rule_is_broken_by_its_row() {
    let legacy = || [not(field::ENTRY_CONTROLS, 0x200), (field::GUEST_EFER, 0)];
    let plus = |changes: &[(u32, u64)]| [&legacy()[..], changes].concat();
    expect(
        states::GUEST,
        &[
            ("GUEST_CR0", vec![not(field::GUEST_CR0, 0x20)]),
            ("GUEST_CR0", vec![not(field::GUEST_CR0, 1)]),
            ("GUEST_CR4", vec![not(field::GUEST_CR4, 0x2000)]),
            ("GUEST_DEBUGCTL", vec![(field::GUEST_DEBUGCTL, 4)]),
            ("GUEST_CR0", vec![not(field::GUEST_CR0, 1 << 31)]),
            ("GUEST_CR4", vec![not(field::GUEST_CR4, 0x20)]),
            ("GUEST_CR4", plus(&[or(field::GUEST_CR4, 1 << 17)])),
            ("GUEST_CR3", vec![(field::GUEST_CR3, 1 << 45)]),
            ("GUEST_DR7", vec![(field::GUEST_DR7, 1 << 32)]),
            ("GUEST_SYSENTER_ESP", vec![(field::GUEST_SYSENTER_ESP, 1 << 47)]),
            ("GUEST_PAT", vec![(field::GUEST_PAT, 0x0300)]),
            ("GUEST_EFER", vec![(field::GUEST_EFER, 0x1500)]),
            ("GUEST_EFER", vec![(field::GUEST_EFER, 0x100)]),
            ("GUEST_EFER", vec![(field::GUEST_EFER, 0x400)]),
            ("GUEST_GDTR_BASE", vec![(field::GUEST_GDTR_BASE, 1 << 47)]),
            ("GUEST_GDTR_LIMIT", vec![(field::GUEST_GDTR_LIMIT, 0x1_0000)]),
            ("GUEST_RIP", plus(&[(field::GUEST_RIP, 1 << 32)])),
            ("GUEST_RFLAGS", vec![(field::GUEST_RFLAGS, 0)]),
            ("GUEST_RFLAGS", vec![(field::GUEST_RFLAGS, 0x2_0002)]),
            ("GUEST_RFLAGS", vec![(field::GUEST_RFLAGS, 2), (field::ENTRY_EVENT, VALID | 0x41)]),
            ("ACTIVITY", vec![(field::ACTIVITY, 4)]),
            ("ACTIVITY", vec![(field::ACTIVITY, 1), (field::INTERRUPTIBILITY, 1)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 0x20)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 3)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 1), (field::GUEST_RFLAGS, 2)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 2), (field::ENTRY_EVENT, VALID | 0x41)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 2), (field::ENTRY_EVENT, VALID | 0x202)]),
            ("INTERRUPTIBILITY", vec![(field::INTERRUPTIBILITY, 8), (field::ENTRY_EVENT, VALID | 0x202)]),
            ("PENDING_DEBUG", vec![(field::PENDING_DEBUG, 0x10)]),
            ("LINK_POINTER", vec![(field::LINK_POINTER, 0x10)]),
            ("GUEST_PDPTE2", plus(&[(field::GUEST_PDPTE0 + 4, 0x7003)])),
        ],
    );
}

#[test]
fn each_segment_rule_is_broken_by_its_row() {
    const fn rights(index: u32) -> u32 {
        field::GUEST_ES_RIGHTS + 2 * index
    }
    const fn limit(index: u32) -> u32 {
        field::GUEST_ES_LIMIT + 2 * index
    }
    const fn base(index: u32) -> u32 {
        field::GUEST_ES_BASE + 2 * index
    }
    let restricted = not(field::SECONDARY_CONTROLS, secondary::UNRESTRICTED.into());
    expect(
        segments::RULES,
        &[
            ("Tr selector", vec![(field::GUEST_TR, 4)]),
            ("Ldtr selector", vec![(field::GUEST_LDTR, 4), (rights(6), 0x82)]),
            ("Ss selector", vec![restricted, (field::GUEST_SS, 0x13)]),
            ("Ds base", v86(&[(base(3), 0x1010)])),
            ("Fs base", vec![(base(4), 1 << 47)]),
            ("Ldtr base", vec![(base(6), 1 << 47), (rights(6), 0x82)]),
            ("Cs base", vec![(base(1), 1 << 32)]),
            ("Es base", vec![(base(0), 1 << 32)]),
            ("Ss limit", v86(&[(limit(2), 0xfffe)])),
            ("Gs rights", v86(&[(rights(5), 0x93)])),
            ("Cs rights", vec![(rights(1), 0xa098)]),
            ("Ss rights", vec![(rights(2), 0xc091)]),
            ("Ds rights", vec![(rights(3), 0xc099)]),
            ("Es rights", vec![(rights(0), 0xc083)]),
            ("Cs rights", vec![(rights(1), 0xa0fb)]),
            ("Ss rights", vec![restricted, (rights(2), 0xc0f3)]),
            ("Ss rights", vec![not(field::GUEST_CR0, 1), (rights(2), 0xc0f3)]),
            ("Fs rights", vec![(rights(4), 0xc013)]),
            ("Fs rights", vec![(rights(4), 0xc193)]),
            ("Cs rights", vec![(rights(1), 0xe09b)]),
            ("Ss limit", vec![(limit(2), 0xffff_f000)]),
            ("Tr rights", vec![(rights(7), 0x89)]),
            ("Tr rights", vec![(rights(7), 0x1_008b)]),
            ("Tr limit", vec![(limit(7), 0x10_0000)]),
            ("Ldtr rights", vec![(rights(6), 0x81)]),
            ("Ldtr limit", vec![(rights(6), 0x82), (limit(6), 0x10_0000)]),
        ],
    );
}

/// What is written down is what is read again: each broken rule is found in the text, too.
#[test]
fn a_line_of_text_says_the_same() {
    for change in [(field::GUEST_CR4, 0), (field::PIN_CONTROLS, 0), (field::GUEST_RIP, 1 << 47)] {
        let view = with(&[change]);
        let mut text = std::string::String::from("domain 3: entry refused, error 0x7\n");
        let words = view.values.iter().copied().chain(view.host.words());
        crate::write_state(&mut text, "vmx", words).unwrap();
        text.push_str("\nrax 0");
        assert_eq!(crate::explain(&text), Some(diagnose(&view)), "{text}");
        assert!(crate::explain(&text).is_some_and(|diagnosis| !diagnosis.field.is_empty()), "{text}");
    }
    assert_eq!(crate::explain("entry state vmx 4012=1 40x"), None, "a line that was cut off");
    assert_eq!(crate::explain("entry state arm 1=2"), None);
}

/// A rule about a field that the structure's copy does not have would see a zero.
#[test]
fn the_copy_has_every_segment_field() {
    let ranges = [0x800..=0x80e, 0x4800..=0x4822, 0x6806..=0x6818];
    for field in ranges.into_iter().flat_map(|range| range.step_by(2)) {
        assert!(field::ALL.contains(&field), "{field:#x}");
    }
}
