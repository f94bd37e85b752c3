//! `trunnion xl`: the verbs of `xl(1)`.

use crate::control::ask::{Ask, Row};
use crate::control::client::Client;
use crate::failure::{Failure, Result, Status};
use crate::say;
use crate::verbs::not_yet;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Manage the domains of a running platform, as xl(1) does
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trunnion xl list
  trunnion xl create linux.cfg
  trunnion xl shutdown --wait debian
  trunnion xl block-attach debian target=data.img,vdev=xvdb,access=rw
  trunnion xl block-detach debian xvdb
  trunnion --instance ci xl list --json
  trunnion xl sched-credit debian -w 512
  trunnion xl mem-set debian 128m

Not there yet (they say so and exit 2): save, restore, migrate")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs of xl that are there.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a domain from a file in the syntax of xl.cfg(5)
    Create {
        /// The file
        #[arg(value_name = "DOMAIN.cfg")]
        file: PathBuf,
        /// Leave it paused
        #[arg(short, long)]
        paused: bool,
        /// Attach to its console
        #[arg(short, long)]
        console: bool,
    },
    /// List domains: id, memory, processors, state, time
    List {
        /// Only this one
        domain: Option<String>,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// End a domain at once
    Destroy {
        /// Name or id
        domain: String,
    },
    /// Ask a domain to power off
    Shutdown {
        /// Name or id
        domain: String,
        /// Return when it has
        #[arg(short, long)]
        wait: bool,
    },
    /// Ask a domain to reboot
    Reboot {
        /// Name or id
        domain: String,
        /// Return when it has
        #[arg(short, long)]
        wait: bool,
    },
    /// Let a domain run no more until `unpause`
    Pause {
        /// Name or id
        domain: String,
    },
    /// Let a paused domain run
    Unpause {
        /// Name or id
        domain: String,
    },
    /// Attach to a domain's console; Ctrl-] leaves
    Console {
        /// Name or id
        domain: String,
    },
    /// Make a device of any class between two domains: `xl device-attach FRONT class=vrng backend=BACK`
    DeviceAttach(super::device::Attach),
    /// Take such a device away
    DeviceDetach(super::device::Detach),
    /// Show the machine: processors, memory, versions
    Info {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the hypervisor's messages
    Dmesg,
    /// Show the id of a domain
    Domid {
        /// Its name
        domain: String,
    },
    /// Show the name of a domain
    Domname {
        /// Its id
        domain: u16,
    },
    /// Give a running domain a network port: mac=…, bridge=…, rate=…
    NetworkAttach {
        /// Name or id
        domain: String,
        /// As in the configuration's `vif`
        #[arg(value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Take a network port away, once the guest has let go of it
    NetworkDetach {
        /// Name or id
        domain: String,
        /// Number or address of the port
        #[arg(value_name = "NUMBER|MAC")]
        nic: String,
    },
    /// List a domain's network ports with what passed through them
    NetworkList {
        /// Name or id
        domain: String,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Give a running domain a disk: target=FILE,vdev=xvdb,access=rw, or FILE,raw,xvdb,rw
    BlockAttach {
        /// Name or id
        domain: String,
        /// As in the configuration's `disk`
        #[arg(value_name = "KEY=VALUE", required = true)]
        options: Vec<String>,
    },
    /// Take a disk away, once the guest has let go of it
    BlockDetach {
        /// Name or id
        domain: String,
        /// Name or number of the disk
        #[arg(value_name = "VDEV")]
        disk: String,
        /// Do not wait for the guest
        #[arg(long)]
        force: bool,
    },
    /// List a domain's disks with what passed through them
    BlockList {
        /// Name or id
        domain: String,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    /// Press a button of an emulated PC
    Trigger {
        /// Name or id
        domain: String,
        /// Which
        #[arg(value_parser = ["power", "reset", "nmi", "sleep"])]
        button: String,
    },
    /// Type on the keyboard of an emulated PC: a, A, 7, ret, esc, up, f10, ctrl-alt-delete
    Sendkeys {
        /// Name or id
        domain: String,
        /// Keys, one after the other
        #[arg(value_name = "KEY", required = true, allow_hyphen_values = true)]
        keys: Vec<String>,
    },
    /// Put an image into a CD drive of an emulated PC
    CdInsert {
        /// Name or id
        domain: String,
        /// The drive, as the domain file names it: hdc
        drive: String,
        /// The image
        file: PathBuf,
    },
    /// Take the disc out of a CD drive of an emulated PC
    CdEject {
        /// Name or id
        domain: String,
        /// The drive, as the domain file names it: hdc
        drive: String,
    },
    /// Write the screen of an emulated PC to a file, as PNG
    Screenshot {
        /// Name or id
        domain: String,
        /// The file
        #[arg(value_name = "FILE.png", required_unless_present = "text")]
        file: Option<PathBuf>,
        /// Print the characters of a text mode instead
        #[arg(long, conflicts_with = "file")]
        text: bool,
    },
    Vnc(super::vnc::Arguments),
    /// List vCPUs: where they are, what they do, time
    VcpuList {
        /// Only those of this one: name or id
        domain: Option<String>,
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Tune(super::tune::Verb),
    /// Show what the domains do: processor, exits by kind, disks, networks
    Top(super::top::Arguments),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// The verbs of xl that will be there.
const LATER: [&str; 3] = ["save", "restore", "migrate"];

/// Does it on the instance `instance`.
pub(crate) fn perform(instance: &str, arguments: Arguments) -> Result<Status> {
    if let Verb::Other(words) = &arguments.verb {
        return other(words);
    }
    if let Verb::Create { file, .. } = &arguments.verb
        && !file.is_file()
    {
        return Err(Failure::usage(format!("there is no domain file {}", file.display())));
    }
    let mut client = Client::connect(instance)?;
    match arguments.verb {
        Verb::Create { file, paused, console } => {
            let file = absolute(&file)?;
            say::progress(&format!("creating the domain of {}", file.display()));
            let name: String = client.ask_for(&Ask::Create { file, paused })?;
            if !console {
                let how = if paused { "created, and is paused" } else { "created, and runs" };
                say::progress(&format!(
                    "domain {name} was {how}; `trunnion console {name}` shows its console"
                ));
            }
            if console {
                return super::console::attach(client, &name, true);
            }
        }
        Verb::List { domain, json } => list(&select(&rows(&mut client)?, domain.as_deref())?, json),
        Verb::Destroy { domain } => drop(client.ask(&Ask::Destroy { domain })?),
        Verb::Shutdown { domain, wait } => end(&mut client, &domain, false, wait)?,
        Verb::Reboot { domain, wait } => end(&mut client, &domain, true, wait)?,
        Verb::Pause { domain } => drop(client.ask(&Ask::Pause { domain, paused: true })?),
        Verb::Unpause { domain } => drop(client.ask(&Ask::Pause { domain, paused: false })?),
        Verb::Console { domain } => return super::console::attach(client, &domain, false),
        Verb::DeviceAttach(arguments) => super::device::attach(&mut client, arguments)?,
        Verb::DeviceDetach(arguments) => super::device::detach(&mut client, arguments)?,
        Verb::Info { json } => info(&client.ask(&Ask::Info)?, json),
        Verb::Dmesg => crate::say::text(&client.ask_for::<String>(&Ask::Dmesg)?),
        Verb::Domid { domain } => {
            select(&rows(&mut client)?, Some(&domain))?
                .iter()
                .for_each(|row| crate::say::out!("{}", row.domid));
        }
        Verb::Domname { domain } => {
            select(&rows(&mut client)?, Some(&domain.to_string()))?
                .iter()
                .for_each(|row| crate::say::out!("{}", row.name));
        }
        Verb::NetworkAttach { domain, options } => {
            client.ask(&Ask::NicAttach { domain, specification: options.join(",") })?;
        }
        Verb::NetworkDetach { domain, nic } => drop(client.ask(&Ask::NicDetach { domain, nic })?),
        Verb::NetworkList { domain, json } => super::network::list(&client.ask(&Ask::Nics { domain })?, json),
        Verb::BlockAttach { domain, options } => {
            let folder = std::env::current_dir()
                .map_err(|e| Failure::file("find the folder that paths begin at,", Path::new("."), &e))?;
            let specification = options.join(",");
            client.ask(&Ask::BlockAttach { domain, specification, folder })?;
        }
        Verb::BlockDetach { domain, disk, force } => {
            client.ask(&Ask::BlockDetach { domain, disk, force })?;
        }
        Verb::BlockList { domain, json } => super::block::list(&client.ask(&Ask::Blocks { domain })?, json),
        Verb::Trigger { domain, button } => drop(client.ask(&Ask::Trigger { domain, button })?),
        Verb::Sendkeys { domain, keys } => {
            let keys = keys.iter().map(|word| super::keys::codes(word)).collect::<Result<_>>()?;
            client.ask(&Ask::Keys { domain, keys })?;
        }
        Verb::CdInsert { domain, drive, file } => {
            let path = std::path::absolute(&file);
            let file = Some(path.map_err(|e| Failure::file("find the image", &file, &e))?);
            client.ask(&Ask::Disc { domain, drive, file })?;
        }
        Verb::CdEject { domain, drive } => drop(client.ask(&Ask::Disc { domain, drive, file: None })?),
        Verb::Screenshot { domain, file, .. } => screenshot(&mut client, domain, file)?,
        Verb::Vnc(arguments) => super::vnc::perform(instance, client, arguments)?,
        Verb::VcpuList { domain, json } => super::tune::vcpus(&client.ask(&Ask::Vcpus { domain })?, json),
        Verb::Tune(verb) => super::tune::perform(&mut client, verb)?,
        Verb::Top(arguments) => super::top::perform(&mut client, &arguments)?,
        Verb::Other(_) => {}
    }
    Ok(Status::Done)
}

/// Writes a screen's picture to a file, or its characters to stdout.
fn screenshot(client: &mut Client, domain: String, file: Option<PathBuf>) -> Result<()> {
    if let Some(file) = file {
        let path = std::path::absolute(&file);
        let file = Some(path.map_err(|e| Failure::file("write the picture", &file, &e))?);
        return client.ask(&Ask::Screenshot { domain, file }).map(drop);
    }
    let lines: Vec<String> = client.ask_for(&Ask::Screenshot { domain, file: None })?;
    if lines.is_empty() {
        return Err(Failure::platform("the screen shows graphics; name a file to get its picture"));
    }
    lines.iter().for_each(|line| crate::say::out!("{}", line.trim_end()));
    Ok(())
}

pub(super) fn rows(client: &mut Client) -> Result<Vec<Row>> {
    client.ask_for(&Ask::List)
}

/// The rows of one domain, by name or id, or all of them.
pub(super) fn select(rows: &[Row], domain: Option<&str>) -> Result<Vec<Row>> {
    let Some(domain) = domain else { return Ok(rows.to_vec()) };
    let found: Vec<Row> =
        rows.iter().filter(|row| row.name == domain || row.domid.to_string() == domain).cloned().collect();
    if found.is_empty() {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        return Err(Failure::new(
            Status::Domain,
            format!("there is no domain \"{domain}\"; there are: {}", names.join(", ")),
        ));
    }
    Ok(found)
}

fn list(rows: &[Row], json: bool) {
    if json {
        crate::say::out!("{:#}", serde_json::json!(rows));
        return;
    }
    crate::say::out!(
        "{:<32} {:>5} {:>6} {:>5}  {:<8} {:>9}",
        "Name",
        "ID",
        "Mem",
        "VCPUs",
        "State",
        "Time(s)"
    );
    for row in rows {
        let (seconds, tenths) = (row.cpu_ns / 1_000_000_000, row.cpu_ns / 100_000_000 % 10);
        crate::say::out!(
            "{:<32} {:>5} {:>6} {:>5}  {:<8} {:>7}.{tenths}",
            row.name,
            row.domid,
            row.memory_mib,
            row.vcpus,
            row.state,
            seconds
        );
    }
}

fn info(value: &serde_json::Value, json: bool) {
    if json {
        crate::say::out!("{value:#}");
        return;
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        crate::say::out!("{key:<24}: {text}");
    }
}

fn end(client: &mut Client, domain: &str, reboot: bool, wait: bool) -> Result<()> {
    let before = select(&rows(client)?, Some(domain))?;
    client.ask(&Ask::Shutdown { domain: domain.to_string(), reboot })?;
    while wait && rows(client)?.iter().any(|row| before.iter().any(|old| old.domid == row.domid)) {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Failure::file("read the domain file", path, &e))
}

/// Refuses a verb that is not there, in different words when it never will be.
fn other(words: &[String]) -> Result<Status> {
    let verb = words.first().map_or("", String::as_str);
    if LATER.contains(&verb) {
        return not_yet(&format!("xl {verb}"));
    }
    Err(Failure::usage(format!("xl has no verb \"{verb}\"; `trunnion xl --help` lists them")))
}
