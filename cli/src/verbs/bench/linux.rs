//! A run of Linux guests that measure from inside by `tests/probe`, and what all domains used in it.
#![expect(clippy::cast_precision_loss, reason = "costs of a packet are shown with two digits")]

use super::fence::Fence;
use super::{Arguments, Row, Share, Used};
use crate::demo::{self, PROBE};
use crate::failure::{Failure, Result};
use crate::{run, workspace};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Windows of a measurement, of which the first warms up, and the one of single operations (`tests/probe`).
const WINDOWS: u64 = 16;

/// A guest of a run.
pub(super) struct Guest<'a> {
    pub name: &'a str,
    /// What its script does once it has the probe.
    pub script: String,
    /// Specifications of its own disks.
    pub disks: Vec<String>,
    /// Further lines of its domain file.
    pub more: &'a str,
}

/// A run of guests with the options of `words`, its logs in a folder named `what`; its summary, and the console of the guest `measuring`.
pub(super) fn perform(
    instance: &str,
    arguments: &Arguments,
    what: &str,
    options: &[&str],
    guests: &[Guest<'_>],
) -> Result<(Value, String)> {
    let files = |folder: &Path| guests.iter().map(|guest| domain(folder, guest)).collect();
    perform_files(instance, arguments, what, options, files)
}

/// The same with domain files that `files` makes, perhaps in the folder of the logs.
fn perform_files(
    instance: &str,
    arguments: &Arguments,
    what: &str,
    options: &[&str],
    files: impl FnOnce(&Path) -> Result<Vec<String>>,
) -> Result<(Value, String)> {
    let folder = workspace::target("bench")?.join(what);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let mut words = super::run_arguments(arguments);
    words.extend(options.iter().copied().chain(["--log"]).map(String::from));
    words.push(folder.display().to_string());
    words.extend(files(&folder)?);
    run::perform(instance, &run::Options::read(&words)?)?;
    let console = fs::read(folder.join("measuring.console.log")).unwrap_or_default();
    Ok((super::summary(&folder)?, String::from_utf8_lossy(&console).into_owned()))
}

/// A run whose guest `measuring` stopped between its measurements.
pub(super) struct Fenced {
    pub summary: Value,
    pub console: String,
    /// What all domains had used at each stop.
    pub marks: Vec<Tally>,
}

/// A run whose guest `measuring` stops between its measurements ([`super::fence`]).
pub(super) fn perform_fenced(
    instance: &str,
    arguments: &Arguments,
    what: &str,
    options: &[&str],
    files: impl FnOnce(&Path) -> Result<Vec<String>>,
) -> Result<Fenced> {
    let fence = Fence::start(instance);
    let ended = perform_files(instance, arguments, what, options, files);
    let marks = fence.end();
    ended.map(|(summary, console)| Fenced { summary, console, marks })
}

/// The domain file of a guest.
pub(super) fn domain(folder: &Path, guest: &Guest<'_>) -> Result<String> {
    let disks: Vec<&str> = guest.disks.iter().map(String::as_str).collect();
    let script = format!("{PROBE}{}", guest.script);
    let text = demo::scripted(folder, guest.name, 160, &script, &disks, guest.more)?;
    let path = folder.join(format!("{}.cfg", guest.name));
    fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e))?;
    Ok(path.display().to_string())
}

/// Why the measuring guest has no figures.
pub(super) fn reason(console: &str) -> &str {
    let said = console.lines().find_map(|line| line.trim_end().strip_prefix("PROBE failed: "));
    said.unwrap_or("the guest did not get there")
}

/// What the probe says of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Of a window.
    operations: u64,
    min: u64,
    median: u64,
    max: u64,
    /// Windows in which the machine idled.
    dropped: u64,
    /// Quantiles of single operations' times, where it has measured some.
    times: Vec<u64>,
}

impl Figures {
    /// All operations: of each window, and those that were timed by themselves.
    pub(super) fn all(&self) -> u64 {
        self.operations * if self.times.is_empty() { WINDOWS } else { WINDOWS + 1 }
    }
}

/// The guest's line `PROBE name operations min median max dropped`, with quantiles behind it perhaps.
pub(super) fn figures(console: &str) -> Option<Figures> {
    let line = console.lines().find_map(|line| line.trim_end().strip_prefix("PROBE "))?;
    let numbers: Vec<u64> = line.split(' ').skip(1).map_while(|word| word.parse().ok()).collect();
    let [operations, min, median, max, dropped, times @ ..] = &numbers[..] else { return None };
    let [operations, min, median, max, dropped] = [*operations, *min, *median, *max, *dropped];
    Some(Figures { operations, min, median, max, dropped, times: times.to_vec() })
}

/// All lines of the probe, in order: figures, or why there are none.
pub(super) fn all_figures(console: &str) -> Vec<std::result::Result<Figures, String>> {
    let lines = console.lines().map(str::trim_end).filter(|line| line.starts_with("PROBE "));
    lines.map(|line| figures(line).ok_or_else(|| reason(line).to_string())).collect()
}

