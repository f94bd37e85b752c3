//! The syntax of `xl.cfg(5)`: statements `KEY = VALUE`, separated by ends of line or `;`, with `#` comments. A value is a text in single
//! or double quotes with C's escapes, a number (decimal, `0x`, leading `0` for octal), or a list of values in brackets that may go over lines.

use super::diagnostic::{Log, Span};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// `KEY = VALUE`.
#[derive(Clone, Debug)]
pub(super) struct Setting<'a> {
    pub(super) key: &'a str,
    pub(super) key_span: Span,
    /// `+=`: goes behind what the key has.
    pub(super) append: bool,
    pub(super) value: Value,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) span: Span,
    pub(super) content: Content,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(String),
    Number(i64),
    List(Vec<Value>),
}

/// Lists in lists in lists that are still read.
const DEPTH_MAX: usize = 8;

/// All statements. A statement with an error is left out, and reading goes on with the next line.
pub(super) fn settings<'a>(text: &'a str, log: &mut Log<'_>) -> Vec<Setting<'a>> {
    let mut reader = Reader { text, at: 0 };
    let mut found = Vec::new();
    loop {
        reader.skip(|c| c.is_whitespace() || c == ';');
        if reader.peek().is_none() {
            return found;
        }
        match reader.setting() {
            Ok(setting) => found.push(setting),
            Err(Wrong { span, message, hint }) => {
                log.error(span, message, hint);
                reader.at = reader.at.max(span.start);
                reader.skip_line();
            }
        }
    }
}

