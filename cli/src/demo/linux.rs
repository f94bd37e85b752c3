//! The Linux domain's parts: Debian's kernel, a RAM disk that finds the root, and an ext4 root made of unpacked Debian packages, all without
//! any rights on this machine.

use super::modules;
use crate::bundle::cpio::{Archive, Kind};
use crate::failure::{Failure, Result};
use crate::say;
use crate::setup::{Permission, debian, which};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the parts of a Linux domain are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Debian's kernel as it comes in its package, a bzImage.
    pub kernel: PathBuf,
    /// The RAM disk that finds the root.
    pub ramdisk: PathBuf,
    /// The root: a raw image with an ext4 file system.
    pub disk: PathBuf,
}

/// The first program of the RAM disk: loads the drivers in the order of the file names, waits for the root, and goes there.
const RAMDISK_INIT: &str = include_str!("ramdisk.sh");
/// The first program of the root: shows what works, then offers a shell, or powers off.
const ROOT_INIT: &str = include_str!("init.sh");
/// What sets an address that DHCP gave.
const LEASE: &str = include_str!("lease.sh");
/// What the kernel runs when the toolstack asks for a power-off or a reboot.
const POWER: &str = "#!/bin/busybox sh\n/bin/busybox sync\n/bin/busybox mount -o remount,ro /\nexec /bin/busybox \"${0##*/}\" -f\n";

/// The drivers a PVH guest needs that Debian's kernel has as modules.
const DRIVERS: [&str; 2] = ["xen-blkfront", "xen-netfront"];

/// The root's programs beside busybox: Debian package, folder in it, how their names begin.
const TOOLS: [(&str, &str, &str); 3] = [
    ("xenstore-utils", "usr/bin", "xenstore"),
    ("ethtool", "sbin", "ethtool"),
    ("iperf3", "usr/bin", "iperf3"),
];
/// Their libraries: Debian package, how the files' names begin.
const LIBRARIES: [(&str, &[&str]); 7] = [
    ("libc6", &["libc.so", "libm.so", "ld-linux"]),
    ("libxenstore4", &["libxen"]),
    ("libxentoolcore1", &["libxen"]),
    ("libmnl0", &["libmnl"]),
    ("libiperf0", &["libiperf"]),
    ("libsctp1", &["libsctp"]),
    ("libssl3", &["libssl", "libcrypto"]),
];

/// Raised when the content of the root changes, so that an old one is made anew.
const EDITION: &str = "2";

/// Makes what is missing in `folder`. The root disk is kept from run to run, like a real one.
pub(super) fn make(folder: &Path, permission: Permission) -> Result<Parts> {
    fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))?;
    let kernel = debian::cloud_kernel(permission)?;
    let parts = Parts {
        kernel: kernel.image.clone(),
        ramdisk: folder.join("ramdisk.cpio"),
        disk: folder.join("root.ext4"),
    };
    let edition = format!("{EDITION} {}\n{RAMDISK_INIT}{ROOT_INIT}{LEASE}", kernel.release);
    let stamp = folder.join("edition");
    if parts.ramdisk.is_file()
        && parts.disk.is_file()
        && fs::read_to_string(&stamp).is_ok_and(|old| old == edition)
    {
        return Ok(parts);
    }
    let busybox = debian::unpacked("busybox-static", permission)?.join("bin/busybox");
    make_ramdisk(&parts.ramdisk, &busybox, &kernel, &DRIVERS)?;
    make_root(folder, &parts.disk, &busybox, permission)?;
    fs::write(&stamp, edition).map_err(|e| Failure::file("write", &stamp, &e))?;
    Ok(parts)
}

/// What the content of a RAM disk depends on besides kernel and drivers.
pub(super) fn pristine() -> String {
    format!("{EDITION}\n{RAMDISK_INIT}")
}

