//! Debian's Linux as a domain of a run: a kernel, a RAM disk, a root of its own, and a script that it runs before it powers off.

pub use trunnion_cli::demo::PROBE;

use crate::system::{Ended, Run};

impl Run {
    /// Adds a Linux domain that runs `script` and powers off; `more` are lines of its domain file. When the script begins with
    /// [`PROBE`], the domain gets the disk that it reads.
    #[must_use]
    pub fn linux(self, name: &str, memory: u32, script: &str, more: &str) -> Self {
        let text = trunnion_cli::demo::scripted(self.path(), name, memory, script, &[], more)
            .unwrap_or_else(|failure| panic!("{failure:?}"));
        self.domain(name, &text)
    }
}

impl Ended {
    /// The value that a domain's script printed after `key=`.
    pub fn said(&self, name: &str, key: &str) -> String {
        let console = self.console(name);
        console
            .lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("{name} did not say {key}; its console:\n{console}\n{}", self.report()))
            .to_string()
    }
}
