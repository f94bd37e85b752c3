//! Values of the store as the other side wrote them: claims, read as numbers and words.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// A key that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadKey {
    /// Its name.
    pub key: String,
    /// What it should be.
    pub expected: &'static str,
    /// The start of what it is; `None` when it is missing.
    pub value: Option<String>,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "key {} is {value:?}, not {}", self.key, self.expected),
            None => write!(f, "key {} is missing; it should be {}", self.key, self.expected),
        }
    }
}

impl core::error::Error for BadKey {}

/// Values by key, as they were read.
#[derive(Default, Debug)]
pub struct Values(Vec<(String, Vec<u8>)>);

impl Values {
    /// Keeps a value that was found.
    pub fn insert(&mut self, key: &str, value: Vec<u8>) {
        self.0.push((key.to_string(), value));
    }

    pub(crate) fn text(&self, key: &str) -> Option<&[u8]> {
        let value = self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_slice())?;
        Some(value.strip_suffix(&[0]).unwrap_or(value))
    }

    pub(crate) fn bad(&self, key: &str, expected: &'static str) -> BadKey {
        let value = self
            .text(key)
            .map(|value| String::from_utf8_lossy(value.get(..32).unwrap_or(value)).into_owned());
        BadKey { key: key.to_string(), expected, value }
    }

    /// A decimal number, or `None` when the key is missing.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u32>, BadKey> {
        match self.text(key) {
            None => Ok(None),
            Some(text) => number(text).map(Some).ok_or_else(|| self.bad(key, "a decimal number")),
        }
    }

    pub(crate) fn required(&self, key: &str) -> Result<u32, BadKey> {
        self.number(key)?.ok_or_else(|| self.bad(key, "a decimal number"))
    }
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}
