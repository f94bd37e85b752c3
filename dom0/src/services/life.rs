//! The life of domains: created from a configuration, unpaused, watched, ended, started again.
//!
//! One record a domain, kept after its end for the summary. Builds run one after the other; ends run beside each other.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use trunnion_guest::clock;
use trunnion_guest::events::{self, Listener};
use trunnion_guest::hypercall;
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::control::{self as calls, Operation, domain_state};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Virq};
use zerocopy::FromZeros;

use super::figures;
use super::files::Files;
use super::toolstack::Toolstack;
use super::wire::Wire;
use crate::build::{self, Cause, Domain, Host};
use crate::config::{self, Action};
use crate::control::manifest::Create;
use crate::control::request::DomainName;
use crate::control::summary::{self, Outcome};
use crate::control::{Code, Event, Failure};
use crate::devices::interrupt::Signal;
use crate::image::Image;
use crate::plan::{self, Capacity, Refusal};

/// How long a tool may take to read the last bytes of a console.
const LAST_BYTES: Duration = Duration::from_secs(20);

/// How often somebody who waits for others looks again.
const TURN: Duration = Duration::from_millis(2);

/// A domain, alive or ended.
struct Record {
    /// What the summary says; its counters are filled in at the end.
    summary: summary::Domain,
    create: Create,
    /// Nothing once it was taken apart.
    domain: Option<Domain>,
    /// Its end is being dealt with.
    ending: bool,
}

/// What a domain's ending needs to know.
struct Verdict {
    outcome: Outcome,
    ended_ns: u64,
    action: Action,
}

/// All domains.
pub struct Life {
    tools: Toolstack,
    files: Rc<Files>,
    wire: Rc<Wire>,
    records: RefCell<Vec<Record>>,
    /// A build is under way.
    building: Cell<bool>,
    /// Domains whose end is being dealt with.
    ending: Cell<u32>,
    /// Domains of the manifest that wait for their turn.
    waiting: RefCell<VecDeque<Create>>,
    /// Raised when something ended.
    ended: Signal,
    seed: Cell<u64>,
}

impl Life {
    /// No domains.
    pub fn new(tools: Toolstack, files: Rc<Files>, wire: Rc<Wire>) -> Rc<Self> {
        Rc::new(Self {
            tools,
            files,
            wire,
            records: RefCell::default(),
            building: Cell::new(false),
            ending: Cell::new(0),
            waiting: RefCell::default(),
            ended: Signal::default(),
            seed: Cell::new(clock::now().as_nanos() as u64),
        })
    }

    /// What the services do with a domain.
    pub const fn tools(&self) -> &Toolstack {
        &self.tools
    }

    /// Watches for ends, for ever.
    pub async fn watch(self: Rc<Self>) {
        let port = match events::bind_virq(Virq::DOM_EXC) {
            Ok(port) => port,
            Err(error) => {
                log::error!("ends of domains cannot be heard: {error}");
                return;
            }
        };
        let listener = Listener::new(port);
        loop {
            self.look();
            if !listener.next().await {
                return;
            }
        }
    }

    /// Deals with every domain that has ended.
    fn look(self: &Rc<Self>) {
        let alive: Vec<DomainId> = self
            .records
            .borrow()
            .iter()
            .filter(|record| !record.ending && record.domain.is_some())
            .map(|record| DomainId(record.summary.domid))
            .collect();
        for domain in alive {
            let Some(info) = info(domain) else { continue };
            if info.state & domain_state::SHUTDOWN == 0 {
                continue;
            }
            let outcome = match info.shutdown_reason {
                0 => Outcome::Poweroff,
                1 => Outcome::Reboot,
                2 => Outcome::Suspend,
                4 => Outcome::Watchdog,
                _ => Outcome::Crash,
            };
            self.finish(domain, outcome, info.ended_ns);
        }
    }

