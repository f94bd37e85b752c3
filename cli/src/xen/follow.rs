//! A run on real Xen, followed by the files in the shared folder to its end.

use crate::failure::{Failure, Result, Status};
use crate::machine::child::Emulator;
use crate::run::record;
use crate::say;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a run needs to know of itself.
pub(super) struct Course {
    /// The domains, in order.
    pub names: Vec<String>,
    /// The folder that dom0 writes to.
    pub share: PathBuf,
    /// Where the user's files go.
    pub logs: PathBuf,
    /// What the machine says on COM1.
    pub serial: PathBuf,
    /// What the emulator itself says.
    pub errors: PathBuf,
    /// The time limit.
    pub limit: Option<Duration>,
    /// Set by a signal that ends the run.
    pub signals: Arc<AtomicBool>,
}

/// A flag that the first signal sets; the second one ends this process, and the emulator with it.
pub(super) fn hear_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let heard = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let status = i32::from(Status::Interrupted.code());
        let second = signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&heard));
        let first = second.and_then(|_| signal_hook::flag::register(signal, Arc::clone(&heard)));
        first.map_err(|e| Failure::platform(format!("cannot hear signals: {e}")))?;
    }
    Ok(heard)
}

/// How a domain is, or ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    domid: Option<u16>,
    /// A word of the contract's `outcome`; none before it began.
    outcome: Option<&'static str>,
    detail: String,
}

/// A file of the shared folder that grows.
struct Growing {
    from: PathBuf,
    at: u64,
    to: Option<File>,
}

impl Growing {
    fn new(from: PathBuf, to: Option<&Path>) -> Result<Self> {
        let to = to.map(|to| File::create(to).map_err(|e| Failure::file("make", to, &e))).transpose()?;
        Ok(Self { from, at: 0, to })
    }

    /// What came since the last time.
    fn more(&mut self) -> Vec<u8> {
        use std::io::{Seek, SeekFrom};
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.from)
            && file.seek(SeekFrom::Start(self.at)).is_ok()
        {
            let _ = file.read_to_end(&mut bytes);
        }
        self.at += bytes.len() as u64;
        if let Some(to) = &mut self.to {
            let _ = to.write_all(&bytes);
        }
        bytes
    }
}

/// What was heard of the run.
struct Story {
    domains: Vec<(String, Seen)>,
    /// The beginning of a line whose end has not come.
    line: String,
    done: bool,
    failed: Option<String>,
}

impl Story {
    fn hear(&mut self, bytes: &[u8]) {
        self.line.push_str(&String::from_utf8_lossy(bytes));
        while let Some((line, rest)) = self.line.split_once('\n') {
            let (line, rest) = (line.to_string(), rest.to_string());
            self.line = rest;
            self.event(&line);
        }
    }

    fn event(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let seen = self.domains.iter_mut().find(|(known, _)| known == name).map(|(_, seen)| seen);
        match (verb, seen) {
            ("ready", _) => say::progress(&format!("dom0 is ready after {rest} s of the machine's time")),
            ("create", Some(seen)) => {
                seen.outcome = Some("running");
                say::progress(&format!("domain {name} is created by xl"));
            }
            ("ended", Some(seen)) => {
                let (reason, domid) = words.split_once(' ').unwrap_or((words, ""));
                *seen =
                    Seen { domid: domid.parse().ok(), outcome: Some(outcome(reason)), detail: String::new() };
                say::progress(&format!("domain {name} ({domid}) ended by {}", outcome(reason)));
            }
            ("refused", Some(seen)) => {
                *seen = Seen { domid: None, outcome: None, detail: words.to_string() };
                say::progress(&format!("domain {name} could not be started: {words}"));
            }
            ("failed", _) => self.failed = Some(rest.to_string()),
            ("done", _) => self.done = true,
            _ => {}
        }
    }

    fn summary(&self, outcome: &str, memory_bytes: u64) -> Value {
        let domains: Vec<Value> = self
            .domains
            .iter()
            .map(|(name, seen)| {
                json!({"name": name, "domid": seen.domid, "outcome": seen.outcome.unwrap_or("destroyed"), "detail": seen.detail})
            })
            .collect();
        // Figures that only Trunnion counts are left out.
        json!({"platform": {"outcome": outcome, "machine": super::NAME, "memory_bytes": memory_bytes}, "domains": domains})
    }
}

/// Why the loop ends.
enum Cause {
    Over,
    TimeLimit,
    Signal,
}

