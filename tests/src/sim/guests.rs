//! The domains of a world, from dom0's side: built, watched, taken apart, built again after they died.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use trunnion_dom0::build::{Cause, File, Files, Host, build};
use trunnion_dom0::config::{self, Mac};
use trunnion_dom0::devices::interrupt::Signal;
use trunnion_dom0::image::Image;
use trunnion_dom0::plan::{Capacity, plan};
use trunnion_guest::executor::yield_now;
use trunnion_protocol::address::Gpa;
use trunnion_protocol::control::{Gpr, HostInfo, Operation, domain_state};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::start_info::MAGIC;

use super::deceit;
use super::disk::Disk;
use super::hostile;
use super::image::{BASE, TEXT, kernel as image_file};
use super::kernel::Kernel;
use super::nets::address;
use super::toolstack::Toolstack;
use super::workload::{self, COUNTER, Load, Outcome};

/// Memory of a guest.
const MEMORY_MIB: u64 = 4;
/// Its upper half is its kernel's to give out.
const RAM: (u64, usize) = (512, 512);
/// Attempts to build a domain while memory is short.
const ATTEMPTS: u32 = 200;

/// What runs in a guest.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An honest workload.
    Honest(Load),
    /// Anything at all, so many times.
    Hostile(u64),
    /// The back end of devices of the guest that believes it.
    Liar,
}

impl Kind {
    /// What an honest guest is to do.
    pub const fn load(self) -> Option<Load> {
        match self {
            Self::Honest(load) => Some(load),
            Self::Hostile(_) | Self::Liar => None,
        }
    }
}

/// A guest of the world.
pub struct Guest {
    /// Which of the world's guests it is.
    pub number: usize,
    /// It has a network port.
    pub port: bool,
    /// What it does.
    pub kind: Kind,
    /// Its disk.
    pub disk: Rc<Disk>,
    /// What became of it.
    pub outcome: Rc<Outcome>,
    /// Its name.
    pub name: String,
    /// It dies at this step of the world.
    pub dies_at: Cell<Option<u64>>,
    /// Its domain, the last one if it has had several.
    pub id: Cell<Option<DomainId>>,
    /// Its kernel while it lives.
    pub kernel: RefCell<Option<Rc<Kernel>>>,
    /// Raised when some domain has ended.
    pub ended: Signal,
    /// Everything is over, and everything was taken apart.
    pub done: Cell<bool>,
    /// It is to be destroyed, whatever it does.
    pub condemned: Cell<bool>,
    /// Times it was built.
    pub lives: Cell<u32>,
}

impl Guest {
    /// A guest that does not exist yet.
    pub fn new(number: usize, kind: Kind, disk: Rc<Disk>, port: bool) -> Rc<Self> {
        let sectors = kind.load().map_or(0, |load| load.sectors());
        Rc::new(Self {
            number,
            port,
            kind,
            disk,
            outcome: Outcome::new(sectors),
            name: format!("g{number}"),
            dies_at: Cell::new(None),
            id: Cell::new(None),
            kernel: RefCell::new(None),
            ended: Signal::default(),
            done: Cell::new(false),
            condemned: Cell::new(false),
            lives: Cell::new(0),
        })
    }
}

/// The life of one guest: as often as it dies before its work is done, it is built again on the same disk.
pub async fn live(dom0: Rc<Kernel>, tools: Rc<Toolstack>, guest: Rc<Guest>) {
    if let Err(text) = life(&dom0, &tools, &guest).await {
        dom0.shared.complain(format!("{}: {text}", guest.name));
    }
    guest.done.set(true);
}

async fn life(dom0: &Rc<Kernel>, tools: &Rc<Toolstack>, guest: &Rc<Guest>) -> Result<(), String> {
    let file = image_file();
    let image = Image::parse(&file).map_err(|error| format!("{error}"))?;
    let vcpus = guest.kind.load().map_or(1, |load| load.vcpus);
    let mac = Mac(address(guest.number));
    let vif = if guest.port { format!("vif = [ 'mac={mac}' ]\n") } else { String::new() };
    let text = format!(
        "{vif}name = '{}'\nkernel = 'k'\nmemory = {MEMORY_MIB}\nvcpus = {vcpus}\ndisk = [ '{},raw,xvda,w' ]",
        guest.name, guest.name
    );
    let config = config::parse(&text).map_err(|errors| format!("{errors:?}"))?.config;
    for attempt in 0..ATTEMPTS {
        let mut info = HostInfo::default();
        let free = dom0.control(Operation::HostInfo, &mut info).map_or(0, |_| info.free_bytes >> 12);
        let capacity = Capacity { free_pages: free, cpus: 1, seed: dom0.shared.bits() };
        let planned = plan(&config, &image, None, &capacity).map_err(|refusal| format!("{refusal}"))?;
        let files = Files { kernel: File::Here(&file), disks: vec![None], ..Files::default() };
        let domain = match build(planned, &files, &**tools).await {
            Ok(domain) => domain,
            Err(error) => {
                dom0.shared.note(0, "a build fails, attempt", [attempt.into(), 0, 0]);
                if error.cause != Cause::Errno(Errno::NoMem) {
                    return Err(format!("{error}"));
                }
                dom0.sleep(50_000).await;
                continue;
            }
        };
        let id = domain.id();
        guest.id.set(Some(id));
        start(dom0, tools, guest, &domain)?;
        tools.unpause(id).map_err(|error| format!("unpause: {error}"))?;
        match guest.kind {
            Kind::Liar => tools.pair(None, Some(id)),
            Kind::Honest(load) if load.lies != 0 => tools.pair(Some(id), None),
            _ => {}
        }
        let meddled = Rc::new(Cell::new(false));
        if guest.kind.load().is_some() {
            guest.outcome.increments.set(0);
            let work =
                meddle(Rc::clone(dom0), tools.client(), id, Rc::clone(&guest.outcome), Rc::clone(&meddled));
            dom0.spawner.spawn(work);
        } else {
            meddled.set(true);
        }
        while !guest.condemned.get()
            && tools.info(id).is_some_and(|info| info.state & domain_state::SHUTDOWN == 0)
        {
            guest.ended.next().await;
        }
        while !meddled.get() {
            dom0.sleep(100_000).await;
        }
        if guest.outcome.finished.get() {
            let counter = tools.client().text(&format!("/local/domain/{id}/{COUNTER}"));
            let wanted = guest.outcome.increments.get();
            if counter != Ok(Some(format!("{wanted}"))) {
                return Err(format!("the counter is {counter:?} after {wanted} increments"));
            }
        }
        *guest.kernel.borrow_mut() = None;
        let reason = tools.info(id).map_or(u32::MAX, |info| info.shutdown_reason);
        dom0.shared.note(0, "domain has ended, reason", [id.0.into(), reason.into(), 0]);
        let orphans = guest.disk.holds_pages_of(id) as u64;
        dom0.shared.strike(|struck| struck.orphans += orphans);
        tools.part(id);
        domain.end(&**tools).await;
        while tools.info(id).is_some() {
            guest.ended.next().await;
        }
        if guest.disk.holds_pages_of(id) != 0 {
            return Err("the device still has requests of a domain that is gone".into());
        }
        if guest.kind.load().is_some() {
            guest.disk.with_durable(|bytes| guest.outcome.ledger.borrow().check_durable(bytes))?;
            guest.outcome.open.set(0);
            if !guest.outcome.finished.get() {
                continue;
            }
        }
        return Ok(());
    }
    Err("it could not be built".into())
}

