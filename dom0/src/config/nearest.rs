//! The right spelling nearest to a wrong one.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// A hint with the nearest of `choices`, when one is near.
pub(super) fn hint<'a>(wrong: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let limit = (wrong.chars().count() / 3).max(1);
    choices
        .into_iter()
        .map(|choice| (distance(&wrong.to_ascii_lowercase(), choice), choice))
        .filter(|&(far, choice)| far <= limit && far < choice.len())
        .min_by_key(|&(far, _)| far)
        .map(|(_, choice)| format!("did you mean `{choice}`?"))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut table = vec![0usize; (a.len() + 1) * width];
    let at = |row: usize, column: usize| row * width + column;
    for row in 0..=a.len() {
        for column in 0..=b.len() {
            let cost = match (row, column) {
                (0, n) | (n, 0) => n,
                _ => {
                    let same = a[row - 1] == b[column - 1];
                    let mut best = (table[at(row - 1, column)] + 1)
                        .min(table[at(row, column - 1)] + 1)
                        .min(table[at(row - 1, column - 1)] + usize::from(!same));
                    if row > 1 && column > 1 && a[row - 1] == b[column - 2] && a[row - 2] == b[column - 1] {
                        best = best.min(table[at(row - 2, column - 2)] + 1);
                    }
                    best
                }
            };
            table[at(row, column)] = cost;
        }
    }
    table[at(a.len(), b.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("memory", "memory", 0),
            ("memroy", "memory", 1),
            ("", "abc", 3),
            ("vcpu", "vcpus", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
        assert_eq!(hint("memroy", ["maxmem", "memory"]).unwrap(), "did you mean `memory`?");
        assert_eq!(hint("zzz", ["maxmem", "memory"]), None);
    }
}
