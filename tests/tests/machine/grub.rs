//! GRUB as a guest: 32-bit code with paging off, its own 32-bit block rings, and then the kernel that it loads from the same disk.

use std::fs;
use std::process::Command;

use trunnion_tests::system::{QEMU_SVM, Run};

use crate::DRIVER;

/// What GRUB does: shows that it reads the disk, then starts the kernel that lies on it.
const SCRIPT: &str = "set timeout=0
ls
ls (xen/xvda)/boot
menuentry \"debian\" {
  linux /boot/vmlinuz console=hvc0 root=/dev/xvda rw trunnion.demo=1
  initrd /boot/ramdisk
  echo STARTING
}
";

#[test]
fn grub_loads_debian_from_its_disk() {
    let parts = trunnion_cli::demo::linux_parts().unwrap_or_else(|failure| panic!("{failure:?}"));
    let grub = trunnion_cli::demo::grub().unwrap_or_else(|failure| panic!("{failure:?}"));
    let run = Run::new(DRIVER, QEMU_SVM);
    let disk = run.path().join("grub.ext4");
    fs::copy(&parts.disk, &disk).expect("the root disk can be copied");
    let script = run.path().join("script");
    fs::write(&script, SCRIPT).expect("the script can be written");
    let boot = [
        ("mkdir", None, "boot"),
        ("mkdir", None, "boot/grub"),
        ("write", Some(&script), "boot/grub/grub.cfg"),
        ("write", Some(&parts.kernel), "boot/vmlinuz"),
        ("write", Some(&parts.ramdisk), "boot/ramdisk"),
    ];
    for (verb, from, to) in boot {
        let from = from.map_or_else(String::new, |path| path.display().to_string());
        let done =
            Command::new("debugfs").args(["-w", "-R", &format!("{verb} {from} {to}")]).arg(&disk).output();
        assert!(done.is_ok_and(|output| output.status.success()), "debugfs of e2fsprogs: {verb} {to}");
    }
    let text = format!(
        "name = \"grub\"\ntype = \"pvh\"\nmemory = 192\nkernel = \"{}\"\ndisk = [ \"{},raw,xvda,rw\" ]\n",
        grub.display(),
        disk.display()
    );
    let ended = run.domain("grub", &text).go(240);
    let console = ended.console("grub");
    for step in
        ["Welcome to GRUB!", "(xen/xvda)", "vmlinuz", "STARTING", "The root is up", "domain 1, name grub"]
    {
        assert!(console.contains(step), "no `{step}`:\n{console}\n{}", ended.report());
    }
    assert_eq!(ended.outcome("grub"), "poweroff", "{}", ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}
