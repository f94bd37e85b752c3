//! From power-on to the shell of a Linux guest, and what the platform takes for itself.

use super::{Arguments, Report, Row};
use crate::failure::{Failure, Result};
use crate::machine::stripped;
use crate::setup::{self, Permission};
use crate::{demo, images, run, workspace};
use std::fs;
use std::time::Duration;

/// What the Linux domain prints first when the shell on its root runs.
const SHELL: &str = "The root is up, seconds since the kernel began: ";

pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let folder = workspace::target("bench")?.join("boot");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let permission = if arguments.no_install { Permission::Never } else { Permission::Install };
    setup::ensure(demo::TOOLS, permission)?;
    let linux = demo::linux_file(true, permission)?;
    let mut words = super::run_arguments(arguments);
    words.extend(["--log".into(), folder.display().to_string(), linux.display().to_string()]);
    let marks = run::measure(instance, &run::Options::read(&words)?, SHELL)?;
    let summary = super::summary(&folder)?;
    let console = fs::read(folder.join(format!("{}.console.log", demo::SHELL))).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).into_owned();

    let missing = |what: &str| {
        Failure::platform(format!("the run gave no figure for {what}; its logs are in {}", folder.display()))
    };
    let domain = &summary["domains"][0];
    let ns = |key: &str| domain[key].as_u64().ok_or_else(|| missing(key));
    let create = ns("unpaused_ns")?.saturating_sub(ns("create_begin_ns")?);
    let platform = &summary["platform"];
    let bytes = |key: &str| platform[key].as_u64().ok_or_else(|| missing(key));
    let uptime = guest_uptime(&console).ok_or_else(|| missing("the guest's uptime at the shell"))?;
    let image = images::build(images::HYPERVISOR.0, images::HYPERVISOR.1)?;
    let image = fs::read(&image).map_err(|e| Failure::file("read", &image, &e))?;

    let wall = |mark: Option<Duration>, what| {
        mark.map(|mark| u64::try_from(mark.as_nanos()).unwrap_or(u64::MAX)).ok_or_else(|| missing(what))
    };
    // Wall time says little on a machine that does other things as well; the processor time of the emulator says what it would be on a quiet one.
    let used = |mut row: Row, cpu: Duration| {
        let above = row.note.take().map_or_else(String::new, |note| format!("{note}; "));
        row.note = Some(format!("{above}{:.2} s of processor time of the emulator", cpu.as_secs_f64()));
        row
    };
    let ready = row("power-on-to-dom0", "ns", wall(marks.ready, "power-on to dom0")?, 800_000_000);
    let shell = row("power-on-to-shell", "ns", wall(marks.shown, "power-on to shell")?, 5_000_000_000);
    let rows = vec![
        used(ready, marks.ready_cpu),
        used(shell, marks.shown_cpu),
        row("create-to-first-instruction", "emulated-ns", create, 100_000_000),
        // Linux counts its uptime from a few milliseconds after its first instruction, when it finds its clock.
        row("create-to-shell", "emulated-ns", create + uptime, 1_900_000_000),
        row("platform-memory", "bytes", bytes("hypervisor_bytes")? + bytes("dom0_bytes")?, 48 << 20),
        row("image-size", "bytes", stripped(&image).len() as u64, 1 << 20),
    ];
    Ok(Report {
        machine: super::machine(arguments, &summary),
        unit: "ns",
        rows,
        failed: Vec::new(),
        beside: None,
    })
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