    /// Starts to deal with a domain's end. False when that is under way already.
    fn finish(self: &Rc<Self>, domain: DomainId, outcome: Outcome, ended_ns: u64) -> bool {
        let verdict = self.with(domain, |record| {
            let plan = &record.domain.as_ref()?.plan;
            let action = match outcome {
                Outcome::Poweroff => plan.on_poweroff,
                Outcome::Reboot => plan.on_reboot,
                Outcome::Crash | Outcome::Watchdog | Outcome::Suspend => plan.on_crash,
                Outcome::Destroyed | Outcome::Running => Action::Destroy,
            };
            (!core::mem::replace(&mut record.ending, true)).then_some(Verdict { outcome, ended_ns, action })
        });
        let Some(Some(verdict)) = verdict else { return false };
        let life = Rc::clone(self);
        self.ending.set(self.ending.get() + 1);
        self.tools.spawner.spawn(async move {
            life.end(domain, verdict).await;
            life.ending.set(life.ending.get().saturating_sub(1));
            life.ended.raise();
        });
        true
    }

    async fn end(&self, domain: DomainId, verdict: Verdict) {
        let Verdict { outcome, ended_ns, action } = verdict;
        self.tools.store.handle().with(|store| store.shut_down(domain));
        let detail = if outcome == Outcome::Crash { figures::crash_report(domain) } else { String::new() };
        // The last bytes are in the ring.
        self.tools.consoles.disconnect(domain);
        self.flush(domain).await;
        let mut taken = None;
        let restarting = action == Action::Restart;
        self.with(domain, |record| {
            figures::fill(&mut record.summary, record.domain.as_ref(), &self.tools.disks);
            record.summary.outcome = outcome;
            record.summary.ended_ns = ended_ns;
            record.summary.detail.clone_from(&detail);
            if action != Action::Preserve {
                taken = record.domain.take();
            }
        });
        let name = self.with(domain, |record| record.summary.name.clone()).unwrap_or_default();
        log::info!("domain ended domain={domain} name={name} outcome={outcome:?}");
        self.wire.event(Event::DomainEnded {
            domid: domain.0,
            name: name.clone(),
            outcome,
            detail,
            ended_ns,
            restarting,
        });
        if let Some(built) = taken {
            built.end(&self.tools).await;
            self.close_channels(domain);
        }
        if restarting {
            let create = self.with(domain, |record| record.create.clone());
            if let Some(create) = create
                && let Err(failure) = self.create(&create, false).await
            {
                log::error!("the domain cannot be started again: {failure} name={name}");
                self.wire.event(Event::CreateFailed { name, failure });
            }
        } else if let Some(create) = self.with(domain, |record| record.create.clone()) {
            for upload in self.files.uploads_of(&create) {
                self.files.drop_upload(upload);
            }
        }
    }

    /// Waits until the channels that hold have every byte, or for a while.
    async fn flush(&self, domain: DomainId) {
        let deadline = clock::now() + LAST_BYTES;
        loop {
            self.wire.output.raise();
            let waiting: usize = self.wire.with(|outbox| {
                self.tools.consoles.channels(domain).iter().map(|&channel| outbox.waiting(channel)).sum()
            });
            if (waiting == 0 && self.tools.consoles.is_flushed(domain)) || clock::now() > deadline {
                return;
            }
            clock::sleep(TURN).await;
        }
    }

    fn close_channels(&self, domain: DomainId) {
        for channel in self.tools.consoles.forget(domain) {
            self.wire.with(|outbox| outbox.close(channel));
            self.wire.event(Event::ConsoleClosed { channel });
        }
    }

    fn with<R>(&self, domain: DomainId, act: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let mut records = self.records.borrow_mut();
        records.iter_mut().rev().find(|record| record.summary.domid == domain.0).map(act)
    }

    /// Builds a domain and lets it run, unless it is to stay paused.
    pub async fn create(
        &self,
        create: &Create,
        paused: bool,
    ) -> Result<(DomainId, String, Vec<String>), Failure> {
        // One at a time: a plan counts on the memory that it saw free.
        while self.building.replace(true) {
            clock::sleep(TURN).await;
        }
        let result = self.build(create, paused).await;
        self.building.set(false);
        if let Err(failure) = &result {
            log::warn!("no domain from {}: {failure}", create.file);
        }
        result
    }

