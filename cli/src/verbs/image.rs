//! `trunnion image`: hypervisor, dom0 and domains as one file that a machine starts from, with a person at its serial console.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use trunnion_dom0::control::{Manifest, VERSION};

use crate::bundle::Bundle;
use crate::failure::{Failure, Result, Status};
use crate::machine::Machine;
use crate::machine::iso::{self, Firmware};
use crate::run::plan::Plan;
use crate::setup::{self, Permission, Tool};
use crate::{images, say};

/// No disk of such a machine is known here: all of them are in dom0's memory, which is what this one stands for.
const MACHINE: Machine = Machine::BochsVmx;

/// The tools that an image takes.
const TOOLS: [Tool; 5] = [Tool::GrubModules, Tool::GrubEfi, Tool::Grub, Tool::Xorriso, Tool::Mtools];

/// Make a bootable image (BIOS and UEFI) with the platform and these domains on it
#[derive(Debug, Args)]
#[command(
    after_help = "Disks go into the image, and dom0 keeps them in memory: what a guest writes is gone when the machine ends.
COM1 (115200 baud) is the console: of the first domain, and behind Ctrl-] of dom0's shell.

Examples:
  trunnion image trunnion.iso guest.cfg
  qemu-system-x86_64 -cpu max -m 1024 -cdrom trunnion.iso -nographic
  dd if=trunnion.iso of=/dev/sdX bs=4M conv=fsync      # for a real machine; nobody has tried one yet"
)]
pub(crate) struct Arguments {
    /// The image to write
    #[arg(value_name = "OUT.iso")]
    out: PathBuf,
    /// Domain files in the syntax of xl.cfg(5)
    #[arg(value_name = "DOMAIN.cfg")]
    domains: Vec<PathBuf>,
    /// Name what is missing, and never install it
    #[arg(long)]
    no_install: bool,
}

/// Makes the image.
pub(crate) fn perform(arguments: &Arguments) -> Result<Status> {
    let Arguments { out, domains, no_install } = arguments;
    let folder = match out.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if out.is_dir() || !folder.is_dir() {
        return Err(Failure::usage(format!(
            "{} cannot be a file: name one in a folder that is there",
            out.display()
        )));
    }
    let mut plan = Plan::read(domains, MACHINE)?;
    let permission = if *no_install { Permission::Never } else { Permission::Install };
    setup::ensure(&[&TOOLS, plan.tools()].concat(), permission)?;
    let (hypervisor, dom0) = images::platform()?;
    let dom0 = fs::read(&dom0).map_err(|e| Failure::file("read", &dom0, &e))?;

    let dom0_memory = plan.dom0_mib();
    let is_networked = plan.domains.iter().any(|domain| !domain.config.nics.is_empty());
    let mut bundle = Bundle::new(&dom0);
    let manifest = Manifest {
        version: VERSION,
        terminal: true,
        address: if is_networked { "dhcp" } else { "none" }.into(),
        domains: plan.pack(&mut bundle)?,
        ..Manifest::default()
    };
    bundle.configure(manifest.to_bytes());
    let memory = plan.memory_mib(bundle.size(), dom0_memory, false);
    // Beside its place, and then there at once and whole.
    let parts = tempfile::tempdir_in(folder).map_err(|e| Failure::file("make a folder in", folder, &e))?;
    let (module, image) = (parts.path().join("bundle"), parts.path().join("image"));
    bundle.write(&module)?;
    let cmdline = dom0_memory.map_or(String::new(), |dom0| format!("dom0-memory={dom0}"));
    say::progress(&format!("writing {}", out.display()));
    iso::write(&image, &hypervisor, Some(&module), &cmdline, Firmware::Any)?;
    fs::rename(&image, out).map_err(|e| Failure::file("write", out, &e))?;
    say::progress(&format!(
        "{} boots on machines with {memory} MiB and VMX or SVM, by BIOS or UEFI; COM1 is its console",
        out.display()
    ));
    Ok(Status::Done)
}
