//! The measurements of disks and networks one after the other in one start of a guest: a start from an emulated disk takes long. So there
//! are no exits of single rows; the run's own are told with the first one.

use super::linux::{Guest, Tally, Title, all_figures, perform, perform_files, row};
use super::{Arguments, Row};
use crate::demo;
use crate::failure::{Failure, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A measurement: its name, what is counted, the most it may cost emulated, and the probe's words, in which DISK is the disk.
struct Way {
    name: &'static str,
    per: &'static str,
    limit: Option<u64>,
    words: &'static str,
}

const fn way(name: &'static str, per: &'static str, limit: Option<u64>, words: &'static str) -> Way {
    Way { name, per, limit, words }
}

const WAYS: [Way; 7] = [
    way("read-4k-random", "operation", Some(300_000), "disk read DISK 4096 random 50"),
    way("write-4k-random", "operation", None, "disk write DISK 4096 random 50"),
    way("read-1m-sequential", "operation", None, "disk read DISK 1048576 sequential 4"),
    way("write-1m-sequential", "operation", None, "disk write DISK 1048576 sequential 4"),
    way("udp-round-trip", "operation", Some(150_000), "udp 10.0.2.1:7 100 64"),
    way("tcp-out-per-kib", "KiB", Some(6_000), "write 10.0.2.1:9 1024"),
    way("tcp-in-per-kib", "KiB", Some(6_000), "read 10.0.2.1:19 1024"),
];
/// How many of them are of a disk.
const DISKS: usize = 4;

/// What the PC has in place of its drives and card once Linux runs.
struct Pc {
    path: &'static str,
    platform: u8,
    words: &'static str,
    disk: &'static str,
}

const PCS: [Pc; 2] = [
    Pc { path: "emulated", platform: 0, words: "quiet", disk: "/dev/sdb" },
    // Linux takes the emulated devices away and uses the split ones.
    Pc { path: "pvhvm", platform: 1, words: "quiet root=/dev/xvda1", disk: "/dev/xvdb" },
];

const OPTIONS: [&str; 4] = ["--net", "none", "--dom0-ip", "10.0.2.1/24"];

/// Measures the guests on an emulated PC, and the network of a split guest beside them. `image` becomes the disk that is measured.
pub(super) fn measure(
    instance: &str,
    arguments: &Arguments,
    image: &Path,
    unit: &'static str,
    rows: &mut Vec<Row>,
    failed: &mut Vec<String>,
) -> Result<()> {
    let script = script(WAYS.iter().skip(DISKS), "/run/probe", "");
    let guest = Guest { name: "measuring", script, disks: Vec::new(), more: "vif = [ \"bridge=xenbr0\" ]" };
    let (summary, console) = perform(instance, arguments, "io", &OPTIONS, &[guest])?;
    take("pv", WAYS.iter().skip(DISKS), &summary, &console, unit, rows, failed);

    for pc in &PCS {
        super::io::blank(image)?;
        let boot = image.with_file_name("io-pc.raw");
        demo::pc(&boot, &script_of(pc), pc.words)?;
        let text = format!(
            "name = \"measuring\"\ntype = \"hvm\"\nmemory = 192\nserial = \"pty\"\nboot = \"c\"\nxen_platform_pci = {}\n\
             disk = [ '{},raw,hda,rw', '{},raw,hdb,rw,backendtype=ram' ]\nvif = [ 'bridge=xenbr0' ]\n",
            pc.platform,
            boot.display(),
            image.display(),
        );
        let file = image.with_file_name("io-pc.cfg");
        fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))?;
        let (summary, console) =
            perform_files(instance, arguments, "io", &OPTIONS, |_| Ok(vec![file.display().to_string()]))?;
        take(pc.path, WAYS.iter(), &summary, &console, unit, rows, failed);
    }
    compare(rows);
    Ok(())
}

fn script_of(pc: &Pc) -> String {
    script(WAYS.iter(), "/root/probe", pc.disk)
}

fn script<'a>(ways: impl Iterator<Item = &'a Way>, probe: &str, disk: &str) -> String {
    let lines = ways.map(|way| format!("{probe} {}\n", way.words.replace("DISK", disk)));
    format!(
        "ip address flush dev eth0\nip address add 10.0.2.11/24 dev eth0\nip link set eth0 up\n{}",
        lines.collect::<String>()
    )
}

/// Takes the rows of a run from its console: a line of the probe for each measurement.
fn take<'a>(
    path: &'static str,
    ways: impl Iterator<Item = &'a Way>,
    summary: &Value,
    console: &str,
    unit: &'static str,
    rows: &mut Vec<Row>,
    failed: &mut Vec<String>,
) {
    let all = all_figures(console);
    let mut cost = Some(Tally::of(summary).of_run());
    for (n, way) in ways.enumerate() {
        let Some(Ok(figures)) = all.get(n) else {
            let reason = all.get(n).and_then(|figures| figures.as_ref().err());
            failed.push(format!(
                "{} ({path}): {}",
                way.name,
                reason.map_or("the guest did not get there", |text| text)
            ));
            continue;
        };
        let limit = way.limit.filter(|_| path == "emulated");
        let title = Title { name: way.name, path, per: way.per, limit };
        rows.push(row(&title, *figures, &Tally::default(), cost.take().unwrap_or_default(), unit));
    }
}

/// Notes at each row of an emulated path how many times the split path's cost it is, with the least and the most that the spread allows.
fn compare(rows: &mut [Row]) {
    let split: Vec<(String, [u64; 3])> = rows
        .iter()
        .filter(|row| row.path == "pv")
        .map(|row| (row.name.clone(), [row.min, row.median, row.max]))
        .collect();
    for row in rows.iter_mut().filter(|row| PCS.iter().any(|pc| pc.path == row.path)) {
        let Some((_, [min, median, max])) = split.iter().find(|(name, _)| *name == row.name) else {
            continue;
        };
        let text = format!(
            "{} times the split path ({} to {})",
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
        let mut rows = [row("pv", 11), row("emulated", 30), row("device", 30)];
        compare(&mut rows);
        assert_eq!(rows[1].note.as_deref(), Some("2.72 times the split path (2.41 to 3.10)"));
        assert_eq!((&rows[0].note, &rows[2].note), (&None, &None));
    }
}
