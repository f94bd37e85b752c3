//! Linux for an emulated PC: Debian's generic kernel on a disk that a BIOS boots, with GRUB before its one partition, and a script.

use super::linux::{make_ramdisk, pristine};
use crate::failure::{Failure, Result};
use crate::images;
use crate::setup::{Permission, debian, which};
use crate::workspace;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Raised when what is made here changes.
const EDITION: &str = "1";
/// The meta-package of the kernel.
const KERNEL: &str = "linux-image-amd64";
/// The drivers of the emulated devices, of their split kin, and of the root; what a driver asks for by an alias comes first.
const DRIVERS: [&str; 9] = [
    "crc32c_generic",
    "crct10dif_common",
    "ata_piix",
    "sd_mod",
    "ext4",
    "e1000",
    "ne2k-pci",
    "xen-blkfront",
    "xen-netfront",
];
/// What GRUB's image has, to read its script and the kernel from the partition.
const MODULES: [&str; 7] = ["biosdisk", "part_msdos", "ext2", "normal", "linux", "serial", "terminal"];
/// Where Debian has GRUB for BIOS machines.
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// Bytes of a sector.
const SECTOR: usize = 512;
/// The partition begins here; GRUB's image lies before it.
const PARTITION: usize = 1 << 20;

/// What a PC's disk is made of.
struct Parts {
    kernel: debian::Kernel,
    /// Compressed: a BIOS reads slowly.
    ramdisk: PathBuf,
    /// GRUB's image, from the second sector on.
    core: PathBuf,
}

/// Makes the disk `image`, from which an emulated PC boots Debian's generic kernel. It uses COM1, gets `words` on its command line, runs
/// `script` (which finds the measuring program as `/root/probe`) and powers off.
pub fn pc(image: &Path, script: &str, words: &str) -> Result<()> {
    let parts = parts()?;
    let probe = images::build_static(images::PROBE.0, images::PROBE.1)?;
    let root = super::linux_parts()?.disk;
    let work = image.with_extension("parts");
    fs::create_dir_all(&work).map_err(|e| Failure::file("make the folder", &work, &e))?;
    let partition = work.join("partition");
    fs::copy(&root, &partition).map_err(|e| Failure::file("copy the root disk to", &partition, &e))?;
    let menu = format!(
        "serial --unit=0\nterminal_output serial\necho GRUB loads the kernel\n\
         linux /boot/vmlinuz console=ttyS0 root=/dev/sda1 rw trunnion.script=/root/script {words}\n\
         initrd /boot/ramdisk\necho GRUB starts the kernel\nboot\n"
    );
    let made = |name: &str, text: &str| {
        let path = work.join(name);
        fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e)).map(|()| path)
    };
    let files = [
        (parts.kernel.image, "/boot/vmlinuz"),
        (parts.ramdisk, "/boot/ramdisk"),
        (made("grub.cfg", &menu)?, "/boot/grub/grub.cfg"),
        (made("script", script)?, "/root/script"),
        (probe, "/root/probe"),
    ];
    fill(&partition, &work, &files)?;
    assemble(image, &parts.core, &partition)?;
    fs::remove_dir_all(&work).map_err(|e| Failure::file("remove", &work, &e))
}

/// Makes what is missing of the parts.
fn parts() -> Result<Parts> {
    let _lock = workspace::lock("demo.lock", "waiting for another process that makes the demo domains")?;
    let folder = workspace::target("demo")?.join("pc");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let kernel = debian::kernel(KERNEL, Permission::Install)?;
    let parts = Parts { ramdisk: folder.join("ramdisk.gz"), core: folder.join("core.img"), kernel };
    let stamp = folder.join("edition");
    let edition = format!("{EDITION} {}\n{}{DRIVERS:?}{MODULES:?}", parts.kernel.release, pristine());
    if parts.ramdisk.is_file()
        && parts.core.is_file()
        && fs::read_to_string(&stamp).is_ok_and(|old| old == edition)
    {
        return Ok(parts);
    }
    let busybox = debian::unpacked("busybox-static", Permission::Install)?.join("bin/busybox");
    let plain = folder.join("ramdisk.cpio");
    make_ramdisk(&plain, &busybox, &parts.kernel, &DRIVERS)?;
    let compress = || {
        let mut packed =
            flate2::write::GzEncoder::new(File::create(&parts.ramdisk)?, flate2::Compression::best());
        packed.write_all(&fs::read(&plain)?)?;
        packed.finish().map(drop)
    };
    compress().map_err(|e| Failure::file("compress the RAM disk to", &parts.ramdisk, &e))?;
    let mut command = Command::new("grub-mkimage");
    command.args(["-d", GRUB, "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"]);
    run(command.arg(&parts.core).args(MODULES).args(["echo", "boot"]))?;
    fs::write(&stamp, edition).map_err(|e| Failure::file("write", &stamp, &e))?;
    Ok(parts)
}

/// Writes files into the partition's file system.
fn fill(partition: &Path, work: &Path, files: &[(PathBuf, &str)]) -> Result<()> {
    let mut orders = String::from("mkdir /boot\nmkdir /boot/grub\n");
    for (file, name) in files {
        let _ = writeln!(orders, "write \"{}\" {name}", file.display());
    }
    let path = work.join("orders");
    fs::write(&path, orders).map_err(|e| Failure::file("write", &path, &e))?;
    let program = which("debugfs").unwrap_or_else(|| "debugfs".into());
    run(Command::new(program).args(["-w", "-f"]).arg(&path).arg(partition))
}

/// Puts boot sector, GRUB's image and partition together.
fn assemble(image: &Path, core: &Path, partition: &Path) -> Result<()> {
    let boot = Path::new(GRUB).join("boot.img");
    let code = fs::read(&boot).map_err(|e| Failure::file("read", &boot, &e))?;
    let content = fs::read(partition).map_err(|e| Failure::file("read", partition, &e))?;
    let core = fs::read(core).map_err(|e| Failure::file("read", core, &e))?;
    if core.len() > PARTITION - SECTOR {
        return Err(Failure::usage("GRUB's image has no room before the partition"));
    }
    let sectors = (content.len() / SECTOR) as u32;
    let mut head = vec![0; PARTITION];
    for (to, from) in head.iter_mut().zip(code.iter().take(440)) {
        *to = *from;
    }
    // One partition of Linux, which is active; its addresses by cylinder say that they are too large for that.
    let entry = [
        [0x80, 0xfe, 0xff, 0xff],
        [0x83, 0xfe, 0xff, 0xff],
        ((PARTITION / SECTOR) as u32).to_le_bytes(),
        sectors.to_le_bytes(),
    ];
    head[446..462].copy_from_slice(entry.as_flattened());
    head[510..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    head[SECTOR..SECTOR + core.len()].copy_from_slice(&core);
    let write = || {
        let mut file = File::create(image)?;
        file.write_all(&head)?;
        // What is empty takes no room.
        for piece in content.chunks(1 << 16) {
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all(piece)?;
            } else {
                file.seek(SeekFrom::Current(piece.len() as i64))?;
            }
        }
        file.set_len((PARTITION + content.len()) as u64)
    };
    write().map_err(|e| Failure::file("write the disk", image, &e))
}

fn run(command: &mut Command) -> Result<()> {
    let program = PathBuf::from(command.get_program());
    let output = command.stdin(Stdio::null()).output().map_err(|e| Failure::file("start", &program, &e))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Failure::usage(format!("{}\n{} failed; its errors stand above", text.trim_end(), program.display())))
}