/// Counts up the guest's number in the store, taking its time between reading and writing.
async fn meddle(
    dom0: Rc<Kernel>,
    client: super::store::Client,
    id: DomainId,
    outcome: Rc<Outcome>,
    done: Rc<Cell<bool>>,
) {
    let path = format!("/local/domain/{id}/{COUNTER}");
    for _ in 0..20 {
        dom0.sleep(1_000 + dom0.shared.below(60_000)).await;
        if !matches!(client.text(&path), Ok(Some(_))) {
            continue;
        }
        let Ok(transaction) = client.with(trunnion_xenstore::local::LocalClient::start) else { break };
        let now = client.with(|client, store| client.read_text(store, transaction, &path));
        dom0.sleep(1_000 + dom0.shared.below(40_000)).await;
        let next = now.ok().and_then(|text| text.parse::<u64>().ok()).map(|now| format!("{}", now + 1));
        let written = next.is_some_and(|next| {
            client.with(|client, store| client.write(store, transaction, &path, next.as_bytes())).is_ok()
        });
        if client.with(|client, store| client.end(store, transaction, written)).is_ok() && written {
            outcome.increments.set(outcome.increments.get() + 1);
        }
    }
    done.set(true);
}

/// Puts a kernel into a built domain.
fn start(
    dom0: &Rc<Kernel>,
    tools: &Rc<Toolstack>,
    guest: &Rc<Guest>,
    domain: &trunnion_dom0::build::Domain,
) -> Result<(), String> {
    let id = domain.id();
    let handle = dom0.host.domain(id).ok_or("the domain is not there")?;
    let kernel = Kernel::new(&dom0.host, &handle, &dom0.shared, RAM.0, RAM.1);
    tools.add_guest(&kernel);
    let lives = guest.lives.get() + 1;
    guest.lives.set(lives);
    if lives == 1 && dom0.shared.permille(dom0.shared.faults.get().death) {
        guest.dies_at.set(Some(dom0.shared.step.get() + 50 + dom0.shared.below(1500)));
    }
    *guest.kernel.borrow_mut() = Some(Rc::clone(&kernel));
    let (device, outcome, kind) = (domain.plan.disks[0].vdev.number, Rc::clone(&guest.outcome), guest.kind);
    let (nets, number, port) = (Rc::clone(&tools.nets), guest.number, guest.port);
    let main = Rc::clone(&kernel);
    kernel.spawner.spawn(async move {
        if let Err(text) = arrive(&main).await {
            main.shared.complain(format!("guest {}: {text}", main.id()));
            return;
        }
        match kind {
            Kind::Honest(load) => {
                let load = Load { device, ..load };
                workload::run(main, load, outcome, nets, number).await;
            }
            Kind::Hostile(turns) => hostile::run(main, device, port, turns).await,
            Kind::Liar => deceit::lie(&main).await,
        }
    });
    Ok(())
}

/// A guest's first steps: it looks at what the builder left, and boots.
async fn arrive(kernel: &Kernel) -> Result<(), String> {
    let mut text = [0; TEXT.len()];
    let mut magic = [0; 4];
    let info = kernel.register(Gpr::Rbx);
    if !kernel.peek(Gpa(BASE), &mut text) || text != *TEXT {
        return Err("its image is not in its memory".into());
    }
    if !kernel.peek(Gpa(info), &mut magic) || u32::from_le_bytes(magic) != MAGIC {
        return Err("its start info is not in its memory".into());
    }
    for _ in 0..1000 {
        match kernel.boot() {
            Ok(()) => return Ok(()),
            Err(Errno::NoMem) => yield_now().await,
            Err(error) => return Err(format!("boot: {error}")),
        }
    }
    Err("it cannot boot: memory stays short".into())
}
