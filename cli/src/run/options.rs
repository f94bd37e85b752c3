//! The options of `trunnion run`.

use crate::failure::{Failure, Result};
use crate::run::captures::Wish;
use clap::Args;
use std::path::PathBuf;

/// A token that is shorter may be found by trying.
const TOKEN_BYTES: usize = 16;

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
    /// Uplink of dom0's bridge: none, user, socket:... [default: user where a domain has a network port, else none]
    #[arg(long, value_name = "KIND")]
    pub net: Option<String>,
    /// Publish a guest's port on this machine: tcp:PORT:GUESTADDRESS:PORT, or udp:...
    #[arg(long, value_name = "RULE")]
    pub forward: Vec<String>,
    /// dom0's own address on the first bridge: dhcp, none, or ADDRESS/BITS [default: dhcp with an uplink, else 10.0.2.1/24]
    #[arg(long, value_name = "ADDRESS")]
    pub dom0_ip: Option<String>,
    /// dom0's control server listens on TCP port 7070 of its own address, for whoever has the token in FILE
    #[arg(long, value_name = "FILE")]
    pub control_token: Option<PathBuf>,
    /// Record a domain's network port for Wireshark: NAME=FILE, or NAME:N=FILE for its port N
    #[arg(long, value_name = "NAME=FILE")]
    pub pcap: Vec<String>,
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
    /// Run this dom0 image instead of building one
    #[arg(long, value_name = "ELF")]
    pub dom0: Option<PathBuf>,
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
        match self.net.as_deref() {
            None | Some("none" | "user") => {}
            Some("socket:") => {
                return refuse("--net socket: needs QEMU's words behind it, as in socket:listen=:1234");
            }
            Some(kind) if kind.starts_with("socket:") => {}
            Some(kind) => {
                return Err(Failure::usage(format!("--net {kind}: there are none, user and socket:…")));
            }
        }
        for rule in &self.forward {
            if self.net.as_deref().is_some_and(|kind| kind != "user") {
                return refuse("--forward needs --net user, the emulator's own network");
            }
            Forward::parse(rule)?;
        }
        self.captures()?;
        self.token()?;
        if self.control_token.is_some() && self.dom0_ip.as_deref() == Some("none") {
            return refuse(
                "--control-token: dom0 listens on its own address, and --dom0-ip none leaves it without one",
            );
        }
        match self.dom0_ip.as_deref() {
            None | Some("dhcp" | "none") => {}
            Some(text) if is_network(text) => {}
            Some(text) => {
                return Err(Failure::usage(format!(
                    "--dom0-ip {text}: expected dhcp, none, or an address as in 10.0.2.1/24"
                )));
            }
        }
        if self.timeout == Some(0) {
            return refuse("--timeout 0 leaves no time to run; it is in seconds");
        }
        Ok(())
    }
}

impl Options {
    /// The uplink, where the domains have network ports or not.
    pub(crate) fn uplink(&self, ports: bool) -> &str {
        match &self.net {
            Some(kind) => kind,
            None if ports || !self.forward.is_empty() => "user",
            None => "none",
        }
    }

    /// dom0's own address, as the manifest has it, beside this uplink.
    pub(crate) fn dom0_address(&self, uplink: &str) -> &str {
        match &self.dom0_ip {
            Some(text) => text,
            None if uplink == "none" => "10.0.2.1/24",
            None => "dhcp",
        }
    }
}

impl Options {
    /// What opens the control server on TCP; nothing when it is not asked for.
    pub(crate) fn token(&self) -> Result<String> {
        let Some(path) = &self.control_token else { return Ok(String::new()) };
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read the token", path, &e))?;
        let token = text.trim_end_matches(['\r', '\n']);
        if token.len() < TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!(
                "--control-token {}: expected one line of at least {TOKEN_BYTES} letters, digits and signs",
                path.display()
            )));
        }
        Ok(token.into())
    }

    /// The ports to be recorded.
    pub(crate) fn captures(&self) -> Result<Vec<Wish>> {
        self.pcap.iter().map(|text| Wish::parse(text)).collect()
    }

    /// The published ports.
    pub(crate) fn forwards(&self) -> Result<Vec<Forward>> {
        self.forward.iter().map(|rule| Forward::parse(rule)).collect()
    }
}

fn is_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        address.parse::<std::net::Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
    })
}

/// A port of this machine that leads to a guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port here.
    pub here: u16,
    /// The guest.
    pub guest: std::net::Ipv4Addr,
    /// Its port.
    pub there: u16,
}

impl Forward {
    /// Reads `tcp:PORT:GUESTADDRESS:PORT`.
    pub(crate) fn parse(rule: &str) -> Result<Self> {
        let parts: Vec<&str> = rule.split(':').collect();
        let read = || {
            let [protocol @ ("tcp" | "udp"), here, guest, there] = parts[..] else { return None };
            Some(Self {
                protocol: protocol.to_string(),
                here: here.parse().ok()?,
                guest: guest.parse().ok()?,
                there: there.parse().ok()?,
            })
        };
        read().ok_or_else(|| {
            Failure::usage(format!(
                "--forward {rule}: expected tcp:PORT:GUESTADDRESS:PORT, as in tcp:8080:10.0.2.50:80"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule = Forward::parse("tcp:8080:10.0.2.50:80").unwrap();
        assert_eq!((rule.here, rule.guest.to_string().as_str(), rule.there), (8080, "10.0.2.50", 80));
        for wrong in ["tcp:8080", "icmp:1:10.0.2.50:80", "tcp:80:host:80", "tcp:99999:10.0.2.50:80"] {
            assert!(Forward::parse(wrong).is_err(), "{wrong}");
        }
        assert!(is_network("10.0.2.1/24") && !is_network("10.0.2.1") && !is_network("10.0.2.1/33"));
    }
}
