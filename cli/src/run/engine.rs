//! The running platform, followed from the first sign of dom0 to the end: what it says becomes files, progress lines, a summary and an exit
//! status.

use crate::console::registry::Consoles;
use crate::console::terminal::{Raw, typed};
use crate::control::dom0::{Dom0, Said, refusal};
use crate::failure::{Failure, Result, Status};
use crate::machine::child::Emulator;
use crate::run::captures::Captures;
use crate::run::needle::Needle;
use crate::run::record::{Record, tail};
use crate::say;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use trunnion_dom0::control::summary::{Leaks, Outcome, PlatformOutcome};
use trunnion_dom0::control::{self, Event, Reply, Request, VERSION};

/// How long dom0 has for a last word when somebody waits for the end.
const HURRY: Duration = Duration::from_secs(3);

/// Everything that the engine hears of.
pub(crate) enum Note {
    /// dom0 says something.
    Said(Said),
    /// dom0 answers the first greeting.
    Greeted(Result<Reply>),
    /// Bytes of the terminal.
    Typed(Vec<u8>),
    /// A signal that ends the run.
    Signal,
    /// A domain that another verb asked for is in the making: the run does not end in between.
    Creating(bool),
}

/// What the engine has to know of the run.
pub(crate) struct Course {
    /// How long dom0 has for a last word (the summary, the power-off) before the machine is stopped.
    pub patience: Duration,
    /// The time limit.
    pub limit: Option<Duration>,
    /// Stay up when the last domain has ended.
    pub keep: bool,
    /// The domain whose console the terminal shows, if there is a terminal.
    pub foreground: Option<String>,
    /// A text that is waited for on any console, and when it came.
    pub needle: Option<Needle>,
    /// What the machine says on COM1.
    pub serial: PathBuf,
    /// What the emulator itself says.
    pub errors: PathBuf,
}

/// A run in its course.
pub(crate) struct Engine {
    pub emulator: Emulator,
    pub dom0: Dom0,
    pub consoles: Consoles,
    pub captures: Captures,
    pub record: Record,
    pub course: Course,
    pub notes: Receiver<Note>,
    pub begin: Instant,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    ready: bool,
    living: Vec<(u16, String)>,
    creating: u32,
    all_ended: bool,
    started: usize,
    bad: Option<String>,
    refused: Option<Failure>,
    slow: bool,
}

/// Why the loop ends.
enum Cause {
    Ended,
    TimeLimit,
    Signal,
    Left,
}

impl Engine {
    /// Follows the run to its end, writes the summary, and returns the exit status of the contract.
    pub(crate) fn follow(mut self) -> Result<Status> {
        let mut seen = Seen::default();
        let mut terminal = None;
        let cause = self.watch(&mut seen, &mut terminal);
        drop(terminal.take());
        say::raw(false);
        let cause = match cause {
            Ok(cause) => cause,
            Err(failure) => {
                self.record.finish(None, PlatformOutcome::Failed);
                return Err(failure);
            }
        };
        let outcome =
            if matches!(cause, Cause::TimeLimit) { PlatformOutcome::Timeout } else { PlatformOutcome::Ok };
        let patience = if matches!(cause, Cause::Ended) {
            self.course.patience
        } else {
            self.course.patience.min(HURRY)
        };
        let summary = if seen.ready { self.last_words(patience) } else { None };
        let complete = summary.is_some();
        let leaks = summary.as_ref().map(|summary| summary.platform.leaks).unwrap_or_default();
        self.record.finish(summary, outcome);
        self.power_off(seen.ready, patience);
        match cause {
            Cause::TimeLimit => {
                let limit = self.course.limit.unwrap_or_default().as_secs();
                let names: Vec<&str> = seen.living.iter().map(|(_, name)| name.as_str()).collect();
                let still = if names.is_empty() {
                    String::from("no domain was running")
                } else {
                    format!("still running: {}", names.join(", "))
                };
                Err(Failure::new(
                    Status::TimeLimit,
                    format!("stopped after the time limit of {limit} s; {still}"),
                ))
            }
            Cause::Signal => Err(Failure::new(
                Status::Interrupted,
                "stopped by a signal; the domains were ended with the machine",
            )),
            Cause::Left => {
                say::progress(
                    "the run is over: Ctrl-] was typed, and the domains were ended with the machine",
                );
                Ok(Status::Done)
            }
            Cause::Ended if leaks != Leaks::default() => Err(Failure::platform(format!(
                "the domains have ended, and not everything came back: {} frames, {} grants, {} ports and {} store nodes are missing",
                leaks.frames, leaks.grants, leaks.ports, leaks.store_nodes
            ))),
            Cause::Ended => match (seen.refused, seen.bad) {
                (Some(failure), _) if seen.started == 0 => Err(Failure::usage(failure.message())),
                (Some(failure), _) => Err(Failure::new(Status::Domain, failure.message())),
                (None, Some(bad)) => Err(Failure::new(Status::Domain, bad)),
                (None, None) if !complete => {
                    Err(Failure::platform(format!("dom0 gave no summary within {} s", patience.as_secs())))
                }
                (None, None) => Ok(Status::Done),
            },
        }
    }