    async fn build(&self, create: &Create, paused: bool) -> Result<(DomainId, String, Vec<String>), Failure> {
        let create_begin_ns = clock::now().as_nanos() as u64;
        let text = |diagnostics: &[config::Diagnostic]| -> Vec<String> {
            diagnostics.iter().map(|diagnostic| format!("{}:{diagnostic}", create.file)).collect()
        };
        let accepted = config::parse(&create.text)
            .map_err(|errors| Failure::new(Code::Configuration, text(&errors).join("\n")))?;
        let config = accepted.config;
        if self.find(&DomainName::Name(config.name.clone())).is_ok() {
            let message = format!("a domain named `{}` exists", config.name);
            return Err(Failure::new(Code::NameTaken, message));
        }
        let Some(kernel) = &config.kernel else {
            return Err(Failure::new(Code::Configuration, format!("{}: there is no `kernel`", create.file)));
        };
        let image = self.files.content(create, kernel, Image::parse)?;
        let image = image.map_err(|error| Failure::new(Code::Image, format!("`{kernel}`: {error}")))?;
        let ramdisk = match &config.ramdisk {
            Some(path) => Some(self.files.content(create, path, |bytes| bytes.len() as u64)?),
            None => None,
        };
        let plan = plan::plan(&config, &image, ramdisk, &self.capacity()?).map_err(refused)?;
        let mut copies = [Vec::new(), Vec::new()];
        for (copy, path) in copies.iter_mut().zip([Some(kernel), config.ramdisk.as_ref()]) {
            if let Some(path) = path
                && self.files.is_upload(create, path)
            {
                *copy = self.files.content(create, path, <[u8]>::to_vec)?;
            }
        }
        let [kernel_copy, ramdisk_copy] = &copies;
        let bytes = |path: Option<&String>, copy| {
            path.and_then(|path| self.files.lasting(create, path)).unwrap_or(copy)
        };
        let kernel_bytes: &[u8] = bytes(Some(kernel), kernel_copy.as_slice());
        let ramdisk_bytes: &[u8] = bytes(config.ramdisk.as_ref(), ramdisk_copy.as_slice());
        let disks = plan.disks.iter().map(|disk| create.source(disk.target.as_deref()?).cloned()).collect();
        let files = build::Files { kernel: kernel_bytes, ramdisk: ramdisk_bytes, disks };
        let built = build::build(plan, &files, &self.tools).await.map_err(|error| failed(&error))?;
        let (domain, name) = (built.id(), config.name.clone());
        let summary = summary::Domain {
            name: name.clone(),
            domid: domain.0,
            create_begin_ns,
            ..summary::Domain::default()
        };
        let record = Record { summary, create: create.clone(), domain: Some(built), ending: false };
        self.records.borrow_mut().push(record);
        log::info!("domain built domain={domain} name={name}");
        self.wire.event(Event::DomainCreated { domid: domain.0, name: name.clone(), create_begin_ns });
        if !paused {
            self.unpause(domain).map_err(|error| Failure::new(Code::Hypervisor, error.to_string()))?;
        }
        Ok((domain, name, text(&accepted.warnings)))
    }

    fn capacity(&self) -> Result<Capacity, Failure> {
        let host = host().map_err(|error| Failure::new(Code::Hypervisor, error.to_string()))?;
        self.seed.set(self.seed.get().wrapping_add(1));
        Ok(Capacity {
            free_pages: host.free_bytes / PAGE_SIZE as u64,
            cpus: host.cpus,
            seed: self.seed.get(),
        })
    }

    /// Lets a domain run.
    pub fn unpause(&self, domain: DomainId) -> Result<(), Errno> {
        let unpaused_ns = clock::now().as_nanos() as u64;
        self.tools.unpause(domain)?;
        let first = self.with(domain, |record| {
            let first = record.summary.unpaused_ns == 0;
            if first {
                record.summary.unpaused_ns = unpaused_ns;
            }
            first.then(|| record.summary.name.clone())
        });
        if let Some(Some(name)) = first {
            self.wire.event(Event::DomainUnpaused { domid: domain.0, name, unpaused_ns });
        }
        Ok(())
    }

