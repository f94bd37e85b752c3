//! Archives in the "new ASCII" cpio format without checksums (`newc`), which the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`
//! describes: for the boot bundle, and for guests' RAM disks.

use std::io::{self, Write};

/// What an entry is; the numbers are those of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with these permission bits.
    File(u32),
    /// A folder.
    Folder,
    /// A symbolic link; the data is where it points.
    Link,
    /// A character device with these numbers.
    Device(u32, u32),
}

/// An archive that is being written.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    at: u64,
    inode: u32,
}

/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, at: 0, inode: 0 }
    }

    /// Adds an entry. The format holds sizes below 4 GiB.
    pub fn add(&mut self, name: &str, kind: Kind, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| {
            io::Error::other(format!("{name} has 4 GiB or more, which the archive format cannot hold"))
        })?;
        self.header(name, kind, size)?;
        self.write(data)?;
        self.align()
    }

    /// Ends the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.header(TRAILER, Kind::File(0), 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, kind: Kind, size: u32) -> io::Result<()> {
        let (mode, major, minor) = match kind {
            Kind::File(_) if name == TRAILER => (0, 0, 0),
            Kind::File(bits) => (0o100000 | bits, 0, 0),
            Kind::Folder => (0o040755, 0, 0),
            Kind::Link => (0o120777, 0, 0),
            Kind::Device(major, minor) => (0o020600, major, minor),
        };
        self.inode += 1;
        // Times are 0, so that equal content makes equal archives.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name.len() as u32 + 1, 0];
        use std::fmt::Write as _;
        let mut text = String::from("070701");
        for field in fields {
            let _ = write!(text, "{field:08x}");
        }
        self.write(text.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.align()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        let rest = (self.at.next_multiple_of(4) - self.at) as usize;
        self.write(&[0; 3][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_layout_is_that_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.add("a", Kind::File(0o644), b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[54..62], b"00000005"); // size
        assert_eq!(&bytes[94..102], b"00000002"); // name with its NUL
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..117], b"hello");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn another_program_reads_it() {
        let Some(busybox) = crate::setup::which("busybox") else { return };
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.add("d", Kind::Folder, b"").unwrap();
        archive.add("d/file", Kind::File(0o600), b"content\n").unwrap();
        archive.add("d/link", Kind::Link, b"file").unwrap();
        let bytes = archive.finish().unwrap();
        let mut child = Command::new(busybox)
            .args(["cpio", "-i", "-d"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("d/link")).unwrap(), b"content\n");
    }
}
