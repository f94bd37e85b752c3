//! The entry checker. A processor that refuses a guest's state says next to nothing about why; this walks the manuals' rules
//! over a snapshot of the control block and names the field and the rule.
//!
//! Each rule is a row: the field, the rule in words, the manual's section, and the rule as a condition on the field's value.
//! Rules that only hardware this platform does not use could break are left out; the tables say what is covered.

pub mod svm;
pub mod vmx;

use crate::seam::Diagnosis;

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
        $visibility const $name: &[$crate::manual::Rule<View>] = &[$($($($crate::manual::Rule {
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
pub fn first_broken<V>(tables: &[&[Rule<V>]], view: &V, code: u64) -> Diagnosis {
    let broken = tables.iter().copied().flatten().find(|rule| !(rule.holds)(view));
    let Some(&Rule { field, rule, section, value, .. }) = broken else {
        return Diagnosis {
            field: "",
            rule: "no rule that is checked is broken",
            section: "",
            value: 0,
            code,
        };
    };
    Diagnosis { field, rule, section, value: value(view), code }
}

/// Whether bits 47 to 63 are equal.
pub(crate) const fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether each byte of a PAT value is a memory type.
pub(crate) fn is_pat(value: u64) -> bool {
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
        assert_ne!(first_broken(&[table], &view, 7).field, "", "{name}");
    }
    assert!(rest.next().is_none(), "each row has its rule");
}
