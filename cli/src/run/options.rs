//! The options of `trunnion run`.

use crate::failure::{Failure, Result};
use clap::Args;
use std::path::PathBuf;

/// Boot the platform and run domains on it (with no DOMAIN.cfg: the demo domains)
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  trunnion run                                the demo domains, with the Linux domain's console here
  trunnion run linux.cfg                      one domain from an xl.cfg(5) file
  trunnion run --headless --log out a.cfg b.cfg   two domains, until both have ended; results in out/summary.json
  trunnion run --machine bochs-vmx tiny.cfg   on an emulated Intel processor

Exit status: 0 every domain ended by power-off, 1 a domain crashed or ended otherwise, 2 usage, configuration or set-up error
(nothing was started), 3 time limit, 4 the platform itself failed, or did not get everything back from its domains.")]
pub struct Options {
    /// The outer machine: qemu-kvm, qemu-svm, bochs-vmx, bochs-svm, xen [default: the first that can work here]
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// The outer machine's memory in MiB [default: what the configurations need]
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u32>,
    /// The outer machine's processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub smp: u32,
    /// dom0's share of the memory in MiB [default: the smallest that works]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(8..=65536))]
    pub dom0_memory: Option<u32>,
    /// No terminal: stdin is not read, one progress line a stage on stderr
    #[arg(long)]
    pub headless: bool,
    /// Stop everything after S seconds
    #[arg(long, value_name = "S")]
    pub timeout: Option<u64>,
    /// Write logs, console files and summary.json to DIR (made if missing)
    #[arg(long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// QEMU counts instructions, one virtual nanosecond each: runs repeat to the instruction
    #[arg(long)]
    pub icount: bool,
    /// Uplink of dom0's bridge: none, user, socket:...
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub net: String,
    /// Publish a guest's port on this machine: tcp:HOST:GUESTIP:PORT
    #[arg(long, value_name = "RULE")]
    pub forward: Vec<String>,
    /// Start each domain when the one before it has ended
    #[arg(long)]
    pub sequence: bool,
    /// Stay up when the last domain has ended
    #[arg(long)]
    pub keep: bool,
    /// Name what is missing, and never install it
    #[arg(long)]
    pub no_install: bool,
    /// Pass ARG on to the emulator; may repeat
    #[arg(long = "emulator-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub emulator: Vec<String>,
    /// Boot this hypervisor image instead of building one
    #[arg(long, value_name = "ELF")]
    pub hypervisor: Option<PathBuf>,
    /// The processor model, in the emulator's words
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Domain files in the syntax of xl.cfg(5)
    #[arg(value_name = "DOMAIN.cfg")]
    pub domains: Vec<PathBuf>,
}

impl Options {
    /// The options that these words of a command line mean.
    pub fn read(words: &[String]) -> Result<Self> {
        crate::args::run_options(words.iter().map(String::as_str))
    }

    /// Refuses what is not there yet, and what does not fit together.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Failure::usage(what));
        if self.machine.as_deref() == Some("xen") {
            return refuse("the comparison with real Xen (--machine xen) is not there yet");
        }
        if self.net != "none" {
            if self.net != "user" && !self.net.starts_with("socket:") {
                return Err(Failure::usage(format!("--net {}: there are none, user and socket:…", self.net)));
            }
            return refuse("networks (--net) are not there yet; leave the option out, or say --net none");
        }
        if !self.forward.is_empty() {
            return refuse("networks (--forward) are not there yet");
        }
        if self.timeout == Some(0) {
            return refuse("--timeout 0 leaves no time to run; it is in seconds");
        }
        Ok(())
    }
}
