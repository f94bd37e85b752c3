//! A refused control structure as a line of text: a word for each field that is not zero.
//!
//! `entry state svm 70=ffffffffffffffff 4d0=1500 …`: the vendor, then numbers and values in hexadecimal. The numbers are the encodings of a
//! VMCS's fields, or offsets of a VMCB's eight-byte words; from [`HOST_WORDS`] on they are what the rules need to know of the processor.

use alloc::vec::Vec;
use core::fmt;

use crate::{Diagnosis, svm, vmx};

/// Number of the first word about the processor.
pub const HOST_WORDS: u32 = 0x1_0000;

/// What the line begins with.
const MARK: &str = "entry state ";

/// Writes the line, without an end. `vendor` is `vmx` or `svm`.
///
/// # Errors
/// Those of `out`.
pub fn write_state(
    out: &mut dyn fmt::Write,
    vendor: &str,
    words: impl Iterator<Item = (u32, u64)>,
) -> fmt::Result {
    write!(out, "{MARK}{vendor}")?;
    words
        .filter(|(_, value)| *value != 0)
        .try_for_each(|(number, value)| write!(out, " {number:x}={value:x}"))
}

/// Names the rule that is broken by the structure that a text has a line of; `None` when it has none, or no whole one.
pub fn explain(text: &str) -> Option<Diagnosis> {
    let line = text.lines().find_map(|line| line.split_once(MARK)).map(|(_, line)| line)?;
    let (vendor, rest) = line.split_once(' ')?;
    let values = rest.split_ascii_whitespace().map(word).collect::<Option<Vec<_>>>()?;
    let word = |number: u32| values.iter().find(|value| value.0 == number).map_or(0, |value| value.1);
    match vendor {
        "vmx" => {
            let host = vmx::Host::of(word);
            Some(vmx::diagnose(&vmx::View { values, host }))
        }
        "svm" => {
            let mut block = svm::fields::Snapshot([0; 4096]);
            for (to, at) in block.0.chunks_exact_mut(8).zip((0..).step_by(8)) {
                to.copy_from_slice(&word(at).to_le_bytes());
            }
            Some(svm::diagnose(&svm::View { block, host: svm::Host::of(word) }))
        }
        _ => None,
    }
}

fn word(text: &str) -> Option<(u32, u64)> {
    let (number, value) = text.split_once('=')?;
    Some((u32::from_str_radix(number, 16).ok()?, u64::from_str_radix(value, 16).ok()?))
}
