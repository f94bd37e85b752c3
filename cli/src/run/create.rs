//! A domain for a platform that runs already: its files are sent to dom0, and its disks are plugged into the machine.

use crate::control::dom0::Dom0;
use crate::failure::{Failure, Result, Status};
use crate::machine::Machine;
use crate::machine::monitor::Monitor;
use crate::run::disks::{self, Disk};
use crate::run::plan::{self, Content};
use crate::say;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use trunnion_dom0::control::manifest::{Create, Placed, Source};
use trunnion_dom0::control::{Reply, Request, UPLOAD_CHUNK};

/// Makes domains on request; one at a time, because they share the machine's slots and images.
pub(crate) struct Creator {
    machine: Machine,
    monitor: PathBuf,
    state: Mutex<State>,
    uploads: AtomicU32,
}

struct State {
    /// The machine's devices.
    devices: Vec<Disk>,
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
        Self { machine, monitor, state: Mutex::new(State { devices, users }), uploads: AtomicU32::new(1) }
    }

    /// Creates the domain of `file`, and returns its name.
    pub(crate) fn create(&self, dom0: &Dom0, file: &Path, paused: bool) -> Result<String> {
        let domain = plan::read(file, self.machine)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Reply::Domains(living) = dom0.call(Request::List(None))? else { return Err(strange()) };
        state.users.retain(|(name, _)| living.iter().any(|domain| domain.name == *name));
        let wanted = domain.users();
        let mut users = state.users.clone();
        users.extend(wanted.clone());
        disks::exclusive(&users)?;

        let mut uploads = Vec::new();
        let create = self.bring(dom0, &mut state, domain, &mut uploads);
        let reply = create.and_then(|domain| dom0.call(Request::Create { domain, paused }));
        match reply {
            Ok(Reply::Created { name, warnings, .. }) => {
                for warning in warnings {
                    say::warning(&warning);
                }
                state.users.extend(wanted);
                Ok(name)
            }
            Ok(_) => Err(strange()),
            Err(failure) => {
                for file in uploads {
                    let _ = dom0.call(Request::DropUpload { file });
                }
                Err(failure)
            }
        }
    }

    fn bring(
        &self,
        dom0: &Dom0,
        state: &mut State,
        domain: plan::Domain,
        uploads: &mut Vec<u32>,
    ) -> Result<Create> {
        let mut files = Vec::new();
        for (path, content) in domain.files {
            let source = match content {
                Content::Kernel(bytes) | Content::Ramdisk(bytes) => self.upload(dom0, &bytes, uploads)?,
                Content::Memory(disk) => self.upload(dom0, &plan::load(&disk)?, uploads)?,
                Content::Device(disk) => {
                    let serial = disk.serial.clone();
                    self.plug(state, disk)?;
                    Source::Disk(serial)
                }
            };
            files.push(Placed { path, source });
        }
        Ok(Create { file: domain.file, text: domain.text, files })
    }

    fn upload(&self, dom0: &Dom0, bytes: &[u8], uploads: &mut Vec<u32>) -> Result<Source> {
        let file = self.uploads.fetch_add(1, Ordering::Relaxed);
        uploads.push(file);
        let mut replies = Vec::new();
        for (n, chunk) in bytes.chunks(UPLOAD_CHUNK).enumerate() {
            let part = Request::Upload {
                file,
                total: bytes.len() as u64,
                offset: (n * UPLOAD_CHUNK) as u64,
                data: chunk.to_vec(),
            };
            replies.push(dom0.begin(part)?);
        }
        for reply in replies {
            match reply.recv() {
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Err(crate::control::dom0::refusal(&failure)),
                Err(_) => return Err(Failure::platform("the platform ended while files were sent to dom0")),
            }
        }
        Ok(Source::Upload(file))
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
        Monitor::connect(&self.monitor)?.plug(&disk, state.devices.len())?;
        state.devices.push(disk);
        Ok(())
    }
}

fn strange() -> Failure {
    Failure::new(Status::Platform, "dom0 answered with something else than was asked for")
}
