//! `trunnion image`: one file that a machine starts from, and a person at its serial console.

use std::fs;
use std::process::Command;
use std::time::Duration;

use trunnion_cli::images;
use trunnion_cli::setup::{self, Permission, Tool};
use trunnion_tests::system::image;
use trunnion_tests::talk::Talk;

use crate::DRIVER;

fn wait(talk: &Talk, text: &str) {
    talk.wait_for(text, Duration::from_mins(5));
}

/// Starts it in a machine with this firmware, and uses the first domain's console and dom0's shell.
fn boots(firmware: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.iso");
    let disk = folder.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).expect("the disk can be made");
    let text = format!(
        "name = \"rust\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"{}\"\ndisk = [ \"disk,raw,xvda,rw\" ]\n",
        image(images::DEMO.1).display()
    );
    fs::write(folder.path().join("rust.cfg"), text).expect("the domain file can be made");
    let made = Command::new(DRIVER).arg("image").arg(&out).arg(folder.path().join("rust.cfg")).output();
    let made = made.expect("the tool starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut machine = Command::new(Tool::Qemu.what());
    machine.args(["-cpu", "max", "-m", "1024", "-display", "none", "-monitor", "none", "-serial", "stdio"]);
    machine.args(["-no-reboot", "-device", "isa-debug-exit"]).args(firmware).arg("-cdrom").arg(&out);
    let mut talk = Talk::start(&mut machine);
    wait(&talk, "the console of rust");
    wait(&talk, "demo> ");
    assert!(talk.heard().contains("disk 51712: 1024 KiB"), "{}", talk.heard());
    talk.say("ls data\r");
    wait(&talk, "ls data");
    talk.say("\u{1d}");
    wait(&talk, "trunnion> ");
    talk.say("list\r");
    wait(&talk, "rust      1");
    talk.say("console rust\r");
    talk.say("poweroff\r");
    wait(&talk, "The domain of this console has ended.");
    talk.say("create rust\r");
    wait(&talk, "a domain was built domain=2");
    talk.say("poweroff\r");
    wait(&talk, "EXIT 0");
}

#[test]
#[cfg_attr(not(full_tier), ignore = "a minute: GRUB from a CD, twice the guest; TRUNNION_TIER=full runs it")]
fn an_image_boots_by_bios() {
    setup::ensure(&[Tool::Qemu], Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
    boots(&[]);
}

#[test]
#[cfg_attr(not(full_tier), ignore = "minutes: UEFI's firmware and GRUB; TRUNNION_TIER=full runs it")]
fn an_image_boots_by_uefi() {
    setup::ensure(&[Tool::Qemu, Tool::Ovmf], Permission::Install)
        .unwrap_or_else(|failure| panic!("{failure}"));
    boots(&["-bios", Tool::Ovmf.what()]);
}
