//! Media that people have, and what they do to an emulated PC: they press its buttons, type, and look at its screen.

use std::fs;
use std::path::Path;
use std::process::Command;

use trunnion_cli::setup::{self, Permission, Tool};
use trunnion_tests::system::{Live, QEMU_SVM, Run};

use crate::DRIVER;

fn run(tools: &[Tool]) -> Run {
    setup::ensure(&[&[Tool::SeaBios], tools].concat(), Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    Run::new(DRIVER, QEMU_SVM)
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
    let run = run(&[]);
    fs::write(run.path().join("disk"), crate::hvm::sector(run.path(), "buttons")).expect("the image");
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
        "PROMPT 1\nTIMEOUT 0\nSAY SYSLINUX READS ITS SCRIPT\nLABEL mem\nKERNEL memtest\nAPPEND nosmp\n",
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
#[cfg_attr(not(full_tier), ignore = "a minute: memtest86+ tests memory; TRUNNION_TIER=full runs it")]
fn syslinux_boots_a_floppy_and_memtest_from_it() {
    let run = run(&[Tool::Syslinux, Tool::Mtools, Tool::Memtest]);
    floppy(run.path());
    let text = "name = \"floppy\"\ntype = \"hvm\"\nmemory = 16\nboot = \"a\"\nfloppy = \"floppy\"\non_reboot = \"destroy\"\n";
    let mut live = run.domain("floppy", text).start(900);
    live.wait_for_screen("floppy", "SYSLINUX READS ITS SCRIPT");
    live.wait_for_screen("floppy", "boot:");
    line(&mut live, "floppy", "boot: ", "none");
    live.wait_for_screen("floppy", "Loading none... failed: No such file or directory");
    is_pictured(&live, "floppy");
    line(&mut live, "floppy", "boot: ", "mem");
    live.wait_for_screen("floppy", "Memtest86+ v");
    // The tests before it are done.
    live.wait_for_screen("floppy", "Test #3");
    let screen = live.tool(&["xl", "screenshot", "floppy", "--text"]);
    let errors = screen.lines().find_map(|line| line.split_once("Errors:")).map(|(_, count)| count.trim());
    assert!(matches!(errors, Some("" | "0")), "{screen}");
    destroy(live, "floppy");
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute of GRUB on an emulated PC; TRUNNION_TIER=full runs it")]
fn grub_comes_from_a_rescue_cd_to_its_menu_and_shell() {
    let run = run(&[Tool::GrubModules, Tool::Grub, Tool::Xorriso, Tool::Mtools]);
    let folder = run.path().join("iso/boot/grub");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("grub.cfg"), "set timeout=-1\nmenuentry \"the only entry\" {\n  halt\n}\n")
        .expect("the script can be written");
    let mut make = Command::new("grub-mkrescue");
    make.args(["-d", "/usr/lib/grub/i386-pc", "-o"]).arg(run.path().join("rescue.iso"));
    execute(make.arg(run.path().join("iso")));
    let text = "name = \"cd\"\ntype = \"hvm\"\nmemory = 64\nboot = \"d\"\n\
                disk = [ 'target=rescue.iso,vdev=hdc,access=ro,devtype=cdrom' ]\n";
    let mut live = run.domain("cd", text).start(600);
    live.wait_for_screen("cd", "the only entry");
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
