//! Network paths between Linux guests and dom0, measured by a program in the guest (`tests/probe`), each in a run of its own.
//!
//! What a packet costs in exits, events, hypercalls and copies is the difference to a run in which the same guests only start.

use super::linux::{Guest, Tally, WINDOWS, figures, perform, reason};
use super::{Arguments, Report, Row};
use crate::demo;
use crate::failure::Result;
use crate::setup::{self, Permission};
use serde_json::Value;
use std::collections::BTreeMap;

/// dom0's own address in these runs, and the guests'.
const DOM0: &str = "10.0.2.1";

/// One figure: what the measuring guest does, and what the other does.
struct Way {
    name: &'static str,
    limit: u64,
    per: &'static str,
    /// The command behind `/run/probe`.
    command: String,
    /// The other guest's, when there are two.
    other: Option<&'static str>,
}

fn paths() -> Vec<Way> {
    let row = |name, limit, per, command: String, other| Way { name, limit, per, command, other };
    vec![
        row("udp-round-trip", 60_000, "operation", format!("udp {DOM0}:7 200 64"), None),
        row("tcp-out-per-kib", 1_250, "KiB", format!("write {DOM0}:9 4096"), None),
        row("tcp-in-per-kib", 2_242, "KiB", format!("read {DOM0}:19 4096"), None),
        row(
            "tcp-guest-to-guest-per-kib",
            1_500,
            "KiB",
            "write 10.0.2.12:5001 4096".into(),
            Some("drain 5001"),
        ),
    ]
}

pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let permission = if arguments.no_install { Permission::Never } else { Permission::Install };
    setup::ensure(demo::TOOLS, permission)?;
    let unit = if arguments.icount { "instructions" } else { "ns" };
    let mut alone: BTreeMap<bool, Tally> = BTreeMap::new();
    let (mut rows, mut failed, mut machine) = (Vec::new(), Vec::new(), Value::Null);
    for path in paths() {
        let two = path.other.is_some();
        if let std::collections::btree_map::Entry::Vacant(place) = alone.entry(two) {
            let (summary, _) = run(instance, arguments, "", two.then_some(""))?;
            place.insert(Tally::of(&summary));
        }
        let (summary, console) = run(instance, arguments, &path.command, path.other)?;
        machine = super::machine(arguments, &summary);
        let Some(figures) = figures(&console) else {
            failed.push(format!("{}: {}", path.name, reason(&console)));
            continue;
        };
        let used = Tally::of(&summary).since(alone.get(&two).unwrap_or(&Tally::default()));
        rows.push(row(&path, figures, &used, unit));
    }
    Ok(Report { machine, unit, rows, failed })
}

/// One run: the guest that measures, and perhaps another.
fn run(instance: &str, arguments: &Arguments, command: &str, other: Option<&str>) -> Result<(Value, String)> {
    let guest = |name, address: u8, command: &str| {
        let work = if command.is_empty() { String::new() } else { format!("/run/probe {command}\n") };
        let script = format!("ip address add 10.0.2.{address}/24 dev eth0\n{work}");
        Guest { name, script, disks: Vec::new(), more: "vif = [ \"bridge=xenbr0\" ]" }
    };
    let mut guests = vec![guest("measuring", 11, command)];
    guests.extend(other.map(|command| guest("other", 12, command)));
    perform(instance, arguments, "net", &["--net", "none", "--dom0-ip", "10.0.2.1/24"], &guests)
}

fn row(
    path: &Way,
    [operations, min, median, max, dropped]: [u64; 5],
    used: &Tally,
    unit: &'static str,
) -> Row {
    let limit = (unit == "instructions").then_some(path.limit);
    let mut notes = Vec::new();
    if let Some(limit) = limit.filter(|limit| median > *limit) {
        notes.push(format!("{} above the limit of {limit}", median - limit));
    }
    if dropped > 0 {
        notes.push(format!("{dropped} windows in which the machine idled were dropped"));
    }
    notes.push(used.each_packet());
    Row {
        name: path.name.into(),
        path: "pv",
        n: operations * WINDOWS,
        min,
        median,
        max,
        exits: used.exits.clone(),
        per: path.per,
        unit,
        limit,
        note: Some(notes.join("; ")),
    }
}
