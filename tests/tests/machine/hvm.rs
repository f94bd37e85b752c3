//! Domains with firmware on an emulated PC.

use std::fs;
use std::process::Command;

use trunnion_cli::setup::{self, Permission, Tool};
use trunnion_tests::system::{Ended, QEMU_SVM, Run, sector};

use crate::DRIVER;

/// Reads the second sector of the drive that it was booted from, copies it to the third, says its first eight characters on
/// COM1, and switches the machine off.
fn boot_sector() -> [u8; 512] {
    #[rustfmt::skip]
    let code: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // xor ax, ax; mov ds, ax; mov es, ax
        0xb8, 0x01, 0x02,       // mov ax, 0x0201: read one sector
        0xb9, 0x02, 0x00,       // mov cx, 2: of cylinder 0, the second
        0xb6, 0x00,             // mov dh, 0: of head 0; DL is the drive
        0xbb, 0x00, 0x06,       // mov bx, 0x600
        0xcd, 0x13,             // int 0x13
        0xb8, 0x01, 0x03,       // mov ax, 0x0301: write one
        0xb9, 0x03, 0x00,       // mov cx, 3
        0xcd, 0x13,             // int 0x13
        0xbe, 0x00, 0x06,       // mov si, 0x600
        0xb9, 0x08, 0x00,       // mov cx, 8
        0xac,                   // lodsb
        0x88, 0xc4,             // mov ah, al
        0xba, 0xfd, 0x03,       // mov dx, 0x3fd: the line status
        0xec, 0xa8, 0x20, 0x74, 0xfb, // in al, dx; test al, 0x20; jz to the in
        0xb2, 0xf8,             // mov dl, 0xf8
        0x88, 0xe0, 0xee,       // mov al, ah; out dx, al
        0xe2, 0xee,             // loop to lodsb
        0xba, 0x04, 0x06,       // mov dx, 0x604: the PM1 control register
        0xb8, 0x01, 0x20,       // mov ax, 0x2001: S5
        0xef, 0xf4,             // out dx, ax; hlt
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// An image of so many bytes with the boot sector and a text behind it.
fn image(bytes: usize, text: &str) -> Vec<u8> {
    let mut image = vec![0u8; bytes];
    image[..512].copy_from_slice(&boot_sector());
    image[512..512 + text.len()].copy_from_slice(text.as_bytes());
    image
}

fn run() -> Run {
    setup::ensure(&[Tool::SeaBios], Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
    Run::new(DRIVER, QEMU_SVM)
}

/// A domain that switched itself off, and left nothing behind.
fn is_good(ended: &Ended, name: &str) {
    assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn seabios_boots_a_disk_and_a_floppy() {
    let run = run();
    for (name, text, bytes) in [("disk", "DISK TWO", 1 << 20), ("floppy", "FLOPPY 2", 1_474_560)] {
        fs::write(run.path().join(name), image(bytes, text)).expect("the image can be written");
    }
    let pc = |name: &str, more: &str| {
        format!("name = \"{name}\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\n{more}\n")
    };
    let ended = run
        .option(&["--sequence"])
        .domain("one", &pc("one", "disk = [ 'disk,raw,hda,rw' ]"))
        .domain("two", &pc("two", "boot = \"a\"\nfloppy = \"floppy\""))
        .go(120);
    for (name, file, text) in [("one", "disk", "DISK TWO"), ("two", "floppy", "FLOPPY 2")] {
        is_good(&ended, name);
        assert!(ended.console(name).contains(text), "{}", ended.report());
        let image = fs::read(ended.path().join(file)).expect("the image is there");
        assert_eq!(&image[1024..1032], text.as_bytes(), "{file} has what the guest wrote");
    }
}

#[test]
fn grub_comes_from_a_cd_to_its_menu() {
    const SCRIPT: &str = "serial --unit=0
terminal_output serial
terminal_input serial
set timeout=0
menuentry \"off\" {
  echo \"GRUB RUNS ON $grub_platform\"
  halt
}
";
    setup::ensure(&[Tool::GrubModules, Tool::Grub, Tool::Xorriso, Tool::Mtools], Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    let run = run();
    let folder = run.path().join("iso/boot/grub");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("grub.cfg"), SCRIPT).expect("the script can be written");
    let made = Command::new("grub-mkrescue")
        .args(["-d", "/usr/lib/grub/i386-pc", "-o"])
        .arg(run.path().join("rescue.iso"))
        .arg(run.path().join("iso"))
        .output();
    assert!(made.as_ref().is_ok_and(|output| output.status.success()), "grub-mkrescue: {made:?}");
    let text = "name = \"cd\"\ntype = \"hvm\"\nmemory = 64\nserial = \"pty\"\nboot = \"d\"\n\
                disk = [ 'target=rescue.iso,vdev=hdc,access=ro,devtype=cdrom' ]\n";
    let ended = run.domain("cd", text).go(120);
    is_good(&ended, "cd");
    assert!(ended.console("cd").contains("GRUB RUNS ON pc"), "{}", ended.report());
}

/// What Linux does on the emulated PC: says what it has, writes a file, reads the disk.
const LINUX: &str = "#!/bin/sh
echo processors=$(grep -c ^processor /proc/cpuinfo)
echo address=$(ip -4 -o address show dev eth0 | awk '{ print $4 }')
echo driver=$(basename $(readlink /sys/class/net/eth0/device/driver))
i=0
while [ $i -lt 4000 ]; do echo \"line $i of the test file\"; i=$((i + 1)); done >/root/written
sync
echo 3 >/proc/sys/vm/drop_caches
echo complaints=$(dmesg | grep -cE 'ACPI.*(Error|Exception|Warning|BUG)|Firmware Bug|BIOS bug')
echo readback=$(dd if=/dev/sda bs=1M count=16 2>/dev/null | wc -c)
";

/// Debian's generic kernel through GRUB from an IDE disk: its root there, its address by DHCP through an e1000.
fn linux(vcpus: u32) {
    setup::ensure(&[Tool::GrubModules, Tool::Grub], Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    let run = run();
    trunnion_cli::demo::pc(&run.path().join("disk"), LINUX, "quiet")
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    let text = format!(
        "name = \"pc\"\ntype = \"hvm\"\nmemory = 192\nvcpus = {vcpus}\nserial = \"pty\"\nboot = \"c\"\n\
         xen_platform_pci = 0\ndisk = [ 'disk,raw,hda,rw' ]\nvif = [ 'bridge=xenbr0' ]\n"
    );
    let ended = run.domain("pc", &text).go(1200);
    is_good(&ended, "pc");
    assert_eq!(ended.said("pc", "processors"), vcpus.to_string());
    assert_eq!(ended.said("pc", "complaints"), "0", "of the tables\n{}", ended.report());
    assert_eq!(ended.said("pc", "driver"), "e1000");
    assert!(ended.said("pc", "address").starts_with("10.0.2."), "{}", ended.report());
    assert_eq!(ended.said("pc", "readback"), (16 << 20).to_string());
    // The partition begins at 1 MiB.
    let partition = format!("{}?offset=1048576", ended.path().join("disk").display());
    assert_eq!(crate::linux::written(partition.as_ref()), crate::linux::expected(), "{}", ended.report());
}

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "minutes: GRUB and Linux read by port accesses; TRUNNION_TIER=full runs it"
)]
fn debians_generic_kernel_boots_from_ide() {
    linux(1);
}

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "minutes: GRUB and Linux read by port accesses; TRUNNION_TIER=full runs it"
)]
fn debians_generic_kernel_boots_from_ide_with_two_processors() {
    linux(2);
}

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "minutes: GRUB and Linux read by port accesses; TRUNNION_TIER=full runs it"
)]
fn debians_generic_kernel_boots_from_ide_with_four_processors() {
    linux(4);
}

