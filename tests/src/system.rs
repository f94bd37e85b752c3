//! Whole-system runs: domain files in a folder of their own, one `trunnion run`, and what it left behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use trunnion_cli::images::{self, Image};
use trunnion_cli::machine::Machine;
use trunnion_cli::setup::{self, Permission, Tool};

use crate::talk::Talk;

/// The outer machines of the tests, with the processor models that Bochs is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// As `--machine` takes it.
    pub machine: &'static str,
    /// As `--cpu` takes it; empty for the default.
    pub cpu: &'static str,
}

/// SVM under QEMU.
pub const QEMU_SVM: Outer = Outer { machine: "qemu-svm", cpu: "" };
/// VMX under Bochs with everything Bochs has.
pub const BOCHS_SKYLAKE: Outer = Outer { machine: "bochs-vmx", cpu: "corei7_skylake_x" };
/// VMX under Bochs without page-modification logging.
pub const BOCHS_HASWELL: Outer = Outer { machine: "bochs-vmx", cpu: "corei7_haswell_4770" };
/// VMX under Bochs without 1 GiB pages and virtual interrupt delivery.
pub const BOCHS_IVY_BRIDGE: Outer = Outer { machine: "bochs-vmx", cpu: "corei7_ivy_bridge_3770k" };
/// Debian's Xen with a Linux dom0, in QEMU.
pub const REAL_XEN: Outer = Outer { machine: "xen", cpu: "" };
/// SVM under Bochs.
pub const BOCHS_RYZEN: Outer = Outer { machine: "bochs-svm", cpu: "" };

/// A run in preparation: a folder with its files.
#[derive(Debug)]
pub struct Run {
    folder: TempDir,
    files: Vec<PathBuf>,
    arguments: Vec<String>,
    driver: PathBuf,
    instance: String,
    largest_file: Option<u64>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ended {
    folder: Option<TempDir>,
    log: PathBuf,
    /// Exit status of `trunnion run`.
    pub status: i32,
    /// Its stderr.
    pub errors: String,
    /// `summary.json`; null when there is none.
    pub summary: Value,
}

impl Run {
    /// An empty run on an outer machine. `driver` is the tool's binary: `env!("CARGO_BIN_EXE_trunnion-driver")`.
    pub fn new(driver: &str, outer: Outer) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let instance = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut arguments: Vec<String> =
            ["run", "--headless", "--machine", outer.machine].map(Into::into).into();
        if !outer.cpu.is_empty() {
            arguments.extend(["--cpu".into(), outer.cpu.into()]);
        }
        // A fresh machine has neither emulators nor the Rust target of the guests, and the guests are built before the run.
        let machine = match outer.machine {
            "xen" => Machine::QemuSvm,
            name => name.parse().expect("the tests name machines that exist"),
        };
        let tools = [Tool::of(machine), &[Tool::Ext4]].concat();
        setup::ensure(&tools, Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, files: Vec::new(), arguments, driver: driver.into(), instance, largest_file: None }
    }

