//! A guest's kernel: read, unpacked when it is a bzImage, and checked before anything starts.

pub mod bzimage;
pub mod elf;

use crate::failure::{Failure, Result};
use std::fs;
use std::path::Path;

/// No kernel is larger than this when unpacked; a bigger one is a mistake (a disk image, say).
pub const LARGEST: usize = 512 << 20;

/// A kernel that can be started: an ELF with a PVH entry, without sections.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF.
    pub elf: Vec<u8>,
    /// The lowest and, excluded, the highest guest-physical address of its segments, in bytes.
    pub span: std::ops::Range<u64>,
}

/// Reads and checks the kernel in the file `path`; the message of a failure names the file and what is wrong with it.
pub fn load(path: &Path) -> Result<Kernel> {
    let size = fs::metadata(path).map_err(|e| Failure::file("read the kernel", path, &e))?;
    if size.is_dir() {
        return Err(Failure::usage(format!("the kernel {} is a folder", path.display())));
    }
    if size.len() > LARGEST as u64 {
        return Err(Failure::usage(format!(
            "the kernel {} has {} MiB; no kernel has more than {} MiB (is it a disk image?)",
            path.display(),
            size.len() >> 20,
            LARGEST >> 20
        )));
    }
    let bytes = fs::read(path).map_err(|e| Failure::file("read the kernel", path, &e))?;
    parse(&bytes)
        .map_err(|why| Failure::usage(format!("the kernel {} cannot be started: {why}", path.display())))
}

/// Checks a kernel in memory.
pub fn parse(bytes: &[u8]) -> std::result::Result<Kernel, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let unpacked;
    let image = if elf::is_elf(bytes) {
        bytes
    } else if bzimage::is_bzimage(bytes) {
        unpacked = bzimage::unpack(bytes)?;
        &unpacked
    } else {
        return Err("it is neither an ELF nor a Linux bzImage".into());
    };
    let span = elf::check(image)?;
    Ok(Kernel { elf: crate::machine::stripped(image), span })
}
