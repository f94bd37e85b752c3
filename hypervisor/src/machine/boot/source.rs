//! Where the boot information is read from: host memory, or a byte array in tests.

/// Reads of physical memory that a loader has filled in.
pub trait Source {
    /// `length` bytes at a physical address; `None` where nothing can be read.
    fn bytes(&self, address: u64, length: u64) -> Option<&[u8]>;

    /// A little-endian word.
    fn u32(&self, address: u64) -> Option<u32> {
        self.bytes(address, 4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// A little-endian double word.
    fn u64(&self, address: u64) -> Option<u64> {
        self.bytes(address, 8)?.try_into().ok().map(u64::from_le_bytes)
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

/// Memory below 4 GiB, which the entry code maps one to one.
#[cfg(target_os = "none")]
pub struct Physical;

#[cfg(target_os = "none")]
impl Source for Physical {
    fn bytes(&self, address: u64, length: u64) -> Option<&[u8]> {
        let end = address.checked_add(length)?;
        if address == 0 || end > 1 << 32 {
            return None;
        }
        // SAFETY: the entry code maps the first 4 GiB one to one, any byte pattern is a `u8`, and nobody writes what a
        // loader has left until the frames are handed to the core, by when these borrows have ended.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) })
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
