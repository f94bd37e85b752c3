//! Short texts without an allocator: paths and numbers for the store.

use core::fmt;

use crate::error::Error;

/// A text of at most `N` bytes.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

/// A path in the store.
pub type Path = Text<256>;

impl<const N: usize> Text<N> {
    /// Formats a text; [`Error::TooLong`] if it does not fit.
    pub fn format(arguments: fmt::Arguments<'_>) -> Result<Self, Error> {
        let mut text = Self { bytes: [0; N], length: 0 };
        fmt::write(&mut text, arguments).map_err(|_| Error::TooLong)?;
        Ok(text)
    }

    /// A copy of a text; [`Error::TooLong`] if it does not fit.
    pub fn copy(from: &str) -> Result<Self, Error> {
        Self::format(format_args!("{from}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        // Only whole strings are ever written.
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let end = self.length.checked_add(piece.len()).ok_or(fmt::Error)?;
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(piece.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        assert_eq!(Text::<8>::format(format_args!("ab{}", 12)).unwrap().as_str(), "ab12");
        assert_eq!(Text::<8>::copy("12345678").unwrap().as_str(), "12345678");
        assert_eq!(Text::<8>::copy("123456789").unwrap_err(), Error::TooLong);
    }
}
