//! The shipped builder's host in the simulation: control calls of the simulated dom0, its store and its disks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use trunnion_backends::block::{Backend, Config, Limits, Place, serve};
use trunnion_backends::host::{StoreClient, StoreWatch};
use trunnion_dom0::build::{DiskRefusal, DiskSource, Host, Stream};
use trunnion_dom0::config::Nic;
use trunnion_dom0::devices::interrupt::Signal;
use trunnion_dom0::plan::{Group, Plan, PlannedDisk, backend_disk, backend_nic};
use trunnion_guest::executor::yield_now;
use trunnion_protocol::address::{Gfn, Gpa, PAGE_SIZE};
use trunnion_protocol::control::{
    CreateDomain, DomainInfo, DomainRef, NAME_BYTES, Operation, Scheduling, SeedGrant, VcpuState,
    VcpuStateCall,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::{self, Param, ParamArgument};
use trunnion_protocol::hypercall::memory::{self, Region, Reservation, SetMemoryMap};
use trunnion_protocol::hypercall::{Hypercall, event};
use trunnion_protocol::id::{DomainId, GrantRef, Port, VcpuId};
use trunnion_protocol::store::Kind;
use trunnion_protocol::xenbus::State;
use zerocopy::{FromZeros, IntoBytes};

use super::backend::Back;
use super::control::{Foreign, LIST};
use super::deceit::CLASSES;
use super::disk::Disk;
use super::kernel::Kernel;
use super::nets::Nets;
use super::planted::Bug;
use super::store::{Client, StoreHandle};

#[derive(Default)]
struct Ended {
    done: Cell<bool>,
    signal: Signal,
}

struct Console {
    _page: Foreign,
    port: Port,
}

/// dom0, as the builder uses it.
pub struct Toolstack {
    kernel: Rc<Kernel>,
    client: Client,
    store: StoreHandle,
    back: Back,
    bug: Option<Bug>,
    media: RefCell<BTreeMap<String, Rc<Disk>>>,
    vbds: RefCell<BTreeMap<(DomainId, u32), Rc<Ended>>>,
    consoles: RefCell<BTreeMap<DomainId, Console>>,
    guests: RefCell<BTreeMap<DomainId, Rc<Kernel>>>,
    /// The guest that believes, and the one that lies to it.
    pair: Cell<(Option<DomainId>, Option<DomainId>)>,
    /// The network.
    pub nets: Rc<Nets>,
}

impl Toolstack {
    /// With no disks and no domains.
    pub fn new(kernel: &Rc<Kernel>, store: &StoreHandle, back: &Back, bug: Option<Bug>) -> Self {
        Self {
            kernel: Rc::clone(kernel),
            client: store.client(),
            store: store.clone(),
            back: back.clone(),
            bug,
            media: RefCell::default(),
            vbds: RefCell::default(),
            consoles: RefCell::default(),
            guests: RefCell::default(),
            pair: Cell::default(),
            nets: Rc::new(Nets::new(back)),
        }
    }

    /// Adds a disk under a name.
    pub fn add_disk(&self, name: &str, disk: &Rc<Disk>) {
        self.media.borrow_mut().insert(name.into(), Rc::clone(disk));
    }

    /// A connection to the store.
    pub fn client(&self) -> Client {
        self.store.client()
    }

    /// Names the kernel that runs in a domain, so that it ends with it.
    pub fn add_guest(&self, kernel: &Rc<Kernel>) {
        self.guests.borrow_mut().insert(kernel.id(), Rc::clone(kernel));
    }

    /// One of the two guests between which a back end lies runs now. Once both do they have devices of its classes.
    pub fn pair(&self, front: Option<DomainId>, back: Option<DomainId>) {
        let (earlier_front, earlier_back) = self.pair.get();
        let pair = (front.or(earlier_front), back.or(earlier_back));
        self.pair.set(pair);
        let (Some(front), Some(back)) = pair else { return };
        for class in CLASSES {
            if let Err(error) = self.link(front, back, class) {
                self.kernel.shared.complain(format!("a device of {class} is not made: {error}"));
            }
        }
    }

    /// The nodes of a device between two guests, as `dom0` writes them for `xl device-attach`.
    fn link(&self, front: DomainId, back: DomainId, class: &str) -> Result<(), Errno> {
        let (front_home, back_home) = (format!("/local/domain/{front}"), format!("/local/domain/{back}"));
        let folder = format!("{back_home}/backend/{class}/{front}");
        let (front_path, back_path) = (format!("{front_home}/device/{class}/0"), format!("{folder}/0"));
        let reads = |domain: DomainId| vec!["n0".into(), format!("r{domain}")];
        let owns = |owner: DomainId, reader: DomainId| vec![format!("n{owner}"), format!("r{reader}")];
        let nodes: [(String, String, Vec<String>); 12] = [
            (format!("{back_home}/backend"), String::new(), reads(back)),
            (format!("{back_home}/backend/{class}"), String::new(), reads(back)),
            (folder, String::new(), reads(back)),
            (back_path.clone(), String::new(), owns(back, front)),
            (format!("{back_path}/frontend"), front_path.clone(), owns(back, front)),
            (format!("{back_path}/state"), "1".into(), owns(back, front)),
            (format!("{front_home}/device/{class}"), String::new(), reads(front)),
            (front_path.clone(), String::new(), owns(front, back)),
            (format!("{front_path}/backend-id"), back.to_string(), owns(front, back)),
            (format!("{front_path}/mac"), "00:16:3e:00:01:00".into(), owns(front, back)),
            (format!("{back_path}/online"), "1".into(), owns(back, front)),
            (format!("{front_path}/backend"), back_path, owns(front, back)),
        ];
        self.client.transaction(|client, store, transaction| {
            for (path, value, rights) in &nodes {
                client.write(store, transaction, path, value.as_bytes())?;
                let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
                client.set_perms(store, transaction, path, &rights)?;
            }
            Ok(())
        })
    }

    /// A guest has ended: the other half of its pair loses the devices.
    pub fn part(&self, domain: DomainId) {
        let (front, back) = self.pair.get();
        if front != Some(domain) && back != Some(domain) {
            return;
        }
        if let (Some(front), Some(back)) = (front, back) {
            for class in CLASSES {
                for path in [
                    format!("/local/domain/{front}/device/{class}"),
                    format!("/local/domain/{back}/backend/{class}/{front}"),
                ] {
                    let _ = self.client.with(|client, store| client.remove(store, 0, &path));
                }
            }
        }
        self.pair.set((front.filter(|id| *id != domain), back.filter(|id| *id != domain)));
    }

    /// What the hypervisor says of a domain, if there is one with this number.
    pub fn info(&self, domain: DomainId) -> Option<DomainInfo> {
        let mut info = DomainInfo::new_zeroed();
        info.domain = domain.0;
        self.kernel.control(Operation::DomainInfo, &mut info).ok()?;
        (info.domain == domain.0).then_some(info)
    }

    fn on_domain(&self, operation: Operation, domain: DomainId) -> Result<(), Errno> {
        self.kernel.control(operation, &mut DomainRef { domain: domain.0, pad: [0; 3] }).map(drop)
    }

    async fn wait_for(&self, path: &str, wanted: &str) -> Result<(), Errno> {
        let client = self.store.client();
        let mut watch = client.watch(path).await?;
        while client.text(path)?.as_deref() != Some(wanted) {
            std::future::poll_fn(|context| watch.poll_changed(context)).await;
        }
        Ok(())
    }
}

impl Host for Toolstack {
    fn create(&self, plan: &Plan) -> Result<DomainId, Errno> {
        let mut name = [0; NAME_BYTES];
        for (to, from) in name.iter_mut().take(NAME_BYTES - 1).zip(plan.name.bytes()) {
            *to = from;
        }
        let (vcpus, max_pages, uuid) = (plan.max_vcpus, plan.max_pages, plan.uuid);
        let mut call = CreateDomain { domain: 0, flags: 0, vcpus, max_pages, uuid, name };
        self.kernel.control(Operation::CreateDomain, &mut call)?;
        Ok(DomainId(call.domain))
    }

    fn destroy(&self, domain: DomainId) -> Result<(), Errno> {
        let guest = self.guests.borrow_mut().remove(&domain);
        if let Some(guest) = guest {
            guest.bury();
        }
        self.on_domain(Operation::DestroyDomain, domain)
    }

    fn set_scheduling(&self, domain: DomainId, weight: u32, cap: u32) -> Result<(), Errno> {
        let mut call = Scheduling { domain: domain.0, weight, cap, ..Scheduling::default() };
        self.kernel.control(Operation::SetScheduling, &mut call).map(drop)
    }

    fn populate(&self, domain: DomainId, order: u32, frames: &[Gfn]) -> Result<usize, Errno> {
        let extents: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let extents_at = self.kernel.lend(LIST, extents.as_bytes()).ok_or(Errno::TooBig)?;
        let mut call =
            Reservation { extents: extents_at, count: extents.len() as u64, order, flags: 0, domain };
        let operation = u64::from(memory::Op::PopulatePhysmap.number());
        self.kernel.with(Hypercall::MemoryOp, operation, &mut call).map(|done| done as usize)
    }

    fn set_memory_map(&self, domain: DomainId, map: &[Region]) -> Result<(), Errno> {
        let bytes: Vec<u8> = map.iter().flat_map(|region| region.to_bytes()).collect();
        let buffer = self.kernel.lend(LIST, &bytes).ok_or(Errno::TooBig)?;
        let mut call = SetMemoryMap { domain, count: map.len() as u32, buffer };
        let operation = u64::from(memory::Op::SetMemoryMap.number());
        self.kernel.with(Hypercall::MemoryOp, operation, &mut call).map(drop)
    }

    fn write(&self, domain: DomainId, address: Gpa, bytes: &[u8]) -> Result<(), Errno> {
        let offset = address.page_offset();
        let count = (offset + bytes.len()).div_ceil(PAGE_SIZE);
        let foreign = Foreign::map(&self.kernel, domain, address.frame(), count)?;
        let (mut rest, mut at) = (bytes, offset);
        for index in 0..count {
            let (piece, next) = rest.split_at(rest.len().min(PAGE_SIZE - at));
            foreign.page(index).ok_or(Errno::Fault)?.copy_in(at, piece).map_err(|_| Errno::Fault)?;
            (rest, at) = (next, 0);
        }
        if rest.is_empty() { Ok(()) } else { Err(Errno::Fault) }
    }

    fn open_port(&self, domain: DomainId) -> Result<Port, Errno> {
        let mut call = event::AllocUnbound { domain, remote: DomainId::DOM0, port: Port(0) };
        self.kernel.with(Hypercall::EventChannelOp, event::Op::AllocUnbound.number().into(), &mut call)?;
        Ok(call.port)
    }

    fn set_param(&self, domain: DomainId, param: Param, value: u64) -> Result<(), Errno> {
        let mut call = ParamArgument { domain, index: param.number(), value };
        self.kernel.with(Hypercall::HvmOp, hvm::Op::SetParam.number().into(), &mut call).map(drop)
    }

    fn seed_grant(&self, domain: DomainId, reference: GrantRef, frame: Gfn) -> Result<(), Errno> {
        let to = DomainId::DOM0.0;
        let mut call = SeedGrant { domain: domain.0, to, reference: reference.0, gfn: frame.0 };
        self.kernel.control(Operation::SeedGrant, &mut call).map(drop)
    }

    fn set_state(&self, domain: DomainId, vcpu: VcpuId, state: &VcpuState) -> Result<(), Errno> {
        let mut call = VcpuStateCall { domain: domain.0, pad: 0, vcpu: vcpu.0, state: *state };
        self.kernel.control(Operation::SetVcpuState, &mut call).map(drop)
    }

    fn unpause(&self, domain: DomainId) -> Result<(), Errno> {
        self.on_domain(Operation::Unpause, domain)
    }

    fn pause(&self, domain: DomainId) -> Result<(), Errno> {
        self.on_domain(Operation::Pause, domain)
    }

    async fn fetch(&self, _: Stream, _: u64, _: usize) -> Result<Vec<u8>, Errno> {
        Err(Errno::NoEnt)
    }

    async fn breathe(&self) {
        yield_now().await;
    }

    async fn attach_console(&self, domain: DomainId, _: &str, frame: Gfn, port: Port) -> Result<(), Errno> {
        let page = Foreign::map(&self.kernel, domain, frame, 1)?;
        let port = self.kernel.bind_interdomain(domain, port)?;
        self.consoles.borrow_mut().insert(domain, Console { _page: page, port });
        Ok(())
    }

    async fn detach_console(&self, domain: DomainId) {
        let console = self.consoles.borrow_mut().remove(&domain);
        if let Some(console) = console
            && let Err(error) = self.kernel.close(console.port)
        {
            self.kernel.shared.complain(format!("the console's port cannot be closed: {error}"));
        }
    }

    async fn write_nodes(&self, domain: DomainId, group: &Group) -> Result<(), Errno> {
        self.client.transaction(|client, store, transaction| {
            for node in &group.nodes {
                client.write(store, transaction, &node.path, node.value.as_bytes())?;
                let rights = node.rights.entries(domain);
                let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
                client.set_perms(store, transaction, &node.path, &rights)?;
            }
            Ok(())
        })
    }

    async fn remove_node(&self, path: &str) -> Result<(), Errno> {
        match self.client.with(|client, store| client.remove(store, 0, path)) {
            Err(Errno::NoEnt) => Ok(()),
            other => other,
        }
    }

    async fn introduce(&self, domain: DomainId, frame: Gfn, port: Port) -> Result<(), Errno> {
        let payload = format!("{domain}\0{}\0{port}\0", frame.0);
        self.client
            .with(|client, store| client.request(store, Kind::Introduce, 0, payload.as_bytes()).map(drop))
    }

    async fn release(&self, domain: DomainId) {
        self.store.with(|store| store.remove_domain(domain));
    }

    async fn attach_disk(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        _: Option<DiskSource<'_>>,
    ) -> Result<(), DiskRefusal> {
        let target = disk.target.clone().unwrap_or_default();
        let medium = self.media.borrow().get(&target).cloned().ok_or(DiskRefusal::Missing { target })?;
        let config = Config {
            domain,
            read_only: disk.read_only,
            removable: false,
            cdrom: disk.cdrom,
            limits: Limits::default(),
        };
        let mut backend = Backend::new(self.back.clone(), medium, config);
        if let Some(Bug::Backend(bug)) = self.bug {
            backend.plant(bug);
        }
        let ended = Rc::new(Ended::default());
        self.vbds.borrow_mut().insert((domain, disk.vdev.number), Rc::clone(&ended));
        let place = Place {
            back: backend_disk(domain, disk),
            front: format!("/local/domain/{domain}/device/vbd/{}", disk.vdev.number),
        };
        let client = self.store.client();
        self.kernel.spawner.spawn(async move {
            serve(&mut backend, &client, &place).await;
            drop(backend);
            ended.done.set(true);
            ended.signal.raise();
        });
        let place = backend_disk(domain, disk);
        self.wait_for(&format!("{place}/state"), State::InitWait.text()).await.map_err(DiskRefusal::Failed)
    }

    async fn detach_disk(&self, domain: DomainId, disk: &PlannedDisk) {
        let key = (domain, disk.vdev.number);
        let ended = self.vbds.borrow().get(&key).cloned();
        if let Some(ended) = ended {
            let place = backend_disk(domain, disk);
            let _ = self.client.with(|client, store| client.remove(store, 0, &place));
            while !ended.done.get() {
                ended.signal.next().await;
            }
        }
        self.vbds.borrow_mut().remove(&key);
    }

    async fn attach_nic(&self, domain: DomainId, number: u32, nic: &Nic) -> Result<(), Errno> {
        self.nets.attach(self.store.client(), domain, number, nic.mac.0)?;
        let place = backend_nic(domain, number);
        let waited = self.wait_for(&format!("{place}/state"), State::InitWait.text()).await;
        if waited.is_err() {
            self.detach_nic(domain, number).await;
        }
        waited
    }

    async fn detach_nic(&self, domain: DomainId, number: u32) {
        if self.nets.serves(domain, number) {
            let _ = self.client.with(|client, store| client.remove(store, 0, &backend_nic(domain, number)));
            self.nets.end(domain, number).await;
        }
    }
}
