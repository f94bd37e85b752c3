//! What the processors' manuals say of a guest's control structure: where its fields are, what their bits mean, and by which
//! rules a processor takes it at an entry; and of the entries of its second-level page tables ([`paging`]).
//!
//! A processor that refuses a guest's state says next to nothing about why. The hypervisor, which uses the fields alone, then writes the
//! structure down ([`write_state`]) in the domain's crash report; dom0 walks the manuals' rules over it and names the field and the
//! rule ([`explain`]).
//!
//! Each rule is a row: the field, the rule in words, the manual's section, and the rule as a condition on the field's value.
//! Rules that only hardware this platform does not use could break are left out; the tables say what is covered.
#![no_std]

extern crate alloc;
#[cfg(test)]
#[macro_use]
extern crate std;

pub mod paging;
mod state;
pub mod svm;
pub mod vmx;

use core::fmt;

pub use state::{HOST_WORDS, explain, write_state};

/// The rule that a refused structure breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    /// Name of the field as the manual spells it; empty when no rule that is checked is broken.
    pub field: &'static str,
    /// The rule, in words.
    pub rule: &'static str,
    /// Manual section.
    pub section: &'static str,
    /// The field's value.
    pub value: u64,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, rule, section, value } = self;
        if field.is_empty() {
            f.write_str(rule)
        } else {
            write!(f, "{field} = {value:#x}: {rule} ({section})")
        }
    }
}

/// One rule over a view `V` of a control block.
pub struct Rule<V> {
    /// The field.
    pub field: &'static str,
    /// The rule in words.
    pub rule: &'static str,
    /// Manual section.
    pub section: &'static str,
    /// The field's value.
    pub value: fn(&V) -> u64,
    /// Whether the rule holds.
    pub holds: fn(&V) -> bool,
}

/// A table of rules by manual section. A row names the fields that a rule is about, says it in words, and as a condition on
/// the view and the field's value.
macro_rules! rules {
    ($(#[$doc:meta])* $visibility:vis const $name:ident; $($section:literal {
        $($($field:ident)+: $rule:literal, |$v:ident, $value:tt| $holds:expr;)*
    })*) => {
        $(#[$doc])*
        $visibility const $name: &[$crate::Rule<View>] = &[$($($($crate::Rule {
            field: stringify!($field),
            rule: $rule,
            section: $section,
            value: |view| view.get(field::$field),
            holds: |$v| { let $value = $v.get(field::$field); $holds },
        },)+)*)*];
    };
}
pub(crate) use rules;

/// The first broken rule of the tables; without one the field is empty.
pub fn first_broken<V>(tables: &[&[Rule<V>]], view: &V) -> Diagnosis {
    let broken = tables.iter().copied().flatten().find(|rule| !(rule.holds)(view));
    let none = Diagnosis { field: "", rule: "no rule that is checked is broken", section: "", value: 0 };
    broken.map_or(none, |&Rule { field, rule, section, value, .. }| Diagnosis {
        field,
        rule,
        section,
        value: value(view),
    })
}

/// Whether bits 47 to 63 are equal.
pub const fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether each byte of a PAT value is a memory type.
pub fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Checks a table of rules against a view that breaks none. Row for row, each change breaks a rule about the field it names.
#[cfg(test)]
fn expect<V, C>(table: &[Rule<V>], sound: &V, rows: &[(&str, C)], with: impl Fn(&C) -> V) {
    let mut rest = rows.iter();
    for rules in table.chunk_by(|one, other| one.rule == other.rule) {
        let (name, change) = rest.next().expect("each rule has its row");
        let text = rules[0].rule;
        assert!(rules.iter().all(|rule| (rule.holds)(sound)), "{name}: {text}");
        let view = with(change);
        assert!(rules.iter().any(|rule| rule.field == *name && !(rule.holds)(&view)), "{name}: {text}");
        // Whatever comes first, something is found.
        assert_ne!(first_broken(&[table], &view).field, "", "{name}");
    }
    assert!(rest.next().is_none(), "each row has its rule");
}