    /// Ends a domain without asking it.
    pub fn destroy(self: &Rc<Self>, domain: DomainId) -> Result<(), Failure> {
        // A guest that was kept has ended before: nothing but its remains goes.
        let kept = self.with(domain, |record| {
            (record.ending && record.summary.outcome != Outcome::Running)
                .then(|| record.domain.take())
                .flatten()
        });
        if let Some(Some(built)) = kept {
            let life = Rc::clone(self);
            self.tools.spawner.spawn(async move {
                built.end(&life.tools).await;
                life.close_channels(domain);
                life.ended.raise();
            });
            return Ok(());
        }
        let _ = self.tools.pause(domain);
        if self.finish(domain, Outcome::Destroyed, clock::now().as_nanos() as u64) {
            Ok(())
        } else {
            Err(Failure::new(Code::State, format!("domain {domain} is ending already")))
        }
    }

    /// The number of a domain that exists.
    pub fn find(&self, name: &DomainName) -> Result<DomainId, Failure> {
        let records = self.records.borrow();
        let mut alive = records.iter().filter(|record| record.domain.is_some());
        let found = alive.find(|record| match name {
            DomainName::Id(id) => record.summary.domid == *id,
            DomainName::Name(name) => record.summary.name == *name,
        });
        match found {
            Some(record) => Ok(DomainId(record.summary.domid)),
            None => Err(Failure::new(Code::NoSuchDomain, format!("there is no domain {name}"))),
        }
    }

    /// The domains that exist, with their names.
    pub fn alive(&self) -> Vec<(DomainId, String)> {
        let records = self.records.borrow();
        let alive = records.iter().filter(|record| record.domain.is_some());
        alive.map(|record| (DomainId(record.summary.domid), record.summary.name.clone())).collect()
    }

    /// The figures of all domains there have been.
    pub fn summaries(&self) -> Vec<summary::Domain> {
        let records = self.records.borrow();
        records
            .iter()
            .map(|record| {
                let mut summary = record.summary.clone();
                if summary.outcome == Outcome::Running {
                    figures::fill(&mut summary, record.domain.as_ref(), &self.tools.disks);
                }
                summary
            })
            .collect()
    }

    /// Starts the domains of a manifest, and returns when all have ended.
    pub async fn run(self: &Rc<Self>, domains: Vec<Create>, sequence: bool) {
        self.waiting.borrow_mut().extend(domains);
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(create) = next else { break };
            if let Err(failure) = self.create(&create, false).await {
                let name = config::parse(&create.text).map_or(create.file, |accepted| accepted.config.name);
                self.wire.event(Event::CreateFailed { name, failure });
            }
            if sequence {
                self.until_none_runs().await;
            }
        }
        self.until_none_runs().await;
    }

    /// Waits until no domain runs or is about to.
    pub async fn until_none_runs(&self) {
        while self.building.get()
            || self
                .records
                .borrow()
                .iter()
                .any(|record| record.domain.is_some() && record.summary.outcome == Outcome::Running)
        {
            self.ended.next().await;
        }
    }

    /// Destroys what still runs, and waits until it is gone.
    pub async fn destroy_all(self: &Rc<Self>) {
        loop {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            for (domain, _) in alive {
                let _ = self.destroy(domain);
            }
            clock::sleep(TURN).await;
        }
    }
}

/// What the hypervisor says of a domain.
pub(crate) fn info(domain: DomainId) -> Option<calls::DomainInfo> {
    let mut info = calls::DomainInfo::new_zeroed();
    info.domain = domain.0;
    hypercall::control(Operation::DomainInfo, &mut info).ok()?;
    (info.domain == domain.0).then_some(info)
}

/// What the hypervisor says of the host.
pub(crate) fn host() -> Result<calls::HostInfo, Errno> {
    let mut host = calls::HostInfo::default();
    hypercall::control(Operation::HostInfo, &mut host)?;
    Ok(host)
}

fn refused(refusal: Refusal) -> Failure {
    let code = match refusal {
        Refusal::Hvm => Code::Unsupported,
        Refusal::Kernel { .. } | Refusal::Ramdisk { .. } => Code::Image,
        Refusal::Memory { .. } => Code::NoMemory,
        Refusal::CommandLine { .. } | Refusal::NoSuchCpu { .. } => Code::Configuration,
    };
    Failure::new(code, refusal.to_string())
}

fn failed(error: &build::Error) -> Failure {
    let code = match &error.cause {
        Cause::Errno(Errno::NoMem) => Code::NoMemory,
        Cause::Disk(_) => Code::Disk,
        Cause::Errno(_) | Cause::Files => Code::Build,
    };
    Failure::new(code, error.to_string())
}