    /// The folder of the run's files.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds an option of `trunnion run`.
    #[must_use]
    pub fn option(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(ToString::to_string));
        self
    }

    /// Adds a domain file.
    #[must_use]
    pub fn domain(mut self, name: &str, text: &str) -> Self {
        let path = self.folder.path().join(format!("{name}.cfg"));
        fs::write(&path, text).expect("the domain file can be written");
        self.files.push(path);
        self
    }

    /// Adds a domain that runs one of the tiny machine guests, and has its name.
    #[must_use]
    pub fn tiny(self, name: &str, more: &str) -> Self {
        self.tiny_as(name, name, more)
    }

    /// The image of a tiny machine guest.
    #[must_use]
    pub fn tiny_image(guest: &str) -> PathBuf {
        image(&format!("tiny-{guest}"))
    }

    /// Adds a tiny machine guest under a name of its own.
    #[must_use]
    pub fn tiny_as(self, name: &str, guest: &str, more: &str) -> Self {
        let image = Self::tiny_image(guest);
        let text = format!(
            "name = \"{name}\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\non_reboot = \"destroy\"\n{more}\n",
            image.display()
        );
        self.domain(name, &text)
    }

    /// Adds the Rust guest with a disk of so many MiB, `NAME.img` in the run's folder.
    #[must_use]
    pub fn rust(self, name: &str, mib: u64, cmdline: &str) -> Self {
        let image = image(images::DEMO.1);
        let disk = self.folder.path().join(format!("{name}.img"));
        let made = File::create(&disk).and_then(|file| file.set_len(mib << 20));
        made.expect("the disk can be made");
        let text = format!(
            "name = \"{name}\"\ntype = \"pvh\"\nmemory = 32\nkernel = \"{}\"\ncmdline = \"{cmdline}\"\ndisk = [ \"{},raw,xvda,rw\" ]\n",
            image.display(),
            disk.display()
        );
        self.domain(name, &text)
    }

    /// Lets no process of the run write a file beyond so many MiB: a disk larger than that has a part that cannot be written.
    #[must_use]
    pub fn largest_file(mut self, mib: u64) -> Self {
        self.largest_file = Some(mib);
        self
    }

    /// The words of a command line that starts it at a terminal; the log folder is the run's own.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.driver.display().to_string(), "--instance".into(), self.instance.clone()];
        words.extend(self.arguments.iter().filter(|word| *word != "--headless").cloned());
        words.extend(["--log".into(), self.folder.path().join("log").display().to_string()]);
        words.extend(self.files.iter().map(|file| file.display().to_string()));
        words
    }

    /// Runs it to its end, with a limit in seconds of wall time.
    pub fn go(self, limit: u32) -> Ended {
        self.start(limit).end()
    }

    /// Starts it, with a limit in seconds of wall time.
    pub fn start(self, limit: u32) -> Live {
        let log = self.folder.path().join("log");
        let errors = File::create(self.folder.path().join("errors")).expect("a file for its stderr");
        let mut command = match self.largest_file {
            None => Command::new(&self.driver),
            Some(mib) => {
                // POSIX counts in 512 bytes. Whoever ignores the signal gets the error, also after an exec.
                let mut shell = Command::new("sh");
                let limits = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", mib << 11);
                shell.args(["-c", &limits]).arg(&self.driver);
                shell
            }
        };
        let child = command
            .args(["--instance", &self.instance])
            .args(&self.arguments)
            .args(["--timeout", &limit.to_string(), "--log"])
            .arg(&log)
            .args(&self.files)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the tool starts");
        Live { folder: Some(self.folder), child, driver: self.driver, instance: self.instance }
    }
}

/// The platform and every guest that the tests boot on it: packages and binaries.
const IMAGES: [Image; 15] = [
    images::HYPERVISOR,
    images::DOM0,
    images::DEMO,
    ("trunnion-guest", "trunnion-web"),
    ("trunnion-vrng", "vrng-back"),
    ("trunnion-vrng", "vrng-front"),
    ("trunnion-examples", "hello"),
    ("trunnion-examples", "block-copy"),
    ("trunnion-examples", "store-browser"),
    ("trunnion-examples", "console-shell"),
    ("trunnion-examples", "share"),
    ("trunnion-examples", "hostile-block"),
    ("trunnion-examples", "packet-echo"),
    ("trunnion-examples", "hostile-net"),
    ("trunnion-examples", "hostile-back"),
];

/// The tiny guests, which have no memory allocator: what the others ask of the packages that they share would ask for one.
const TINY: [Image; 11] = [
    ("trunnion-tests", "tiny-basics"),
    ("trunnion-tests", "tiny-events"),
    ("trunnion-tests", "tiny-memory"),
    ("trunnion-tests", "tiny-grants"),
    ("trunnion-tests", "tiny-smp"),
    ("trunnion-tests", "tiny-hostile"),
    ("trunnion-tests", "tiny-spin"),
    ("trunnion-tests", "tiny-work"),
    ("trunnion-tests", "tiny-triple"),
    ("trunnion-tests", "tiny-refused"),
    ("trunnion-tests", "tiny-prefix"),
];

/// The image of a guest. The first that is asked for brings all of its list: an image is the work of one thread, and one cargo keeps all
/// processors busy with them.
///
/// # Panics
///
/// When they do not build, or there is no such guest.
pub fn image(bin: &str) -> PathBuf {
    let all: &[Image] = if bin.starts_with("tiny-") { &TINY } else { &IMAGES };
    let built = images::build_all(all).unwrap_or_else(|failure| panic!("{failure:?}"));
    let place = all.iter().position(|(_, one)| *one == bin).and_then(|place| built.into_iter().nth(place));
    place.unwrap_or_else(|| panic!("there is no guest {bin}"))
}

