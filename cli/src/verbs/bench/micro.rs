//! Single operations, measured by a small guest from inside; a second guest answers its events.

use super::{Arguments, Report, Row};
use crate::failure::{Failure, Result};
use crate::{images, run, workspace};
use serde_json::Value;
use std::fs;

/// The guest that measures: package and binary.
const GUEST: (&str, &str) = ("trunnion-tests", "tiny-bench");

/// The rows, with the most instructions that the project allows each.
const LIMITS: [(&str, u64); 14] = [
    ("null-hypercall", 250),
    ("cpuid", 250),
    ("rdmsr", 250),
    ("port-read-nobody", 400),
    ("lapic-read", 2000),
    ("lapic-self-ipi", 5000),
    ("event-send-masked", 600),
    ("event-send-upcall", 1000),
    ("event-round-trip", 5000),
    ("grant-map-unmap", 4000),
    ("grant-copy-4096", 2500),
    ("yield", 800),
    ("set-timer", 800),
    ("populate-decrease", 4000),
];
/// Instructions that the hypervisor may work for a domain before it looks at interrupts again.
const LONGEST_EXIT: u64 = 100_000;

pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let folder = workspace::target("bench")?.join("micro");
    fs::create_dir_all(&folder).map_err(|e| Failure::file("make the folder", &folder, &e))?;
    let guest = images::build(GUEST.0, GUEST.1)?;
    let mut words = super::run_arguments(arguments);
    words.extend(["--log".into(), folder.display().to_string()]);
    for (name, line) in [("bench", ""), ("peer", "peer")] {
        let path = folder.join(format!("{name}.cfg"));
        let text = format!(
            "name = \"{name}\"\ntype = \"pvh\"\nmemory = 16\nkernel = \"{}\"\ncmdline = \"{line}\"\n",
            guest.display()
        );
        fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e))?;
        words.push(path.display().to_string());
    }
    run::perform(instance, &run::Options::read(&words)?)?;
    let summary = super::summary(&folder)?;
    let path = folder.join("bench.console.log");
    let console = fs::read(&path).map_err(|e| Failure::file("read", &path, &e))?;
    let unit = if arguments.icount { "instructions" } else { "ticks" };
    let (mut rows, failed) = rows(&String::from_utf8_lossy(&console), unit);
    rows.extend(longest_exit(&summary, unit));
    if rows.is_empty() {
        return Err(Failure::platform(format!(
            "the guest measured nothing; its console is in {}",
            path.display()
        )));
    }
    Ok(Report { machine: super::machine(arguments, &summary), unit, rows, failed, beside: None })
}

/// The longest time that the hypervisor worked for any domain without a break, by what it was asked for.
fn longest_exit(summary: &Value, unit: &'static str) -> Option<Row> {
    let domains = summary["domains"].as_array()?.iter();
    let exits = domains.filter_map(|domain| domain["exit_cycles_max"].as_object()).flatten();
    let (kind, longest) = exits
        .filter_map(|(kind, cycles)| Some((kind, cycles.as_u64()?)))
        .max_by_key(|(_, cycles)| *cycles)?;
    let mut row = row("longest-exit", 1, [longest; 3], LONGEST_EXIT, unit);
    row.exits.insert(kind.clone(), 1);
    Some(row)
}

/// The guest's lines `BENCH name operations min median max`, in the order of the table; samples are 15. And what could
/// not be measured, with the guest's reason.
fn rows(console: &str, unit: &'static str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (name, limit) in LIMITS {
        let line = console
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("BENCH "))
            .find(|line| line.split(' ').next() == Some(name));
        let figures: Vec<u64> =
            line.unwrap_or_default().split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
        match figures[..] {
            [operations, min, median, max] => {
                rows.push(row(name, operations * 15, [min, median, max], limit, unit));
            }
            _ => failed.push(match line.and_then(|line| line.split_once("failed: ")) {
                Some((_, why)) => format!("{name}: {why}"),
                None => format!("{name}: the guest did not get there"),
            }),
        }
    }
    (rows, failed)
}

fn row(name: &str, n: u64, [min, median, max]: [u64; 3], limit: u64, unit: &'static str) -> Row {
    let limit = (unit == "instructions").then_some(limit);
    let note = limit
        .filter(|limit| median > *limit)
        .map(|limit| format!("{} above the limit of {limit}", median - limit));
    Row {
        name: name.into(),
        path: "core",
        n,
        min,
        median,
        max,
        per: "operation",
        unit,
        limit,
        note,
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows_in_the_tables_order() {
        let console = "noise\r\nBENCH cpuid 1000 200 260 300\r\nBENCH null-hypercall 1000 100 110 120\r\nBENCH cpuid-like 1 1 1 1\nBENCH event-round-trip failed: no peer\r\n";
        let (rows, failed) = rows(console, "instructions");
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["null-hypercall", "cpuid"]);
        assert_eq!((rows[0].n, rows[0].min, rows[0].median, rows[0].max), (15000, 100, 110, 120));
        assert_eq!(rows[0].note, None);
        assert_eq!(failed.len(), LIMITS.len() - 2);
        assert!(failed.contains(&"event-round-trip: no peer".to_string()));
        assert!(failed.contains(&"rdmsr: the guest did not get there".to_string()));
        assert_eq!(rows[1].note.as_deref(), Some("10 above the limit of 250"));
    }
}
