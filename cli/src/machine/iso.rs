//! A CD that boots the image through GRUB and multiboot2: for Bochs with BIOS only and the few GRUB modules that it needs, for people with BIOS
//! and UEFI.

use crate::failure::{Failure, Result};
use crate::machine::strip::stripped;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Which firmware starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// A BIOS, as soon as possible.
    Bios,
    /// A BIOS or UEFI, from a CD, or from the disk that the image is copied to.
    Any,
}

/// Writes the bootable image `iso` that starts `elf` with `cmdline` and, when given, one module.
pub(crate) fn write(
    iso: &Path,
    elf: &Path,
    module: Option<&Path>,
    cmdline: &str,
    firmware: Firmware,
) -> Result<()> {
    let tree =
        tempfile::tempdir().map_err(|e| Failure::file("make a folder in", &std::env::temp_dir(), &e))?;
    let boot = tree.path().join("boot");
    let grub = boot.join("grub");
    fs::create_dir_all(&grub).map_err(|e| Failure::file("make the folder", &grub, &e))?;
    let image = fs::read(elf).map_err(|e| Failure::file("read the image", elf, &e))?;
    put(&boot.join("image"), &stripped(&image))?;
    let mut script = format!("set timeout=0\nmultiboot2 /boot/image {cmdline}\n");
    if let Some(module) = module {
        let copy = boot.join("module");
        // A hard link where possible: bundles are large.
        if fs::hard_link(module, &copy).is_err() {
            fs::copy(module, &copy).map_err(|e| Failure::file("copy the module", module, &e))?;
        }
        script += "module2 /boot/module bundle\n";
    }
    script += "boot\n";
    put(&grub.join("grub.cfg"), script.as_bytes())?;
    let mut command = Command::new("grub-mkrescue");
    if firmware == Firmware::Bios {
        // The folder picks BIOS only: with EFI modules installed as well, grub-mkrescue would make a mixed image.
        command.args([
            "-d",
            "/usr/lib/grub/i386-pc",
            "--install-modules=multiboot2 biosdisk iso9660 normal",
            "--modules=",
        ]);
    }
    // Uncompressed: under an emulator that interprets each instruction it boots twice as fast.
    command
        .args(["--fonts=", "--locales=", "--themes=", "--compress=no", "-o"])
        .arg(iso)
        .arg(tree.path())
        .stdin(Stdio::null());
    let output = command.output().map_err(|e| Failure::file("start", Path::new("grub-mkrescue"), &e))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Failure::usage(format!(
        "{}\ngrub-mkrescue did not make {}; its errors stand above",
        text.trim_end(),
        iso.display()
    )))
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| Failure::file("write", path, &e))
}
