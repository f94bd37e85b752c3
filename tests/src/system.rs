//! Whole-system runs: domain files in a folder of their own, one `trunnion run`, and what it left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

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
/// SVM under Bochs.
pub const BOCHS_RYZEN: Outer = Outer { machine: "bochs-svm", cpu: "" };

/// A run in preparation: a folder with its files.
#[derive(Debug)]
pub struct Run {
    folder: TempDir,
    files: Vec<PathBuf>,
    arguments: Vec<String>,
    driver: PathBuf,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ended {
    folder: TempDir,
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
        let mut arguments = vec![
            "--instance".into(),
            instance,
            "run".into(),
            "--headless".into(),
            "--machine".into(),
            outer.machine.into(),
        ];
        if !outer.cpu.is_empty() {
            arguments.extend(["--cpu".into(), outer.cpu.into()]);
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, files: Vec::new(), arguments, driver: driver.into() }
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

    /// Adds a domain that runs one of the tiny machine guests.
    #[must_use]
    pub fn tiny(self, name: &str, more: &str) -> Self {
        let image = trunnion_cli::images::build("trunnion-tests", &format!("tiny-{name}"))
            .unwrap_or_else(|failure| panic!("tiny-{name}: {failure:?}"));
        let text = format!(
            "name = \"{name}\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\non_reboot = \"destroy\"\n{more}\n",
            image.display()
        );
        self.domain(name, &text)
    }

    /// Runs it to its end, with a limit in seconds of wall time.
    pub fn go(self, limit: u32) -> Ended {
        let log = self.folder.path().join("log");
        let output: Output = Command::new(&self.driver)
            .args(&self.arguments)
            .args(["--timeout", &limit.to_string(), "--log"])
            .arg(&log)
            .args(&self.files)
            .stdin(Stdio::null())
            .output()
            .expect("the tool starts");
        let summary = fs::read(log.join("summary.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null);
        Ended {
            folder: self.folder,
            status: output.status.code().unwrap_or(-1),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            summary,
        }
    }
}

impl Ended {
    /// A file of the log folder, as text; empty when it is missing.
    pub fn file(&self, name: &str) -> String {
        fs::read(self.folder.path().join("log").join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The folder that held the run's own files.
    pub fn path(&self) -> &Path {
        self.folder.path()
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
