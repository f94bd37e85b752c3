//! `trunnion bench`: the measurements, each a run of its own, and their forms: a table, JSON, and a page with charts.

mod exits;
mod io;
mod linux;
mod micro;
mod net;
mod page;
mod pc;
mod startup;

use crate::failure::{Failure, Result, Status};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Measure the platform: a table, JSON, or a page with charts
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  trunnion bench micro --icount
  trunnion bench micro --icount --json micro.json
  trunnion bench net --icount --html net.html
  trunnion bench boot --json -")]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(default_value = "micro")]
    pub(crate) what: What,
    /// QEMU counts instructions: the figures repeat to the digit
    #[arg(long)]
    pub(crate) icount: bool,
    /// Write JSON to FILE ("-" is stdout)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with charts to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The outer machine
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// The processor model, in the emulator's words
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,
    /// Measure this hypervisor image instead of building one
    #[arg(long, value_name = "ELF")]
    pub(crate) hypervisor: Option<PathBuf>,
    /// Name what is missing, and never install it
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Single operations, from inside a guest
    Micro,
    /// From power-on to a shell
    Boot,
    /// Network paths: Linux guests with dom0 and with each other
    Net,
    /// Disks and network of a Linux guest: split, emulated, and split on an emulated PC
    Io,
    /// Entries, exits and the instructions around them, on the machine without a hypervisor
    Exits,
}

/// One figure with its spread.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Row {
    pub name: String,
    pub path: &'static str,
    /// How many operations each sample is the mean of, times the samples.
    pub n: u64,
    pub min: u64,
    pub median: u64,
    pub max: u64,
    pub exits: BTreeMap<String, u64>,
    pub per: &'static str,
    /// What the numbers count, where a report mixes units.
    pub unit: &'static str,
    /// The limit that the project has set itself, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Where the figure is above the limit: what costs how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was measured, and on what.
pub(crate) struct Report {
    pub machine: serde_json::Value,
    pub unit: &'static str,
    pub rows: Vec<Row>,
    /// What could not be measured, and why: a line each.
    pub failed: Vec<String>,
    /// What others have measured.
    pub beside: Option<Beside>,
}

/// A table of others' figures.
#[derive(Serialize)]
pub(crate) struct Beside {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Measures.
pub(crate) fn perform(instance: &str, arguments: &Arguments) -> Result<Status> {
    // Minutes of measuring are not lost to a wrong path.
    let json = arguments.json.as_ref().filter(|path| path.as_os_str() != "-");
    for path in json.into_iter().chain(&arguments.html) {
        let opened = std::fs::File::options().append(true).create(true).open(path);
        opened.map_err(|e| Failure::file("write", path, &e))?;
    }
    let report = match arguments.what {
        What::Micro => micro::measure(instance, arguments)?,
        What::Boot => startup::measure(instance, arguments)?,
        What::Net => net::measure(instance, arguments)?,
        What::Io => io::measure(instance, arguments)?,
        What::Exits => exits::measure(arguments)?,
    };
    let mut text = json!({"machine": report.machine, "unit": report.unit, "rows": report.rows});
    if !report.failed.is_empty() {
        text["failed"] = json!(report.failed);
    }
    if let Some(beside) = &report.beside {
        text["beside"] = json!(beside);
    }
    if let Some(path) = &arguments.html {
        let page = page::of(arguments.what, &report)?;
        std::fs::write(path, page).map_err(|e| Failure::file("write", path, &e))?;
    }
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => crate::say::out!("{text:#}"),
        Some(path) => {
            std::fs::write(path, format!("{text:#}\n")).map_err(|e| Failure::file("write", path, &e))?;
            table(&report);
        }
        None => table(&report),
    }
    if report.failed.is_empty() {
        return Ok(Status::Done);
    }
    Err(Failure::platform(format!("not measured: {}", report.failed.join("; "))))
}

fn table(report: &Report) {
    crate::say::out!(
        "{:<32} {:>12} {:>12} {:>12} {:>12}  unit",
        "operation",
        "min",
        "median",
        "max",
        "at most"
    );
    for row in &report.rows {
        let limit = row.limit.map_or_else(String::new, |limit| limit.to_string());
        crate::say::out!(
            "{:<32} {:>12} {:>12} {:>12} {limit:>12}  {}",
            row.name,
            row.min,
            row.median,
            row.max,
            row.unit
        );
    }
    if let Some(beside) = &report.beside {
        below(beside);
    }
    for row in &report.rows {
        if let Some(note) = &row.note {
            crate::say::out!("{}: {note}", row.name);
        }
    }
}

/// Others' figures, below the table.
fn below(beside: &Beside) {
    crate::say::out!("");
    for row in std::iter::once(&beside.head).chain(&beside.rows) {
        let cells: Vec<String> = row.iter().skip(1).map(|cell| format!("{cell:>14}")).collect();
        crate::say::out!("{:<20}{}", row.first().map_or("", |name| name), cells.concat());
    }
}

/// The arguments that all measurements' runs share.
fn run_arguments(arguments: &Arguments) -> Vec<String> {
    let mut words: Vec<String> = ["--headless", "--timeout", "600"].map(String::from).to_vec();
    if arguments.icount {
        words.push("--icount".into());
    }
    if arguments.no_install {
        words.push("--no-install".into());
    }
    for (option, value) in [("--machine", &arguments.machine), ("--cpu", &arguments.cpu)] {
        if let Some(value) = value {
            words.extend([option.to_string(), value.clone()]);
        }
    }
    if let Some(path) = &arguments.hypervisor {
        words.extend(["--hypervisor".into(), path.display().to_string()]);
    }
    words
}

/// The summary of the run whose logs are in `folder`.
fn summary(folder: &std::path::Path) -> Result<serde_json::Value> {
    let path = folder.join("summary.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::file("read", &path, &e))?;
    serde_json::from_str(&text).map_err(|e| Failure::platform(format!("{} is damaged: {e}", path.display())))
}

/// What the figures were taken on.
fn machine(arguments: &Arguments, summary: &serde_json::Value) -> serde_json::Value {
    let name = summary["platform"]["machine"].clone();
    let cpu = arguments
        .cpu
        .clone()
        .or_else(|| Some(name.as_str()?.parse::<crate::machine::Machine>().ok()?.default_cpu().to_string()));
    json!({"name": name, "cpu": cpu, "icount": arguments.icount, "memory_bytes": summary["platform"]["memory_bytes"]})
}