/// Restarts the machine at its first boot, and says at its second what it found.
const AGAIN: &str = "#!/bin/sh
if [ -e /root/first ]; then echo boot=second; exit; fi
touch /root/first
sync
echo boot=first
reboot -f
";

#[test]
#[cfg_attr(
    not(full_tier),
    ignore = "minutes: GRUB and Linux read by port accesses, twice; TRUNNION_TIER=full runs it"
)]
fn linux_restarts_its_pc_and_switches_it_off() {
    setup::ensure(&[Tool::GrubModules, Tool::Grub], Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    let run = run();
    trunnion_cli::demo::pc(&run.path().join("disk"), AGAIN, "quiet")
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    let text = "name = \"pc\"\ntype = \"hvm\"\nmemory = 192\nserial = \"pty\"\nboot = \"c\"\n\
                xen_platform_pci = 0\ndisk = [ 'disk,raw,hda,rw' ]\n";
    let ended = run.option(&["--net", "none"]).domain("pc", text).go(1200);
    // The machine that was restarted is a new domain of the same name.
    let outcomes = ended.summary["domains"].as_array().into_iter().flatten().map(|domain| &domain["outcome"]);
    assert!(outcomes.eq(["reboot", "poweroff"]), "{}", ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
    let console = ended.console("pc");
    assert!(
        console.contains("boot=first") && console.contains("boot=second"),
        "{console}\n{}",
        ended.report()
    );
}

/// The boot sector `tests/guests/walk.s` for so many accesses from a seed.
fn walker(folder: &std::path::Path, seed: u32, count: u32) -> Vec<u8> {
    let mut sector = sector(folder, "walk");
    sector[0x1b0..0x1b4].copy_from_slice(&seed.to_le_bytes());
    sector[0x1b4..0x1b8].copy_from_slice(&count.to_le_bytes());
    sector
}

/// A guest that pokes at all of its PC ends as it likes, and the platform loses nothing.
fn walk(seed: u32, count: u32, limit: u32) {
    let run = run();
    fs::write(run.path().join("disk"), walker(run.path(), seed, count)).expect("the image can be written");
    let text = "name = \"walker\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\nboot = \"c\"\non_reboot = \"destroy\"\n\
                disk = [ 'disk,raw,hda,rw', 'target=,vdev=hdc,access=ro,devtype=cdrom' ]\nvif = [ 'bridge=xenbr0' ]\n";
    let ended = run.option(&["--net", "none"]).domain("walker", text).go(limit);
    is_good(&ended, "walker");
    let exits = &ended.domain("walker")["exits"];
    let number = |kind: &str| exits[kind].as_u64().unwrap_or_default();
    assert!(number("port") + number("memory") > u64::from(count) * 3 / 4, "{}", ended.report());
}

#[test]
fn a_guest_pokes_at_every_device() {
    walk(1, 20_000, 120);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "minutes: a million accesses; TRUNNION_TIER=full runs it")]
fn a_guest_pokes_at_every_device_a_million_times() {
    walk(2, 1_000_000, 1200);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "seconds of two processors; TRUNNION_TIER=full runs it")]
fn an_unknown_instruction_on_a_device_is_undefined_and_logged() {
    let run = run();
    fs::write(run.path().join("disk"), sector(run.path(), "unknown")).expect("the image can be written");
    let text = "name = \"pc\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\nboot = \"c\"\n\
                disk = [ 'disk,raw,hda,rw' ]\n";
    let ended = run.option(&["--net", "none"]).domain("pc", text).go(300);
    is_good(&ended, "pc");
    assert!(ended.console("pc").contains("UG"), "{}\n{}", ended.console("pc"), ended.report());
    let log = ended.file("dom0.log");
    // FLD of four bytes at ES:0, and the registers.
    let lines =
        ["not known to the device model bytes=[26, d9, 06, 00, 00", "rip 0000000000007c1a", "es   b800"];
    for line in lines {
        assert!(log.contains(line), "{line}\n{log}");
    }
}
