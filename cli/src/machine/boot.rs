//! One ELF, from power-on to its end, with what it said on COM1: for bring-up and for the machine tests.

use crate::failure::{Failure, Result};
use crate::machine::child::Emulator;
use crate::machine::{Machine, bochs, iso, qemu};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What to boot, and on what.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The outer machine.
    pub machine: Machine,
    /// A processor model in the emulator's words, instead of the machine's default.
    pub cpu: Option<String>,
    /// An ELF with a PVH note (for QEMU) and a multiboot2 header (for Bochs).
    pub elf: PathBuf,
    /// One file that is loaded beside it.
    pub module: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Processors of the machine.
    pub smp: u32,
    /// QEMU counts instructions, one virtual nanosecond each.
    pub icount: bool,
    /// The most processor time that the emulator may use; in wall time it may take four times as long, because the machine may be busy.
    pub limit: Duration,
    /// More options for QEMU, as they are.
    pub extra: Vec<String>,
    /// Copy COM1 to stdout while it runs.
    pub echo: bool,
}

impl Boot {
    /// A boot of `elf` on `machine`: 512 MiB, one processor, 60 seconds, nothing else.
    pub fn new(machine: Machine, elf: impl Into<PathBuf>) -> Self {
        Self {
            machine,
            cpu: None,
            elf: elf.into(),
            module: None,
            cmdline: String::new(),
            memory_mib: 512,
            smp: 1,
            icount: false,
            limit: Duration::from_mins(1),
            extra: Vec::new(),
            echo: false,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The image ended it, with this code: 0 is success.
    Exit(u8),
    /// Power-off by ACPI, or a triple fault (the emulators do not tell them apart everywhere).
    PowerOff,
    /// The time limit.
    TimeLimit,
    /// The emulator failed; its own words.
    Emulator(String),
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: End,
    /// All of COM1.
    pub serial: String,
    /// Processor time of the emulator, to the last look at it.
    pub cpu_time: Duration,
}

impl Outcome {
    /// Whether the image ended the run with code 0.
    pub fn is_success(&self) -> bool {
        self.status == End::Exit(0)
    }
}

/// Boots it, waits for its end, and returns what it said. Fails only when the run could not begin.
pub fn boot(boot: &Boot) -> Result<Outcome> {
    if !boot.elf.is_file() {
        return Err(Failure::usage(format!("there is no image {}", boot.elf.display())));
    }
    let folder =
        tempfile::tempdir().map_err(|e| Failure::file("make a folder in", &std::env::temp_dir(), &e))?;
    let serial = folder.path().join("serial");
    File::create(&serial).map_err(|e| Failure::file("make", &serial, &e))?;
    let errors = folder.path().join("errors");
    let mut emulator = if boot.machine.is_bochs() {
        start_bochs(boot, folder.path(), &serial, &errors)?
    } else {
        start_qemu(boot, &serial, &errors)?
    };
    let mut text = Tail::open(&serial, boot.echo)?;
    let begin = Instant::now();
    let mut cpu_time = Duration::ZERO;
    let ended = loop {
        text.advance();
        if let Some(status) = emulator.ended() {
            break Some(status);
        }
        cpu_time = emulator.cpu_time().max(cpu_time);
        if cpu_time > boot.limit || begin.elapsed() > boot.limit * 4 {
            emulator.kill();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    text.advance();
    let serial = String::from_utf8_lossy(&text.bytes).into_owned();
    let errors = fs::read_to_string(&errors).unwrap_or_default();
    let status = match ended {
        None => End::TimeLimit,
        Some(status) if boot.machine.is_bochs() => bochs_end(status, &serial, &errors),
        Some(status) => qemu_end(status, &errors),
    };
    Ok(Outcome { status, serial, cpu_time })
}

fn start_qemu(boot: &Boot, serial: &Path, errors: &Path) -> Result<Emulator> {
    let errors = File::create(errors).map_err(|e| Failure::file("make", errors, &e))?;
    Emulator::start(qemu::PROGRAM, |command| {
        qemu::options(command, boot, serial);
        command.stderr(errors);
    })
}

fn start_bochs(boot: &Boot, folder: &Path, serial: &Path, errors: &Path) -> Result<Emulator> {
    let cd = folder.join("boot.iso");
    iso::write(&cd, &boot.elf, boot.module.as_deref(), &boot.cmdline, iso::Firmware::Bios)?;
    let configuration = folder.join("bochsrc");
    let debugger = folder.join("debugger");
    let text = bochs::configuration(boot, &cd, serial, &folder.join("log"), None);
    for (path, text) in [(&configuration, text.as_str()), (&debugger, bochs::DEBUGGER)] {
        fs::write(path, text).map_err(|e| Failure::file("write", path, &e))?;
    }
    let errors = File::create(errors).map_err(|e| Failure::file("make", errors, &e))?;
    Emulator::start(bochs::PROGRAM, |command| {
        command.args(["-q", "-unlock", "-f"]).arg(&configuration).arg("-rc").arg(&debugger);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(errors);
    })
}

/// QEMU's status is 2n + 1 for a byte n at `isa-debug-exit`, 0 after a power-off, and 1 when it could not run.
fn qemu_end(status: ExitStatus, errors: &str) -> End {
    match status.code() {
        Some(0) => End::PowerOff,
        Some(code) if code >= 0x21 && code % 2 == 1 => End::Exit(((code - 1) / 2 - 0x10) as u8),
        _ => End::Emulator(format!("QEMU ended with {status}: {}", errors.trim_end())),
    }
}

/// Bochs's status is 0 when the debugger was told to stop and 1 for everything else; the code itself stands on COM1.
fn bochs_end(status: ExitStatus, serial: &str, output: &str) -> End {
    let code =
        serial.lines().rev().find_map(|line| line.trim_end().strip_prefix("EXIT ")?.parse::<u8>().ok());
    match (status.code(), code) {
        (Some(0), Some(0)) => End::Exit(0),
        (Some(1), Some(code)) if code != 0 => End::Exit(code),
        (Some(1), None) if output.contains("ACPI control: soft power off") => End::PowerOff,
        _ => {
            let tail =
                output.split("Bochs is exiting with the following message:").nth(1).unwrap_or_default();
            End::Emulator(format!(
                "Bochs ended with {status}: {}",
                tail.trim().lines().next().unwrap_or("no message")
            ))
        }
    }
}

/// A file that grows, read as it does.
struct Tail {
    file: File,
    bytes: Vec<u8>,
    echo: bool,
}

impl Tail {
    fn open(path: &Path, echo: bool) -> Result<Self> {
        let file = File::open(path).map_err(|e| Failure::file("read", path, &e))?;
        Ok(Self { file, bytes: Vec::new(), echo })
    }

    fn advance(&mut self) {
        let known = self.bytes.len();
        let _ = self.file.read_to_end(&mut self.bytes);
        if self.echo
            && let Some(new) = self.bytes.get(known..)
        {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(new);
            let _ = out.flush();
        }
    }
}
