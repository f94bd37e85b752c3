//! The demo domains: ordinary domain files under `target/demo/`, with what they name, made on the spot.

mod linux;
pub(crate) mod modules;
mod pc;
mod scripted;

pub use linux::Parts;
pub use pc::pc;
pub use scripted::{PROBE, scripted};

use crate::failure::{Failure, Result};
use crate::setup::{Permission, Tool, debian};
use crate::{images, say, workspace};
use std::fs;
use std::path::{Path, PathBuf};

/// What the demo needs of other projects' programs.
pub(crate) const TOOLS: &[Tool] = &[Tool::Ext4];

/// The domain whose console the terminal is attached to.
pub(crate) const SHELL: &str = "debian";

/// Makes the demo domains and returns their files. `alone`: nobody is at the terminal; they show what works, then power off.
pub(crate) fn prepare(alone: bool, permission: Permission) -> Result<Vec<PathBuf>> {
    let folder = workspace::target("demo")?;
    let _lock = workspace::lock("demo.lock", "waiting for another process that makes the demo domains")?;
    let mode = mode(alone);

    let guest = images::build(images::DEMO.0, images::DEMO.1)?;
    let disk = folder.join("rust.img");
    if !disk.is_file() {
        let blank = fs::File::create(&disk).and_then(|file| file.set_len(16 << 20));
        blank.map_err(|e| Failure::file("make the disk", &disk, &e))?;
    }
    let rust = folder.join("rust.cfg");
    put(
        &rust,
        &format!(
            "# A guest written in Rust on this project's front ends.\nname = \"rust\"\ntype = \"pvh\"\nmemory = 32\nvcpus = 1\nkernel = \"{}\"\ncmdline = \"demo{mode}\"\ndisk = [ \"{},raw,xvda,rw\" ]\n",
            guest.display(),
            disk.display()
        ),
    )?;

    let linux = write_linux(&folder, mode, Keep::Image, permission)?;
    Ok(vec![rust, linux])
}

/// Makes the Linux domain alone, and returns its file.
pub(crate) fn linux_file(alone: bool, keep: Keep, permission: Permission) -> Result<PathBuf> {
    let folder = workspace::target("demo")?;
    let _lock = workspace::lock("demo.lock", "waiting for another process that makes the demo domains")?;
    write_linux(&folder, mode(alone), keep, permission)
}

/// Where the Linux domain's root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// In the image, which keeps what the domain writes.
    Image,
    /// In dom0's memory, filled from the image.
    Memory,
}

/// The word on the command line by which the demo domains know that nobody is at the terminal.
fn mode(alone: bool) -> &'static str {
    if alone { " trunnion.demo=1" } else { "" }
}

fn write_linux(folder: &Path, mode: &str, keep: Keep, permission: Permission) -> Result<PathBuf> {
    let parts = linux::make(&folder.join("linux"), permission)?;
    let (file, backend) = match keep {
        Keep::Image => ("debian.cfg", ""),
        Keep::Memory => ("debian-memory.cfg", ",backendtype=ram"),
    };
    let file = folder.join(file);
    put(
        &file,
        &format!(
            "# Debian's kernel as it comes in its package, with a root file system on a PV disk.\nname = \"{SHELL}\"\ntype = \"pvh\"\nmemory = 192\nvcpus = 1\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"console=hvc0 root=/dev/xvda rw{mode}\"\ndisk = [ \"{},raw,xvda,rw{backend}\" ]\n",
            parts.kernel.display(),
            parts.ramdisk.display(),
            parts.disk.display()
        ),
    )?;
    Ok(file)
}

/// The parts of a Linux domain, made when they are missing: Debian's kernel, a RAM disk, and an ext4 root to be copied by whoever writes to
/// it. `trunnion.script=DISK` on the kernel's command line runs a script from a disk.
pub fn linux_parts() -> Result<Parts> {
    let _lock = workspace::lock("demo.lock", "waiting for another process that makes the demo domains")?;
    linux::make(&workspace::target("demo")?.join("pristine"), Permission::Install)
}

/// Debian's GRUB for PVH guests, from its package: a kernel that reads `/boot/grub/grub.cfg` on the guest's disks.
pub fn grub() -> Result<PathBuf> {
    Ok(debian::unpacked("grub-xen-host", Permission::Install)?.join("usr/lib/grub-xen/grub-i386-xen_pvh.bin"))
}

/// What a person at a terminal is told before the consoles begin.
pub(crate) fn hints(instance: &str) {
    let option =
        if instance == crate::instance::DEFAULT { String::new() } else { format!("--instance {instance} ") };
    say::progress("this is the console of the Linux domain; Ctrl-] ends the run. In a second terminal, try:");
    for verb in ["xl list", "console rust --replay", "xenstore ls", "xl shutdown debian"] {
        say::progress(&format!("    cargo run -- {option}{verb}"));
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| Failure::file("write", path, &e))
}
