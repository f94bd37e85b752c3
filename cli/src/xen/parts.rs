//! What real Xen needs, from Debian's packages and without any rights on this machine: the hypervisor, a kernel that can be dom0, and a RAM
//! disk with Xen's own store, console daemon and toolstack.

use crate::bundle::cpio::{Archive, Kind};
use crate::demo::modules;
use crate::failure::{Failure, Result};
use crate::setup::{Permission, debian};
use crate::{say, workspace};
use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the parts are.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// The hypervisor, an ELF with a multiboot header.
    pub xen: PathBuf,
    /// dom0's kernel, a bzImage.
    pub kernel: PathBuf,
    /// dom0's RAM disk, which is all of its root.
    pub ramdisk: PathBuf,
}

const INIT: &str = include_str!("init.sh");
const BLOCK: &str = include_str!("block.sh");
const VIF: &str = include_str!("vif.sh");

/// The release of Xen, as Debian names its folders and packages.
const RELEASE: &str = "4.17";

/// The programs of dom0, under Xen's own folder.
const PROGRAMS: [&str; 4] = ["xl", "xenstored", "xenconsoled", "xen-init-dom0"];

/// The packages of the libraries that those programs name, with what the names of the files begin with.
const LIBRARIES: [(&str, &[&str]); 17] = [
    ("libxenmisc4.17", &["libxen", "libxlutil"]),
    ("libxencall1", &["libxen"]),
    ("libxendevicemodel1", &["libxen"]),
    ("libxenevtchn1", &["libxen"]),
    ("libxenforeignmemory1", &["libxen"]),
    ("libxengnttab1", &["libxen"]),
    ("libxenhypfs1", &["libxen"]),
    ("libxenstore4", &["libxen"]),
    ("libxentoolcore1", &["libxen"]),
    ("libxentoollog1", &["libxen"]),
    ("libyajl2", &["libyajl"]),
    ("libuuid1", &["libuuid"]),
    ("liblzma5", &["liblzma"]),
    ("zlib1g", &["libz.so"]),
    ("libzstd1", &["libzstd"]),
    ("libc6", &["libc.so", "ld-linux"]),
    ("libgcc-s1", &["libgcc_s"]),
];

/// The drivers of dom0 that Debian's kernel has as modules: the way to the shared folder, the machine's devices, Xen's own devices, and the
/// back ends.
const DRIVERS: [&str; 12] = [
    "virtio-pci",
    "9pnet-virtio",
    "9p",
    "virtio-blk",
    "virtio-net",
    "bridge",
    "xenfs",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-blkback",
    "xen-netback",
];

/// Makes what is missing.
pub(super) fn make(permission: Permission) -> Result<Parts> {
    let _lock = workspace::lock("xen.lock", "waiting for another process that makes the parts of Xen")?;
    let folder = workspace::target("xen")?;
    let kernel = debian::kernel("linux-image-amd64", permission)?;
    let parts =
        Parts { xen: folder.join("xen"), kernel: kernel.image.clone(), ramdisk: folder.join("dom0.cpio") };
    let stamp = folder.join("edition");
    let edition = format!("{} {PROGRAMS:?} {LIBRARIES:?} {DRIVERS:?}\n{INIT}{BLOCK}{VIF}", kernel.release);
    if parts.xen.is_file()
        && parts.ramdisk.is_file()
        && fs::read_to_string(&stamp).is_ok_and(|old| old == edition)
    {
        return Ok(parts);
    }
    say::progress("making a dom0 of Debian's packages for real Xen");
    unpack_xen(&parts.xen, permission)?;
    let archive = ramdisk(&kernel.modules, permission)?;
    fs::write(&parts.ramdisk, archive).map_err(|e| Failure::file("write", &parts.ramdisk, &e))?;
    fs::write(&stamp, edition).map_err(|e| Failure::file("write", &stamp, &e))?;
    Ok(parts)
}

/// The hypervisor comes compressed, which QEMU's loader does not read.
fn unpack_xen(to: &Path, permission: Permission) -> Result<()> {
    let package = debian::unpacked(&format!("xen-hypervisor-{RELEASE}-amd64"), permission)?;
    let packed = package.join(format!("boot/xen-{RELEASE}-amd64.gz"));
    let mut bytes = Vec::new();
    let file = fs::File::open(&packed).map_err(|e| Failure::file("read", &packed, &e))?;
    GzDecoder::new(file).read_to_end(&mut bytes).map_err(|e| Failure::file("unpack", &packed, &e))?;
    fs::write(to, bytes).map_err(|e| Failure::file("write", to, &e))
}

fn ramdisk(drivers: &Path, permission: Permission) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    let mut folders = Vec::new();
    let mut add = |path: &str, kind: Kind, data: &[u8]| -> Result<()> {
        // Every folder above it, once.
        for (at, _) in path.match_indices('/') {
            let folder = path.get(..at).unwrap_or_default().to_string();
            if !folders.contains(&folder) {
                archive.add(&folder, Kind::Folder, b"").map_err(|e| unwritten(&e))?;
                folders.push(folder);
            }
        }
        archive.add(path, kind, data).map_err(|e| unwritten(&e))
    };
    for folder in ["dev", "proc", "sys", "run", "share", "root", "tmp", "var/lib/xen", "var/log/xen"] {
        add(&format!("{folder}/.keep"), Kind::File(0o644), b"")?;
    }
    // The kernel opens it for the first program, before anything is mounted.
    add("dev/console", Kind::Device(5, 1), b"")?;
    let busybox = debian::unpacked("busybox-static", permission)?.join("bin/busybox");
    add("bin/busybox", Kind::File(0o755), &read(&busybox)?)?;
    add("init", Kind::File(0o755), INIT.as_bytes())?;
    add("etc/xen/scripts/block", Kind::File(0o755), BLOCK.as_bytes())?;
    add("etc/xen/scripts/vif-bridge", Kind::File(0o755), VIF.as_bytes())?;
    add("etc/xen/xl.conf", Kind::File(0o644), b"autoballoon=\"off\"\n")?;
    let programs = format!("usr/lib/xen-{RELEASE}/bin");
    let package = debian::unpacked(&format!("xen-utils-{RELEASE}"), permission)?.join(&programs);
    for name in PROGRAMS {
        add(&format!("{programs}/{name}"), Kind::File(0o755), &read(&package.join(name))?)?;
    }
    let tools = debian::unpacked("xenstore-utils", permission)?.join("usr/bin");
    for name in ["xenstore-read", "xenstore-write", "xenstore-ls"] {
        add(&format!("bin/{name}"), Kind::File(0o755), &read(&tools.join(name))?)?;
    }
    for (package, prefixes) in LIBRARIES {
        let root = debian::unpacked(package, permission)?;
        for folder in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            for path in files(&root.join(folder)) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                    add(&format!("lib/{name}"), Kind::File(0o755), &read(&path)?)?;
                }
            }
        }
    }
    add("lib64/ld-linux-x86-64.so.2", Kind::Link, b"../lib/ld-linux-x86-64.so.2")?;
    for (n, module) in modules::in_order(drivers, &DRIVERS)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        add(&format!("modules/{n:02}-{name}"), Kind::File(0o644), &read(module)?)?;
    }
    archive.finish().map_err(|e| unwritten(&e))
}

fn unwritten(error: &std::io::Error) -> Failure {
    Failure::platform(format!("dom0's RAM disk cannot be made: {error}"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Failure::file("read", path, &e))
}

/// The files of a folder, through links, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}
