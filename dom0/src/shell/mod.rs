//! dom0's shell: the verbs of the tool, as lines of text, for a console with nothing but a keyboard behind it.

mod table;
pub mod terminal;

use crate::control::manifest::Create;
use crate::control::reply::{DomainInfo, StoreNode};
use crate::control::request::{DomainName, ShutdownKind, StoreRequest};
use crate::control::summary::Leaks;
use crate::control::{Code, Failure, Reply, Request};
use crate::domains::{Platform, Toolstack};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use table::Table;

const HELP: &str = "\
list [DOMAIN]            domains
create NAME              a domain of the bundle that does not run
destroy DOMAIN           ends a domain without asking it
shutdown DOMAIN          asks a domain to power off
reboot DOMAIN            asks a domain to start again
pause DOMAIN             stops a domain
unpause DOMAIN           lets it run again
info                     facts of the host
dmesg                    the hypervisor's log
devices                  dom0's disks and other devices
network-list DOMAIN      a domain's network ports
network-attach DOMAIN KEY=VALUE,…  gives it one
network-detach DOMAIN NUMBER       takes one away
block-list DOMAIN        a domain's disks
block-detach DOMAIN DISK takes one away
vcpu-list [DOMAIN]       vCPUs, and what they do
rename DOMAIN NAME       gives a domain another name
sysrq DOMAIN KEY         presses a key of Linux's system request
mem-set DOMAIN MIB       asks a domain to do with so much memory
vcpu-set DOMAIN COUNT    asks a domain to use so many vCPUs
sched-credit [DOMAIN [WEIGHT [CAP]]] shares of the processors
debug-keys KEYS          writes the hypervisor's state to its log
xenstore ls [PATH]       the store's tree
xenstore read PATH       a value
xenstore write PATH TEXT sets a value
xenstore list PATH       names of children
xenstore exists PATH     whether there is such a node
xenstore rm PATH         removes a node and all below it
summary                  what the domains have done
poweroff                 ends the platform
help                     this
";

