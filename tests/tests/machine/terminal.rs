//! `trunnion run` at a terminal: what is typed reaches the guest, Ctrl-] leaves, and the terminal is as it was afterwards.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trunnion_tests::system::{QEMU_SVM, Run};
use trunnion_tests::talk::Talk;

use crate::DRIVER;

const LIMIT: Duration = Duration::from_mins(3);

/// Starts a run in a terminal of its own (`script` of bsdutils, which every Debian has), which notes the terminal's settings before and after.
fn at_a_terminal(run: &Run, name: &str) -> Talk {
    let words: Vec<String> = run.words().iter().map(|word| format!("'{word}'")).collect();
    let text = format!(
        "cd '{0}'\nstty -a >{name}.before\n{1}\necho \"left with $?\"\nstty -a >{name}.after\necho over\n",
        run.path().display(),
        words.join(" ")
    );
    let script = run.path().join(format!("{name}.sh"));
    fs::write(&script, text).expect("the script can be written");
    let command = format!("sh '{}'", script.display());
    Talk::start(Command::new("script").args(["-q", "-f", "-c", &command, "/dev/null"]))
}

/// The processes of a run.
fn processes(run: &Run) -> Vec<String> {
    let instance = run.words()[2].clone();
    let found = Command::new("pgrep").args(["-f", &format!("instance {instance} run")]).output();
    let found = String::from_utf8_lossy(&found.expect("pgrep starts").stdout).into_owned();
    found.lines().map(str::to_string).collect()
}

fn assert_restored(folder: &Path, name: &str) {
    let read = |end: &str| fs::read_to_string(folder.join(format!("{name}.{end}"))).unwrap_or_default();
    assert!(read("before").contains(" echo "), "{}", read("before"));
    assert_eq!(read("before"), read("after"));
}

#[test]
fn a_shell_at_a_terminal() {
    let parts = trunnion_cli::demo::linux_parts().unwrap_or_else(|failure| panic!("{failure:?}"));
    let run = Run::new(DRIVER, QEMU_SVM);
    let root = run.path().join("root.ext4");
    fs::copy(&parts.disk, &root).expect("the root disk can be copied");
    let text = format!(
        "name = \"debian\"\ntype = \"pvh\"\nmemory = 160\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=hvc0 root=/dev/xvda rw\"\ndisk = [ \"{},raw,xvda,rw\" ]\n",
        parts.kernel.display(),
        parts.ramdisk.display(),
        root.display(),
    );
    let run = run.domain("debian", &text);
    let mut terminal = at_a_terminal(&run, "shell");
    terminal.wait_for("dom0 is ready", LIMIT);
    terminal.wait_for("/ # ", LIMIT);
    terminal.say("echo answer $((6 * 7))\r");
    terminal.wait_for("answer 42", LIMIT);
    // Ctrl-C is the guest's.
    terminal.say("sleep 1000\r");
    std::thread::sleep(Duration::from_secs(2));
    terminal.say("\x03");
    std::thread::sleep(Duration::from_secs(2));
    // A window that changes its size is nothing to a console.
    for pid in processes(&run) {
        let _ = Command::new("kill").args(["-WINCH", &pid]).status();
    }
    terminal.say("echo still $((40 + 3))\r");
    terminal.wait_for("still 43", LIMIT);
    terminal.say("\x1d");
    terminal.wait_for("left with 0", LIMIT);
    terminal.wait_for("over", LIMIT);
    assert_restored(run.path(), "shell");
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let run = Run::new(DRIVER, QEMU_SVM).tiny("spin", "");
    let terminal = at_a_terminal(&run, "signal");
    terminal.wait_for("domain spin (1) runs", LIMIT);
    for pid in processes(&run) {
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
    }
    terminal.wait_for("stopped by a signal", LIMIT);
    terminal.wait_for("left with 130", LIMIT);
    terminal.wait_for("over", LIMIT);
    assert_restored(run.path(), "signal");
}
