//! Keys by name, as `xl sendkeys` types them: scan codes of set 2 (PS/2 Technical Reference, *Keyboards*).

use crate::failure::{Failure, Result};

/// Keys of one byte, by the names that people use; letters and digits are below.
const PLAIN: &[(&str, u8)] = &[
    ("ret", 0x5a),
    ("enter", 0x5a),
    ("esc", 0x76),
    ("space", 0x29),
    ("tab", 0x0d),
    ("backspace", 0x66),
    ("minus", 0x4e),
    ("equal", 0x55),
    ("comma", 0x41),
    ("dot", 0x49),
    ("slash", 0x4a),
    ("backslash", 0x5d),
    ("semicolon", 0x4c),
    ("apostrophe", 0x52),
    ("bracketleft", 0x54),
    ("bracketright", 0x5b),
    ("grave", 0x0e),
    ("f1", 0x05),
    ("f2", 0x06),
    ("f3", 0x04),
    ("f4", 0x0c),
    ("f5", 0x03),
    ("f6", 0x0b),
    ("f7", 0x83),
    ("f8", 0x0a),
    ("f9", 0x01),
    ("f10", 0x09),
    ("f11", 0x78),
    ("f12", 0x07),
    ("shift", 0x12),
    ("ctrl", 0x14),
    ("alt", 0x11),
    ("capslock", 0x58),
];

/// Keys with the byte 0xe0 before.
const EXTENDED: &[(&str, u8)] = &[
    ("up", 0x75),
    ("down", 0x72),
    ("left", 0x6b),
    ("right", 0x74),
    ("home", 0x6c),
    ("end", 0x69),
    ("pageup", 0x7d),
    ("pagedown", 0x7a),
    ("insert", 0x70),
    ("delete", 0x71),
];

/// Letters from `a`, then digits from `0`.
const LETTERS: [u8; 36] = [
    0x1c, 0x32, 0x21, 0x23, 0x24, 0x2b, 0x34, 0x33, 0x43, 0x3b, 0x42, 0x4b, 0x3a, 0x31, 0x44, 0x4d, 0x15,
    0x2d, 0x1b, 0x2c, 0x3c, 0x2a, 0x1d, 0x22, 0x35, 0x1a, 0x45, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d,
    0x3e, 0x46,
];

/// Other characters on a keyboard of the United States, with what stands below them.
const SIGNS: &[(char, &str)] = &[
    (' ', "space"),
    ('\n', "ret"),
    ('-', "minus"),
    ('=', "equal"),
    (',', "comma"),
    ('.', "dot"),
    ('/', "slash"),
    ('\\', "backslash"),
    (';', "semicolon"),
    ('\'', "apostrophe"),
    ('[', "bracketleft"),
    (']', "bracketright"),
    ('`', "grave"),
];

/// Characters that a key has with shift, in the order of [`UNSHIFTED`].
const SHIFTED: &str = "!@#$%^&*()_+{}|:\"<>?~";
/// The same keys without.
const UNSHIFTED: &str = "1234567890-=[]\\;',./`";

/// The bytes that a key sends when it goes down.
pub(crate) fn key(name: &str) -> Option<Vec<u8>> {
    let find = |table: &[(&str, u8)]| table.iter().find(|(known, _)| *known == name).map(|(_, code)| *code);
    if let Some(code) = find(PLAIN) {
        return Some(vec![code]);
    }
    if let Some(code) = find(EXTENDED) {
        return Some(vec![0xe0, code]);
    }
    let mut characters = name.chars();
    let (Some(character), None) = (characters.next(), characters.next()) else { return None };
    let place = match character {
        'a'..='z' => character as usize - 'a' as usize,
        '0'..='9' => 26 + character as usize - '0' as usize,
        _ => return SIGNS.iter().find(|(sign, _)| *sign == character).and_then(|(_, name)| key(name)),
    };
    LETTERS.get(place).map(|code| vec![*code])
}

/// The bytes that the key of a character sends when it goes down, whether or not the character needs shift.
pub(crate) fn below(character: char) -> Option<Vec<u8>> {
    let plain = SHIFTED.find(character).and_then(|place| UNSHIFTED.get(place..=place));
    key(plain.unwrap_or(&character.to_ascii_lowercase().to_string()))
}

/// The bytes that a word of `sendkeys` sends: `a`, `A`, `f1`, `ctrl-alt-delete`. The last key goes down last and up first.
pub(crate) fn codes(word: &str) -> Result<Vec<u8>> {
    let refuse = || {
        Failure::usage(format!(
            "`{word}` is no key; keys are a to z, 0 to 9, {}, {}, alone or as ctrl-alt-delete",
            PLAIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            EXTENDED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        ))
    };
    let parts: Vec<String> = match word.chars().collect::<Vec<_>>().as_slice() {
        [character] if character.is_ascii_uppercase() => {
            vec!["shift".into(), character.to_ascii_lowercase().to_string()]
        }
        [character] => match SHIFTED.find(*character).and_then(|place| UNSHIFTED.get(place..=place)) {
            Some(plain) => vec!["shift".into(), plain.into()],
            None => vec![word.into()],
        },
        _ => word.split('-').map(str::to_lowercase).collect(),
    };
    let keys: Option<Vec<Vec<u8>>> = parts.iter().map(|part| key(part)).collect();
    let keys = keys.filter(|keys| keys.len() <= 4).ok_or_else(refuse)?;
    let mut codes: Vec<u8> = keys.concat();
    for key in keys.iter().rev() {
        let (code, before) = key.split_last().ok_or_else(refuse)?;
        codes.extend(before);
        codes.extend([0xf0, *code]);
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_keys() {
        assert_eq!(codes("a").unwrap(), [0x1c, 0xf0, 0x1c]);
        assert_eq!(codes("A").unwrap(), [0x12, 0x1c, 0xf0, 0x1c, 0xf0, 0x12]);
        assert_eq!(codes("down").unwrap(), [0xe0, 0x72, 0xe0, 0xf0, 0x72]);
        assert_eq!(codes("-").unwrap(), [0x4e, 0xf0, 0x4e]);
        assert_eq!(codes("$").unwrap(), [0x12, 0x25, 0xf0, 0x25, 0xf0, 0x12]);
        assert_eq!(codes("~").unwrap(), [0x12, 0x0e, 0xf0, 0x0e, 0xf0, 0x12]);
        assert_eq!(
            codes("ctrl-alt-delete").unwrap(),
            [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14]
        );
        assert!(codes("nothing").unwrap_err().message().contains("ctrl-alt-delete"));
    }
}