/// What a row of the report is about.
pub(super) struct Title {
    pub name: &'static str,
    pub path: &'static str,
    /// What is counted.
    pub per: &'static str,
    /// The most instructions one may cost.
    pub limit: Option<u64>,
}

/// A row of the report: the guest's figures, what all domains used for them, and the cost of one packet in words.
pub(super) fn row(
    title: &Title,
    figures: &Figures,
    used: &Tally,
    packet: Option<String>,
    unit: &'static str,
) -> Row {
    let Figures { min, median, max, dropped, .. } = *figures;
    let limit = title.limit.filter(|_| unit == "instructions");
    let mut notes = Vec::new();
    if let Some(limit) = limit.filter(|limit| median > *limit) {
        notes.push(format!("{} above the limit of {limit}", median - limit));
    }
    if dropped > 0 {
        notes.push(format!("{dropped} windows in which the machine idled were dropped"));
    }
    // Ticks and nanoseconds are the same only where the clock counts instructions.
    let share = used.share(figures.all()).filter(|_| unit == "instructions");
    notes.extend(share.map(super::Share::in_words));
    let used_by_all = packet.is_none().then_some(Used {
        hypercalls: used.hypercalls,
        events: used.events,
        grants_copied: used.copies,
        grants_mapped: used.maps,
    });
    notes.extend(packet);
    Row {
        name: title.name.into(),
        path: title.path,
        n: figures.all(),
        min,
        median,
        max,
        exits: used.exits.clone(),
        used: used_by_all,
        share,
        times: figures.times.clone(),
        per: title.per,
        unit,
        limit,
        note: Some(notes.join("; ")).filter(|note| !note.is_empty()),
    }
}

/// What all domains did in a run.
#[derive(Clone, Default)]
pub(super) struct Tally {
    pub exits: BTreeMap<String, u64>,
    hypercalls: u64,
    events: u64,
    copies: u64,
    maps: u64,
    packets: u64,
    /// Time of the guests, of the hypervisor at their exits, and of dom0.
    guest: u64,
    core: u64,
    dom0: u64,
}

impl Tally {
    pub(super) fn of(summary: &Value) -> Self {
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
            let cycles = domain["exit_cycles"].as_object().into_iter().flatten();
            tally.core += cycles.filter_map(|(_, count)| count.as_u64()).sum::<u64>();
            tally.guest += number(&domain["cpu_ns"]);
            for nic in domain["nics"].as_array().into_iter().flatten() {
                tally.packets += number(&nic["rx_packets"]) + number(&nic["tx_packets"]);
            }
        }
        tally.dom0 = summary["dom0"]["cpu_ns"].as_u64().unwrap_or_default();
        tally.guest = tally.guest.saturating_sub(tally.dom0);
        tally
    }

    pub(super) fn since(mut self, before: &Self) -> Self {
        for (kind, count) in &mut self.exits {
            *count = count.saturating_sub(before.exits.get(kind).copied().unwrap_or_default());
        }
        self.exits.retain(|_, count| *count > 0);
        self.hypercalls = self.hypercalls.saturating_sub(before.hypercalls);
        self.events = self.events.saturating_sub(before.events);
        self.copies = self.copies.saturating_sub(before.copies);
        self.maps = self.maps.saturating_sub(before.maps);
        self.packets = self.packets.saturating_sub(before.packets);
        self.guest = self.guest.saturating_sub(before.guest);
        self.core = self.core.saturating_sub(before.core);
        self.dom0 = self.dom0.saturating_sub(before.dom0);
        self
    }

    /// What one packet costs, in words.
    pub(super) fn each_packet(&self) -> String {
        let per = |count: u64| count as f64 / self.packets.max(1) as f64;
        format!(
            "a packet costs {:.2} exits, {:.2} hypercalls, {:.2} events, {:.2} grant copies and {:.2} grants mapped, over {} packets",
            per(self.exits.values().sum()),
            per(self.hypercalls),
            per(self.events),
            per(self.copies),
            per(self.maps),
            self.packets,
        )
    }

    /// Where the time went of one in `n` operations.
    fn share(&self, n: u64) -> Option<Share> {
        let each = |time: u64| time / n.max(1);
        // A domain's time includes what the hypervisor did for it.
        let guest = self.guest.saturating_sub(self.core);
        (self.guest > 0).then(|| Share { guest: each(guest), core: each(self.core), dom0: each(self.dom0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_guests_line_becomes_figures() {
        let line = "x\r\nPROBE udp 200 5 6 9 1 4 8\r\n";
        let said = Figures { operations: 200, min: 5, median: 6, max: 9, dropped: 1, times: vec![4, 8] };
        assert_eq!(figures(line), Some(said.clone()));
        assert_eq!((said.all(), Figures { times: Vec::new(), ..said }.all()), (3400, 3200));
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
            used.each_packet()
                .starts_with("a packet costs 5.00 exits, 1.50 hypercalls, 1.00 events, 2.00 grant copies")
        );
    }
}
