//! Debian's kernel as it comes in its package, with an ext4 root on a PV disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::DRIVER;
use trunnion_tests::system::{BOCHS_HASWELL, Ended, QEMU_SVM, Run};

/// What the guest does: says how many processors it sees, writes a file with known content, and reads a disk.
const SCRIPT: &str = "#!/bin/sh
echo processors=$(grep -c ^processor /proc/cpuinfo)
echo clocksource=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo storename=$(xenstore-read name)
i=0
while [ $i -lt 4000 ]; do echo \"line $i of the test file\"; i=$((i + 1)); done >/root/written
sync
echo checksum=$(md5sum /root/written | cut -d' ' -f1)
echo readback=$(dd if=/dev/xvda bs=1M count=16 2>/dev/null | wc -c)
echo DONE
";

/// Adds a Linux domain of its own root disk and script disk to a run.
fn linux(run: Run, name: &str, vcpus: u32, backend: &str) -> Run {
    let parts = trunnion_cli::demo::linux_parts().unwrap_or_else(|failure| panic!("{failure:?}"));
    let root = run.path().join(format!("{name}.ext4"));
    fs::copy(&parts.disk, &root).expect("the root disk can be copied");
    let script = run.path().join(format!("{name}.script"));
    let mut bytes = SCRIPT.as_bytes().to_vec();
    bytes.resize(4096, 0);
    fs::write(&script, bytes).expect("the script disk can be written");
    let text = format!(
        "name = \"{name}\"\ntype = \"pvh\"\nmemory = 160\nvcpus = {vcpus}\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 root=/dev/xvda rw trunnion.script=/dev/xvdb\"\n\
         disk = [ \"{},raw,xvda,rw{backend}\", \"{},raw,xvdb,ro{backend}\" ]\n",
        parts.kernel.display(),
        parts.ramdisk.display(),
        root.display(),
        script.display(),
    );
    run.domain(name, &text)
}

/// The value that the script printed after `key=`.
fn said(ended: &Ended, name: &str, key: &str) -> String {
    let console = ended.console(name);
    console
        .lines()
        .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{name} did not say {key}; its console:\n{console}\n{}", ended.report()))
        .to_string()
}

/// The file that the guest wrote, as it lies in the raw image now.
pub(crate) fn written(image: &Path) -> Vec<u8> {
    let output = Command::new("debugfs")
        .args(["-R", "cat /root/written"])
        .arg(image)
        .output()
        .expect("debugfs of e2fsprogs starts");
    output.stdout
}

pub(crate) fn expected() -> Vec<u8> {
    (0..4000).flat_map(|line| format!("line {line} of the test file\n").into_bytes()).collect()
}

fn check(ended: &Ended, name: &str, vcpus: u32) {
    assert_eq!(said(ended, name, "processors"), vcpus.to_string());
    assert_eq!(said(ended, name, "storename"), name);
    assert_eq!(said(ended, name, "readback"), (16 << 20).to_string());
    assert_eq!(ended.outcome(name), "poweroff", "{}", ended.report());
}

fn alone(vcpus: u32) {
    let ended = linux(Run::new(DRIVER, QEMU_SVM), "linux", vcpus, "").go(180);
    check(&ended, "linux", vcpus);
    assert_eq!(written(&ended.path().join("linux.ext4")), expected(), "{}", ended.report());
    let disk = &ended.domain("linux")["disks"][0];
    assert_eq!(disk["path"], "pv", "{}", ended.report());
    assert!(disk["read_bytes"].as_u64() >= Some(16 << 20), "{}", ended.report());
    assert!(disk["flushes"].as_u64() > Some(0), "{}", ended.report());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn linux_with_one_vcpu() {
    alone(1);
}

#[test]
fn linux_with_four_vcpus() {
    alone(4);
}

#[test]
fn two_linux_guests_one_with_two_vcpus_and_a_rust_guest_at_once() {
    let run = linux(linux(Run::new(DRIVER, QEMU_SVM), "first", 2, ""), "second", 1, "");
    let ended = run.rust("rust", 8, "headless trunnion.demo=1").go(240);
    check(&ended, "first", 2);
    check(&ended, "second", 1);
    assert_eq!(ended.outcome("rust"), "poweroff", "{}\n{}", ended.console("rust"), ended.report());
    for name in ["first", "second"] {
        assert_eq!(written(&ended.path().join(format!("{name}.ext4"))), expected());
    }
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
#[cfg_attr(not(full_tier), ignore = "two minutes of processor time under Bochs; TRUNNION_TIER=full runs it")]
fn linux_on_vmx_with_its_root_on_a_ram_disk() {
    let ended = linux(Run::new(DRIVER, BOCHS_HASWELL), "linux", 1, ",backendtype=ram").go(600);
    check(&ended, "linux", 1);
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}
