//! The command as a person types it: exit statuses, and messages on the last line of stderr.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn trunnion(arguments: &[&str]) -> Output {
    trunnion_in(Path::new("."), arguments)
}

fn trunnion_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunnion"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).output().expect("the tool starts")
}

/// The status and the last line of stderr.
fn refusal(arguments: &[&str]) -> (i32, String) {
    last_line(&trunnion(arguments))
}

fn last_line(output: &Output) -> (i32, String) {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), errors.lines().last().unwrap_or_default().to_string())
}

#[test]
fn wrong_words_are_status_2_with_the_message_last() {
    for (arguments, words) in [
        (&["fly"][..], "fly"),
        (&["run", "--machine", "vax"], "there is no machine \"vax\""),
        (&["run", "--machine", "xen", "--keep"], "goes without --keep"),
        (&["run", "--net", "wires"], "--net wires"),
        (&["run", "--net", "none", "--forward", "tcp:1:10.0.0.2:80"], "--forward needs --net user"),
        (&["run", "--net", "user", "--forward", "tcp:1"], "expected tcp:PORT"),
        (&["run", "--dom0-ip", "everywhere"], "--dom0-ip everywhere"),
        (&["run", "--smp", "0"], "--smp"),
        (&["run", "--timeout", "0"], "--timeout"),
        (&["run", "--instance", "a/b"], "no name for an instance"),
        (&["run", "--headless", "nowhere.cfg"], "nowhere.cfg"),
        (&["xl", "fly"], "no verb \"fly\""),
        (&["xl", "migrate", "a", "b"], "not there yet"),
        (&["xl", "create", "nowhere.cfg"], "nowhere.cfg"),
        (&["xenstore", "write", "/a", "1", "/b"], "no value"),
        (&["run", "--control-token", "/nowhere/token"], "/nowhere/token"),
        (&["image", "/nowhere/out.iso"], "cannot be a file"),
        (&["image", "out.iso", "nowhere.cfg"], "nowhere.cfg"),
    ] {
        let (status, line) = refusal(arguments);
        assert_eq!(status, 2, "{arguments:?}: {line}");
        assert!(line.contains(words), "{arguments:?}: {line}");
    }
}

#[test]
fn verbs_without_an_instance_say_how_to_start_one() {
    for verb in [&["xl", "list"][..], &["console", "debian"], &["xenstore", "ls"]] {
        let arguments = [&["--instance", "not-there"][..], verb].concat();
        let (status, line) = refusal(&arguments);
        assert_eq!(status, 2, "{verb:?}: {line}");
        assert!(line.contains("no instance \"not-there\" is running"), "{line}");
    }
}

#[test]
fn help_has_examples_and_status_0() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["xl", "--help"],
        &["xenstore", "--help"],
        &["bench", "--help"],
        &["doctor", "--help"],
    ] {
        let output = trunnion(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"), "{arguments:?}");
    }
}

#[test]
fn doctor_tells_in_json() {
    let output = trunnion(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["machines"].as_array().map(Vec::len), Some(4));
    assert!(report["machine"].is_string() && report["why"].is_string());
    let ready = output.status.code() == Some(0);
    assert!(ready || output.status.code() == Some(2));
}

#[test]
fn wrong_domain_files_are_named_with_line_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("a.cfg", "name = \"a\"\ntype = \"pvh\"\nmemory = \"lots\"\nkernel = \"k\"\n");
    let (status, line) = last_line(&trunnion_in(folder.path(), &["run", "--headless", "a.cfg"]));
    assert_eq!(status, 2);
    assert!(line.contains("a.cfg:3:"), "{line}");
    write("b.cfg", "name = \"b\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"missing\"\n");
    let (status, line) = last_line(&trunnion_in(folder.path(), &["run", "--headless", "b.cfg"]));
    assert_eq!(status, 2);
    assert!(line.contains("b.cfg") && line.contains("missing"), "{line}");
    write("disk", "");
    write(
        "c.cfg",
        "name = \"c\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"b.cfg\"\ndisk = [ 'disk,raw,xvda,w' ]\n",
    );
    let (status, line) = last_line(&trunnion_in(folder.path(), &["run", "--headless", "c.cfg"]));
    assert_eq!(status, 2);
    assert!(line.contains("neither an ELF nor a Linux bzImage"), "{line}");
    std::fs::write(folder.path().join("bad.cfg"), [b'n', 0xff]).expect("a file");
    let (status, line) = last_line(&trunnion_in(folder.path(), &["run", "--headless", "bad.cfg"]));
    assert_eq!(status, 2);
    assert!(line.contains("not UTF-8"), "{line}");
}

/// A run that waits for a lock somebody else holds is in the middle of its set-up: a Ctrl-C there leaves nothing behind.
#[test]
fn an_interrupt_during_set_up_frees_the_instance() {
    let name = format!("ctrlc-{}", std::process::id());
    let lock = trunnion_cli::workspace::lock("image.lock", "waiting").expect("the lock");
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, smallest_kernel()).expect("a file");
    let file = folder.path().join("a.cfg");
    std::fs::write(&file, "name = \"a\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"kernel\"\n")
        .expect("a file");
    let file = file.to_str().expect("a path in UTF-8");
    let arguments = ["--instance", &name, "run", "--headless", "--machine", "qemu-svm", file];
    let mut first = Command::new(env!("CARGO_BIN_EXE_trunnion"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut errors = first.stderr.take().expect("its stderr");
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("waiting for another build") {
        let mut byte = [0];
        assert_eq!(errors.read(&mut byte).expect("its stderr"), 1, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&byte);
    }
    let (status, line) = refusal(&arguments);
    assert_eq!(status, 2);
    assert!(line.contains("is running already"), "{line}");

    let pid = i32::try_from(first.id()).expect("a process id");
    // Not SIGINT: whoever runs the tests in the background has it ignored in all that they start.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
        .expect("a signal");
    let begin = Instant::now();
    while first.try_wait().expect("its status").is_none() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    let claimed = trunnion_cli::instance::Instance::claim(&name);
    assert!(claimed.is_ok(), "the instance is free again");
    drop(lock);
}

/// An ELF with one segment and a PVH entry note, both the same 20 bytes.
fn smallest_kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x100000u64, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&[0; 4]);
    for half in [64u16, 56, 2, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for kind in [1u32, 4] {
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&5u32.to_le_bytes());
        for word in [176u64, 0x100000, 0x100000, 20, 20, 4] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
    }
    for word in [4u32, 4, 18] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(b"Xen\0\0\0\x10\0");
    elf
}