/// A RAM disk that loads `drivers`, with what they need, and goes to the root.
pub(super) fn make_ramdisk(
    path: &Path,
    busybox: &Path,
    kernel: &debian::Kernel,
    drivers: &[&str],
) -> Result<()> {
    say::progress("making the RAM disk of the Linux domain");
    let modules = modules::in_order(&kernel.modules, drivers)?;
    let program = fs::read(busybox).map_err(|e| Failure::file("read", busybox, &e))?;
    let write = || {
        let mut archive = Archive::new(Vec::new());
        for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
            archive.add(folder, Kind::Folder, b"")?;
        }
        // The kernel opens it for the first program, before anything is mounted.
        archive.add("dev/console", Kind::Device(5, 1), b"")?;
        archive.add("bin/busybox", Kind::File(0o755), &program)?;
        archive.add("init", Kind::File(0o755), RAMDISK_INIT.as_bytes())?;
        for (n, module) in modules.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            archive.add(&format!("modules/{n:02}-{name}"), Kind::File(0o644), &fs::read(module)?)?;
        }
        fs::write(path, archive.finish()?)
    };
    write().map_err(|e| Failure::file("write the RAM disk", path, &e))
}

fn make_root(folder: &Path, disk: &Path, busybox: &Path, permission: Permission) -> Result<()> {
    say::progress("making the root disk of the Linux domain");
    let root = &folder.join("root");
    let _ = fs::remove_dir_all(root);
    fill(root, busybox, permission)?;
    let program = which("mke2fs").unwrap_or_else(|| "mke2fs".into());
    let fresh = folder.join("root.new");
    let mut command = Command::new(&program);
    command
        .args(["-q", "-F", "-t", "ext4", "-L", "trunnion", "-E", "root_owner=0:0", "-d"])
        .arg(root)
        .arg(&fresh)
        .arg("64M");
    let output = command.stdin(Stdio::null()).output().map_err(|e| Failure::file("start", &program, &e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::usage(format!(
            "{}\nmke2fs did not make {}; its errors stand above",
            text.trim_end(),
            fresh.display()
        )));
    }
    let _ = fs::remove_dir_all(root);
    fs::rename(&fresh, disk).map_err(|e| Failure::file("put into place", disk, &e))
}

/// The root's content: one static program for all common commands, the store's tools with their libraries, and a script as process 1.
fn fill(root: &Path, busybox: &Path, permission: Permission) -> Result<()> {
    let fail = |e: std::io::Error| Failure::file("fill", root, &e);
    for name in ["bin", "sbin", "usr/bin", "lib", "lib64", "etc", "dev", "proc", "sys", "run", "tmp", "root"]
    {
        fs::create_dir_all(root.join(name)).map_err(fail)?;
    }
    fs::copy(busybox, root.join("bin/busybox")).map_err(fail)?;
    let applets =
        Command::new(busybox).arg("--list").output().map_err(|e| Failure::file("start", busybox, &e))?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet)).map_err(fail)?;
    }
    let scripts =
        [("sbin/init", ROOT_INIT), ("sbin/lease", LEASE), ("sbin/poweroff", POWER), ("sbin/reboot", POWER)];
    for (name, text) in scripts {
        let path = root.join(name);
        fs::write(&path, text).map_err(fail)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").map_err(fail)?;
    fs::write(root.join("etc/hostname"), "debian\n").map_err(fail)?;
    symlink("/run/resolv.conf", root.join("etc/resolv.conf")).map_err(fail)?;

    for (package, folder, prefix) in TOOLS {
        let tools = debian::unpacked(package, permission)?.join(folder);
        for tool in files(&tools).into_iter().filter(|path| named(path, prefix)) {
            copy(&tool, &root.join("usr/bin"))?;
        }
    }
    for (package, prefixes) in LIBRARIES {
        let folder = debian::unpacked(package, permission)?;
        for libraries in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            for library in files(&folder.join(libraries))
                .into_iter()
                .filter(|path| prefixes.iter().any(|prefix| named(path, prefix)))
            {
                copy(&library, &root.join("lib"))?;
            }
        }
    }
    symlink("../lib/ld-linux-x86-64.so.2", root.join("lib64/ld-linux-x86-64.so.2")).map_err(fail)
}

fn named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
}

/// Copies a file under its own name; through a link, so that each name of a library is a file.
fn copy(file: &Path, folder: &Path) -> Result<()> {
    let target = folder.join(file.file_name().unwrap_or_default());
    fs::copy(file, &target).map(drop).map_err(|e| Failure::file("copy", file, &e))
}
