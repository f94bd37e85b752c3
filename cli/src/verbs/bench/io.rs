//! Disk and network paths of a Linux guest, measured by a program in the guest (`tests/probe`): the same work over each path, on the same
//! kind of storage and the same bridge.
//!
//! The disk of the path `pv` is a RAM disk in dom0, so that what is counted is the path and not the medium; so it is on an emulated PC
//! ([`super::pc`]). That of `device` is an image on this machine, behind dom0's virtio driver. One start measures all rows of a path; what
//! a row used is the difference between the figures of all domains before it and after it ([`super::fence`]).

use super::fence::STOP;
use super::linux::{Fenced, Guest, Tally, Title, all_figures, perform_fenced, row};
use super::{Arguments, Report, Row};
use crate::demo;
use crate::failure::{Failure, Result};
use crate::setup::{self, Permission, Tool};
use crate::workspace;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Bytes of the disk.
const DISK: u64 = 16 << 20;
/// The network of these runs: dom0's own address, and nothing beyond.
pub(super) const OPTIONS: [&str; 4] = ["--net", "none", "--dom0-ip", "10.0.2.1/24"];

/// A measurement: its name, what is counted, the most it may cost by the split drivers and emulated, and the probe's words, in which DISK is the
/// disk and COUNT a number of operations that suits the path.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub name: &'static str,
    pub per: &'static str,
    pub limit: Option<u64>,
    pub emulated: Option<u64>,
    pub words: &'static str,
    /// COUNT by [`Pace`].
    pub counts: [u32; 4],
    /// It wants more requests in flight than an IDE drive takes.
    pub deep: bool,
    /// It is of the network, not of a disk.
    pub network: bool,
}

const fn way(name: &'static str, per: &'static str, words: &'static str, counts: [u32; 4]) -> Way {
    Way { name, per, limit: None, emulated: None, words, counts, deep: false, network: false }
}

const fn limited(way: Way, limit: u64, emulated: Option<u64>) -> Way {
    Way { limit: Some(limit), emulated, ..way }
}

const fn deep(way: Way) -> Way {
    Way { deep: true, ..way }
}

const fn network(way: Way) -> Way {
    Way { network: true, ..way }
}

pub(super) const WAYS: [Way; 12] = [
    limited(
        way("read-4k-random", "operation", "disk read DISK 4096 random COUNT", [200, 50, 20, 4]),
        35_000,
        Some(300_000),
    ),
    limited(
        way("write-4k-random", "operation", "disk write DISK 4096 random COUNT", [200, 50, 20, 4]),
        35_000,
        None,
    ),
    way("read-64k-sequential", "operation", "disk read DISK 65536 sequential COUNT", [50, 12, 4, 2]),
    way("write-64k-sequential", "operation", "disk write DISK 65536 sequential COUNT", [50, 12, 4, 2]),
    limited(
        way("read-1m-sequential", "operation", "disk read DISK 1048576 sequential COUNT", [8, 4, 1, 1]),
        400_000,
        None,
    ),
    limited(
        way("write-1m-sequential", "operation", "disk write DISK 1048576 sequential COUNT", [8, 4, 1, 1]),
        400_000,
        None,
    ),
    deep(way("read-4k-random-depth-4", "operation", "disk read DISK 4096 random COUNT 4", [200, 50, 20, 4])),
    deep(way(
        "read-4k-random-depth-32",
        "operation",
        "disk read DISK 4096 random COUNT 32",
        [320, 64, 32, 32],
    )),
    way("mixed-4k-random", "operation", "mixed DISK 4096 COUNT", [100, 50, 20, 4]),
    network(limited(
        way("udp-round-trip", "operation", "udp 10.0.2.1:7 COUNT 64", [100, 50, 20, 4]),
        60_000,
        Some(150_000),
    )),
    network(limited(
        way("tcp-out-per-kib", "KiB", "write 10.0.2.1:9 COUNT", [1024, 512, 32, 128]),
        1_250,
        Some(6_000),
    )),
    network(limited(
        way("tcp-in-per-kib", "KiB", "read 10.0.2.1:19 COUNT", [1024, 512, 1024, 128]),
        2_242,
        Some(6_000),
    )),
];

