//! The entry checker. A processor that refuses a guest's state says next to nothing about why; this walks the manuals' rules
//! over a snapshot of the control block and names the field and the rule.
//!
//! Each rule is a row: the field, the rule in words, the manual's section, and a function that says whether it is broken.
//! Rules that only hardware this platform does not use could break are left out; the tables say what is covered.

pub mod svm;
pub mod vmx;

use crate::seam::Diagnosis;

/// One rule over a view `V` of a control block.
pub struct Rule<V> {
    /// The field as the manual spells it.
    pub field: &'static str,
    /// The rule in words.
    pub rule: &'static str,
    /// Manual section.
    pub section: &'static str,
    /// The field's value, when the rule is broken.
    pub broken: fn(&V) -> Option<u64>,
}

/// A table of rules, one row each: field, rule, manual section, and what says whether it is broken.
macro_rules! rules {
    ($(#[$doc:meta])* $visibility:vis const $name:ident; $($field:literal, $rule:literal, $section:literal => $broken:expr;)*) => {
        $(#[$doc])*
        $visibility const $name: &[$crate::machine::check::Rule<View>] = &[$(
            $crate::machine::check::Rule { field: $field, rule: $rule, section: $section, broken: $broken },
        )*];
    };
}
pub(crate) use rules;

/// The first broken rule of the tables; without one the field is empty.
pub fn first_broken<V>(tables: &[&[Rule<V>]], view: &V, code: u64) -> Diagnosis {
    for rule in tables.iter().copied().flatten() {
        if let Some(value) = (rule.broken)(view) {
            return Diagnosis { field: rule.field, rule: rule.rule, section: rule.section, value, code };
        }
    }
    Diagnosis { field: "", rule: "no rule that is checked is broken", section: "", value: 0, code }
}

/// `value` when a condition holds.
pub(crate) const fn when(broken: bool, value: u64) -> Option<u64> {
    if broken { Some(value) } else { None }
}

/// Whether bits 47 to 63 are equal.
pub(crate) const fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether each byte of a PAT value is a memory type.
pub(crate) fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}
