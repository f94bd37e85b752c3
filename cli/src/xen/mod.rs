//! `trunnion run --machine xen`: the same domains on Debian's real Xen with a Linux dom0, in QEMU, for comparison.
//!
//! Xen, dom0's kernel and its tools come from Debian's packages; dom0 is a RAM disk with a script as its first program. A folder of the host
//! that dom0 mounts (9p) carries the domains' files in, and what happens out: `events`, one a line, the consoles, and dom0's own log. The
//! domains' disks are devices of the machine, as on every other one.

mod domain;
mod follow;
mod parts;

use crate::demo;
use crate::failure::{Failure, Result, Status};
use crate::instance::Instance;
use crate::machine::child::Emulator;
use crate::machine::{Boot, Machine, qemu};
use crate::run::Options;
use crate::run::plan::Plan;
use crate::setup::{self, Permission, Tool};
use crate::{say, workspace};
use follow::Course;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of this machine on the command line.
pub(crate) const NAME: &str = "xen";

/// dom0's memory in MiB when none is given: Debian's kernel, and a root in memory.
const DOM0_MIB: u32 = 512;
/// What Xen itself takes, with room for its tables.
const XEN_MIB: u64 = 128;

/// Does it: status 0 when every domain ended by power-off.
pub(crate) fn perform(instance: &str, options: &Options) -> Result<Status> {
    refuse_what_is_not_there(options)?;
    let instance = Instance::claim(instance)?;
    let marker = instance.file(crate::instance::FOREIGN);
    fs::write(&marker, "").map_err(|e| Failure::file("write", &marker, &e))?;
    let permission = if options.no_install { Permission::Never } else { Permission::Install };
    let mut tools = Tool::of(Machine::QemuSvm).to_vec();
    if options.domains.is_empty() {
        tools.extend(demo::TOOLS);
    }
    // Wrong files before long set-ups.
    let mut plan = Plan::read(&options.domains, Machine::QemuSvm)?;
    setup::ensure(&tools, permission)?;
    if options.domains.is_empty() {
        plan = Plan::read(&demo::prepare(true, permission)?, Machine::QemuSvm)?;
    }
    let parts = parts::make(permission)?;

    let folder = workspace::target("run")?.join(instance.name());
    let share = folder.join("share");
    let _ = fs::remove_dir_all(&share);
    make_folder(&share)?;
    let logs = options.log.clone().unwrap_or_else(|| folder.clone());
    make_folder(&logs)?;
    let names: Vec<String> = plan.domains.iter().map(|domain| domain.config.name.clone()).collect();
    for domain in &plan.domains {
        domain::lay_down(&share, domain)?;
    }
    let put = |name: &str, text: String| {
        let path = share.join(name);
        fs::write(&path, text).map_err(|e| Failure::file("write", &path, &e))
    };
    put("domains", names.join("\n") + "\n")?;
    let nics = plan.domains.iter().flat_map(|domain| &domain.config.nics);
    let bridges: BTreeSet<&str> = nics.map(trunnion_dom0::config::Nic::bridge_name).collect();
    put("bridges", bridges.into_iter().collect::<Vec<_>>().join("\n"))?;
    if options.sequence {
        put("sequence", String::new())?;
    }

    let boot = machine(options, &plan, &parts)?;
    say::progress(&format!(
        "starting Debian's Xen with a Linux dom0 on {} with {} MiB; logs are in {}",
        boot.cpu.as_deref().unwrap_or(boot.machine.default_cpu()),
        boot.memory_mib,
        logs.display()
    ));
    let errors = folder.join("emulator.log");
    let said = File::create(&errors).map_err(|e| Failure::file("make", &errors, &e))?;
    let serial = logs.join("hypervisor.log");
    let signals = follow::hear_signals()?;
    let emulator = Emulator::start(qemu::PROGRAM, |command| {
        qemu::options(command, &boot, &serial);
        qemu::disks(command, &plan.devices);
        command.arg("-fsdev").arg(format!("local,id=share,security_model=none,path={}", qemu::comma(&share)));
        command.args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share,disable-legacy=on,addr=2"]);
        command.stderr(said);
    })?;
    let limit = options.timeout.map(Duration::from_secs);
    let course = Course { names, share: share.clone(), logs, serial, errors, limit, signals };
    let ended = follow::follow(emulator, &course, u64::from(boot.memory_mib) << 20);
    let _ = fs::remove_dir_all(&share);
    ended
}

/// What the platform has, and a comparison with real Xen has not.
fn refuse_what_is_not_there(options: &Options) -> Result<()> {
    let refused = [
        (options.keep, "--keep: the machine is switched off when the last domain has ended"),
        (options.hypervisor.is_some(), "--hypervisor: it runs Debian's Xen"),
        (options.dom0.is_some(), "--dom0: it runs Debian's Linux there"),
        (options.dom0_ip.is_some(), "--dom0-ip: its dom0 has no address"),
        (options.control_token.is_some(), "--control-token: its dom0 has no address"),
        (!options.pcap.is_empty(), "--pcap: its network ports are Linux's"),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, why)) => Err(Failure::usage(format!("--machine {NAME} goes without {why}"))),
        None => Ok(()),
    }
}

/// The machine: Xen as a multiboot kernel, dom0's kernel and RAM disk as its modules.
fn machine(options: &Options, plan: &Plan, parts: &parts::Parts) -> Result<Boot> {
    let dom0 = options.dom0_memory.unwrap_or(DOM0_MIB);
    let each = plan.domains.iter().map(|domain| domain.config.max_memory_mib + 16);
    let domains: u64 = if options.sequence { each.max().unwrap_or_default() } else { each.sum() };
    let needed = XEN_MIB + u64::from(dom0) + domains;
    let given = options.memory.map_or(needed.next_multiple_of(16), u64::from);
    if given < needed {
        return Err(Failure::usage(format!(
            "--memory {given} is not enough: Xen, its dom0 and the domains together need {needed} (MiB)"
        )));
    }
    let mut boot = Boot::new(Machine::QemuSvm, &parts.xen);
    boot.cpu.clone_from(&options.cpu);
    boot.memory_mib = u32::try_from(given).unwrap_or(u32::MAX);
    boot.smp = options.smp;
    boot.icount = options.icount;
    boot.cmdline =
        format!("console=com1 com1=115200 dom0_mem={dom0}M,max:{dom0}M dom0_max_vcpus=1 dom0_vcpus_pin");
    // QEMU splits the modules at commas, and gives each the words after its name.
    let words = "console=hvc0 quiet panic=1 net.ifnames=0";
    boot.module = Some(PathBuf::from(format!(
        "{} {words},{}",
        qemu::comma(&parts.kernel),
        qemu::comma(&parts.ramdisk)
    )));
    let uplink = options.uplink(plan.domains.iter().any(|domain| !domain.config.nics.is_empty()));
    if uplink != "none" {
        boot.extra = qemu::network(uplink, &options.forwards()?);
    }
    boot.extra.extend_from_slice(&options.emulator);
    Ok(boot)
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))
}