/// How many operations a window has on a path.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    Usual,
    /// Each request costs many exits.
    Fewer,
    /// Each word costs one.
    Slow,
    /// So few that the machine does not idle in all windows: a medium takes its time.
    Short,
}

/// A way to the devices, and what is measured over it.
pub(super) struct Course {
    /// Its name with disks and with the network.
    pub names: [&'static str; 2],
    /// The disk in the guest.
    pub disk: &'static str,
    /// It is limited as split drivers are, as emulated devices are, or not at all.
    pub limits: fn(&Way) -> Option<u64>,
    /// How many operations a window has.
    pub pace: Pace,
    /// It takes one request at a time.
    pub single: bool,
    /// There is a network.
    pub network: bool,
}

impl Course {
    fn ways(&self) -> impl Iterator<Item = &'static Way> {
        let (single, network) = (self.single, self.network);
        WAYS.iter().filter(move |way| !(single && way.deep) && (network || !way.network))
    }

    /// The guest's script. `probe` is the measuring program.
    pub(super) fn script(&self, probe: &str) -> String {
        let mut script = String::new();
        if self.network {
            script.push_str(
                "ip address flush dev eth0\nip address add 10.0.2.11/24 dev eth0\nip link set eth0 up\n",
            );
        }
        let _ = write!(script, "{STOP}{probe} nothing\n{STOP}");
        for way in self.ways() {
            let [usual, fewer, slow, short] = way.counts;
            let count = match self.pace {
                Pace::Usual => usual,
                Pace::Fewer => fewer,
                Pace::Slow => slow,
                Pace::Short => short,
            };
            let words = way.words.replace("DISK", self.disk).replace("COUNT", &count.to_string());
            let _ = write!(script, "{probe} {words}\n{STOP}");
        }
        script
    }

    /// Takes the rows of a run.
    pub(super) fn take(
        &self,
        run: &Fenced,
        unit: &'static str,
        rows: &mut Vec<Row>,
        failed: &mut Vec<String>,
    ) {
        let all = all_figures(&run.console);
        let between = |n: usize| match (run.marks.get(n), run.marks.get(n + 1)) {
            (Some(before), Some(after)) => after.clone().since(before),
            _ => Tally::default(),
        };
        // The first measurement is of nothing: what a stop, a program and its line use, all others have used too.
        let nothing = between(0);
        for (way, n) in self.ways().zip(1..) {
            let path = self.names[usize::from(way.network)];
            let Some(Ok(figures)) = all.get(n) else {
                let reason = all.get(n).and_then(|figures| figures.as_ref().err());
                let reason = reason.map_or("the guest did not get there", |text| text);
                failed.push(format!("{} ({path}): {reason}", way.name));
                continue;
            };
            let used = between(n).since(&nothing);
            let title = Title { name: way.name, path, per: way.per, limit: (self.limits)(way) };
            rows.push(row(&title, figures, &used, None, unit));
        }
    }
}

/// The path that others are compared with.
const PV: &str = "pv";
const SPLIT: Course = Course {
    names: [PV, PV],
    disk: "/dev/xvdd",
    limits: |way| way.limit,
    pace: Pace::Usual,
    single: false,
    network: true,
};
/// The medium is part of the figure, so there are no limits.
const DEVICE: Course =
    Course { names: ["device", "device"], limits: |_| None, pace: Pace::Short, network: false, ..SPLIT };

pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let permission = if arguments.no_install { Permission::Never } else { Permission::Install };
    let emulated = [Tool::SeaBios, Tool::GrubModules, Tool::Grub];
    setup::ensure(&[demo::TOOLS, &emulated].concat(), permission)?;
    let unit = if arguments.icount { "instructions" } else { "ns" };
    let image = workspace::target("bench")?.join("io-disk.raw");
    let (mut rows, mut failed, mut machine) = (Vec::new(), Vec::new(), Value::Null);
    for (path, options) in [(&SPLIT, ",backendtype=ram"), (&DEVICE, "")] {
        blank(&image)?;
        let disks = vec![format!("{},raw,xvdd,rw{options}", image.display())];
        let script = path.script("/run/probe");
        let guest = Guest { name: "measuring", script, disks, more: "vif = [ \"bridge=xenbr0\" ]" };
        let run = perform_fenced(instance, arguments, "io", &OPTIONS, |folder| {
            Ok(vec![super::linux::domain(folder, &guest)?])
        })?;
        machine = super::machine(arguments, &run.summary);
        path.take(&run, unit, &mut rows, &mut failed);
    }
    // What was measured so far is not lost to a PC that does not start.
    if let Err(failure) = super::pc::measure(instance, arguments, &image, unit, &mut rows, &mut failed) {
        failed.push(format!("the guests on an emulated PC: {failure}"));
    }
    compare(&mut rows);
    rows.sort_by_key(|row| WAYS.iter().position(|way| way.name == row.name));
    Ok(Report { machine, unit, rows, failed, beside: None })
}

