//! A child process that never outlives this one, and that a Ctrl-C of the terminal does not reach.

use crate::failure::{Failure, Result};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// An emulator that runs; killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
}

impl Emulator {
    /// Starts `program` with what `prepare` adds to its command.
    ///
    /// The kernel kills it when the thread that called this ends (`PR_SET_PDEATHSIG`, set by util-linux's `setpriv`, which every Debian has),
    /// so call it from a thread that lives as long as the run. A process group of its own keeps the terminal's Ctrl-C away from it: this
    /// process decides how the run ends.
    pub(crate) fn start(program: &str, prepare: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).process_group(0);
        prepare(&mut command);
        let child = command
            .spawn()
            .map_err(|e| Failure::file("start setpriv (package util-linux) for", Path::new(program), &e))?;
        Ok(Self { child })
    }

    /// Its status, when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        // An error here means that somebody else reaped it; that is an end too.
        self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0xff00)))
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The processor time it has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The command's name, in parentheses, may hold blanks; fields 14 and 15 of proc(5) are the 12th and 13th after it.
        let ticks: u64 = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|t| t.parse::<u64>().ok())
            .sum();
        // The kernel reports in USER_HZ, which is 100 on x86.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}
