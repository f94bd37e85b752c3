//! `trunnion run`: from domain files to a platform that runs them, and to its end.
//!
//! `plan` reads and checks everything, so that nothing starts from a wrong file; then the images are built and bundled, the machine is
//! started, and `engine` follows what dom0 tells until every domain has ended.

mod captures;
mod create;
pub mod disks;
mod engine;
mod needle;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod record;
mod serve;

pub use options::Options;

use crate::bundle::Bundle;
use crate::console::registry::Consoles;
use crate::control::dom0::{Dom0, Said};
use crate::failure::{Failure, Result, Status};
use crate::instance::Instance;
use crate::machine::{Boot, Machine, choice, platform};
use crate::setup::{self, Permission, Tool};
use crate::{demo, images, say, workspace};
use captures::Captures;
use create::Creator;
use engine::{Course, Engine, Note};
pub(crate) use needle::Marks;
use needle::Needle;
use plan::{Domain, Plan};
use record::Record;
use serve::Server;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use trunnion_dom0::control::{Event, Manifest, Request, VERSION};

/// Does it: status 0 when every domain ended by power-off, or the user left.
pub fn perform(instance: &str, options: &Options) -> Result<Status> {
    course(instance, options, None)
}

/// Does it, and says when dom0 was ready and `text` was on a console.
pub(crate) fn measure(instance: &str, options: &Options, text: &str) -> Result<Marks> {
    let marks = Arc::new(Mutex::new(Marks::default()));
    course(instance, options, Some(Needle::new(text, Arc::clone(&marks))))?;
    let marks = *marks.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(marks)
}

fn course(instance: &str, options: &Options, needle: Option<Needle>) -> Result<Status> {
    options.check()?;
    if options.machine.as_deref() == Some(crate::xen::NAME) {
        return crate::xen::perform(instance, options);
    }
    let machine = match &options.machine {
        Some(name) => name.parse::<Machine>().map_err(Failure::usage)?,
        None => choice::choose(),
    };
    if let Err(why) = choice::verdict(machine) {
        return Err(Failure::usage(format!("--machine {machine} cannot work here: {why}")));
    }
    let instance = Instance::claim(instance)?;
    let permission = if options.no_install { Permission::Never } else { Permission::Install };
    let is_demo = options.domains.is_empty();
    let alone = options.headless || !std::io::stdin().is_terminal();
    let mut tools: Vec<Tool> = Tool::of(machine).to_vec();
    if is_demo {
        tools.extend(demo::TOOLS);
    }
    let files = if is_demo { Vec::new() } else { options.domains.clone() };
    // Wrong files before long set-ups.
    let mut plan = Plan::read(&files, machine)?;
    tools.extend(plan.tools());
    setup::ensure(&tools, permission)?;
    if is_demo {
        plan = Plan::read(&demo::prepare(alone, permission)?, machine)?;
    }
    let prepared = Prepared::make(&instance, machine, options, plan)?;
    if !alone && is_demo {
        demo::hints(instance.name());
    }
    let foreground = (!alone).then(|| {
        if is_demo { demo::SHELL.to_string() } else { prepared.names.first().cloned().unwrap_or_default() }
    });
    prepared.start(&instance, options, foreground, needle)
}

/// A machine that is ready to be started.
struct Prepared {
    boot: Boot,
    plan: Plan,
    names: Vec<String>,
    users: Vec<(String, disks::Disk)>,
    /// By-products of the run.
    folder: PathBuf,
    /// What the user wants to keep.
    logs: PathBuf,
}

impl Prepared {
    fn make(instance: &Instance, machine: Machine, options: &Options, mut plan: Plan) -> Result<Self> {
        let folder = workspace::target("run")?.join(instance.name());
        make_folder(&folder)?;
        let logs = options.log.clone().unwrap_or_else(|| folder.clone());
        make_folder(&logs)?;
        let (hypervisor, dom0) = match (&options.hypervisor, &options.dom0) {
            (None, None) => images::platform()?,
            (hypervisor, dom0) => {
                let given = |image: &Option<PathBuf>, own: images::Image| match image {
                    None => images::build(own.0, own.1),
                    Some(path) => fs::File::open(path)
                        .map(|_| path.clone())
                        .map_err(|e| Failure::file("read the image", path, &e)),
                };
                (given(hypervisor, images::HYPERVISOR)?, given(dom0, images::DOM0)?)
            }
        };
        let dom0 = fs::read(&dom0).map_err(|e| Failure::file("read", &dom0, &e))?;

        let names = plan.domains.iter().map(|domain| domain.config.name.clone()).collect();
        let users = plan.domains.iter().flat_map(Domain::users).collect();
        let dom0_memory = options.dom0_memory.or_else(|| plan.dom0_mib());
        let ports = plan.domains.iter().any(|domain| !domain.config.nics.is_empty());
        let uplink = options.uplink(ports && !machine.is_bochs()).to_string();
        let mut bundle = Bundle::new(&dom0);
        let creates = plan.pack(&mut bundle)?;
        let manifest = Manifest {
            version: VERSION,
            sequence: options.sequence,
            wait_for_tool: true,
            terminal: false,
            power_off: false,
            unix_seconds: if options.icount { FIXED_TIME } else { now() },
            address: options.dom0_address(&uplink).to_string(),
            token: options.token()?,
            domains: creates,
        };
        bundle.configure(manifest.to_bytes());
        let needed = plan.memory_mib(bundle.size(), dom0_memory, options.sequence);
        let memory_mib = match options.memory {
            None => u32::try_from(needed).unwrap_or(u32::MAX),
            Some(given) if u64::from(given) >= needed => given,
            Some(given) => {
                return Err(Failure::usage(format!(
                    "--memory {given} is not enough: hypervisor, dom0, the bundle and the domains together need {needed} (MiB)"
                )));
            }
        };
        if machine.is_bochs() && memory_mib > 2048 {
            return Err(Failure::usage(format!(
                "the domains need a machine of {memory_mib} MiB, and Bochs has at most 2048"
            )));
        }
        let module = folder.join("bundle");
        bundle.write(&module)?;
        let mut boot = Boot::new(machine, hypervisor);
        boot.cpu.clone_from(&options.cpu);
        boot.module = Some(module);
        boot.memory_mib = memory_mib;
        boot.smp = options.smp;
        boot.icount = options.icount;
        if uplink != "none" {
            if machine.is_bochs() {
                return Err(Failure::usage(format!(
                    "--net {uplink} needs a machine with virtio, which {machine} is not; its domains have networks among themselves"
                )));
            }
            boot.extra = crate::machine::qemu::network(&uplink, &options.forwards()?);
        }
        boot.extra.extend_from_slice(&options.emulator);
        if let Some(dom0) = dom0_memory {
            boot.cmdline = format!("dom0-memory={dom0}");
        }
        Ok(Self { boot, plan, names, users, folder, logs })
    }