/// A disk with one of the boot sectors in `tests/guests`, made in a folder.
///
/// # Panics
///
/// When there is no assembler, or no such sector.
#[must_use]
pub fn sector(folder: &Path, name: &str) -> Vec<u8> {
    let source = format!("{}/guests/{name}.s", env!("CARGO_MANIFEST_DIR"));
    let (object, binary) = (folder.join("sector.o"), folder.join("sector.bin"));
    for command in [
        Command::new("as").args(["--32", &source, "-o"]).arg(&object),
        Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).arg(&object).arg(&binary),
    ] {
        let output = command.output().expect("binutils are where a linker is");
        assert!(output.status.success(), "{output:?}");
    }
    let mut sector = fs::read(binary).expect("the boot sector was made");
    sector.resize(1 << 20, 0);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A run that goes on; it is killed when it is dropped.
#[derive(Debug)]
pub struct Live {
    folder: Option<TempDir>,
    child: Child,
    driver: PathBuf,
    instance: String,
}

impl Live {
    /// The folder of the run's files.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// The run's name, for the other verbs.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Waits until a domain's console shows `text`; panics when the run ends before.
    pub fn wait_for(&mut self, name: &str, text: &str) {
        let console = self.folder().join(format!("log/{name}.console.log"));
        self.wait(&format!("{name} says {text:?}"), || {
            fs::read(&console).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
        });
    }

    /// Waits until the screen of an emulated PC shows `text`; panics when the run ends before.
    pub fn wait_for_screen(&mut self, name: &str, text: &str) {
        let words = ["xl", "screenshot", name, "--text"];
        let mut screen = String::new();
        while !screen.contains(text) {
            std::thread::sleep(Duration::from_millis(200));
            let status = self.child.try_wait().expect("the run can be waited for");
            assert!(
                status.is_none(),
                "waited for {text:?} on the screen of {name}, which showed\n{screen}\nthe run: {status:?}\n{}",
                ended(self.folder(), -1).report()
            );
            // There is no screen while the platform starts, or a mode is changed.
            let output = self.try_tool(&words);
            if output.status.success() {
                screen = String::from_utf8_lossy(&output.stdout).into_owned();
            }
        }
    }

    /// Waits until a domain runs for the first time; panics when the run ends before.
    pub fn wait_running(&mut self, name: &str) {
        let errors = self.folder().join("errors");
        self.wait(&format!("{name} runs"), || {
            let runs = |line: &str| line.contains(&format!("domain {name} (")) && line.contains(") runs");
            fs::read_to_string(&errors).is_ok_and(|text| text.lines().any(runs))
        });
    }

    /// Waits until a domain has ended; panics when the run ends before.
    pub fn wait_ended(&mut self, name: &str) {
        let errors = self.folder().join("errors");
        self.wait(&format!("{name} ends"), || {
            let ends = |line: &str| line.contains(&format!("domain {name} (")) && line.contains(") ended");
            fs::read_to_string(&errors).is_ok_and(|text| text.lines().any(ends))
        });
    }

    /// The emulator's process.
    pub fn emulator(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        let child = children.split_ascii_whitespace().next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(child.expect("the run has an emulator"))
    }

