//! Disk paths of a Linux guest, measured by a program in the guest (`tests/probe`), each in a run of its own.
//!
//! The disk of the path `pv` is a RAM disk in dom0, so that what is counted is the path and not the medium; that of `device` is an
//! image on this machine, behind dom0's virtio driver. What a request costs in exits, events and grants is the difference to a run in
//! which the same guest only starts. Guests on an emulated PC measure the same ([`super::pc`]).

use super::linux::{Guest, Tally, Title, figures, perform, reason, row};
use super::{Arguments, Report};
use crate::demo;
use crate::failure::{Failure, Result};
use crate::setup::{self, Permission, Tool};
use crate::workspace;
use serde_json::Value;
use std::path::Path;

/// Bytes of the disk.
const DISK: u64 = 16 << 20;

/// A kind of access: its name, the most it may cost, and the words of the probe behind the device.
struct Access {
    name: &'static str,
    limit: u64,
    words: [&'static str; 4],
}

const ACCESSES: [Access; 4] = [
    Access { name: "read-4k-random", limit: 35_000, words: ["read", "4096", "random", "200"] },
    Access { name: "write-4k-random", limit: 35_000, words: ["write", "4096", "random", "200"] },
    Access { name: "read-1m-sequential", limit: 400_000, words: ["read", "1048576", "sequential", "8"] },
    Access { name: "write-1m-sequential", limit: 400_000, words: ["write", "1048576", "sequential", "8"] },
];

/// How a guest reaches its disk: the path's name, and what its specification has beside the file.
const PATHS: [(&str, &str); 2] = [("pv", ",backendtype=ram"), ("device", "")];

pub(super) fn measure(instance: &str, arguments: &Arguments) -> Result<Report> {
    let permission = if arguments.no_install { Permission::Never } else { Permission::Install };
    let emulated = [Tool::SeaBios, Tool::GrubModules, Tool::Grub];
    setup::ensure(&[demo::TOOLS, &emulated].concat(), permission)?;
    let unit = if arguments.icount { "instructions" } else { "ns" };
    let image = workspace::target("bench")?.join("io-disk.raw");
    let (mut rows, mut failed, mut machine) = (Vec::new(), Vec::new(), Value::Null);
    for (path, options) in PATHS {
        let (summary, _) = run(instance, arguments, &image, options, "true")?;
        let alone = Tally::of(&summary);
        for access in &ACCESSES {
            let [way, size, order, count] = access.words;
            let command = format!("/run/probe disk {way} /dev/xvdd {size} {order} {count}");
            let (summary, console) = run(instance, arguments, &image, options, &command)?;
            machine = super::machine(arguments, &summary);
            match figures(&console) {
                Some(figures) => {
                    // The medium is part of the other path's figure.
                    let limit = (path == "pv").then_some(access.limit);
                    let title = Title { name: access.name, path, per: "operation", limit };
                    let used = Tally::of(&summary).since(&alone);
                    rows.push(row(&title, figures, &used, used.each_request(), unit));
                }
                None => failed.push(format!("{} ({path}): {}", access.name, reason(&console))),
            }
        }
    }
    // What was measured so far is not lost to a PC that does not start.
    if let Err(failure) = super::pc::measure(instance, arguments, &image, unit, &mut rows, &mut failed) {
        failed.push(format!("the guests on an emulated PC: {failure}"));
    }
    Ok(Report { machine, unit, rows, failed, beside: None })
}

/// Makes the disk that is measured anew.
pub(super) fn blank(image: &Path) -> Result<()> {
    let made = std::fs::File::create(image).and_then(|file| file.set_len(DISK));
    made.map_err(|e| Failure::file("make the disk", image, &e))
}

/// One run of a guest with a fresh disk.
fn run(
    instance: &str,
    arguments: &Arguments,
    image: &Path,
    options: &str,
    command: &str,
) -> Result<(Value, String)> {
    blank(image)?;
    let disks = vec![format!("{},raw,xvdd,rw{options}", image.display())];
    let guest = Guest { name: "measuring", script: format!("{command}\n"), disks, more: "" };
    perform(instance, arguments, "io", &[], &[guest])
}