/// Follows the run to its end, writes the summary, and returns the exit status of the contract.
pub(super) fn follow(mut emulator: Emulator, course: &Course, memory_bytes: u64) -> Result<Status> {
    let begin = Instant::now();
    let mut events = Growing::new(course.share.join("events"), None)?;
    let mut files = vec![Growing::new(course.share.join("dom0.log"), Some(&course.logs.join("dom0.log")))?];
    for name in &course.names {
        let console = course.logs.join(format!("{name}.console.log"));
        files.push(Growing::new(course.share.join(format!("guest-{name}.log")), Some(&console))?);
        let words = course.logs.join(format!("{name}.xl.log"));
        files.push(Growing::new(course.share.join(format!("{name}.xl.log")), Some(&words))?);
    }
    for name in ["store.end", "xen.dmesg"] {
        files.push(Growing::new(course.share.join(name), Some(&course.logs.join(name)))?);
    }
    let domains = course.names.iter().map(|name| (name.clone(), Seen::default())).collect();
    let mut story = Story { domains, line: String::new(), done: false, failed: None };
    let cause = loop {
        let over = emulator.ended().is_some();
        story.hear(&events.more());
        for file in &mut files {
            file.more();
        }
        if over {
            break Cause::Over;
        }
        if course.signals.load(Ordering::Relaxed) {
            break Cause::Signal;
        }
        if course.limit.is_some_and(|limit| begin.elapsed() >= limit) {
            break Cause::TimeLimit;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    emulator.kill();
    let (word, result) = verdict(&cause, &story, course);
    let path = course.logs.join("summary.json");
    record::write(&story.summary(word, memory_bytes), &path)?;
    result
}

fn verdict(cause: &Cause, story: &Story, course: &Course) -> (&'static str, Result<Status>) {
    let still = || {
        let living = story.domains.iter().filter(|(_, seen)| seen.outcome == Some("running"));
        let names: Vec<&str> = living.map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            "no domain was running".into()
        } else {
            format!("still running: {}", names.join(", "))
        }
    };
    match cause {
        Cause::Signal => {
            let words = "stopped by a signal; the domains were ended with the machine";
            ("ok", Err(Failure::new(Status::Interrupted, words)))
        }
        Cause::TimeLimit => {
            let limit = course.limit.unwrap_or_default().as_secs();
            let words = format!("stopped after the time limit of {limit} s; {}", still());
            ("timeout", Err(Failure::new(Status::TimeLimit, words)))
        }
        Cause::Over if story.done => ("ok", outcome_of_all(story)),
        Cause::Over => {
            let mut lines = record::tail(&course.serial, 20, |_| true);
            lines.extend(record::tail(&course.errors, 5, |line| !line.contains("TCG doesn't support")));
            let why = story.failed.clone().unwrap_or_else(|| "the machine ended before its domains".into());
            ("failed", Err(Failure::platform(format!("{}\n{why}", lines.join("\n")))))
        }
    }
}

fn outcome_of_all(story: &Story) -> Result<Status> {
    if let Some((name, seen)) = story.domains.iter().find(|(_, seen)| seen.outcome.is_none()) {
        let words = format!("domain {name} could not be started: {}", seen.detail);
        let any = story.domains.iter().any(|(_, seen)| seen.outcome.is_some());
        return Err(Failure::new(if any { Status::Domain } else { Status::Usage }, words));
    }
    match story.domains.iter().find(|(_, seen)| seen.outcome != Some("poweroff")) {
        Some((name, seen)) => {
            let how = seen.outcome.unwrap_or_default();
            Err(Failure::new(Status::Domain, format!("domain {name} ended by {how}, not by power-off")))
        }
        None => Ok(Status::Done),
    }
}

/// xl gives the reason of a shutdown as a number (public/sched.h, `SHUTDOWN_*`).
fn outcome(reason: &str) -> &'static str {
    match reason {
        "0" => "poweroff",
        "1" => "reboot",
        "2" => "suspend",
        "3" => "crash",
        "4" => "watchdog",
        _ => "destroyed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(lines: &str) -> Story {
        let domains = ["a", "b"].map(|name| (name.to_string(), Seen::default())).into();
        let mut story = Story { domains, line: String::new(), done: false, failed: None };
        for piece in lines.as_bytes().chunks(7) {
            story.hear(piece);
        }
        story
    }

    #[test]
    fn events_become_outcomes() {
        let both = story("ready 9.1\ncreate a\ncreate b\nended b 0 2\nended a 0 1\ndone\n");
        assert!(both.done);
        assert_eq!(outcome_of_all(&both).unwrap(), Status::Done);
        let summary = both.summary("ok", 1 << 30);
        assert_eq!(
            summary["domains"][1],
            json!({"name": "b", "domid": 2, "outcome": "poweroff", "detail": ""})
        );
        let crashed = story("create a\ncreate b\nended a 3 1\nended b 0 2\ndone\n");
        assert_eq!(outcome_of_all(&crashed).unwrap_err().status(), Status::Domain);
        let none = story("create a\nrefused a no such kernel\ncreate b\nrefused b it too\ndone\n");
        let failure = outcome_of_all(&none).unwrap_err();
        assert_eq!((failure.status(), failure.message().contains("no such kernel")), (Status::Usage, true));
        let some = story("create a\nrefused a no such kernel\ncreate b\nended b 0 1\ndone\n");
        assert_eq!(outcome_of_all(&some).unwrap_err().status(), Status::Domain);
        assert_eq!(
            story("failed xenstored does not start\n").failed.as_deref(),
            Some("xenstored does not start")
        );
    }
}
