//! Where the boot information is read from: host memory, or a byte array in tests.

use zerocopy::FromBytes;

use super::info::BootError;

/// Reads of physical memory that a loader has filled in.
pub trait Source {
    /// `length` bytes at a physical address; `None` where nothing can be read.
    fn bytes(&self, address: u64, length: u64) -> Option<&[u8]>;

    /// A value at a physical address.
    fn read<T: FromBytes>(&self, address: u64) -> Result<T, BootError> {
        let bytes = self.bytes(address, size_of::<T>() as u64).ok_or(BootError::Truncated)?;
        T::read_from_bytes(bytes).map_err(|_| BootError::Truncated)
    }

    /// One value of an array at a physical address.
    fn element<T: FromBytes>(&self, array: u64, index: u32) -> Result<T, BootError> {
        self.read(array.wrapping_add(u64::from(index) * size_of::<T>() as u64))
    }

    /// The text at an address up to its NUL, at most `most` bytes; what is not UTF-8 is cut off.
    fn text(&self, address: u64, most: u64) -> &str {
        let mut length = 0;
        while length < most && self.bytes(address.wrapping_add(length), 1).is_some_and(|byte| byte != [0]) {
            length += 1;
        }
        let bytes = self.bytes(address, length).unwrap_or_default();
        bytes.utf8_chunks().next().map_or("", |text| text.valid())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Source;

    /// A piece of memory that starts at an address.
    pub(crate) struct Piece(pub u64, pub Vec<u8>);

    impl Source for Piece {
        fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
            let from = usize::try_from(address.checked_sub(self.0)?).ok()?;
            self.1.get(from..from.checked_add(usize::try_from(length).ok()?)?)
        }
    }

    #[test]
    fn text_ends_at_nul_at_the_limit_and_at_bad_bytes() {
        let piece = Piece(100, b"abc\0de\xfff".to_vec());
        assert_eq!(piece.text(100, 50), "abc");
        assert_eq!(piece.text(100, 2), "ab");
        assert_eq!(piece.text(104, 50), "de");
        assert_eq!(piece.text(7, 50), "");
    }
}
