//! One block that breaks no rule, and for each rule a change that breaks it.

use super::{CONTROLS, Host, STATE, View, diagnose};
use crate::svm::fields::{self as field, EVENT_VALID, Snapshot, second};
use crate::{self as manual, Rule};

const HOST: Host = Host { asids: 16, address_bits: 40, efer: 0x3f_fd01, cr4: 0x0fff_ffff };

/// 64-bit code.
fn sound() -> View {
    let mut block = Snapshot([0; 4096]);
    block.set(field::EFER, 0x1500);
    block.set(field::CR0, 0x8001_0033);
    block.set(field::CR4, 0x20);
    block.set(field::CR3, 0x6000);
    block.set(field::DR6, 0xffff_0ff0);
    block.set(field::DR7, 0x400);
    block.set(field::PAT, 0x0007_0406_0007_0406);
    block.set(field::NESTED, 1);
    block.set(field::NESTED_CR3, 0x5000);
    block.set(field::ASID, 1);
    block.set(field::INTERCEPT_2, second::ALWAYS);
    block.set(field::IO_MAP, 0x1000);
    block.set(field::MSR_MAP, 0x4000);
    block.set(field::CS_ATTRIBUTES, 0xa9b);
    View { block, host: HOST }
}

/// A rule's field, and the change that breaks the rule.
type Row = (&'static str, fn(&mut Snapshot));

fn expect(table: &[Rule<View>], rows: &[Row]) {
    manual::expect(table, &sound(), rows, |change| {
        let mut view = sound();
        change(&mut view.block);
        view
    });
}

#[test]
fn a_sound_block_breaks_nothing() {
    assert_eq!(diagnose(&sound()).field, "");
}

#[test]
fn each_state_rule_is_broken_by_its_row() {
    expect(
        STATE,
        &[
            ("EFER", |b| b.set(field::EFER, 0x500)),
            ("EFER", |b| b.set(field::EFER, 0x1502)),
            ("CR0", |b| b.set(field::CR0, 0xa001_0033)),
            ("CR0", |b| b.set(field::CR0, 0x1_8001_0033)),
            ("CR3", |b| b.set(field::CR3, 1 << 45)),
            ("CR4", |b| b.set(field::CR4, 1 << 40 | 0x20)),
            ("CR4", |b| {
                b.set(field::CR4, 1 << 23 | 0x20);
                b.set(field::CR0, 0x8000_0033);
            }),
            ("DR6", |b| b.set(field::DR6, 1 << 32)),
            ("CR4", |b| b.set(field::CR4, 0)),
            ("CR0", |b| b.set(field::CR0, 0x8001_0032)),
            ("CS_ATTRIBUTES", |b| b.set(field::CS_ATTRIBUTES, 0xe9b)),
            ("PAT", |b| b.set(field::PAT, 0x0200)),
        ],
    );
}

#[test]
fn each_control_rule_is_broken_by_its_row() {
    expect(
        CONTROLS,
        &[
            ("INTERCEPT_2", |b| b.set(field::INTERCEPT_2, 0)),
            ("ASID", |b| b.set(field::ASID, 0)),
            ("ASID", |b| b.set(field::ASID, 16)),
            ("IO_MAP", |b| b.set(field::IO_MAP, 1 << 40)),
            ("MSR_MAP", |b| b.set(field::MSR_MAP, (1 << 40) - 4096)),
            ("NESTED_CR3", |b| b.set(field::NESTED_CR3, 1 << 41)),
            ("INJECT", |b| b.set(field::INJECT, EVENT_VALID | 0x141)),
            ("INJECT", |b| b.set(field::INJECT, EVENT_VALID | 0x302)),
            ("INJECT", |b| b.set(field::INJECT, EVENT_VALID | 0x305)),
        ],
    );
}

/// What is written down is what is read again.
#[test]
fn a_line_of_text_says_the_same() {
    let mut view = sound();
    view.block.set(field::CR4, 0u64);
    let mut text = std::string::String::new();
    let words = (0..4096).step_by(8).map(|at| (at as u32, view.block.get(field::Field::<u64>::at(at))));
    crate::write_state(&mut text, "svm", words.chain(view.host.words())).unwrap();
    assert_eq!(crate::explain(&text), Some(diagnose(&view)), "{text}");
    assert!(diagnose(&view).rule.contains("PAE is set"));
}