/// Makes the disk that is measured anew.
pub(super) fn blank(image: &Path) -> Result<()> {
    let made = std::fs::File::create(image).and_then(|file| file.set_len(DISK));
    made.map_err(|e| Failure::file("make the disk", image, &e))
}

/// Notes at each row of another path how many times the split path's cost it is, with the least and the most that the spread allows.
fn compare(rows: &mut [Row]) {
    let split: Vec<(String, [u64; 3])> = rows
        .iter()
        .filter(|row| row.path == PV)
        .map(|row| (row.name.clone(), [row.min, row.median, row.max]))
        .collect();
    for row in rows.iter_mut().filter(|row| row.path != PV) {
        let Some((_, [min, median, max])) = split.iter().find(|(name, _)| *name == row.name) else {
            continue;
        };
        let cheaper = if row.median < *median { why_cheaper(row.path) } else { "" };
        let text = format!(
            "{} times the split path ({} to {}){cheaper}",
            times(row.median, *median),
            times(row.min, *max),
            times(row.max, *min)
        );
        row.note = Some(match row.note.take().filter(|note| !note.is_empty()) {
            Some(note) => format!("{text}; {note}"),
            None => text,
        });
    }
}

/// Why a path can cost less than the split one.
fn why_cheaper(path: &str) -> &'static str {
    match path {
        "ide" => {
            ": cheaper, for a bus master is told the guest's pages in a few commands, and split drivers grant each"
        }
        "device" => ": cheaper, for the device copies by itself, which nobody counts, and dom0 does not",
        _ => ": cheaper",
    }
}

/// A ratio with two digits behind the point.
fn times(figure: u64, of: u64) -> String {
    let hundredths = u128::from(figure) * 100 / u128::from(of.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_by_name() {
        let row = |path, median: u64| Row {
            name: "udp".into(),
            path,
            min: median - 1,
            median,
            max: median + 1,
            ..Row::default()
        };
        let mut rows = [row("pv", 11), row("emulated", 30)];
        compare(&mut rows);
        assert_eq!(rows[1].note.as_deref(), Some("2.72 times the split path (2.41 to 3.10)"));
        assert_eq!(rows[0].note, None);
    }

    #[test]
    fn a_script_stops_before_and_after_each_measurement() {
        let script = SPLIT.script("/run/probe");
        assert_eq!(script.matches(STOP).count(), WAYS.len() + 2);
        assert!(script.contains("/run/probe disk read /dev/xvdd 4096 random 200\n"));
        let slow = Course { pace: Pace::Slow, single: true, ..SPLIT };
        let deep = |line: &str| line.contains("probe disk") && line.ends_with(" 32");
        assert!(script.lines().any(deep) && !slow.script("/run/probe").lines().any(deep));
        assert!(slow.script("/run/probe").contains("disk read /dev/xvdd 4096 random 20\n"));
    }

    #[test]
    fn rows_take_what_was_used_between_their_stops() {
        let tally = |count: u64| Tally::of(&serde_json::json!({"dom0": {"exits": {"port": count}}}));
        let run = Fenced {
            summary: Value::Null,
            console: "PROBE nothing 1 1 1 1 0\nPROBE disk 10 5 6 7 0\r\nPROBE failed: disk write: no\r\n\
                      PROBE disk 10 5 6 7 0\n"
                .into(),
            marks: vec![tally(0), tally(5), tally(105), tally(205), tally(405)],
        };
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        DEVICE.take(&run, "instructions", &mut rows, &mut failed);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].exits["port"], rows[1].exits["port"]), (95, 195));
        assert!(failed[0].contains("write-4k-random (device): disk write: no"), "{failed:?}");
    }
}
