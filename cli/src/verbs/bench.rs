//! `trunnion bench`: the measurements, each a run of its own, and their forms: a table, JSON, and a page with charts.

mod exits;
mod fence;
mod io;
mod linux;
mod micro;
mod net;
mod page;
mod pc;
mod startup;

use crate::failure::{Failure, Result, Status};
use crate::machine::Machine;
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
    /// Disks and network of a Linux guest: split, emulated, emulated word by word, and split on an emulated PC
    Io,
    /// Entries, exits and the instructions around them, on the machine without a hypervisor
    Exits,
}

/// Where the time of one operation goes.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Share {
    /// The guest, with its entries and the switch to it.
    pub guest: u64,
    /// The hypervisor's work for the guest's exits.
    pub core: u64,
    /// dom0, with the hypervisor at its exits.
    pub dom0: u64,
}

impl Share {
    /// The parts in percent, the largest first: it is what limits.
    pub(crate) fn in_words(self) -> String {
        let mut parts =
            [(self.guest, "the guest"), (self.core, "the hypervisor at its exits"), (self.dom0, "dom0")];
        parts.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let all = parts.iter().map(|(time, _)| time).sum::<u64>().max(1);
        let parts = parts.map(|(time, name)| format!("{} % in {name}", (time * 100 + all / 2) / all));
        parts.join(", ")
    }
}

/// What all domains used for the operations of a row, beside exits.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Used {
    pub hypercalls: u64,
    /// Sent.
    pub events: u64,
    pub grants_copied: u64,
    pub grants_mapped: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
    /// Where the time went, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Times of single operations: the shortest, 5, 10, 25, 50, 75, 90, 95 and 99 percent from there on, and the longest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<u64>,
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

impl Row {
    /// How many of something each operation has, when there are so many in all.
    #[expect(clippy::cast_precision_loss, reason = "two digits behind the point are shown")]
    pub(crate) fn each(&self, all: u64) -> f64 {
        all as f64 / self.n.max(1) as f64
    }

    /// What an operation uses, in words.
    fn uses(&self) -> Option<String> {
        let used = self.used?;
        let exits = self.each(self.exits.values().sum());
        let rest = [
            (used.hypercalls, "hypercalls"),
            (used.events, "events"),
            (used.grants_copied, "grant copies"),
            (used.grants_mapped, "grants mapped"),
        ];
        let rest: Vec<String> = rest.map(|(count, name)| format!("{:.2} {name}", self.each(count))).to_vec();
        Some(format!("{exits:.2} exits, {} per {}", rest.join(", "), self.per))
    }
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
        "{:<32} {:<10} {:>12} {:>12} {:>12} {:>12}  unit",
        "operation",
        "path",
        "min",
        "median",
        "max",
        "at most"
    );
    for row in &report.rows {
        let limit = row.limit.map_or_else(String::new, |limit| limit.to_string());
        crate::say::out!(
            "{:<32} {:<10} {:>12} {:>12} {:>12} {limit:>12}  {}",
            row.name,
            row.path,
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
        let words: Vec<String> = row.note.clone().into_iter().chain(row.uses()).collect();
        if !words.is_empty() {
            crate::say::out!("{} ({}): {}", row.name, row.path, words.join("; "));
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
    let mut words: Vec<String> = ["--headless", "--timeout", "1200"].map(String::from).to_vec();
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
    let platform = &summary["platform"];
    let found = platform["machine"].as_str().and_then(|name| name.parse().ok());
    let mut machine = outer(arguments, found);
    machine["name"] = platform["machine"].clone();
    machine["memory_bytes"] = platform["memory_bytes"].clone();
    machine
}

/// The outer machine and the options.
fn outer(arguments: &Arguments, machine: Option<Machine>) -> serde_json::Value {
    let cpu = arguments.cpu.clone().or_else(|| Some(machine?.default_cpu().to_string()));
    json!({
        "name": machine.map(Machine::name),
        "cpu": cpu,
        "processors": 1,
        "emulator": machine.and_then(Machine::version),
        "icount": arguments.icount,
        "trunnion": env!("CARGO_PKG_VERSION"),
        "command": command(std::env::args().skip(1)),
    })
}

/// The command line, without the files that it writes to and the instance.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let mut text = String::from("trunnion");
    while let Some(word) = words.next() {
        if ["--json", "--html", "--instance"].contains(&word.as_str()) {
            words.next();
        } else if !["--json=", "--html=", "--instance="].iter().any(|start| word.starts_with(start)) {
            text.push(' ');
            text.push_str(&word);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_command_is_told_without_its_files() {
        let words =
            ["--instance", "x", "bench", "io", "--json", "a", "--icount", "--html=b"].map(String::from);
        assert_eq!(super::command(words.into_iter()), "trunnion bench io --icount");
    }

    #[test]
    fn the_largest_part_of_the_time_is_named_first() {
        let share = super::Share { guest: 10, core: 70, dom0: 20 };
        assert_eq!(share.in_words(), "70 % in the hypervisor at its exits, 20 % in dom0, 10 % in the guest");
    }
}