    fn watch(&mut self, seen: &mut Seen, terminal: &mut Option<Raw>) -> Result<Cause> {
        loop {
            match self.notes.recv_timeout(Duration::from_millis(50)) {
                Ok(note) => {
                    if let Some(cause) = self.hear(note, seen, terminal)? {
                        return Ok(cause);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::platform("the run lost all its sources of news"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(status) = self.emulator.ended() {
                        return Err(self.died(&status.to_string()));
                    }
                }
            }
            if self.course.limit.is_some_and(|limit| self.begin.elapsed() >= limit) {
                return Ok(Cause::TimeLimit);
            }
            if !seen.ready && !seen.slow && self.begin.elapsed() > Duration::from_secs(30) {
                seen.slow = true;
                say::progress(&format!(
                    "still waiting for dom0; what the hypervisor says is in {}",
                    self.course.serial.display()
                ));
            }
            if seen.all_ended && seen.living.is_empty() && seen.creating == 0 && !self.course.keep {
                return Ok(Cause::Ended);
            }
        }
    }

    fn hear(&mut self, note: Note, seen: &mut Seen, terminal: &mut Option<Raw>) -> Result<Option<Cause>> {
        match note {
            Note::Signal => return Ok(Some(Cause::Signal)),
            Note::Creating(begins) => {
                seen.creating = if begins { seen.creating + 1 } else { seen.creating.saturating_sub(1) }
            }
            Note::Typed(bytes) => {
                let (bytes, leaves) = typed(&bytes);
                if let Some(name) = &self.course.foreground {
                    self.consoles.typed(name, bytes);
                }
                if leaves {
                    return Ok(Some(Cause::Left));
                }
            }
            Note::Greeted(Ok(Reply::Hello { version, .. })) if version != VERSION => {
                return Err(Failure::platform(format!(
                    "dom0 speaks version {version} of the control messages, and this tool {VERSION}"
                )));
            }
            Note::Greeted(Ok(_)) => {}
            // Without a connection there is no greeting either; the emulator's end says more.
            Note::Greeted(Err(_)) | Note::Said(Said::Closed) => {
                std::thread::sleep(Duration::from_millis(200));
                let status = self.emulator.ended().map_or_else(
                    || String::from("its control connection closed"),
                    |status| status.to_string(),
                );
                return Err(self.died(&status));
            }
            Note::Said(Said::Console(channel, bytes)) if self.captures.take(channel, &bytes) => {}
            Note::Said(Said::Console(channel, bytes)) => {
                let after = self.begin.elapsed();
                if let Some(needle) = &mut self.course.needle {
                    needle.console(&bytes, after, || self.emulator.cpu_time());
                }
                let name = self.consoles.output(channel, &bytes);
                if name.is_some() && name == self.course.foreground {
                    let mut out = std::io::stdout().lock();
                    let _ = out.write_all(&bytes).and_then(|()| out.flush());
                }
            }
            Note::Said(Said::Event(event)) => self.event(event, seen, terminal)?,
        }
        Ok(None)
    }

    fn event(&mut self, event: Event, seen: &mut Seen, terminal: &mut Option<Raw>) -> Result<()> {
        match event {
            Event::Ready { dom0_ready_ns, .. } => {
                seen.ready = true;
                if let Some(needle) = &self.course.needle {
                    needle.ready(self.begin.elapsed(), self.emulator.cpu_time());
                }
                say::progress(&format!(
                    "dom0 is ready after {} of the machine's time",
                    seconds(dom0_ready_ns)
                ));
                if self.course.foreground.is_some() {
                    *terminal = Raw::enter();
                    say::raw(terminal.is_some());
                }
            }
            Event::DomainCreated { domid, name, .. } => {
                self.consoles.open(&name, domid)?;
                self.captures.begin(&name, domid)?;
                seen.started += 1;
                // One that is started again has been kept here under its old number.
                seen.living.retain(|(_, known)| *known != name);
                seen.living.push((domid, name));
            }
            Event::DomainUnpaused { domid, name, unpaused_ns } => {
                say::progress(&format!("domain {name} ({domid}) runs, at {}", seconds(unpaused_ns)));
            }
            Event::DomainEnded { domid, name, outcome, detail, ended_ns, restarting } => {
                if !restarting {
                    seen.living.retain(|(id, _)| *id != domid);
                }
                let word = word(outcome);
                let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
                let again = if restarting { "; it is started again" } else { "" };
                say::progress(&format!(
                    "domain {name} ({domid}) ended by {word} at {}{detail}{again}",
                    seconds(ended_ns)
                ));
                if outcome != Outcome::Poweroff && !restarting && seen.bad.is_none() {
                    seen.bad = Some(format!("domain {name} ended by {word}, not by power-off{detail}"));
                }
                self.consoles.close(&name, restarting);
                if self.course.foreground.as_deref() == Some(name.as_str()) && !restarting {
                    self.course.foreground = self.consoles.names().into_iter().next();
                    if let Some(next) = &self.course.foreground {
                        say::progress(&format!("this is now the console of {next}; Ctrl-] ends the run"));
                    }
                }
            }
            Event::CreateFailed { name, failure } => {
                let failure = refusal(&failure);
                say::progress(&format!("domain {name} could not be started: {failure}"));
                let words =
                    Failure::new(failure.status(), format!("domain {name} could not be started: {failure}"));
                seen.refused.get_or_insert(words);
            }
            Event::DomainRenamed { domid, before, name } => {
                seen.living.iter_mut().filter(|(id, _)| *id == domid).for_each(|one| one.1.clone_from(&name));
                if self.course.foreground.as_deref() == Some(before.as_str()) {
                    self.course.foreground = Some(name.clone());
                }
                say::progress(&format!("domain {before} ({domid}) is called {name} now"));
                self.consoles.rename(&before, &name);
            }
            Event::AllEnded => seen.all_ended = true,
            Event::Log { at_ns, level, subsystem, message } => {
                self.record.log(at_ns, level, &subsystem, &message);
            }
            Event::ConsoleLost { channel, bytes } => {
                say::warning(&format!("{bytes} bytes of the console on channel {channel} were lost"));
            }
            Event::Text(bytes) => self.record.text(&bytes),
            // Files and watches are served where the connection is.
            Event::ConsoleClosed { .. } | Event::Store { .. } | Event::Want { .. } | Event::Forget { .. } => {
            }
        }
        Ok(())
    }

    /// The figures of the run, if dom0 gives them in time. What else it says meanwhile is still heard.
    fn last_words(&mut self, patience: Duration) -> Option<control::Summary> {
        let reply = self.dom0.begin(Request::Summary).ok()?;
        let begin = Instant::now();
        while begin.elapsed() < patience {
            if let Ok(answer) = reply.recv_timeout(Duration::from_millis(10)) {
                self.drain();
                return match answer {
                    Ok(Reply::Summary(summary)) => Some(summary),
                    _ => None,
                };
            }
            self.drain();
            if self.emulator.ended().is_some() {
                return None;
            }
        }
        None
    }

    /// Takes in what is left to hear, for the logs.
    fn drain(&mut self) {
        while let Ok(note) = self.notes.try_recv() {
            match note {
                Note::Said(Said::Console(channel, bytes)) if self.captures.take(channel, &bytes) => {}
                Note::Said(Said::Console(channel, bytes)) => drop(self.consoles.output(channel, &bytes)),
                Note::Said(Said::Event(Event::Log { at_ns, level, subsystem, message })) => {
                    self.record.log(at_ns, level, &subsystem, &message);
                }
                _ => {}
            }
        }
    }

    /// Asks for a power-off, and stops the machine when that does not come.
    fn power_off(&mut self, ready: bool, patience: Duration) {
        if ready && self.dom0.begin(Request::PowerOff).is_ok() {
            let begin = Instant::now();
            while begin.elapsed() < patience && self.emulator.ended().is_none() {
                self.drain();
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.emulator.kill();
    }

    /// The words for a machine that ended unasked: the last that the hypervisor and the emulator said.
    fn died(&mut self, how: &str) -> Failure {
        use std::fmt::Write as _;
        let mut text = String::new();
        for line in tail(&self.course.serial, 20, |_| true) {
            let _ = writeln!(text, "  hypervisor: {line}");
        }
        // QEMU's remarks on the processor model, and Bochs's on its start, say nothing about an end.
        let telling = |line: &str| {
            line.contains(">>PANIC<<") || (line.starts_with("qemu") && !line.contains("TCG doesn't support"))
        };
        for line in tail(&self.course.errors, 12, telling) {
            let _ = writeln!(text, "  emulator: {line}");
        }
        let why = panic(&tail(&self.course.serial, 1000, |_| true))
            .unwrap_or_else(|| format!("the emulator ended ({how}) while it should run"));
        Failure::platform(format!(
            "\n{text}the platform failed: {why}; all of it is in {}",
            self.course.serial.display()
        ))
    }
}

/// Reads the terminal in a thread of its own. It ends with the process.
pub(crate) fn read_terminal(notes: Sender<Note>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if notes.send(Note::Typed(buffer.get(..count).unwrap_or_default().to_vec())).is_err() {
                return;
            }
        }
    });
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Poweroff => "power-off",
        Outcome::Reboot => "reboot",
        Outcome::Suspend => "suspend",
        Outcome::Crash => "crash",
        Outcome::Watchdog => "watchdog",
        Outcome::Destroyed => "destroy",
        Outcome::Running => "nothing",
    }
}

/// The last panic that these lines tell of: where it was on one line, why on the next.
fn panic(lines: &[String]) -> Option<String> {
    let at = lines.iter().rposition(|line| line.contains("panicked at "))?;
    let place = lines.get(at)?.split_once("panicked at ")?.1;
    let why = lines.get(at + 1).map_or("", String::as_str);
    Some(format!("panicked at {place} {why}"))
}

fn seconds(ns: u64) -> String {
    format!("{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

#[cfg(test)]
mod tests;
