//! A domain for a platform that runs already: dom0 fetches its files while it builds it, and its disks are plugged into the machine.

use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result, Status};
use crate::machine::Machine;
use crate::machine::monitor::Monitor;
use crate::run::disks::{self, Disk};
use crate::run::plan::{self, Content};
use crate::say;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use trunnion_dom0::control::manifest::{Create, Placed, Source};
use trunnion_dom0::control::{Reply, Request};
use trunnion_dom0::image::Image;

/// Makes domains on request; one at a time, because they share the machine's slots and images.
pub(crate) struct Creator {
    machine: Machine,
    monitor: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// The machine's devices.
    devices: Vec<Disk>,
    /// How many of them it started with.
    first: usize,
    /// Who was given which image, by domain name.
    users: Vec<(String, Disk)>,
}

impl Creator {
    /// A creator for a machine with these devices, and these users of them.
    pub(crate) fn new(
        machine: Machine,
        monitor: PathBuf,
        devices: Vec<Disk>,
        users: Vec<(String, Disk)>,
    ) -> Self {
        Self { machine, monitor, state: Mutex::new(State { first: devices.len(), devices, users }) }
    }

    /// Creates the domain of `file`, and returns its name.
    pub(crate) fn create(&self, dom0: &Dom0, file: &Path, paused: bool) -> Result<String> {
        let domain = plan::read(file, self.machine)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Reply::Domains(living) = dom0.call(Request::List(None))? else { return Err(strange()) };
        if living.iter().any(|other| other.name == domain.config.name) {
            return Err(Failure::usage(format!(
                "{}: a domain \"{}\" is running already; give this one another name, or end that one with `trunnion xl destroy {}`",
                domain.file, domain.config.name, domain.config.name
            )));
        }
        state.users.retain(|(name, _)| living.iter().any(|domain| domain.name == *name));
        let wanted = domain.users();
        let mut users = state.users.clone();
        users.extend(wanted.clone());
        disks::exclusive(&users)?;

        let create = self.bring(dom0, &mut state, domain)?;
        let reply = dom0.call(Request::Create { domain: create, paused });
        match reply {
            Ok(Reply::Created { name, warnings, .. }) => {
                for warning in warnings {
                    say::warning(&warning);
                }
                state.users.extend(wanted);
                Ok(name)
            }
            Ok(_) => Err(strange()),
            Err(failure) => Err(failure),
        }
    }

    fn bring(&self, dom0: &Dom0, state: &mut State, domain: plan::Domain) -> Result<Create> {
        let mut files = Vec::new();
        let mut kernel = None;
        let mut offers = Offers { dom0, files: Vec::new() };
        for (path, content) in domain.files {
            let source = match content {
                Content::Kernel(bytes) => {
                    let image = Image::parse(&bytes);
                    kernel =
                        Some(image.map_err(|why| Failure::usage(format!("{}: {path}: {why}", domain.file)))?);
                    offers.add(bytes)
                }
                Content::Ramdisk(bytes) => offers.add(bytes),
                Content::Firmware(path) => offers.add(plan::firmware(&path)?),
                Content::Memory(disk) => offers.add(plan::load(&disk)?),
                Content::Device(disk) => {
                    let serial = disk.serial.clone();
                    self.plug(state, disk)?;
                    Source::Disk(serial)
                }
            };
            files.push(Placed { path, source });
        }
        // From here on dom0 says when it is done with them.
        offers.files.clear();
        Ok(Create { file: domain.file, text: domain.text, files, kernel })
    }

    /// Gives the machine the device for `disk`, unless it has it.
    fn plug(&self, state: &mut State, disk: Disk) -> Result<()> {
        if let Some(known) = state.devices.iter().find(|known| known.path == disk.path) {
            if known.writable || !disk.writable {
                return Ok(());
            }
            return Err(Failure::usage(format!(
                "the machine has the disk {} for reading only, from an earlier domain; it cannot be changed to writing while it runs",
                disk.path.display()
            )));
        }
        Monitor::connect(&self.monitor)?.plug(&disk, state.devices.len(), state.first)?;
        state.devices.push(disk);
        Ok(())
    }
}

/// Files that dom0 may fetch; what it has not heard of is taken back.
struct Offers<'a> {
    dom0: &'a Dom0,
    files: Vec<u32>,
}

impl Offers<'_> {
    fn add(&mut self, bytes: Vec<u8>) -> Source {
        let size = bytes.len() as u64;
        let file = self.dom0.offer(Arc::new(bytes));
        self.files.push(file);
        Source::Streamed { file, size }
    }
}

impl Drop for Offers<'_> {
    fn drop(&mut self) {
        for &file in &self.files {
            self.dom0.withdraw(file);
        }
    }
}

fn strange() -> Failure {
    Failure::new(Status::Platform, "dom0 answered with something else than was asked for")
}
