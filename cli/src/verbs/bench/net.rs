//! Network paths between Linux guests and dom0, measured by a program in the guest (`tests/probe`), each in a run of its own.
//!
//! What a packet costs in exits, events, hypercalls and copies is the difference to a run in which the same guests only start.
#![expect(clippy::cast_precision_loss, reason = "costs of a packet are shown with two digits")]

use super::{Arguments, Report, Row};
use crate::demo::{self, PROBE};
use crate::failure::{Failure, Result};
use crate::setup::{self, Permission};
use crate::{run, workspace};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Windows of a measurement, of which the first warms up (`tests/probe`).
const WINDOWS: u64 = 16;
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
            let (summary, _) = perform(instance, arguments, "", two.then_some(""))?;
            place.insert(Tally::of(&summary));
        }
        let (summary, console) = perform(instance, arguments, &path.command, path.other)?;
        machine = super::machine(arguments, &summary);
        let Some(figures) = figures(&console) else {
            let why = console.lines().find_map(|line| line.trim_end().strip_prefix("PROBE failed: "));
            failed.push(format!("{}: {}", path.name, why.unwrap_or("the guest did not get there")));
            continue;
        };
        let used = Tally::of(&summary).since(alone.get(&two).unwrap_or(&Tally::default()));
        rows.push(row(&path, figures, &used, unit));
    }
    Ok(Report { machine, unit, rows, failed })
}

/// One run; its summary, and the console of the guest that measures.
fn perform(
    instance: &str,
    arguments: &Arguments,
    command: &str,
    other: Option<&str>,
) -> Result<(Value, String)> {
    let folder = workspace::target("bench")?.join("net");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let mut words = super::run_arguments(arguments);
    words.extend(["--net", "none", "--dom0-ip", "10.0.2.1/24", "--log"].map(String::from));
    words.push(folder.display().to_string());
    let guests = [("measuring", 11, Some(command)), ("other", 12, other)];
    for (name, address, command) in guests {
        let Some(command) = command else { continue };
        words.push(domain(&folder, name, address, command)?);
    }
    run::perform(instance, &run::Options::read(&words)?)?;
    let console = fs::read(folder.join("measuring.console.log")).unwrap_or_default();
    Ok((super::summary(&folder)?, String::from_utf8_lossy(&console).into_owned()))
}

fn domain(folder: &Path, name: &str, address: u8, command: &str) -> Result<String> {
    let work = if command.is_empty() { String::new() } else { format!("/run/probe {command}\n") };
    let script = format!("{PROBE}ip address add 10.0.2.{address}/24 dev eth0\n{work}");
    let text = demo::scripted(folder, name, 160, &script, "vif = [ \"bridge=xenbr0\" ]")?;
    let path = folder.join(format!("{name}.cfg"));
    fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e))?;
    Ok(path.display().to_string())
}

/// The guest's line `PROBE name operations min median max dropped`.
fn figures(console: &str) -> Option<[u64; 5]> {
    let line = console.lines().find_map(|line| line.trim_end().strip_prefix("PROBE "))?;
    let numbers: Vec<u64> = line.split(' ').skip(1).map_while(|word| word.parse().ok()).collect();
    numbers.try_into().ok()
}

/// What all domains did in a run.
#[derive(Default)]
struct Tally {
    exits: BTreeMap<String, u64>,
    hypercalls: u64,
    events: u64,
    copies: u64,
    maps: u64,
    packets: u64,
}

impl Tally {
    fn of(summary: &Value) -> Self {
        let mut tally = Self::default();
        let domains = summary["domains"].as_array().into_iter().flatten();
        for domain in domains.chain([&summary["dom0"]]) {
            for (kind, count) in domain["exits"].as_object().into_iter().flatten() {
                *tally.exits.entry(kind.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
            let calls = domain["hypercalls"].as_object().into_iter().flatten();
            tally.hypercalls += calls.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            tally.events += number(&domain["events"]["sent"]);
            tally.copies += number(&domain["grants"]["copied"]);
            tally.maps += number(&domain["grants"]["mapped"]);
            for nic in domain["nics"].as_array().into_iter().flatten() {
                tally.packets += number(&nic["rx_packets"]) + number(&nic["tx_packets"]);
            }
        }
        tally
    }

    fn since(mut self, before: &Self) -> Self {
        for (kind, count) in &mut self.exits {
            *count = count.saturating_sub(before.exits.get(kind).copied().unwrap_or_default());
        }
        self.exits.retain(|_, count| *count > 0);
        self.hypercalls = self.hypercalls.saturating_sub(before.hypercalls);
        self.events = self.events.saturating_sub(before.events);
        self.copies = self.copies.saturating_sub(before.copies);
        self.maps = self.maps.saturating_sub(before.maps);
        self.packets = self.packets.saturating_sub(before.packets);
        self
    }

    /// What one packet costs, in words.
    fn each(&self) -> String {
        let per = |count: u64| count as f64 / self.packets.max(1) as f64;
        format!(
            "a packet costs {:.2} exits, {:.2} hypercalls, {:.2} events, {:.2} grant copies and {:.2} grants mapped, over {} packets",
            per(self.exits.values().sum()),
            per(self.hypercalls),
            per(self.events),
            per(self.copies),
            per(self.maps),
            self.packets
        )
    }
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
    notes.push(used.each());
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_guests_line_becomes_figures() {
        assert_eq!(figures("x\r\nPROBE udp 200 5 6 9 1\r\n"), Some([200, 5, 6, 9, 1]));
        assert_eq!(figures("PROBE failed: udp: nobody answers"), None);
    }

    #[test]
    fn what_the_measured_part_used_is_the_difference() {
        let summary = |factor: u64| {
            let domain = json!({
                "exits": {"hypercall": 10 * factor, "halt": 5},
                "hypercalls": {"event_channel_op": 3 * factor, "sched_op": 1},
                "events": {"sent": 2 * factor}, "grants": {"copied": 4 * factor, "mapped": 2},
                "nics": [{"rx_packets": factor, "tx_packets": factor}],
            });
            json!({"domains": [domain.clone()], "dom0": domain})
        };
        let used = Tally::of(&summary(5)).since(&Tally::of(&summary(1)));
        assert_eq!(used.exits, BTreeMap::from([("hypercall".to_string(), 80)]));
        assert_eq!((used.hypercalls, used.events, used.copies, used.maps, used.packets), (24, 16, 32, 0, 16));
        assert!(
            used.each()
                .starts_with("a packet costs 5.00 exits, 1.50 hypercalls, 1.00 events, 2.00 grant copies")
        );
    }
}
