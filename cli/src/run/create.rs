//! A domain, or a disk for one, for a platform that runs already: dom0 fetches its files, and its disks are plugged into the machine.

use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result, Status};
use crate::machine::Machine;
use crate::machine::monitor::Monitor;
use crate::run::disks::{self, Disk};
use crate::run::plan::{self, Content};
use crate::say;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use trunnion_dom0::config::Access;
use trunnion_dom0::control::manifest::{Create, Placed, Source};
use trunnion_dom0::control::reply::{DiskInfo, DomainInfo};
use trunnion_dom0::control::request::DomainName;
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

impl State {
    /// The domains that live; images of others are free again.
    fn living(&mut self, dom0: &Dom0) -> Result<Vec<DomainInfo>> {
        let Reply::Domains(living) = dom0.call(Request::List(None))? else { return Err(strange()) };
        self.users.retain(|(name, _)| living.iter().any(|domain| domain.name == *name));
        Ok(living)
    }

    /// The same, and the name of one.
    fn refresh(&mut self, dom0: &Dom0, domain: &DomainName) -> Result<String> {
        let is = |other: &DomainInfo| match domain {
            DomainName::Id(id) => other.domid == *id,
            DomainName::Name(name) => other.name == *name,
        };
        let found = self.living(dom0)?.into_iter().find(is).map(|found| found.name);
        found.ok_or_else(|| Failure::new(Status::Domain, format!("there is no domain `{domain}`")))
    }

    /// The users of images, and one more.
    fn with(&self, user: (String, Disk)) -> Vec<(String, Disk)> {
        self.users.iter().cloned().chain([user]).collect()
    }
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
        let living = state.living(dom0)?;
        if living.iter().any(|other| other.name == domain.config.name) {
            return Err(Failure::usage(format!(
                "{}: a domain \"{}\" is running already; give this one another name, or end that one with `trunnion xl destroy {}`",
                domain.file, domain.config.name, domain.config.name
            )));
        }
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

    /// Gives a living domain the disk of a specification, whose path begins at `folder`.
    pub(crate) fn attach(
        &self,
        dom0: &Dom0,
        domain: &DomainName,
        specification: &str,
        folder: &Path,
    ) -> Result<Vec<DiskInfo>> {
        let (wanted, target) = plan::disk(specification)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = state.refresh(dom0, domain)?;
        let found = disks::check(&name, &folder.join(target), wanted.access == Access::ReadWrite)?;
        let mut offers = Offers { dom0, files: Vec::new() };
        let (source, user) = match plan::kept(found, &wanted, self.machine) {
            Content::Memory(disk) => {
                disks::exclusive(&state.with((name.clone(), Disk { writable: false, ..disk.clone() })))?;
                (offers.add(plan::load(&disk)?), None)
            }
            Content::Device(disk) => {
                disks::exclusive(&state.with((name.clone(), disk.clone())))?;
                let serial = disk.serial.clone();
                self.plug(&mut state, disk.clone())?;
                (Source::Disk(serial), Some((name, disk)))
            }
            _ => return Err(strange()),
        };
        let (domain, specification) = (domain.clone(), specification.to_string());
        // dom0 says when it is done with what it was offered.
        offers.files.clear();
        let Reply::Disks(disks) = dom0.call(Request::DiskAttach { domain, specification, source })? else {
            return Err(strange());
        };
        state.users.extend(user);
        Ok(disks)
    }

    /// Takes a disk away from a living domain; its image is free for others then.
    pub(crate) fn detach(
        &self,
        dom0: &Dom0,
        domain: &DomainName,
        disk: String,
        force: bool,
    ) -> Result<Vec<DiskInfo>> {
        // Not under the lock: a guest may take its time.
        let request = Request::DiskDetach { domain: domain.clone(), disk, force };
        let Reply::Disks(disks) = dom0.call(request)? else { return Err(strange()) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(name) = state.refresh(dom0, domain) {
            for gone in &disks {
                let is = |(user, disk): &(String, Disk)| {
                    *user == name && Some(&disk.serial) == gone.device.as_ref()
                };
                if let Some(at) = state.users.iter().position(is) {
                    state.users.swap_remove(at);
                }
            }
        }
        Ok(disks)
    }

    /// Gives a domain another name.
    pub(crate) fn rename(&self, dom0: &Dom0, domain: &DomainName, name: &str) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.refresh(dom0, domain)?;
        dom0.call(Request::Rename { domain: domain.clone(), name: name.to_string() })?;
        state
            .users
            .iter_mut()
            .filter(|(user, _)| *user == before)
            .for_each(|(user, _)| name.clone_into(user));
        Ok(())
    }

    /// Puts an image into a CD drive of a domain, or takes out what is there.
    pub(crate) fn change_disc(
        &self,
        dom0: &Dom0,
        domain: &DomainName,
        drive: String,
        file: Option<&Path>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = state.refresh(dom0, domain)?;
        let disc = match file {
            None => None,
            Some(file) => {
                let disk = disks::check(&name, file, false)?;
                disks::exclusive(&state.with((name.clone(), disk.clone())))?;
                let placed =
                    Placed { path: file.display().to_string(), source: Source::Disk(disk.serial.clone()) };
                self.plug(&mut state, disk.clone())?;
                Some((placed, disk))
            }
        };
        let (placed, disk) = disc.unzip();
        dom0.call(Request::ChangeDisc { domain: domain.clone(), drive, disc: placed })?;
        state.users.extend(disk.map(|disk| (name, disk)));
        Ok(())
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