    fn start(
        self,
        instance: &Instance,
        options: &Options,
        foreground: Option<String>,
        needle: Option<Needle>,
    ) -> Result<Status> {
        let (sender, notes) = mpsc::channel();
        hear_signals(sender.clone())?;
        let machine = self.boot.machine;
        say::progress(&format!(
            "starting {machine} with {} MiB; logs are in {}",
            self.boot.memory_mib,
            self.logs.display()
        ));
        let record = Record::open(&self.logs, machine.name(), u64::from(self.boot.memory_mib) << 20)?;
        let serial = self.logs.join("hypervisor.log");
        let begin = Instant::now();
        let started =
            platform::start(&self.boot, &self.plan.devices, &serial, &self.folder, &instance.file(""))?;
        let news = sender.clone();
        let (listens, ready) = mpsc::channel();
        let dom0 = Dom0::connect(started.from_dom0, started.to_dom0, move |said| {
            if matches!(said, Said::Event(Event::Ready { .. })) {
                let _ = listens.send(());
            }
            drop(news.send(Note::Said(said)));
        });
        greet(dom0.clone(), ready, sender.clone());
        let consoles = Consoles::new(dom0.clone(), self.logs.clone());
        let captures = Captures::new(dom0.clone(), &options.captures()?)?;
        let creator = Creator::new(machine, instance.file("monitor.sock"), self.plan.devices, self.users);
        let server = Server {
            dom0: dom0.clone(),
            consoles: consoles.clone(),
            creator: Arc::new(creator),
            notes: sender.clone(),
            watches: Arc::new(AtomicU32::new(1)),
        };
        server.start(&instance.file("control.sock"))?;
        if foreground.is_some() {
            engine::read_terminal(sender);
        }
        let _folder = Byproducts { folder: self.folder, keep: options.log.is_none() };
        let course = Course {
            patience: LAST_WORD,
            limit: options.timeout.map(Duration::from_secs),
            keep: options.keep,
            foreground,
            needle,
            serial,
            errors: started.errors,
        };
        Engine { emulator: started.emulator, dom0, consoles, captures, record, course, notes, begin }.follow()
    }
}

/// How long dom0 has for a last word before the machine is stopped: long, for a host that is busy with other things.
const LAST_WORD: Duration = Duration::from_mins(1);

/// The run's folder under `target/`, which a run leaves without the large files; altogether when its logs are elsewhere.
struct Byproducts {
    folder: PathBuf,
    keep: bool,
}

impl Drop for Byproducts {
    fn drop(&mut self) {
        for name in ["bundle", "boot.iso"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The wall clock of a machine that counts instructions, so that runs repeat: 2024-01-01.
const FIXED_TIME: u64 = 1_704_067_200;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))
}

/// Says hello once dom0 listens: a serial line loses what is said before. dom0 starts the first domain when it has heard it. The greeting
/// is repeated, at growing intervals, should it be lost all the same.
fn greet(dom0: Dom0, ready: Receiver<()>, notes: Sender<Note>) {
    std::thread::spawn(move || {
        // After a while without a sign it is tried all the same: a damaged line may have lost the sign.
        if ready.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        for attempt in 0..4 {
            let Ok(reply) = dom0.begin(Request::Hello { version: VERSION }) else { break };
            match reply.recv_timeout(Duration::from_secs(8 << attempt)) {
                Ok(Ok(reply)) => return drop(notes.send(Note::Greeted(Ok(reply)))),
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        let _ = notes.send(Note::Greeted(dom0.call(Request::Hello { version: VERSION })));
    });
}

/// A first signal ends the run in good order. A second one ends this process at once, and the emulator with it.
fn hear_signals(notes: Sender<Note>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.map_err(|e| Failure::platform(format!("cannot hear signals: {e}")))?;
    std::thread::spawn(move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                crate::console::terminal::restore();
                std::process::exit(i32::from(Status::Interrupted.code()));
            }
            let _ = notes.send(Note::Signal);
        }
    });
    Ok(())
}
