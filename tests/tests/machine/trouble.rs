//! Guests and devices that misbehave, and a run that is interrupted: nobody else notices, and everything comes back.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use trunnion_protocol::planted::Bug;
use trunnion_tests::system::{Ended, QEMU_SVM, Run};

use crate::DRIVER;

/// What the Rust guest prints when a disk has been written and read back.
const VERIFIED: &str = "bytes moved and verified";

/// Asserts that the Rust guest `name` did all its work.
fn assert_well(ended: &Ended, name: &str) {
    assert!(ended.console(name).contains(VERIFIED), "{}\n{}", ended.console(name), ended.report());
    assert_eq!(ended.outcome(name), "poweroff", "{}\n{}", ended.console(name), ended.report());
}

#[test]
fn loops_with_interrupts_off_get_their_share_and_no_more() {
    let run = Run::new(DRIVER, QEMU_SVM).tiny_as("one", "spin", "").tiny_as("two", "spin", "");
    let mut live = run.tiny("basics", "").rust("disk", 16, "trunnion.demo=1").start(120);
    for name in ["one", "two"] {
        live.wait_for(name, "SPINNING");
    }
    // Both have work that needs the store, the console and dom0's disks, beside two domains that never stop.
    live.wait_for("basics", "RESULT ");
    live.wait_for("disk", "powering off");
    // Now the two are alone, for a few of the scheduler's slices.
    std::thread::sleep(Duration::from_secs(2));
    for name in ["one", "two"] {
        live.tool(&["xl", "destroy", name]);
    }
    let ended = live.end();
    ended.assert_passed("basics");
    assert_well(&ended, "disk");
    let used = ["one", "two"].map(|name| {
        assert_eq!(ended.outcome(name), "destroyed", "{}", ended.report());
        ended.domain(name)["cpu_ns"].as_u64().unwrap_or(0)
    });
    let (less, more) = (used[0].min(used[1]), used[0].max(used[1]));
    assert!(less > 500_000_000 && more < less * 3 / 2, "shares of {used:?} ns\n{}", ended.report());
    assert_eq!(ended.status, 1, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn a_domain_dies_with_requests_in_the_device() {
    let run = Run::new(DRIVER, QEMU_SVM).rust("victim", 64, "trunnion.demo=endless");
    let mut live = run.rust("neighbour", 16, "trunnion.demo=1").start(120);
    live.wait_for("victim", VERIFIED);
    // The victim's disk is the machine's first. Five requests a second, and the guest keeps eight of them in the device.
    let slow = json!({"id": "/machine/peripheral/vd0/virtio-backend", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 5, "iops_rd": 0, "iops_wr": 0});
    live.monitor("block_set_io_throttle", &slow);
    std::thread::sleep(Duration::from_secs(1));
    live.tool(&["xl", "destroy", "victim"]);
    let ended = live.end();
    assert_eq!(ended.outcome("victim"), "destroyed", "{}", ended.report());
    assert_well(&ended, "neighbour");
    assert_eq!(ended.status, 1, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn an_error_of_the_device_reaches_the_guest_and_the_figures() {
    // The guest writes at both ends of its disk, and the far end cannot be written.
    let run = Run::new(DRIVER, QEMU_SVM).largest_file(512).rust("unlucky", 600, "trunnion.demo=1");
    let ended = run.rust("neighbour", 16, "trunnion.demo=1").go(120);
    let console = ended.console("unlucky");
    assert!(
        console.contains("FAILED: disk") && console.contains("write at sector"),
        "{console}\n{}",
        ended.report()
    );
    assert_eq!(ended.outcome("unlucky"), "crash", "{}", ended.report());
    assert!(ended.domain("unlucky")["disks"][0]["errors"].as_u64() > Some(0), "{}", ended.report());
    assert_well(&ended, "neighbour");
    assert_eq!(ended.domain("neighbour")["disks"][0]["errors"], 0, "{}", ended.report());
    assert_eq!(ended.status, 1, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn an_interrupt_ends_a_run_in_good_order() {
    let mut live = Run::new(DRIVER, QEMU_SVM).tiny("spin", "").start(60);
    live.wait_for("spin", "SPINNING");
    assert!(live.tool(&["xl", "list"]).contains("spin"));
    live.signal(Signal::SIGINT);
    let ended = live.end();
    assert_eq!(ended.status, 130, "{}", ended.report());
    assert_eq!(ended.outcome("spin"), "running", "{}", ended.report());
    assert!(!ended.file("hypervisor.log").is_empty() && !ended.file("dom0.log").is_empty());
}

#[test]
fn a_planted_leak_shows() {
    let bug = Bug::ALL.iter().position(|bug| *bug == Bug::LeakedFrame).expect("it is one of all");
    let image = trunnion_cli::images::build_planted(bug).unwrap_or_else(|failure| panic!("{failure}"));
    let image = image.to_str().expect("a path in UTF-8").to_string();
    let ended = Run::new(DRIVER, QEMU_SVM).option(&["--hypervisor", &image]).tiny("basics", "").go(60);
    ended.assert_passed("basics");
    let frames = &ended.summary["platform"]["leaks"]["frames"];
    assert!(frames.as_i64() > Some(0), "{frames}\n{}", ended.report());
    assert_eq!(ended.status, 4, "{}", ended.report());
    assert!(ended.errors.contains("not everything came back"), "{}", ended.report());
}

#[test]
fn too_little_memory_is_said_with_what_is_needed() {
    let ended = Run::new(DRIVER, QEMU_SVM).option(&["--memory", "64"]).tiny("basics", "").go(60);
    assert_eq!(ended.status, 2, "{}", ended.report());
    let line = ended.errors.lines().last().unwrap_or_default();
    let needed = line.split("need ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(needed > Some(64), "{line}");
    let ended = Run::new(DRIVER, QEMU_SVM)
        .option(&["--memory", &needed.unwrap_or_default().to_string()])
        .tiny("basics", "")
        .go(60);
    ended.assert_passed("basics");
}

#[test]
fn a_dead_emulator_is_the_platforms_failure() {
    let mut live = Run::new(DRIVER, QEMU_SVM).tiny("spin", "").start(60);
    live.wait_for("spin", "SPINNING");
    live.monitor("quit", &json!({}));
    let ended = live.end();
    assert_eq!(ended.status, 4, "{}", ended.report());
    assert_eq!(ended.summary["platform"]["outcome"], "failed", "{}", ended.report());
}
