//! Keys of viewers: symbols of X11 (RFC 6143 section 7.5.4; *X Window System Protocol*, appendix A) as scan codes of set 2.

use crate::verbs::keys;

/// Symbols that are no characters, with the names of keys of `sendkeys`; those with `e0` before their code stand apart.
const NAMED: &[(u32, &str)] = &[
    (0xff08, "backspace"),
    (0xff09, "tab"),
    (0xfe20, "tab"),
    (0xff0d, "ret"),
    (0xff1b, "esc"),
    (0xff50, "home"),
    (0xff51, "left"),
    (0xff52, "up"),
    (0xff53, "right"),
    (0xff54, "down"),
    (0xff55, "pageup"),
    (0xff56, "pagedown"),
    (0xff57, "end"),
    (0xff63, "insert"),
    (0xffff, "delete"),
    (0xffe1, "shift"),
    (0xffe3, "ctrl"),
    (0xffe5, "capslock"),
    (0xffe9, "alt"),
    (0xffe7, "alt"),
    (0xff8d, "enter"),
];

/// Keys that no word of `sendkeys` names: right shift, control and alt, the two of a system, and those of the pad of numbers.
const OTHERS: &[(u32, &[u8])] = &[
    (0xffe2, &[0x59]),
    (0xffe4, &[0xe0, 0x14]),
    (0xffea, &[0xe0, 0x11]),
    (0xfe03, &[0xe0, 0x11]),
    (0xffeb, &[0xe0, 0x1f]),
    (0xffec, &[0xe0, 0x27]),
    (0xff67, &[0xe0, 0x2f]),
    (0xff7f, &[0x77]),
    (0xff14, &[0x7e]),
    (0xffaa, &[0x7c]),
    (0xffab, &[0x79]),
    (0xffad, &[0x7b]),
    (0xffae, &[0x71]),
    (0xffaf, &[0xe0, 0x4a]),
];

/// Digits of the pad, from 0.
const PAD: [u8; 10] = [0x70, 0x69, 0x72, 0x7a, 0x6b, 0x73, 0x74, 0x6c, 0x75, 0x7d];

/// The bytes that a key sends when it goes down; none for a symbol that no key of a keyboard of the United States has. Whether
/// shift is down comes as a key of its own.
fn pressed(symbol: u32) -> Option<Vec<u8>> {
    let find = |symbol| NAMED.iter().find(|(known, _)| *known == symbol).map(|(_, name)| *name);
    match symbol {
        0x20..=0x7e => keys::below(char::from_u32(symbol)?),
        0xffb0..=0xffb9 => PAD.get((symbol - 0xffb0) as usize).map(|&code| vec![code]),
        0xffbe..=0xffc9 => keys::key(&format!("f{}", symbol - 0xffbd)),
        _ => find(symbol)
            .and_then(keys::key)
            .or_else(|| OTHERS.iter().find(|(known, _)| *known == symbol).map(|(_, codes)| codes.to_vec())),
    }
}

/// The bytes of a key that went down or up; none for a symbol without a key.
pub(super) fn codes(symbol: u32, down: bool) -> Option<Vec<u8>> {
    let mut codes = pressed(symbol)?;
    if !down {
        // Before the last byte, which is the key.
        codes.insert(codes.len().checked_sub(1)?, 0xf0);
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::codes;

    #[test]
    fn symbols_are_keys() {
        let letter = |symbol: char, down| codes(u32::from(symbol), down);
        assert_eq!(letter('a', true), Some(vec![0x1c]));
        assert_eq!(letter('A', true), letter('a', true));
        assert_eq!(letter('a', false), Some(vec![0xf0, 0x1c]));
        assert_eq!(letter('!', true), letter('1', true));
        assert_eq!(letter('~', true), letter('`', true));
        assert_eq!(codes(0xff52, false), Some(vec![0xe0, 0xf0, 0x75]));
        assert_eq!(codes(0xffbe, true), Some(vec![0x05]));
        assert_eq!(codes(0xffc9, true), Some(vec![0x07]));
        assert_eq!(codes(0xffb5, true), Some(vec![0x73]));
        assert_eq!(codes(0xffe4, true), Some(vec![0xe0, 0x14]));
    }

    #[test]
    fn each_character_of_the_keyboard_has_a_key() {
        for symbol in 0x20..0x7f {
            assert!(codes(symbol, true).is_some(), "{:?}", char::from_u32(symbol));
        }
        for symbol in [0, 0x1f, 0x7f, 0xe4, 0x20ac, 0xffff_ffff] {
            assert_eq!(codes(symbol, true), None, "{symbol:#x}");
        }
    }
}
