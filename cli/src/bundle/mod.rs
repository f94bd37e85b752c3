//! The bundle: the one module that the hypervisor is started with. An uncompressed cpio archive of `dom0` (an ELF), `config` (what to run),
//! `kernels/N`, `ramdisks/N`, `firmware/N` and `disks/N`; equal files are stored once.

pub mod cpio;

use crate::failure::{Failure, Result};
use cpio::{Archive, Kind};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// The folders of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// ELFs with a PVH entry, unpacked.
    Kernel,
    /// RAM disks, as they are.
    Ramdisk,
    /// Firmware of emulated PCs.
    Firmware,
    /// The first content of disks that dom0 keeps in memory.
    Disk,
}

impl Member {
    fn folder(self) -> &'static str {
        match self {
            Member::Kernel => "kernels",
            Member::Ramdisk => "ramdisks",
            Member::Firmware => "firmware",
            Member::Disk => "disks",
        }
    }
}

/// A bundle in the making.
#[derive(Debug, Default)]
pub struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    known: HashMap<(Member, Vec<u8>), String>,
    counts: HashMap<Member, u32>,
}

impl Bundle {
    /// A bundle with dom0's ELF.
    pub fn new(dom0: &[u8]) -> Self {
        let mut bundle = Self::default();
        bundle.files.push(("dom0".into(), crate::machine::stripped(dom0)));
        bundle
    }

    /// Adds a file and returns its name in the archive; that of an equal one when there is one.
    pub fn add(&mut self, member: Member, data: Vec<u8>) -> String {
        if let Some(name) = self.known.get(&(member, data.clone())) {
            return name.clone();
        }
        let count = self.counts.entry(member).or_default();
        let name = format!("{}/{count}", member.folder());
        *count += 1;
        self.known.insert((member, data.clone()), name.clone());
        self.files.push((name.clone(), data));
        name
    }

    /// Adds the file `config`.
    pub fn configure(&mut self, config: Vec<u8>) {
        self.files.push(("config".into(), config));
    }

    /// The size of the archive in bytes, to a few bytes an entry.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|(name, data)| (data.len() + name.len() + 128) as u64).sum()
    }

    /// Writes the archive.
    pub fn write(&self, path: &Path) -> Result<()> {
        let fail = |e: std::io::Error| Failure::file("write the bundle", path, &e);
        let mut archive = Archive::new(BufWriter::new(File::create(path).map_err(fail)?));
        for (name, data) in &self.files {
            archive.add(name, Kind::File(0o444), data).map_err(fail)?;
        }
        archive.finish().map(drop).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_are_stored_once() {
        let mut bundle = Bundle::new(b"not an ELF");
        assert_eq!(bundle.add(Member::Kernel, vec![1; 100]), "kernels/0");
        assert_eq!(bundle.add(Member::Kernel, vec![2; 100]), "kernels/1");
        assert_eq!(bundle.add(Member::Kernel, vec![1; 100]), "kernels/0");
        assert_eq!(bundle.add(Member::Disk, vec![1; 100]), "disks/0");
        assert_eq!(bundle.files.len(), 4);
    }
}
