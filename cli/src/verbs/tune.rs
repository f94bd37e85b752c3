//! The verbs of `xl` that change a living domain without touching its devices, and what is shown of its vCPUs.

use crate::control::ask::Ask;
use crate::control::client::Client;
use crate::failure::{Failure, Result};
use clap::Subcommand;
use serde_json::{Value, json};

/// Those verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Give a domain another name
    Rename {
        /// Name or id
        domain: String,
        /// The new name
        name: String,
    },
    /// Show how long domains have been running
    Uptime {
        /// Names or ids; all without any
        domains: Vec<String>,
        /// Only hours, minutes and seconds
        #[arg(short)]
        short: bool,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Press a key of a Linux guest's system request
    Sysrq {
        /// Name or id
        domain: String,
        /// One character, such as h for help
        #[arg(value_name = "LETTER")]
        key: char,
    },
    /// Ask a domain's balloon driver to do with so much memory
    MemSet {
        /// Name or id
        domain: String,
        /// In MiB, or with a unit: 100m, 1g, 65536k
        #[arg(value_name = "MEM")]
        memory: String,
    },
    /// Ask a domain to use so many vCPUs
    VcpuSet {
        /// Name or id
        domain: String,
        /// How many
        count: u32,
    },
    /// Show or set the domains' shares of the processors
    SchedCredit {
        /// Only this one: name or id
        domain: Option<String>,
        /// The same
        #[arg(short = 'd', long = "domain", value_name = "DOMAIN", conflicts_with = "domain")]
        of: Option<String>,
        /// Share against others: 1 to 65535, and 256 is usual
        #[arg(short, long)]
        weight: Option<u32>,
        /// Most per cent of one processor; 0 is no limit
        #[arg(short, long)]
        cap: Option<u32>,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Have the hypervisor write parts of its state to its log, which `dmesg` shows; h lists the keys
    DebugKeys {
        /// One or more
        keys: String,
    },
}

/// Does it.
pub(crate) fn perform(client: &mut Client, verb: Verb) -> Result<()> {
    match verb {
        Verb::Rename { domain, name } => drop(client.ask(&Ask::Rename { domain, name })?),
        Verb::Uptime { domains, short, json } => uptime(client, &domains, short, json)?,
        Verb::Sysrq { domain, key } => drop(client.ask(&Ask::Sysrq { domain, key })?),
        Verb::MemSet { domain, memory } => {
            let kib = kib(&memory).ok_or_else(|| {
                Failure::usage(format!(
                    "mem-set {memory}: expected a number of MiB, or one with k, m, g or t"
                ))
            })?;
            client.ask(&Ask::Memory { domain, kib })?;
        }
        Verb::VcpuSet { domain, count } => drop(client.ask(&Ask::VcpuCount { domain, count })?),
        Verb::SchedCredit { domain, of, weight, cap, json } => {
            let domain = domain.or(of);
            if domain.is_none() && (weight.is_some() || cap.is_some()) {
                return Err(Failure::usage("sched-credit: weight and cap are set for one domain; name it"));
            }
            let quiet = (weight.is_some() || cap.is_some()) && !json;
            let shares = client.ask(&Ask::Schedule { domain, weight, cap })?;
            if !quiet {
                show_shares(&shares, json);
            }
        }
        Verb::DebugKeys { keys } => drop(client.ask(&Ask::DebugKeys { keys })?),
    }
    Ok(())
}

/// An amount of memory in KiB, as xl(1) reads it.
fn kib(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').filter(|rest| rest.ends_with(['k', 'm', 'g', 't'])).unwrap_or(&text);
    let (digits, shift) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        None => (text, 10),
        Some(digits) => (
            digits,
            match text.as_bytes().last() {
                Some(b'k') => 0,
                Some(b'm') => 10,
                Some(b'g') => 20,
                _ => 30,
            },
        ),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn uptime(client: &mut Client, domains: &[String], short: bool, json: bool) -> Result<()> {
    let all = super::xl::rows(client)?;
    let mut rows = Vec::new();
    for domain in domains {
        rows.extend(super::xl::select(&all, Some(domain))?);
    }
    if domains.is_empty() {
        rows = all;
    }
    if json {
        let row = |row: &crate::control::ask::Row| json!({"name": row.name, "domid": row.domid, "up_ns": row.up_ns});
        crate::say::out!("{:#}", rows.iter().map(row).collect::<Value>());
        return Ok(());
    }
    if !short {
        crate::say::out!("{:<32} {:>5} Uptime", "Name", "ID");
    }
    for row in rows {
        let seconds = row.up_ns / 1_000_000_000;
        let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
        let mut text = format!("{hours:>2}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
        if days > 0 {
            text = format!("{days} days, {text}");
        }
        crate::say::out!("{:<32} {:>5} {text}", row.name, row.domid);
    }
    Ok(())
}

fn show_shares(shares: &Value, json: bool) {
    if json {
        crate::say::out!("{shares:#}");
        return;
    }
    crate::say::out!("{:<32} {:>5} {:>6} {:>4}", "Name", "ID", "Weight", "Cap");
    for share in shares.as_array().into_iter().flatten() {
        crate::say::out!(
            "{:<32} {:>5} {:>6} {:>4}",
            share["name"].as_str().unwrap_or_default(),
            share["domid"].to_string(),
            share["weight"].to_string(),
            share["cap"].to_string()
        );
    }
}

/// Prints a list of vCPUs.
pub(crate) fn vcpus(vcpus: &Value, json: bool) {
    if json {
        crate::say::out!("{vcpus:#}");
        return;
    }
    crate::say::out!(
        "{:<32} {:>5} {:>5} {:>4}  {:<8} {:>9}",
        "Name",
        "ID",
        "VCPU",
        "CPU",
        "State",
        "Time(s)"
    );
    for vcpu in vcpus.as_array().into_iter().flatten() {
        let ns = vcpu["cpu_ns"].as_u64().unwrap_or_default();
        let cpu = vcpu["cpu"].as_u64().map_or_else(|| String::from("-"), |cpu| cpu.to_string());
        crate::say::out!(
            "{:<32} {:>5} {:>5} {cpu:>4}  {:<8} {:>7}.{}",
            vcpu["name"].as_str().unwrap_or_default(),
            vcpu["domid"].to_string(),
            vcpu["vcpu"].to_string(),
            vcpu["state"].as_str().unwrap_or_default(),
            ns / 1_000_000_000,
            ns / 100_000_000 % 10
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit() {
        for (text, wanted) in [
            ("128", Some(128 << 10)),
            ("128m", Some(128 << 10)),
            ("128MB", Some(128 << 10)),
            ("1g", Some(1 << 20)),
            ("64k", Some(64)),
            ("2T", Some(2 << 30)),
            ("", None),
            ("m", None),
            ("12b", None),
            ("1.5g", None),
            ("-4", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(kib(text), wanted, "{text}");
        }
    }
}