/// Carries out a line and returns what to print. An empty line does nothing.
pub async fn run<P: Platform>(toolstack: &Toolstack<P>, line: &str) -> Result<String, Failure> {
    let words = words(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let request = match words.as_slice() {
        [] => return Ok(String::new()),
        ["help", ..] => return Ok(HELP.into()),
        ["dmesg"] => return dmesg(toolstack).await,
        ["create", name] => create(toolstack, name)?,
        ["xenstore", "ls"] => return tree(toolstack, "/").await,
        ["xenstore", "ls", path] => return tree(toolstack, path).await,
        ["xl", ..] => {
            return Err(Failure::new(Code::UnknownVerb, "leave `xl` out here; `help` lists the verbs"));
        }
        words => request(words)?,
    };
    // Boxed, because a request may carry a line for this function.
    let reply = Box::pin(toolstack.answer(request)).await?;
    Ok(printed(reply))
}

fn request(words: &[&str]) -> Result<Request, Failure> {
    let domain = DomainName::parse;
    Ok(match words {
        ["list"] => Request::List(None),
        ["list", name] => Request::List(Some(domain(name))),
        ["destroy", name] => Request::Destroy(domain(name)),
        ["shutdown", name] => Request::Shutdown { domain: domain(name), kind: ShutdownKind::Poweroff },
        ["reboot", name] => Request::Shutdown { domain: domain(name), kind: ShutdownKind::Reboot },
        ["pause", name] => Request::Pause(domain(name)),
        ["unpause", name] => Request::Unpause(domain(name)),
        ["info"] => Request::Info,
        ["devices"] => Request::Devices,
        ["network-list", name] => Request::NicList(domain(name)),
        ["network-attach", name] => Request::NicAttach { domain: domain(name), specification: String::new() },
        ["network-attach", name, text] => {
            Request::NicAttach { domain: domain(name), specification: (*text).into() }
        }
        ["network-detach", name, nic] => Request::NicDetach { domain: domain(name), nic: (*nic).into() },
        ["block-list", name] => Request::DiskList(domain(name)),
        ["block-detach", name, disk] => {
            Request::DiskDetach { domain: domain(name), disk: (*disk).into(), force: false }
        }
        ["vcpu-list"] => Request::VcpuList(None),
        ["vcpu-list", name] => Request::VcpuList(Some(domain(name))),
        ["rename", name, to] => Request::Rename { domain: domain(name), name: (*to).into() },
        ["sysrq", name, key] if key.chars().count() == 1 => {
            Request::Sysrq { domain: domain(name), key: key.chars().next().unwrap_or_default() }
        }
        ["mem-set", name, mib] => {
            Request::SetMemory { domain: domain(name), kib: number::<u64>(mib)?.saturating_mul(1024) }
        }
        ["vcpu-set", name, count] => Request::SetVcpus { domain: domain(name), count: number(count)? },
        ["sched-credit", rest @ ..] if rest.len() < 4 => Request::Schedule {
            domain: rest.first().copied().map(domain),
            weight: rest.get(1).map(|word| number(word)).transpose()?,
            cap: rest.get(2).map(|word| number(word)).transpose()?,
        },
        ["debug-keys", keys] => Request::DebugKeys((*keys).into()),
        ["summary"] => Request::Summary,
        ["poweroff"] => Request::PowerOff,
        ["xenstore", "read", path] => Request::Xenstore(StoreRequest::Read((*path).into())),
        ["xenstore", "write", path, value] => {
            Request::Xenstore(StoreRequest::Write { path: (*path).into(), value: value.as_bytes().to_vec() })
        }
        ["xenstore", "list", path] => Request::Xenstore(StoreRequest::List((*path).into())),
        ["xenstore", "exists", path] => Request::Xenstore(StoreRequest::Exists((*path).into())),
        ["xenstore", "rm", path] => Request::Xenstore(StoreRequest::Rm((*path).into())),
        [verb, ..] if HELP.lines().any(|line| line.split(' ').next() == Some(verb)) => {
            return Err(Failure::new(
                Code::Malformed,
                format!("wrong arguments for `{verb}`; `help` shows them"),
            ));
        }
        words => {
            let verb = words.first().copied().unwrap_or_default();
            return Err(Failure::new(
                Code::UnknownVerb,
                format!("there is no verb `{verb}`; `help` lists them"),
            ));
        }
    })
}

fn number<T: core::str::FromStr>(word: &str) -> Result<T, Failure> {
    word.parse()
        .map_err(|_| Failure::new(Code::Malformed, format!("`{word}` is not a number that fits here")))
}

fn create<P: Platform>(toolstack: &Toolstack<P>, name: &str) -> Result<Request, Failure> {
    let domain: Option<Create> = toolstack.listed(name);
    let unknown = || {
        Failure::new(
            Code::MissingFile,
            format!(
                "the bundle has no domain `{name}`; a configuration file is brought by the tool's `xl create`"
            ),
        )
    };
    Ok(Request::Create { domain: domain.ok_or_else(unknown)?, paused: false })
}

async fn dmesg<P: Platform>(toolstack: &Toolstack<P>) -> Result<String, Failure> {
    let mut from = 0;
    let mut all = Vec::new();
    while let Reply::Dmesg { text, next } = Box::pin(toolstack.answer(Request::Dmesg { from })).await? {
        if next <= from || text.is_empty() {
            break;
        }
        all.extend(text);
        from = next;
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

async fn tree<P: Platform>(toolstack: &Toolstack<P>, path: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let request = Request::Xenstore(StoreRequest::Ls { path: path.into(), from: start });
        let Reply::Tree { nodes, next } = Box::pin(toolstack.answer(request)).await? else { break };
        for node in &nodes {
            text.push_str(&node_line(path, node));
        }
        from = next;
    }
    Ok(text)
}

fn node_line(top: &str, node: &StoreNode) -> String {
    let below = node.path.strip_prefix(top).unwrap_or(&node.path).trim_start_matches('/');
    let depth = below.matches('/').count();
    let name = below.rsplit('/').next().unwrap_or_default();
    let value = node.value.escape_ascii();
    format!("{:depth$}{name} = \"{value}\"   ({})\n", "", node.permissions.join(","))
}

/// A line's words; quotes keep blanks.
fn words(line: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(Failure::new(Code::Malformed, format!("a quote {quote} is not closed")));
    }
    words.extend(word);
    Ok(words)
}

fn printed(reply: Reply) -> String {
    match reply {
        Reply::Domains(domains) => list(&domains),
        Reply::Created { domid, name, warnings } => {
            let mut lines = warnings;
            lines.push(format!("{name} is domain {domid}"));
            joined(lines)
        }
        Reply::Info(info) => {
            let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
            let mut table = Table::default();
            table.row([String::from("version"), info.version]);
            table.row(["hardware".into(), info.hardware]);
            table.row(["cpus".into(), info.cpus.to_string()]);
            table.row(["clock".into(), format!("{} kHz", info.tsc_khz)]);
            table.row(["memory".into(), mib(info.memory_bytes)]);
            table.row(["free".into(), mib(info.free_bytes)]);
            table.row(["hypervisor".into(), mib(info.hypervisor_bytes)]);
            table.row(["dom0".into(), mib(info.dom0_bytes)]);
            table.row(["uptime".into(), seconds(info.uptime_ns)]);
            table.text()
        }
        Reply::Value(value) => format!("{}\n", String::from_utf8_lossy(&value)),
        Reply::Names(names) => joined(names),
        Reply::Exists(exists) => String::from(if exists { "yes\n" } else { "no\n" }),
        Reply::Text(text) => text,
        Reply::Devices(devices) => {
            let mut table = Table::default();
            table.row(["Kind", "Name", "Bytes", "Users"].map(String::from));
            for device in devices {
                let users: Vec<String> = device.users.iter().map(ToString::to_string).collect();
                table.row([device.kind, device.name, device.bytes.to_string(), users.join(",")]);
            }
            table.text()
        }
        Reply::Disks(disks) => {
            let mut table = Table::default();
            table.row(
                ["Name", "Number", "Bytes", "Mode", "Connected", "Reads", "Writes", "Errors", "Target"]
                    .map(String::from),
            );
            for disk in disks {
                table.row([
                    disk.vdev,
                    disk.number.to_string(),
                    disk.bytes.to_string(),
                    String::from(if disk.read_only { "r" } else { "w" }),
                    disk.connected.to_string(),
                    disk.reads.to_string(),
                    disk.writes.to_string(),
                    disk.errors.to_string(),
                    disk.target,
                ]);
            }
            table.text()
        }
        Reply::Nics(nics) => {
            let mut table = Table::default();
            table.row(["Number", "Address", "Bridge", "Connected", "RX", "TX", "Dropped"].map(String::from));
            for nic in nics {
                table.row([
                    nic.number.to_string(),
                    nic.mac,
                    nic.bridge,
                    nic.connected.to_string(),
                    nic.rx_packets.to_string(),
                    nic.tx_packets.to_string(),
                    nic.dropped.to_string(),
                ]);
            }
            table.text()
        }
        Reply::Vcpus(vcpus) => {
            let mut table = Table::default();
            table.row(["Name", "ID", "VCPU", "CPU", "State", "Time(s)"].map(String::from));
            for vcpu in vcpus {
                table.row([
                    vcpu.name,
                    vcpu.domid.to_string(),
                    vcpu.vcpu.to_string(),
                    vcpu.cpu.map_or_else(|| String::from("-"), |cpu| cpu.to_string()),
                    vcpu.state,
                    seconds(vcpu.cpu_ns),
                ]);
            }
            table.text()
        }
        Reply::Scheduling(domains) => {
            let mut table = Table::default();
            table.row(["Name", "ID", "Weight", "Cap"].map(String::from));
            for domain in domains {
                let (weight, cap) = (domain.weight.to_string(), domain.cap.to_string());
                table.row([domain.name, domain.domid.to_string(), weight, cap]);
            }
            table.text()
        }
        Reply::Summary(summary) => {
            let mut table = Table::default();
            table.row(
                ["Name", "ID", "Outcome", "CPU", "Exits", "Hypercalls", "Events", "Grants"].map(String::from),
            );
            for domain in summary.domains {
                table.row([
                    domain.name,
                    domain.domid.to_string(),
                    format!("{:?}", domain.outcome).to_lowercase(),
                    seconds(domain.cpu_ns),
                    domain.exits.values().sum::<u64>().to_string(),
                    domain.hypercalls.values().sum::<u64>().to_string(),
                    domain.events.sent.to_string(),
                    domain.grants.mapped.to_string(),
                ]);
            }
            let leaks = summary.platform.leaks;
            let Leaks { frames, grants, ports, store_nodes } = leaks;
            table.text()
                + &format!(
                    "leaks: {frames} frames, {grants} grants, {ports} ports, {store_nodes} store nodes\n"
                )
        }
        Reply::Done
        | Reply::Hello { .. }
        | Reply::Dmesg { .. }
        | Reply::Tree { .. }
        | Reply::Screen { .. }
        | Reply::ScreenText { .. } => String::new(),
    }
}

/// Each on a line of its own.
fn joined(mut lines: Vec<String>) -> String {
    lines.push(String::new());
    lines.join("\n")
}

fn list(domains: &[DomainInfo]) -> String {
    let mut table = Table::default();
    table.row(["Name", "ID", "Mem", "VCPUs", "State", "Time(s)"].map(String::from));
    for domain in domains {
        table.row([
            domain.name.clone(),
            domain.domid.to_string(),
            (domain.memory_bytes >> 20).to_string(),
            domain.vcpus.to_string(),
            format!("{:?}", domain.state).to_lowercase(),
            seconds(domain.cpu_ns),
        ]);
    }
    table.text()
}

fn seconds(ns: u64) -> String {
    format!("{}.{}", ns / 1_000_000_000, ns / 100_000_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_people_expect() {
        assert_eq!(words("  xenstore write /a 'b c'  ").unwrap(), ["xenstore", "write", "/a", "b c"]);
        assert_eq!(words("a \"\" b").unwrap(), ["a", "", "b"]);
        assert_eq!(words("").unwrap(), Vec::<String>::new());
        assert_eq!(words("'a").unwrap_err().code, Code::Malformed);
        assert_eq!(request(&["frob"]).unwrap_err().message, "there is no verb `frob`; `help` lists them");
        assert_eq!(
            request(&["pause"]).unwrap_err().message,
            "wrong arguments for `pause`; `help` shows them"
        );
    }

    #[test]
    fn nodes_are_indented_by_depth() {
        let node = StoreNode {
            path: "/local/domain/0/name".into(),
            value: b"a\"\0".to_vec(),
            permissions: Vec::from(["n0".into()]),
        };
        assert_eq!(node_line("/", &node), "   name = \"a\\\"\\x00\"   (n0)\n");
        assert_eq!(node_line("/local/domain/0", &node), "name = \"a\\\"\\x00\"   (n0)\n");
    }
}
