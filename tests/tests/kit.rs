//! The driver kit on the machine: example guests, and devices whose back end is a guest.

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use trunnion_cli::setup::{self, Permission, Tool};
use trunnion_tests::system::{Ended, QEMU_SVM, Run, image, sector};

const DRIVER: &str = env!("CARGO_BIN_EXE_trunnion-driver");

fn add(run: Run, name: &str, bin: &str, more: &str) -> Run {
    let image = image(bin).display().to_string();
    let text = format!("name = \"{name}\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{image}\"\n{more}\n");
    run.domain(name, &text)
}

/// Runs two guests, and makes a device between them as soon as both are there. With `unplug` it is taken away again.
fn linked(run: Run, front: &str, class: &str, back: &str, unplug: bool) -> Ended {
    let mut live = run.start(240);
    live.wait_running(front);
    live.wait_running(back);
    let (class, backend) = (format!("class={class}"), format!("backend={back}"));
    live.tool(&["xl", "device-attach", front, &class, &backend]);
    if unplug {
        thread::sleep(Duration::from_secs(1));
        live.tool(&["xl", "device-detach", front, &class]);
    }
    live.end()
}

fn assert_said(ended: &Ended, name: &str, text: &str) {
    let console = ended.console(name);
    assert!(console.contains(text), "{name} did not say \"{text}\":\n{console}\n{}", ended.report());
    assert_eq!(ended.outcome(name), "poweroff", "{name}:\n{console}\n{}", ended.report());
}

#[test]
fn a_device_class_whose_back_end_is_a_guest() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let run = add(run, "back", "vrng-back", "cmdline = \"once\"");
    let run = add(run, "front", "vrng-front", "");
    let ended = linked(run, "front", "vrng", "back", false);
    assert_said(&ended, "front", "vrng: 65536 bytes");
    assert_said(&ended, "front", "vrng: done");
    assert_said(&ended, "back", "65536 bytes, 0 refused");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn a_device_is_taken_away_while_it_is_in_use() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let run = add(run, "back", "vrng-back", "cmdline = \"once\"");
    let run = add(run, "front", "vrng-front", "cmdline = \"bytes=0\"");
    let ended = linked(run, "front", "vrng", "back", true);
    assert_said(&ended, "front", "vrng: the back end is closed");
    assert_said(&ended, "front", "vrng: done");
    assert_said(&ended, "back", "0 refused");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn two_guests_share_memory() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let run = add(run, "right", "share", "cmdline = \"role=right\"");
    let run = add(run, "left", "share", "cmdline = \"role=left\"");
    let ended = linked(run, "left", "share", "right", false);
    assert_said(&ended, "left", "share: 2000 turns");
    assert_said(&ended, "right", "share: 2000 turns");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn a_hostile_block_front_end_harms_nobody() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let disk = run.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).expect("the disk can be written");
    let disk = format!("disk = [ \"{},raw,xvda,ro\" ]\ncmdline = \"rounds=100\"", disk.display());
    let ended = add(run, "bad", "hostile-block", &disk).go(120);
    assert_said(&ended, "bad", "100 attacks");
    assert_said(&ended, "bad", "0 grants not back; the honest read works");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

