//! From power-on to the shell of a Linux guest, and what the platform takes for itself.

use super::{Arguments, Report, Row};
use crate::demo::Keep;
use crate::failure::{Failure, Result};
use crate::machine::{Machine, stripped};
use crate::setup::{self, Permission};
use crate::{demo, images, run, say, workspace};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the Linux domain prints first when the shell on its root runs.
const SHELL: &str = "The root is up, seconds since the kernel began: ";

/// Wall times come from a run as a user has it. Emulated times come from runs in which the emulator counts instructions, so that they
/// repeat on a busy host: one with the demo's disk for `create`, which waits for no disk, and one with the same disk in dom0's memory for
/// the way to the shell, because waiting for the host's disk is idle time, which passes in jumps.
pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let folder = workspace::target("bench")?.join("boot");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let permission = if arguments.no_install { Permission::Never } else { Permission::Install };
    setup::ensure(demo::TOOLS, permission)?;
    let linux = demo::linux_file(true, Keep::Image, permission)?;

    let first = Start::observe(instance, arguments, &folder, &linux)?;
    // Only QEMU's own emulation counts.
    let counts = first.summary["platform"]["machine"] == Machine::QemuSvm.name();
    let counting = Arguments { icount: true, ..arguments.clone() };
    let (create, uptime) = if counts {
        say::progress("the same again, counting instructions: the emulated times");
        let begun = if arguments.icount {
            first.create()?
        } else {
            Start::observe(instance, &counting, &folder, &linux)?.create()?
        };
        let memory = demo::linux_file(true, Keep::Memory, permission)?;
        (begun, Start::observe(instance, &counting, &folder, &memory)?.uptime()?)
    } else {
        (first.create()?, first.uptime()?)
    };

    let image = images::build(images::HYPERVISOR.0, images::HYPERVISOR.1)?;
    let image = fs::read(&image).map_err(|e| Failure::file("read", &image, &e))?;
    let (ready, shell) = first.wall()?;
    let rows = vec![
        used(row("power-on-to-dom0", "ns", ready, 800_000_000), first.marks.ready_cpu),
        used(row("power-on-to-shell", "ns", shell, 5_000_000_000), first.marks.shown_cpu),
        row("create-to-first-instruction", "emulated-ns", create, 100_000_000),
        // Linux counts its uptime from a few milliseconds after its first instruction, when it finds its clock.
        row("create-to-shell", "emulated-ns", create + uptime, 1_900_000_000),
        row("platform-memory", "bytes", first.memory()?, 48 << 20),
        row("image-size", "bytes", stripped(&image).len() as u64, 1 << 20),
    ];
    Ok(Report {
        machine: super::machine(arguments, &first.summary),
        unit: "ns",
        rows,
        failed: Vec::new(),
        beside: None,
    })
}

/// What one start of the Linux domain showed.
struct Start {
    marks: run::Marks,
    summary: Value,
    console: String,
    folder: PathBuf,
}

impl Start {
    fn observe(instance: &str, arguments: &Arguments, folder: &Path, linux: &Path) -> Result<Self> {
        let mut words = super::run_arguments(arguments);
        words.extend(["--log".into(), folder.display().to_string(), linux.display().to_string()]);
        let marks = run::measure(instance, &run::Options::read(&words)?, SHELL)?;
        let console = fs::read(folder.join(format!("{}.console.log", demo::SHELL))).unwrap_or_default();
        Ok(Self {
            marks,
            summary: super::summary(folder)?,
            console: String::from_utf8_lossy(&console).into_owned(),
            folder: folder.into(),
        })
    }

    /// From the begin of `create` to the domain's first instruction, in emulated nanoseconds.
    fn create(&self) -> Result<u64> {
        let domain = &self.summary["domains"][0];
        let ns = |key: &str| domain[key].as_u64().ok_or_else(|| self.missing(key));
        Ok(ns("unpaused_ns")?.saturating_sub(ns("create_begin_ns")?))
    }

    /// From Linux's first look at its clock to its shell, in emulated nanoseconds.
    fn uptime(&self) -> Result<u64> {
        guest_uptime(&self.console).ok_or_else(|| self.missing("the guest's uptime at the shell"))
    }

    /// From power-on to dom0 and to the shell, in nanoseconds of the wall clock.
    fn wall(&self) -> Result<(u64, u64)> {
        let ns = |mark: Option<Duration>, what| {
            let mark = mark.ok_or_else(|| self.missing(what))?;
            Ok(u64::try_from(mark.as_nanos()).unwrap_or(u64::MAX))
        };
        Ok((ns(self.marks.ready, "power-on to dom0")?, ns(self.marks.shown, "power-on to shell")?))
    }

    /// What hypervisor and dom0 take for themselves, in bytes.
    fn memory(&self) -> Result<u64> {
        let platform = &self.summary["platform"];
        let bytes = |key: &str| platform[key].as_u64().ok_or_else(|| self.missing(key));
        Ok(bytes("hypervisor_bytes")? + bytes("dom0_bytes")?)
    }

    fn missing(&self, what: &str) -> Failure {
        let folder = self.folder.display();
        Failure::platform(format!("the run gave no figure for {what}; its logs are in {folder}"))
    }
}

/// Wall time says little on a machine that does other things as well; the processor time of the emulator says what it would be on a
/// quiet one.
fn used(mut row: Row, cpu: Duration) -> Row {
    let above = row.note.take().map_or_else(String::new, |note| format!("{note}; "));
    row.note = Some(format!("{above}{:.2} s of processor time of the emulator", cpu.as_secs_f64()));
    row
}

fn row(name: &str, unit: &'static str, value: u64, limit: u64) -> Row {
    let note = (value > limit).then(|| format!("{} above the limit of {limit}", value - limit));
    Row {
        name: name.into(),
        path: "core",
        n: 1,
        min: value,
        median: value,
        max: value,
        per: "operation",
        unit,
        limit: Some(limit),
        note,
        ..Row::default()
    }
}

/// The first figure of /proc/uptime (seconds with two decimals), which the domain prints behind [`SHELL`].
fn guest_uptime(console: &str) -> Option<u64> {
    let line = console.lines().find_map(|line| line.trim_end().strip_prefix(SHELL))?;
    let (seconds, rest) = line.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + hundredths * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_uptime_is_read() {
        assert_eq!(
            guest_uptime("x\r\nThe root is up, seconds since the kernel began: 1.25 0.80\r\n"),
            Some(1_250_000_000)
        );
        assert_eq!(guest_uptime("nothing"), None);
    }
}
