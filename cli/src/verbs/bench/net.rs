//! Network paths between Linux guests and dom0, measured by a program in the guest (`tests/probe`), each in a run of its own.
//!
//! What a packet costs in exits, events, hypercalls and copies is the difference to a run in which the same guests only start.

use super::linux::{Guest, Tally, Title, figures, perform, reason, row};
use super::{Arguments, Report};
use crate::demo;
use crate::failure::Result;
use crate::setup::{self, Permission};
use serde_json::Value;
use std::collections::BTreeMap;

/// dom0's own address in these runs, and the guests'.
const DOM0: &str = "10.0.2.1";

/// One figure: what the measuring guest does, and what the other does.
struct Way {
    title: Title,
    /// The command behind `/run/probe`.
    command: String,
    /// The other guest's, when there are two.
    other: Option<&'static str>,
}

fn paths() -> Vec<Way> {
    let way = |name, limit, per, command, other| {
        let title = Title { name, path: "pv", per, limit: Some(limit) };
        Way { title, command, other }
    };
    vec![
        way("udp-round-trip", 60_000, "operation", format!("udp {DOM0}:7 200 64"), None),
        way("tcp-out-per-kib", 1_250, "KiB", format!("write {DOM0}:9 4096"), None),
        way("tcp-in-per-kib", 2_242, "KiB", format!("read {DOM0}:19 4096"), None),
        way(
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
            failed.push(format!("{}: {}", path.title.name, reason(&console)));
            continue;
        };
        let used = Tally::of(&summary).since(alone.get(&two).unwrap_or(&Tally::default()));
        rows.push(row(&path.title, &figures, &used, Some(used.each_packet()), unit));
    }
    Ok(Report { machine, unit, rows, failed, beside: None })
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