#[test]
fn the_example_guests() {
    let run = Run::new(DRIVER, QEMU_SVM);
    let from: Vec<u8> =
        (0..1u32 << 20).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let paths = [run.path().join("from.img"), run.path().join("to.img")];
    fs::write(&paths[0], &from).expect("the disk can be written");
    fs::write(&paths[1], vec![0; from.len()]).expect("the disk can be written");
    let disks =
        format!("disk = [ \"{},raw,xvda,ro\", \"{},raw,xvdb,rw\" ]", paths[0].display(), paths[1].display());
    let run = add(run, "hello", "hello", "");
    let run = add(run, "copy", "block-copy", &disks);
    let run = add(run, "browser", "store-browser", "");
    let run = add(run, "shell", "console-shell", "cmdline = \"run=time,heap,poweroff\"");
    let ended = run.option(&["--sequence"]).go(120);
    assert_said(&ended, "hello", "hello from a Rust guest");
    assert_said(&ended, "copy", "block-copy: copied 4194304 bytes");
    assert_said(&ended, "browser", "name = \"browser\"");
    assert_said(&ended, "shell", "s since power-on");
    let to = fs::read(ended.path().join("to.img")).expect("the copy can be read");
    assert!(to == from, "the copy differs");
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// The work of `tiny-work` beside others: its share of the processor in per cent, and how long it took in instructions.
fn neighbour(ended: &Ended) -> (u64, u64) {
    ended.assert_passed("work");
    let figure = |key: &str| ended.domain("work")[key].as_u64().unwrap_or_default();
    let took = figure("ended_ns") - figure("unpaused_ns");
    (figure("cpu_ns") * 100 / took.max(1), took)
}

/// What a domain of equal weight keeps beside one that misbehaves: at least 45 % of the processor, and the same work in at most 2.2
/// times its time alone. Instructions are counted, so that a busy host changes nothing.
fn assert_little_lost(ended: &Ended, alone: u64) {
    let (share, took) = neighbour(ended);
    println!("the neighbour kept {share} %, and took {took} instructions instead of {alone}");
    assert!(share >= 45, "{share} %\n{}", ended.report());
    assert!(took * 10 <= alone * 22, "{took} instructions instead of {alone}\n{}", ended.report());
}

fn counted() -> Run {
    Run::new(DRIVER, QEMU_SVM).option(&["--icount"])
}

/// How long the work takes alone.
fn alone() -> u64 {
    static ALONE: OnceLock<u64> = OnceLock::new();
    *ALONE.get_or_init(|| {
        let (share, alone) = neighbour(&counted().tiny("work", "").go(180));
        assert!(share > 90, "{share} % alone");
        alone
    })
}

/// A back end that lies to another guest's front end, which comes through it.
#[test]
fn what_a_back_end_that_lies_costs_a_neighbour() {
    let run = add(counted(), "bad", "hostile-back", "cmdline = \"role=back\"");
    let run = add(run, "wary", "hostile-back", "cmdline = \"role=front rounds=200\"");
    let ended = linked(run.tiny("work", ""), "wary", "hvbd", "bad", false);
    assert_said(&ended, "wary", "200 rounds");
    assert_said(&ended, "wary", "0 grants not back");
    assert_little_lost(&ended, alone());
    assert_eq!(ended.status, 0, "{}", ended.report());
    ended.assert_no_leaks();
}

/// Runs the work beside a domain that goes on for ever, which is then destroyed.
fn beside_one_that_never_ends(run: Run) -> Ended {
    let mut live = run.tiny("work", "").start(300);
    live.wait_ended("work");
    live.tool(&["xl", "destroy", "bad"]);
    live.end()
}

/// A front end that lies to dom0 without end: what dom0 does for it is the liar's own time.
#[test]
fn what_a_block_front_end_that_lies_costs_a_neighbour() {
    let run = counted();
    let disk = run.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).expect("the disk can be written");
    let more = format!("disk = [ \"{},raw,xvda,ro\" ]\ncmdline = \"rounds=4000000000\"", disk.display());
    let ended = beside_one_that_never_ends(add(run, "bad", "hostile-block", &more));
    assert_little_lost(&ended, alone());
    ended.assert_no_leaks();
}

#[test]
fn what_a_network_front_end_that_lies_costs_a_neighbour() {
    let more = "vif = [ \"\" ]\ncmdline = \"rounds=4000000000\"";
    let ended = beside_one_that_never_ends(add(counted(), "bad", "hostile-net", more));
    assert_little_lost(&ended, alone());
    ended.assert_no_leaks();
}

/// An emulated PC whose timers all interrupt as fast as they can be set, and one of whose lines stays high: what the device model and the core do
/// for that is the guest's own time.
#[test]
#[cfg_attr(not(full_tier), ignore = "half a minute of a processor; TRUNNION_TIER=full runs it")]
fn what_a_storm_of_interrupts_costs_a_neighbour() {
    setup::ensure(&[Tool::SeaBios], Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
    let run = counted();
    fs::write(run.path().join("disk"), sector(run.path(), "storm")).expect("the image can be written");
    let text = "name = \"bad\"\ntype = \"hvm\"\nmemory = 16\nserial = \"pty\"\nboot = \"c\"\n\
                disk = [ 'disk,raw,hda,rw' ]\n";
    let work = format!(
        "name = \"work\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\n",
        Run::tiny_image("work").display()
    );
    let file = run.path().join("work.cfg");
    fs::write(&file, work).expect("the domain file can be written");
    let mut live = run.domain("bad", text).start(300);
    live.wait_for("bad", "!");
    live.tool(&["xl", "create", &file.display().to_string()]);
    live.wait_ended("work");
    live.tool(&["xl", "destroy", "bad"]);
    let ended = live.end();
    let ((share, took), alone) = (neighbour(&ended), alone());
    println!("the neighbour kept {share} %, and took {took} instructions instead of {alone}");
    // Changes of the world for a device model are nobody's time, and such a guest has more of them than any other.
    assert!(share >= 40, "{share} %\n{}", ended.report());
    assert!(took * 10 <= alone * 26, "{took} instructions instead of {alone}\n{}", ended.report());
    ended.assert_no_leaks();
}
