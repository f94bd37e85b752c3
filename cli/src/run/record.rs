//! What a run leaves behind: dom0's log and the summary.

use crate::failure::{Failure, Result};
use crate::say;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use trunnion_dom0::control::Summary;
use trunnion_dom0::control::summary::PlatformOutcome;

/// The files of a run.
pub(crate) struct Record {
    folder: PathBuf,
    log: File,
    machine: String,
    memory_bytes: u64,
    /// The log could not be written, and that was said.
    damaged: bool,
}

impl Record {
    /// Opens `dom0.log` in `folder`; an old summary goes.
    pub(crate) fn open(folder: &Path, machine: &str, memory_bytes: u64) -> Result<Self> {
        let path = folder.join("dom0.log");
        let log = File::create(&path).map_err(|e| Failure::file("make", &path, &e))?;
        let _ = fs::remove_file(folder.join("summary.json"));
        Ok(Self {
            folder: folder.to_path_buf(),
            log,
            machine: machine.to_string(),
            memory_bytes,
            damaged: false,
        })
    }

    /// One event of dom0's log.
    pub(crate) fn log(&mut self, at_ns: u64, level: u8, subsystem: &str, message: &str) {
        let level =
            ["", "error", "warn", "info", "debug", "trace"].get(usize::from(level)).unwrap_or(&"trace");
        let (seconds, micros) = (at_ns / 1_000_000_000, at_ns / 1000 % 1_000_000);
        // One event is one line, whatever is in it.
        let message = message.replace(['\n', '\r'], " ");
        let line = format!("{seconds}.{micros:06} {level} {subsystem} {message}\n");
        self.text(line.as_bytes());
    }

    /// Text that dom0's shell prints.
    pub(crate) fn text(&mut self, bytes: &[u8]) {
        if let Err(error) = self.log.write_all(bytes)
            && !std::mem::replace(&mut self.damaged, true)
        {
            let failure = Failure::file("write", &self.folder.join("dom0.log"), &error);
            say::warning(&format!("{failure}; it has gaps from here on"));
        }
    }

    /// Writes `summary.json`, with what only the tool knows. Without figures of dom0 the counts are 0.
    pub(crate) fn finish(&mut self, summary: Option<Summary>, outcome: PlatformOutcome) {
        let mut summary = summary.unwrap_or_default();
        summary.platform.outcome = outcome;
        summary.platform.machine.clone_from(&self.machine);
        if summary.platform.memory_bytes == 0 {
            summary.platform.memory_bytes = self.memory_bytes;
        }
        if let Err(failure) = write(&summary, &self.folder.join("summary.json")) {
            say::warning(failure.message());
        }
    }
}

/// Writes the summary whole or not at all.
pub(crate) fn write(summary: &impl serde::Serialize, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(summary)
        .map_err(|e| Failure::platform(format!("the summary cannot be written down: {e}")))?;
    text.push('\n');
    let fresh = path.with_extension("json.new");
    let put = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    put.map_err(|e| Failure::file("write", path, &e))
}

/// The last lines of the text in `path` for which `telling` is true, at most `count`.
pub(crate) fn tail(path: &Path, count: usize, telling: impl Fn(&str) -> bool) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty() && telling(line)).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_contracts_keys() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::open(folder.path(), "qemu-svm", 256 << 20).unwrap();
        let mut summary = Summary::default();
        summary.domains.push(control_domain());
        record.log(1_234_567_000, 3, "block", "two\nlines");
        record.finish(Some(summary), PlatformOutcome::Timeout);
        let text = fs::read_to_string(folder.path().join("summary.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["platform"]["outcome"], "timeout");
        assert_eq!(value["platform"]["machine"], "qemu-svm");
        assert_eq!(value["platform"]["memory_bytes"], 256 << 20);
        for key in [
            "hypervisor_bytes",
            "dom0_bytes",
            "hypervisor_ready_ns",
            "dom0_ready_ns",
            "free_bytes_at_start",
            "free_bytes_at_end",
        ] {
            assert!(value["platform"][key].is_u64(), "{key}");
        }
        for key in ["frames", "grants", "ports", "store_nodes"] {
            assert_eq!(value["platform"]["leaks"][key], 0, "{key}");
        }
        let domain = &value["domains"][0];
        assert_eq!(domain["outcome"], "poweroff");
        for key in [
            "exits",
            "exit_cycles",
            "exit_cycles_max",
            "hypercalls",
            "events",
            "grants",
            "disks",
            "nics",
            "cpu_ns",
            "detail",
        ] {
            assert!(!domain[key].is_null(), "{key}");
        }
        assert_eq!(
            fs::read_to_string(folder.path().join("dom0.log")).unwrap(),
            "1.234567 info block two lines\n"
        );
    }

    fn control_domain() -> trunnion_dom0::control::summary::Domain {
        use trunnion_dom0::control::summary::{Domain, Outcome};
        Domain { name: "g".into(), domid: 1, outcome: Outcome::Poweroff, ..Domain::default() }
    }
}
