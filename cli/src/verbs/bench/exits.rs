//! What entries, exits and the instructions around them cost on a machine: a program without a hypervisor below measures them
//! (`tests/guests/exits.rs`), beside what others have measured on processors.

use super::{Arguments, Beside, Report, Row};
use crate::failure::{Failure, Result};
use crate::images;
use crate::machine::{Boot, Machine};

/// The program: package and binary.
const PROGRAM: (&str, &str) = ("trunnion-tests", "bare-exits");

/// Processors, and their cycles for some of the rows.
const PROCESSORS: [&str; 8] =
    ["Prescott", "Merom", "Penryn", "Westmere", "Sandy Bridge", "Ivy Bridge", "Haswell", "Broadwell"];
const CYCLES: [(&str, [u32; 8]); 6] = [
    ("vmresume", [2333, 944, 643, 402, 460, 452, 318, 348]),
    ("exit-hypercall", [1630, 727, 638, 344, 365, 334, 253, 265]),
    ("exit-cpuid", [1599, 764, 611, 389, 434, 398, 327, 332]),
    ("exit-page-fault", [1926, 1156, 858, 569, 507, 466, 512, 531]),
    ("exit-port", [1942, 858, 708, 427, 472, 436, 383, 397]),
    // No figure where there is none.
    ("exit-nested-fault", [0, 0, 0, 546, 588, 0, 604, 656]),
];

pub(super) fn measure(arguments: &Arguments) -> Result<Report> {
    let machine = match &arguments.machine {
        Some(name) => name.parse().map_err(Failure::usage)?,
        None => Machine::QemuSvm,
    };
    let elf = images::build(PROGRAM.0, PROGRAM.1)?;
    let outcome = crate::machine::boot(&Boot {
        cpu: arguments.cpu.clone(),
        icount: arguments.icount && !machine.is_bochs(),
        ..Boot::new(machine, elf)
    })?;
    // Bochs has no other clock than its count of instructions.
    let counted = arguments.icount || machine.is_bochs();
    let unit = if counted { "instructions" } else { "cycles" };
    let (rows, failed) = rows(&outcome.serial, unit);
    if rows.is_empty() {
        let why = failed.first().cloned().unwrap_or_else(|| format!("{:?}", outcome.status));
        return Err(Failure::platform(format!("nothing was measured: {why}")));
    }
    let beside = Some(beside(&rows, counted));
    Ok(Report { machine: super::outer(arguments, Some(machine)), unit, rows, failed, beside })
}

/// The program's lines `COST name samples min median max`, and what it says of failures.
fn rows(serial: &str, unit: &'static str) -> (Vec<Row>, Vec<String>) {
    let lines = || serial.lines().map(str::trim_end);
    let path = if lines().any(|line| line == "VENDOR svm") { "svm" } else { "vmx" };
    let row = |line: &str| {
        let (name, figures) = line.strip_prefix("COST ")?.split_once(' ')?;
        let figures: Vec<u64> = figures.split(' ').map_while(|word| word.parse().ok()).collect();
        let [n, min, median, max] = figures[..] else { return None };
        Some(Row { name: name.into(), path, n, min, median, max, per: "operation", unit, ..Row::default() })
    };
    let mut failed: Vec<String> =
        lines().filter_map(|line| line.strip_prefix("FAILED ")).map(String::from).collect();
    if failed.is_empty() && !lines().any(|line| line == "EXIT 0") {
        failed.push("the program did not come to its end".into());
    }
    (lines().filter_map(row).collect(), failed)
}

/// The processors' cycles, and this machine's: blank where its clock counts instructions.
fn beside(rows: &[Row], counted: bool) -> Beside {
    let mut head = vec!["cycles of".to_string(), "here".to_string()];
    head.extend(PROCESSORS.map(String::from));
    let lines = CYCLES.iter().map(|(name, cycles)| {
        let own = if *name == "vmresume" { ["vmresume", "vmrun"] } else { [*name, *name] };
        let here = rows.iter().find(|row| own.contains(&row.name.as_str())).filter(|_| !counted);
        let mut line = vec![(*name).to_string(), here.map_or_else(String::new, |row| row.median.to_string())];
        line.extend(cycles.map(|cycles| if cycles == 0 { String::new() } else { cycles.to_string() }));
        line
    });
    Beside { head, rows: lines.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_lines_become_rows_beside_the_processors() {
        let serial = "VENDOR vmx\r\nCOST vmresume 101 5 6 7\r\nCOST exit-cpuid 101 9 9 9\r\nEXIT 0\r\n";
        let (rows, failed) = rows(serial, "cycles");
        assert!(failed.is_empty());
        assert_eq!((rows[0].name.as_str(), rows[0].path, rows[0].median), ("vmresume", "vmx", 6));
        let ours = |counted| beside(&rows, counted).rows.iter().map(|row| row[1].clone()).collect::<Vec<_>>();
        assert_eq!(ours(false), ["6", "", "9", "", "", ""]);
        assert!(ours(true).iter().all(String::is_empty), "instructions are not cycles");
        let (_, failed) = super::rows("VENDOR svm\nFAILED exit 0x7f\n", "cycles");
        assert_eq!(failed, ["exit 0x7f"]);
    }
}
