//! From a wish to a running domain.

use super::{Entry, Platform, State, Status, Toolstack, Wish, hypervisor};
use crate::build::{self, Cause, DiskRefusal, DiskSource, File, Files, Step, Stream};
use crate::config::{self, DomainConfig, Kind, VGA_BIOS};
use crate::control::manifest::{Create, Source};
use crate::control::{Code, Event, Failure, summary};
use crate::cpio::Archive;
use crate::image::{Image, ImageError};
use crate::plan::{self, Capacity, Plan, Refusal};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trunnion_protocol::id::DomainId;

/// A built domain, for the answer.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) id: DomainId,
    pub(super) name: String,
    pub(super) warnings: Vec<String>,
}

impl<P: Platform> Toolstack<P> {
    /// Builds a domain that a tool asks for. Files that it left with the tool are needed until the domain has ended for good.
    pub(super) async fn create(&self, create: Create, paused: bool) -> Result<Built, Failure> {
        let wish = Rc::new(Wish::new(create, false));
        let result = self.build(&wish, paused).await.map_err(|(_, failure)| failure);
        if result.is_err() {
            self.forget_files(&wish);
        }
        result
    }

    /// Tells the tool that a domain's files will not be asked for again.
    pub(super) fn forget_files(&self, wish: &Wish) {
        for placed in &wish.create.files {
            if let Source::Streamed { file, .. } = placed.source {
                self.platform.event(Event::Forget { file });
            }
        }
    }

    /// Builds a domain and lets it run. An error comes with the domain's name, as soon as that is known.
    pub(super) async fn build(
        &self,
        wish: &Rc<Wish>,
        paused: bool,
    ) -> Result<Built, (Option<String>, Failure)> {
        let begin = self.platform.now_ns();
        let (mut config, warnings) = configuration(&wish.create).map_err(|failure| (None, failure))?;
        if let Some(name) = &*wish.renamed.borrow() {
            config.name.clone_from(name);
        }
        let name = config.name.clone();
        let named = |failure| (Some(name.clone()), failure);
        self.reserve_name(&name).map_err(named)?;
        // One at a time: a plan counts on the memory that it saw free.
        while core::mem::replace(&mut self.state.borrow_mut().busy, true) {
            self.platform.rest().await;
        }
        let built = self.build_named(wish, &config, begin).await;
        {
            let mut state = self.state.borrow_mut();
            state.busy = false;
            state.building.retain(|other| *other != name);
        }
        let id = built.map_err(named)?;
        if !paused {
            self.let_run(id).map_err(named)?;
        }
        Ok(Built { id, name, warnings })
    }

    /// Fails when a domain has a name, or will have it.
    pub(super) fn check_free(&self, name: &str) -> Result<(), Failure> {
        let state = self.state.borrow();
        let taken = state.entries.values().any(|entry| entry.name() == name)
            || state.building.iter().any(|other| other == name);
        if taken {
            return Err(Failure::new(Code::NameTaken, format!("a domain `{name}` exists")));
        }
        Ok(())
    }

    fn reserve_name(&self, name: &str) -> Result<(), Failure> {
        self.check_free(name)?;
        self.state.borrow_mut().building.push(name.to_string());
        Ok(())
    }

    async fn build_named(
        &self,
        wish: &Rc<Wish>,
        config: &DomainConfig,
        begin: u64,
    ) -> Result<DomainId, Failure> {
        let (plan, files) = match config.kind {
            Kind::Pvh => self.plan_kernel(wish, config)?,
            Kind::Hvm => self.plan_pc(wish, config)?,
        };
        log::info!("a domain is being built name={} memory={} pages", plan.name, plan.ram_pages);
        let domain =
            build::build(plan, &files, &self.platform).await.map_err(|error| failed(config, &error))?;
        Ok(self.register(domain, wish, begin))
    }

