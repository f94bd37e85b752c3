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
fn a_disk_fails_to_read_and_a_domain_dies_with_requests_in_the_device() {
    let run = Run::new(DRIVER, QEMU_SVM).rust("victim", 64, "trunnion.demo=endless");
    let run = run.rust("unlucky", 64, "trunnion.demo=endless");
    let mut live = run.rust("neighbour", 16, "trunnion.demo=1").start(120);
    live.wait_for("victim", VERIFIED);
    live.wait_for("unlucky", VERIFIED);
    // From now on every read of the second disk fails, below the device.
    let every_read = json!([{"event": "read_aio", "errno": 5, "once": false, "immediately": false}]);
    let bad = json!({"driver": "blkdebug", "node-name": "bad", "image": "file1", "inject-error": every_read});
    live.monitor("blockdev-add", &bad);
    let disk =
        json!({"driver": "raw", "node-name": "disk1", "read-only": false, "discard": "unmap", "file": "bad"});
    live.monitor("blockdev-reopen", &json!({"options": [disk]}));
    live.wait_ended("unlucky");
    // The victim's disk is the machine's first. Five requests a second, and the guest keeps eight of them in the device.
    let slow = json!({"id": "/machine/peripheral/vd0/virtio-backend", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 5, "iops_rd": 0, "iops_wr": 0});
    live.monitor("block_set_io_throttle", &slow);
    std::thread::sleep(Duration::from_secs(1));
    live.tool(&["xl", "destroy", "victim"]);
    let ended = live.end();
    let console = ended.console("unlucky");
    assert!(
        console.contains("FAILED: disk") && console.contains("read at sector"),
        "{console}\n{}",
        ended.report()
    );
    assert_eq!(ended.outcome("unlucky"), "crash", "{}", ended.report());
    assert!(ended.domain("unlucky")["disks"][0]["errors"].as_u64() > Some(0), "{}", ended.report());
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
    let second = live.try_tool(&["run", "--headless"]);
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("is running already"), "{second:?}");
    live.signal(Signal::SIGINT);
    let ended = live.end();
    assert_eq!(ended.status, 130, "{}", ended.report());
    assert_eq!(ended.outcome("spin"), "running", "{}", ended.report());
    assert!(!ended.file("hypervisor.log").is_empty() && !ended.file("dom0.log").is_empty());
}

#[test]
fn planted_leaks_and_a_planted_panic_show() {
    let bugs = [Bug::LeakedPort, Bug::LeakedMapping, Bug::Panic].map(|bug| bug as usize);
    let planted = trunnion_cli::images::planted_dom0(&bugs).unwrap_or_else(|failure| panic!("{failure}"));
    let dom0 = planted.display().to_string();

    let run = Run::new(DRIVER, QEMU_SVM).option(&["--dom0", &dom0]);
    let mut live = run.rust("disk", 16, "trunnion.demo=1").start(60);
    live.tool_when_ready(&["xenstore", "write", "/leaked", "x"]);
    let ended = live.end();
    let leaks = &ended.summary["platform"]["leaks"];
    for what in ["frames", "grants", "ports", "store_nodes"] {
        assert!(leaks[what].as_i64() > Some(0), "{what}: {leaks}\n{}", ended.report());
    }
    assert_eq!(ended.status, 4, "{}", ended.report());
    assert!(ended.errors.contains("not everything came back"), "{}", ended.report());

    let run = Run::new(DRIVER, QEMU_SVM).option(&["--dom0", &dom0]).tiny("spin", "");
    let mut live = run.start(60);
    live.wait_for("spin", "SPINNING");
    // The verb is told as well: its question has no answer any more.
    assert_eq!(live.try_tool(&["xl", "dmesg"]).status.code(), Some(4));
    let ended = live.end();
    assert_eq!(ended.status, 4, "{}", ended.report());
    assert!(ended.errors.contains("a panic that was planted"), "{}", ended.report());
}

#[test]
fn a_signal_ends_a_run_at_every_stage() {
    for stage in 0..6 {
        let mut live = Run::new(DRIVER, QEMU_SVM).tiny("spin", "").start(60);
        let socket = trunnion_cli::instance::control_socket(live.instance()).expect("a name that fits");
        match stage {
            0 => {}
            1 => std::thread::sleep(Duration::from_millis(100)),
            2 => live.wait("the machine starts", || socket.with_file_name("dom0.sock").exists()),
            3 => live.wait("the tool listens", || socket.exists()),
            4 => live.wait_running("spin"),
            _ => live.wait_for("spin", "SPINNING"),
        }
        let emulator = (stage >= 3).then(|| live.emulator());
        // Before the run hears signals SIGINT may be ignored: it is in all that a shell runs in the background.
        live.signal(if stage < 3 || stage % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT });
        let instance = live.instance().to_string();
        let ended = live.end();
        // Before there is anything to be put in order the signal itself ends the process.
        assert!(ended.status == 130 || stage < 3 && ended.status == -1, "stage {stage}: {}", ended.report());
        if let Some(pid) = emulator {
            assert!(nix::sys::signal::kill(pid, None).is_err(), "stage {stage}: the emulator is left");
        }
        let again = trunnion_cli::instance::Instance::claim(&instance);
        assert!(again.is_ok(), "stage {stage}: {again:?}");
    }
}

#[test]
fn files_that_cannot_be_written_are_named() {
    let run = Run::new(DRIVER, QEMU_SVM).tiny("basics", "");
    let log = run.path().join("log");
    std::fs::create_dir(&log).expect("the folder can be made");
    // A full disk, one file at a time.
    for name in ["dom0.log", "basics.console.log", "summary.json.new"] {
        std::os::unix::fs::symlink("/dev/full", log.join(name)).expect("the link can be made");
    }
    let ended = run.go(60);
    for name in ["dom0.log", "basics.console.log", "summary.json"] {
        let is_said = |line: &str| line.contains(name) && line.contains("no space left");
        assert!(ended.errors.lines().any(is_said), "{name}: {}", ended.report());
    }
    assert_eq!(ended.status, 0, "{}", ended.report());
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
    nix::sys::signal::kill(live.emulator(), Signal::SIGKILL).expect("the emulator is there");
    let ended = live.end();
    assert_eq!(ended.status, 4, "{}", ended.report());
    assert_eq!(ended.summary["platform"]["outcome"], "failed", "{}", ended.report());
}