    /// Waits until something is true; panics when the run ends before, which its own limit sees to.
    pub fn wait(&mut self, what: &str, is_true: impl Fn() -> bool) {
        while !is_true() {
            let status = self.child.try_wait().expect("the run can be waited for");
            assert!(
                status.is_none(),
                "waited for: {what}; the run: {status:?}\n{}",
                ended(self.folder(), -1).report()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Another verb of the tool on this run; it has to succeed. Its stdout.
    pub fn tool(&self, words: &[&str]) -> String {
        let output = self.try_tool(words);
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", ended(self.folder(), -1).report());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Another verb of the tool on this run.
    pub fn try_tool(&self, words: &[&str]) -> Output {
        self.verb(words).stdin(Stdio::null()).output().expect("the tool starts")
    }

    /// Another verb of the tool on this run, as soon as it listens; it has to succeed. Its stdout.
    pub fn tool_when_ready(&mut self, words: &[&str]) -> String {
        let socket = trunnion_cli::instance::control_socket(&self.instance).expect("a name that fits");
        self.wait("the tool listens", || socket.exists());
        self.tool(words)
    }

    /// Another verb of the tool on this run that goes on.
    pub fn talk(&self, words: &[&str]) -> Talk {
        Talk::start(&mut self.verb(words))
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.driver);
        command.args(["--instance", &self.instance]).args(words);
        command
    }

    /// A command to QEMU's monitor; its arguments as JSON.
    pub fn monitor(&self, command: &str, arguments: &Value) {
        let socket = trunnion_cli::instance::control_socket(&self.instance).expect("a name that fits");
        let socket = socket.with_file_name("monitor.sock");
        let stream = UnixStream::connect(&socket).expect("the monitor's socket");
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
        let mut stream = stream;
        for line in
            [json!({"execute": "qmp_capabilities"}), json!({"execute": command, "arguments": arguments})]
        {
            writeln!(stream, "{line}").expect("the monitor listens");
            // A greeting and events come in between.
            let is_answer = |line: &String| line.contains("\"return\"") || line.contains("\"error\"");
            let answer = lines.by_ref().map_while(Result::ok).find(is_answer);
            assert!(answer.as_ref().is_some_and(|line| line.contains("\"return\"")), "{command}: {answer:?}");
        }
    }

    /// Sends the tool a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("the run is there");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let status = self.child.wait().expect("the run can be waited for");
        let mut ended = ended(self.folder(), status.code().unwrap_or(-1));
        ended.folder = self.folder.take();
        ended
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What lies in the folder of a run.
fn ended(folder: &Path, status: i32) -> Ended {
    let log = folder.join("log");
    let summary = fs::read(log.join("summary.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null);
    let errors = fs::read(folder.join("errors")).unwrap_or_default();
    let errors = String::from_utf8_lossy(&errors).into_owned();
    Ended { folder: None, log, status, errors, summary }
}

impl Ended {
    /// A file of the log folder, as text; empty when it is missing.
    pub fn file(&self, name: &str) -> String {
        fs::read(self.log.join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The folder that held the run's own files.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// A domain's console.
    pub fn console(&self, name: &str) -> String {
        self.file(&format!("{name}.console.log"))
    }

    /// How a domain ended, as the summary says.
    pub fn outcome(&self, name: &str) -> String {
        self.domain(name)["outcome"].as_str().unwrap_or("missing").to_string()
    }

    /// A domain's part of the summary.
    pub fn domain(&self, name: &str) -> &Value {
        static NOTHING: Value = Value::Null;
        self.summary["domains"]
            .as_array()
            .and_then(|domains| domains.iter().find(|domain| domain["name"] == name))
            .unwrap_or(&NOTHING)
    }

    /// Everything a person needs to understand a failure.
    pub fn report(&self) -> String {
        let tail = |text: &str, lines: usize| {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        format!(
            "status {}\n--- stderr\n{}\n--- hypervisor.log\n{}\n--- dom0.log\n{}\n--- summary\n{:#}",
            self.status,
            tail(&self.errors, 40),
            tail(&self.file("hypervisor.log"), 60),
            tail(&self.file("dom0.log"), 40),
            self.summary
        )
    }

    /// Asserts that nothing leaked: every figure of `leaks` is there, and 0.
    pub fn assert_no_leaks(&self) {
        let leaks = &self.summary["platform"]["leaks"];
        for what in ["frames", "grants", "ports", "store_nodes"] {
            assert_eq!(leaks[what], Value::from(0), "{what} leaked\n{}", self.report());
        }
    }

    /// Asserts that a tiny guest passed: all its checks, its own last line, and power-off.
    pub fn assert_passed(&self, name: &str) {
        let console = self.console(name);
        let failed: Vec<&str> = console.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(failed.is_empty(), "{name}: {failed:#?}\n{}", self.report());
        assert!(
            console.lines().any(|line| line.starts_with("RESULT ") && line.ends_with(" 0 failed")),
            "{name} did not reach its end; its console:\n{console}\n{}",
            self.report()
        );
        assert_eq!(self.outcome(name), "poweroff", "{name}\n{}", self.report());
    }
}