    /// Plans a domain that starts with a kernel.
    fn plan_kernel<'a>(&self, wish: &'a Wish, config: &DomainConfig) -> Result<(Plan, Files<'a>), Failure> {
        let content = |key: &str, path: &Option<String>| -> Result<File<'_>, Failure> {
            path.as_deref().map_or(Ok(File::default()), |path| self.content(wish, key, path))
        };
        let kernel = content("kernel", &config.kernel)?;
        let ramdisk = content("ramdisk", &config.ramdisk)?;
        let image = match (kernel, &wish.create.kernel) {
            (File::Here(bytes), _) => Image::parse(bytes),
            (File::Streamed(stream), Some(image)) => image.clone().checked(stream.size),
            (File::Streamed(_), None) => Err(ImageError::Damaged),
        };
        let image = image.map_err(|error| {
            let path = config.kernel.as_deref().unwrap_or_default();
            Failure::new(Code::Image, format!("{path}: {error}"))
        })?;
        let size = config.ramdisk.is_some().then_some(ramdisk.size());
        let plan = plan::plan(config, &image, size, &self.capacity()?)
            .map_err(|refusal| refused(config, refusal))?;
        let files = Files { kernel, ramdisk, disks: self.disk_sources(wish, &plan)?, ..Files::default() };
        Ok((plan, files))
    }

    /// Plans a domain that starts with firmware.
    fn plan_pc<'a>(&self, wish: &'a Wish, config: &DomainConfig) -> Result<(Plan, Files<'a>), Failure> {
        let firmware = self.content(wish, "firmware_override", config.firmware())?;
        let screen = self.content(wish, "vga", VGA_BIOS)?;
        let plan = plan::pc(config, firmware.size(), &self.capacity()?)
            .map_err(|refusal| refused(config, refusal))?;
        let floppy = match config.hvm.floppy.as_deref() {
            Some(path) => self.source(wish, "floppy", path).map(Some)?,
            None => None,
        };
        let disks = self.disk_sources(wish, &plan)?;
        Ok((plan, Files { firmware, screen, floppy, disks, ..Files::default() }))
    }

    fn register(&self, domain: build::Domain, wish: &Rc<Wish>, begin: u64) -> DomainId {
        let id = domain.id();
        let name = domain.plan.name.clone();
        let State { entries, figures, .. } = &mut *self.state.borrow_mut();
        figures.push(summary::Domain {
            name: name.clone(),
            domid: id.0,
            create_begin_ns: begin,
            ..summary::Domain::default()
        });
        let figure = figures.len() - 1;
        entries
            .insert(id, Entry { status: Status::Alive, domain: Some(domain), wish: Rc::clone(wish), figure });
        log::info!("a domain was built domain={id} name={name}");
        self.platform.event(Event::DomainCreated { domid: id.0, name, create_begin_ns: begin });
        id
    }

    /// Lets a domain run, and notes when it did so first.
    pub(super) fn let_run(&self, id: DomainId) -> Result<(), Failure> {
        self.check_alive(id)?;
        let now = self.platform.now_ns();
        self.platform.unpause(id).map_err(|errno| hypervisor("starting the domain", errno))?;
        let mut first = None;
        {
            let State { entries, figures, .. } = &mut *self.state.borrow_mut();
            if let Some(figure) = entries.get(&id).and_then(|entry| figures.get_mut(entry.figure))
                && figure.unpaused_ns == 0
            {
                figure.unpaused_ns = now;
                first = Some(figure.name.clone());
            }
        }
        if let Some(name) = first {
            self.platform.event(Event::DomainUnpaused { domid: id.0, name, unpaused_ns: now });
        }
        Ok(())
    }

    fn capacity(&self) -> Result<Capacity, Failure> {
        let host = self.platform.host_info().map_err(|errno| hypervisor("asking for free memory", errno))?;
        let mut state = self.state.borrow_mut();
        state.seed = state.seed.wrapping_add(self.platform.now_ns()).rotate_left(17);
        Ok(Capacity { free_pages: host.free_bytes / 4096, cpus: host.cpus, seed: state.seed })
    }

    /// Where the bytes of a file are.
    fn content(&self, wish: &Wish, key: &str, path: &str) -> Result<File<'static>, Failure> {
        let missing = |why: &str| {
            Failure::new(Code::MissingFile, format!("{}: `{key}` is `{path}`, {why}", wish.create.file))
        };
        match wish.create.source(path) {
            None => Err(missing("which was not brought to dom0")),
            Some(Source::Disk(_)) => Err(missing("which was brought as a disk")),
            Some(&Source::Streamed { file, size }) => Ok(File::Streamed(Stream { file, size })),
            Some(Source::Bundle(name)) => match Archive::new(self.bundle).get(name) {
                Ok(Some(bytes)) => Ok(File::Here(bytes)),
                Ok(None) => Err(missing("which is not in the bundle")),
                Err(damaged) => Err(missing(&damaged.to_string())),
            },
        }
    }

    fn disk_sources<'a>(&self, wish: &'a Wish, plan: &Plan) -> Result<Vec<Option<DiskSource<'a>>>, Failure> {
        let source = |disk: &plan::PlannedDisk| {
            let Some(target) = disk.target.as_deref() else { return Ok(None) };
            self.source(wish, "disk", target).map(Some)
        };
        plan.disks.iter().map(source).collect()
    }

    /// Where a disk's content is.
    pub(super) fn source<'a>(
        &self,
        wish: &'a Wish,
        key: &str,
        path: &str,
    ) -> Result<DiskSource<'a>, Failure> {
        match wish.create.source(path) {
            Some(Source::Disk(serial)) => Ok(DiskSource::Device(serial)),
            _ => self.content(wish, key, path).map(DiskSource::Memory),
        }
    }
}

fn configuration(create: &Create) -> Result<(DomainConfig, Vec<String>), Failure> {
    let lines = |found: &[config::Diagnostic]| -> Vec<String> {
        found.iter().map(|diagnostic| format!("{}:{diagnostic}", create.file)).collect()
    };
    match config::parse(&create.text) {
        Ok(accepted) => Ok((accepted.config, lines(&accepted.warnings))),
        Err(found) => Err(Failure::new(Code::Configuration, lines(&found).join("\n"))),
    }
}

fn refused(config: &DomainConfig, refusal: Refusal) -> Failure {
    let code = match refusal {
        Refusal::Memory { .. } => Code::NoMemory,
        Refusal::Kernel { .. } | Refusal::Ramdisk { .. } | Refusal::Firmware { .. } => Code::Image,
        Refusal::CommandLine { .. } | Refusal::NoSuchCpu { .. } | Refusal::Drive { .. } => {
            Code::Configuration
        }
    };
    Failure::new(code, format!("{}: {refusal}", config.name))
}

/// The kind of a disk's refusal.
pub(super) fn disk_code(refusal: &DiskRefusal) -> Code {
    match refusal {
        DiskRefusal::NoMemory { .. } => Code::NoMemory,
        _ => Code::Disk,
    }
}

fn failed(config: &DomainConfig, error: &build::Error) -> Failure {
    use trunnion_protocol::errno::Errno;
    let code = match (&error.step, &error.cause) {
        (Step::Create | Step::Populate, Cause::Errno(Errno::NoMem)) => Code::NoMemory,
        (_, Cause::Disk(refusal)) => disk_code(refusal),
        _ => Code::Build,
    };
    Failure::new(code, format!("{}: {error}", config.name))
}
