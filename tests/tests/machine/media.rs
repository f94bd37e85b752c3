//! Media that people have, and what they do to an emulated PC: they press its buttons, type, and look at its screen.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trunnion_cli::bundle::cpio::{Archive, Kind};
use trunnion_cli::setup::{self, Permission, Tool, debian};
use trunnion_tests::system::{BOCHS_HASWELL, Live, Outer, QEMU_SVM, Run, sector};

use crate::DRIVER;

fn run(outer: Outer, tools: &[Tool]) -> Run {
    setup::ensure(&[&[Tool::SeaBios], tools].concat(), Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    Run::new(DRIVER, outer)
}

fn execute(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Types words, each a key of `xl sendkeys`.
fn press(live: &Live, name: &str, keys: &[&str]) {
    live.tool(&[&["xl", "sendkeys", name], keys].concat());
}

/// Types a line behind a prompt. A few keys at once: what a guest is too busy for, its BIOS drops.
fn line(live: &mut Live, name: &str, prompt: &str, text: &str) {
    let keys: Vec<String> = text.chars().map(String::from).collect();
    let mut shown = String::from(prompt);
    for keys in keys.chunks(6) {
        press(live, name, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        shown += &keys.concat();
        // A space at the end of a line is not seen.
        live.wait_for_screen(name, shown.trim_end());
    }
    press(live, name, &["ret"]);
}

/// A picture of the screen has the size of the text mode of a PC, and more than one colour.
fn is_pictured(live: &Live, name: &str) {
    let file = live.folder().join("screen.png");
    live.tool(&["xl", "screenshot", name, &file.display().to_string()]);
    let picture = fs::read(&file).expect("the picture is there");
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!((&picture[16..20], &picture[20..24]), (&720u32.to_be_bytes()[..], &400u32.to_be_bytes()[..]));
    // One colour alone packs to far less.
    assert!(picture.len() > 2048, "{} bytes", picture.len());
}

/// Looks at a screen as a viewer of RFC 6143 does, and types a letter.
fn view(address: &str) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_mins(2))).expect("a time limit");
    let mut hear = |count: usize, say: &[u8]| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).expect("the server answers");
        stream.write_all(say).expect("the server listens");
        bytes
    };
    hear(12, b"RFB 003.008\n");
    hear(2, &[1]);
    hear(4, &[1]);
    let begin = hear(24, b"");
    assert_eq!(begin[..4], [720_u16.to_be_bytes(), 400_u16.to_be_bytes()].concat());
    // The name; then all of the screen is wanted.
    assert_eq!(hear(2, &[3, 0, 0, 0, 0, 0, 2, 208, 1, 144]), b"pc");
    let head = hear(16, b"");
    assert_eq!(head, [0, 0, 0, 1, 0, 0, 0, 0, 2, 208, 1, 144, 0, 0, 0, 0]);
    let pixels = hear(720 * 400 * 4, &[4, 1, 0, 0, 0, 0, 0, b'v', 4, 0, 0, 0, 0, 0, 0, b'v']);
    let light = pixels.chunks(4).filter(|pixel| *pixel != [0; 4]).count();
    assert!((100..144_000).contains(&light), "{light} pixels are not black");
}

