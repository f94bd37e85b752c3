//! Reader of the boot bundle: a cpio archive in the "new ASCII" format (`newc`), as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` describes it. Members are slices of the archive.

use core::fmt;

/// Bytes of an entry's header.
const HEADER: usize = 110;
/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";

/// An archive in memory.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a>(&'a [u8]);

/// A file of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Name, as `kernels/0`.
    pub name: &'a str,
    /// Content.
    pub data: &'a [u8],
}

/// The archive is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Byte at which an entry was expected.
    pub at: usize,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bundle is damaged at byte {}", self.at)
    }
}

impl<'a> Archive<'a> {
    /// An archive, which is not looked at yet. Bytes behind its last entry do not matter.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its regular files, in order. After a damaged entry nothing follows.
    pub fn members(self) -> Members<'a> {
        Members { bytes: self.0, at: 0, done: false }
    }

    /// The content of a member; `None` when there is none of that name.
    pub fn get(self, name: &str) -> Result<Option<&'a [u8]>, Damaged> {
        for member in self.members() {
            let member = member?;
            if member.name == name {
                return Ok(Some(member.data));
            }
        }
        Ok(None)
    }
}

/// The files of an archive.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
    done: bool,
}

impl<'a> Members<'a> {
    /// The next entry with its mode; `None` where none begins.
    fn entry(&mut self) -> Option<(u32, Member<'a>)> {
        let header = self.bytes.get(self.at..)?.first_chunk::<HEADER>()?;
        let (magic, fields) = header.split_first_chunk::<6>()?;
        if magic != b"070701" && magic != b"070702" {
            return None;
        }
        let field = |index: usize| {
            let digits = core::str::from_utf8(fields.get(8 * index..8 * index + 8)?).ok()?;
            u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
        };
        let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
        let name_at = self.at.checked_add(HEADER)?;
        let name_end = name_at.checked_add(name_size)?;
        let name = self.bytes.get(name_at..name_end)?.strip_suffix(b"\0")?;
        let name = core::str::from_utf8(name).ok()?;
        let data_at = name_end.checked_next_multiple_of(4)?;
        let data_end = data_at.checked_add(size)?;
        let data = self.bytes.get(data_at..data_end)?;
        self.at = data_end.checked_next_multiple_of(4)?;
        Some((mode, Member { name, data }))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        const KIND: u32 = 0o170000;
        const REGULAR: u32 = 0o100000;
        while !self.done {
            let at = self.at;
            match self.entry() {
                Some((_, member)) if member.name == TRAILER => self.done = true,
                Some((mode, member)) if mode & KIND == REGULAR => return Some(Ok(member)),
                Some(_) => {}
                None => {
                    self.done = true;
                    return Some(Err(Damaged { at }));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    fn add(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
        let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend(b"070701");
        for field in fields {
            archive.extend(format!("{field:08x}").into_bytes());
        }
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn sample() -> Vec<u8> {
        let mut archive = Vec::new();
        add(&mut archive, "dom0", 0o100444, b"an ELF");
        add(&mut archive, "folder", 0o040755, b"");
        add(&mut archive, "kernels/0", 0o100444, &[7; 33]);
        add(&mut archive, TRAILER, 0, b"");
        archive.extend(b"whatever follows");
        archive
    }

    #[test]
    fn members_are_found() {
        let bytes = sample();
        let archive = Archive::new(&bytes);
        let names: Vec<_> = archive.members().map(|m| m.unwrap().name).collect();
        assert_eq!(names, ["dom0", "kernels/0"]);
        assert_eq!(archive.get("kernels/0"), Ok(Some(&[7; 33][..])));
        assert_eq!(archive.get("kernels/1"), Ok(None));
    }

    #[test]
    fn damage_is_an_error_wherever_it_is() {
        let bytes = sample();
        let end = bytes.len() - b"whatever follows".len();
        for cut in 0..end - 3 {
            assert!(Archive::new(&bytes[..cut]).members().any(|m| m.is_err()), "cut at {cut}");
        }
        for at in 0..end {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            assert!(Archive::new(&bytes).members().count() < 5);
        }
    }
}