struct Wrong {
    span: Span,
    message: String,
    hint: Option<String>,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let here = self.rest().starts_with(wanted);
        if here {
            self.at += wanted.len();
        }
        here
    }

    /// Skips characters and comments.
    fn skip(&mut self, blank: impl Fn(char) -> bool) {
        while let Some(next) = self.peek() {
            if next == '#' {
                self.skip_line();
            } else if blank(next) {
                self.at += next.len_utf8();
            } else {
                return;
            }
        }
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// Skips blanks within a line.
    fn blanks(&mut self) {
        self.skip(|c| c.is_whitespace() && c != '\n');
    }

    /// The characters from here that belong together, for messages.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_-+./:".contains(c))).unwrap_or(rest.len());
        let end = if end == 0 { rest.chars().next().map_or(0, char::len_utf8) } else { end };
        rest.get(..end).unwrap_or_default()
    }

    fn wrong<T>(&self, message: impl Into<String>, hint: Option<String>) -> Result<T, Wrong> {
        let span = Span::new(self.at, self.at + self.word().len());
        Err(Wrong { span, message: message.into(), hint })
    }

    fn setting(&mut self) -> Result<Setting<'a>, Wrong> {
        let start = self.at;
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let key = rest.get(..end).unwrap_or_default();
        if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return self.wrong(format!("expected a key, found `{}`", self.word()), None);
        }
        self.at += end;
        let key_span = Span::new(start, self.at);
        self.blanks();
        let append = self.eat("+=");
        if !append && !self.eat("=") {
            let found = match self.word().trim() {
                "" => "the end of the line".into(),
                word => format!("`{word}`"),
            };
            return self.wrong(
                format!("expected `=` after `{key}`, found {found}"),
                Some(format!("write `{key} = VALUE`")),
            );
        }
        self.blanks();
        let value = self.value(0)?;
        self.blanks();
        match self.peek() {
            None | Some('\n' | ';') => Ok(Setting { key, key_span, append, value }),
            Some(_) => self.wrong(
                format!("expected the end of the line after the value of `{key}`, found `{}`", self.word()),
                Some("one value stands on a line; several go into a list: `[ A, B ]`".into()),
            ),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Wrong> {
        let start = self.at;
        let content = match self.peek() {
            Some(quote @ ('"' | '\'')) => Content::Text(self.quoted(quote)?),
            Some('[') if depth < DEPTH_MAX => Content::List(self.list(depth)?),
            Some('[') => return self.wrong("lists are nested too deeply", None),
            Some(c) if c.is_ascii_digit() || c == '-' => Content::Number(self.number()?),
            None | Some('\n' | ';') => {
                return self.wrong("expected a value, found the end of the line", None);
            }
            Some(_) => {
                let word = self.word();
                return self.wrong(
                    format!("expected a text in quotes, a number or a list, found `{word}`"),
                    Some(format!("texts stand in quotes: `\"{word}\"`")),
                );
            }
        };
        Ok(Value { span: Span::new(start, self.at), content })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, Wrong> {
        let start = self.at;
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.skip(char::is_whitespace);
            if self.eat("]") {
                return Ok(values);
            }
            if self.peek().is_none() {
                self.at = start;
                return self.wrong("this list has no end", Some("close it with `]`".into()));
            }
            values.push(self.value(depth + 1)?);
            self.skip(char::is_whitespace);
            if !self.eat(",") && self.peek() != Some(']') {
                if self.peek().is_none() {
                    self.at = start;
                    return self.wrong("this list has no end", Some("close it with `]`".into()));
                }
                return self.wrong(format!("expected `,` or `]` in the list, found `{}`", self.word()), None);
            }
        }
    }

    fn number(&mut self) -> Result<i64, Wrong> {
        let word = self.word();
        let (sign, digits) = word.strip_prefix('-').map_or((1, word), |rest| (-1, rest));
        let (base, digits) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, digits.get(2..).unwrap_or_default()),
            [b'0', _, ..] => (8, digits.get(1..).unwrap_or_default()),
            _ => (10, digits),
        };
        let Ok(number) = i64::from_str_radix(digits, base) else {
            let suffix = digits.trim_start_matches(|c: char| c.is_ascii_digit());
            let hint = match suffix {
                "M" | "MB" | "MiB" | "m" => Some("sizes are in MiB, without a unit".into()),
                "G" | "GB" | "GiB" | "g" => Some("sizes are in MiB, without a unit: 1 GiB is 1024".into()),
                _ => Some(format!("texts stand in quotes: `\"{word}\"`")),
            };
            return self.wrong(format!("`{word}` is no number"), hint);
        };
        self.at += word.len();
        Ok(sign * number)
    }

    fn quoted(&mut self, quote: char) -> Result<String, Wrong> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.bump() {
                None | Some('\n') => {
                    let end = self.text.get(..self.at).unwrap_or_default().trim_end().len().max(start + 1);
                    self.at = start;
                    return Err(Wrong {
                        span: Span::new(start, end),
                        message: "this text has no end on its line".into(),
                        hint: Some(format!("close it with `{quote}`")),
                    });
                }
                Some(c) if c == quote => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Wrong> {
        let at = self.at - 1;
        let code = |reader: &mut Self, digits: usize, base: u32| {
            let rest = reader.rest();
            let length = rest.chars().take(digits).take_while(|c| c.is_digit(base)).count();
            let value = rest.get(..length).and_then(|d| u8::from_str_radix(d, base).ok());
            reader.at += length;
            value.filter(|&v| v != 0 && v.is_ascii()).map(char::from)
        };
        let known = match self.peek() {
            Some('0'..='7') => code(self, 3, 8),
            Some('x') => {
                self.at += 1;
                code(self, 2, 16)
            }
            _ => match self.bump() {
                Some('a') => Some('\x07'),
                Some('b') => Some('\x08'),
                Some('f') => Some('\x0c'),
                Some('n') => Some('\n'),
                Some('r') => Some('\r'),
                Some('t') => Some('\t'),
                Some('v') => Some('\x0b'),
                Some(c @ ('\\' | '\'' | '"')) => Some(c),
                _ => None,
            },
        };
        known.ok_or_else(|| Wrong {
            span: Span::new(at, self.at.max(at + 1)),
            message: "no such escape in a text".into(),
            hint: Some("a backslash itself is written `\\\\`".into()),
        })
    }
}