/// Ends a domain that goes on, and the run with it.
fn destroy(live: Live, name: &str) {
    live.tool(&["xl", "destroy", name]);
    let ended = live.end();
    assert_eq!(ended.outcome(name), "destroyed", "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
#[cfg_attr(not(full_tier), ignore = "seconds of two processors; TRUNNION_TIER=full runs it")]
fn a_person_presses_buttons_types_and_looks() {
    let run = run(QEMU_SVM, &[]);
    fs::write(run.path().join("disk"), sector(run.path(), "buttons")).expect("the image");
    let text = "name = \"pc\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\nboot = \"c\"\non_reboot = \"destroy\"\n\
                disk = [ 'disk,raw,hda,rw' ]\n";
    let mut live = run.domain("pc", text).start(300);
    live.wait_for("pc", "R");
    live.wait_for_screen("pc", "THE BUTTONS ARE WATCHED");
    is_pictured(&live, "pc");
    let mut said = String::from("R");
    for (button, letter) in [("power", 'P'), ("sleep", 'S'), ("nmi", 'N')] {
        live.tool(&["xl", "trigger", "pc", button]);
        said.push(letter);
        live.wait_for("pc", &said);
    }
    press(&live, "pc", &["a", "B", "7", "minus", "ctrl-c"]);
    live.wait_for("pc", "RPSNaB7-\u{3}");
    let viewer = live.talk(&["xl", "vnc", "pc", "--listen", "127.0.0.1:0"]);
    viewer.wait_for("\n", Duration::from_mins(1));
    view(viewer.heard().trim());
    live.wait_for("pc", "RPSNaB7-\u{3}v");
    for (words, message) in [
        (["sendkeys", "pc", "nokey"], "is no key"),
        (["trigger", "none", "power"], "none"),
        (["screenshot", "pc", "/nowhere/at/all.png"], "all.png"),
    ] {
        let output = live.try_tool(&[&["xl"], &words[..]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(message), "{words:?}: {errors}");
    }
    live.tool(&["xl", "trigger", "pc", "reset"]);
    let ended = live.end();
    assert_eq!(ended.outcome("pc"), "reboot", "{}", ended.report());
    ended.assert_no_leaks();
}

/// A floppy that SYSLINUX boots, with memtest86+ on it.
fn floppy(folder: &Path) {
    let path = folder.join("floppy");
    let script = folder.join("syslinux.cfg");
    fs::write(
        &script,
        "PROMPT 1\nTIMEOUT 0\nSAY SYSLINUX READS ITS SCRIPT\nLABEL mem\nKERNEL memtest\nAPPEND nosmp nobench nobigstatus\n",
    )
    .expect("the script can be written");
    execute(Command::new("mformat").args(["-C", "-f", "1440", "-i"]).arg(&path).arg("::"));
    // With an extension, SYSLINUX would start it as a boot sector.
    execute(Command::new("syslinux").arg("--install").arg(&path));
    for (file, name) in [(script.as_path(), "syslinux.cfg"), (Path::new(Tool::MEMTEST), "memtest")] {
        execute(Command::new("mcopy").arg("-i").arg(&path).arg(file).arg(format!("::{name}")));
    }
}

#[test]
#[cfg_attr(not(full_tier), ignore = "minutes: memtest86+ tests memory; TRUNNION_TIER=full runs it")]
fn syslinux_boots_a_floppy_and_memtest_from_it() {
    let run = run(QEMU_SVM, &[Tool::Syslinux, Tool::Mtools, Tool::Memtest]);
    floppy(run.path());
    let text = "name = \"floppy\"\ntype = \"hvm\"\nmemory = 16\nboot = \"a\"\nfloppy = \"floppy\"\non_reboot = \"destroy\"\n";
    let mut live = run.domain("floppy", text).start(2400);
    live.wait_for_screen("floppy", "SYSLINUX READS ITS SCRIPT");
    live.wait_for_screen("floppy", "boot:");
    line(&mut live, "floppy", "boot: ", "none");
    live.wait_for_screen("floppy", "Loading none... failed: No such file or directory");
    is_pictured(&live, "floppy");
    line(&mut live, "floppy", "boot: ", "mem");
    live.wait_for_screen("floppy", "Memtest86+ v");
    // Each of its tests has been over all of the memory, the last with a minute between writing and reading.
    live.wait_for_screen("floppy", "Pass:  1");
    let screen = live.tool(&["xl", "screenshot", "floppy", "--text"]);
    let errors = screen.lines().find_map(|line| line.split_once("Errors:")).map(|(_, count)| count.trim());
    assert!(matches!(errors, Some("" | "0")), "{screen}");
    destroy(live, "floppy");
}

/// A GRUB rescue CD in a run of its own, at its menu.
fn rescue() -> Live {
    let run = run(QEMU_SVM, &[Tool::GrubModules, Tool::Grub, Tool::Xorriso, Tool::Mtools]);
    let folder = run.path().join("iso/boot/grub");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(
        folder.join("grub.cfg"),
        "insmod ls\ninsmod cat\ninsmod sleep\ninsmod halt\nset timeout=-1\nmenuentry \"the only entry\" {\n  halt\n}\n",
    )
    .expect("the script can be written");
    let mut make = Command::new("grub-mkrescue");
    make.args(["-d", "/usr/lib/grub/i386-pc", "-o"]).arg(run.path().join("rescue.iso"));
    execute(make.arg(run.path().join("iso")));
    let text = "name = \"cd\"\ntype = \"hvm\"\nmemory = 64\nboot = \"d\"\n\
                disk = [ 'target=rescue.iso,vdev=hdc,access=ro,devtype=cdrom' ]\n";
    let mut live = run.domain("cd", text).start(600);
    live.wait_for_screen("cd", "the only entry");
    live
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of GRUB on an emulated PC; TRUNNION_TIER=full runs it")]
fn a_disc_is_changed_and_taken_out() {
    let mut live = rescue();
    press(&live, "cd", &["c"]);
    live.wait_for_screen("cd", "grub>");
    let folder = live.folder().join("second");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("mark"), "THIS IS THE SECOND DISC\n").expect("a file");
    let second = live.folder().join("second.iso").display().to_string();
    execute(Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-o", &second]).arg(&folder));
    live.tool(&["xl", "cd-insert", "cd", "hdc", &second]);
    // The first access after a change is refused by the drive, and GRUB then asks for every file system's module in vain. What it has read is
    // good for two seconds.
    line(&mut live, "cd", "grub> ", "sleep 3; ls (cd)/");
    live.wait_for_screen("cd", "error: unknown filesystem.");
    line(&mut live, "cd", "grub> ", "clear");
    line(&mut live, "cd", "grub> ", "sleep 3; cat (cd)/mark");
    live.wait_for_screen("cd", "THIS IS THE SECOND DISC");
    for (words, message) in [
        (&["cd-eject", "cd", "hda"][..], "no CD drive"),
        (&["cd-insert", "cd", "hdc", "/nowhere.iso"], "nowhere.iso"),
    ] {
        let output = live.try_tool(&[&["xl"], words].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(message), "{words:?}: {errors}");
    }
    live.tool(&["xl", "cd-eject", "cd", "hdc"]);
    line(&mut live, "cd", "grub> ", "clear");
    line(&mut live, "cd", "grub> ", "sleep 4; cat (cd)/mark");
    live.wait_for_screen("cd", "error: unknown filesystem.");
    destroy(live, "cd");
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of GRUB on an emulated PC; TRUNNION_TIER=full runs it")]
fn grub_comes_from_a_rescue_cd_to_its_menu_and_shell() {
    let mut live = rescue();
    press(&live, "cd", &["c"]);
    live.wait_for_screen("cd", "grub>");
    line(&mut live, "cd", "grub> ", "echo $grub_platform");
    live.wait_for_screen("cd", "\npc\n");
    line(&mut live, "cd", "grub> ", "halt");
    let ended = live.end();
    assert_eq!(ended.outcome("cd"), "poweroff", "{}", ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// The first program of Linux from SYSLINUX's disk.
const FIRST: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo processors=$(/bin/busybox grep -c ^processor /proc/cpuinfo)
/bin/busybox poweroff -f
";

/// A disk without partitions that SYSLINUX boots, with Debian's generic kernel and one program for it.
fn linux_disk(folder: &Path) {
    let kernel = debian::kernel("linux-image-amd64", Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    let busybox = debian::unpacked("busybox-static", Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    let program = fs::read(busybox.join("bin/busybox")).expect("busybox");
    let mut archive = Archive::new(Vec::new());
    for (name, kind, data) in [
        ("bin", Kind::Folder, &b""[..]),
        ("dev", Kind::Folder, b""),
        ("proc", Kind::Folder, b""),
        ("dev/console", Kind::Device(5, 1), b""),
        ("bin/busybox", Kind::File(0o755), &program),
        ("init", Kind::File(0o755), FIRST.as_bytes()),
    ] {
        archive.add(name, kind, data).expect("the archive takes it");
    }
    let (ramdisk, script) = (folder.join("ramdisk"), folder.join("syslinux.cfg"));
    fs::write(&ramdisk, archive.finish().expect("an archive")).expect("the RAM disk can be written");
    fs::write(&script, "SAY SYSLINUX READS ITS SCRIPT\nDEFAULT linux\nLABEL linux\nKERNEL linux\nINITRD ramdisk\nAPPEND console=ttyS0 quiet\n")
        .expect("the script can be written");
    let disk = folder.join("disk");
    execute(
        Command::new("mformat")
            .args(["-C", "-T", "32256", "-h", "16", "-s", "63", "-i"])
            .arg(&disk)
            .arg("::"),
    );
    execute(Command::new("syslinux").arg("--install").arg(&disk));
    for (file, name) in [(&script, "syslinux.cfg"), (&kernel.image, "linux"), (&ramdisk, "ramdisk")] {
        execute(Command::new("mcopy").arg("-i").arg(&disk).arg(file).arg(format!("::{name}")));
    }
}

/// SYSLINUX from a disk, and Linux by it.
fn linux(outer: Outer, limit: u32) {
    let run = run(outer, &[Tool::Syslinux, Tool::Mtools]);
    linux_disk(run.path());
    let text = "name = \"pc\"\ntype = \"hvm\"\nmemory = 128\nserial = \"pty\"\nboot = \"c\"\n\
                xen_platform_pci = 0\ndisk = [ 'disk,raw,hda,rw' ]\n";
    let ended = run.domain("pc", text).go(limit);
    assert_eq!(ended.outcome("pc"), "poweroff", "{}\n{}", ended.console("pc"), ended.report());
    assert_eq!(ended.said("pc", "processors"), "1");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of Linux on an emulated PC; TRUNNION_TIER=full runs it")]
fn syslinux_boots_linux_from_a_disk() {
    linux(QEMU_SVM, 900);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "twenty minutes of Linux under Bochs; TRUNNION_TIER=full runs it")]
fn syslinux_boots_linux_from_a_disk_on_vmx() {
    linux(BOCHS_HASWELL, 2400);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of SYSLINUX under Bochs; TRUNNION_TIER=full runs it")]
fn syslinux_boots_a_floppy_on_vmx() {
    let run = run(BOCHS_HASWELL, &[Tool::Syslinux, Tool::Mtools, Tool::Memtest]);
    floppy(run.path());
    let text = "name = \"floppy\"\ntype = \"hvm\"\nmemory = 16\nboot = \"a\"\nfloppy = \"floppy\"\non_reboot = \"destroy\"\n";
    let mut live = run.domain("floppy", text).start(1800);
    live.wait_for_screen("floppy", "SYSLINUX READS ITS SCRIPT");
    live.wait_for_screen("floppy", "boot:");
    line(&mut live, "floppy", "boot: ", "none");
    live.wait_for_screen("floppy", "Loading none... failed: No such file or directory");
    is_pictured(&live, "floppy");
    destroy(live, "floppy");
}

/// Says a letter on COM1, switches interrupts off, and goes on for ever.
const DEAF: [u8; 9] = [
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'D', 0xee, // mov al, 'D'; out dx, al
    0xfa, // cli
    0xeb, 0xfe, // jmp to itself
];

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of SeaBIOS under Bochs; TRUNNION_TIER=full runs it")]
fn a_guest_with_interrupts_off_does_not_keep_the_processor_of_vmx() {
    let run = run(BOCHS_HASWELL, &[]);
    let mut disk = vec![0; 1 << 20];
    disk[..DEAF.len()].copy_from_slice(&DEAF);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(run.path().join("disk"), disk).expect("the image can be written");
    let text = "name = \"deaf\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\nboot = \"c\"\n\
                disk = [ 'disk,raw,hda,rw' ]\n";
    let mut live = run.domain("deaf", text).start(900);
    live.wait_for("deaf", "D");
    live.tool(&["xl", "list"]);
    destroy(live, "deaf");
}
