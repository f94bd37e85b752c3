//! The disks that dom0 has, and a block back end for each virtual disk.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use trunnion_backends::block::{Backend, Config, Limits, Place, Snapshot, Statistics, serve};
use trunnion_backends::device::{BlockDevice, SECTOR_SIZE};
use trunnion_backends::host::{StoreClient, StoreWatch};
use trunnion_backends::ram::RamDisk;
use trunnion_backends::share::Share;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::hypercall;
use trunnion_guest::memory::{self, Pages};
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::control::{Audit, Operation};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::State;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;

use super::charge::{Meter, charged};
use super::grants::{Held, Kernel};
use super::store::StoreHandle;
use crate::build::DiskRefusal;
use crate::control::reply::DeviceInfo;
use crate::devices::bus::{Found, Pci, Unusable};
use crate::devices::disk::Disk;
use crate::devices::interrupt::Signal;
use crate::plan::{PlannedDisk, backend_disk, frontend_disk};

/// How long a back end may take to become ready for its guest; it waits for nobody but the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a guest may take to let go of a device that is to be removed.
const GOODBYE: Duration = Duration::from_secs(10);

/// A disk as its users see it.
pub type Device = Box<dyn BlockDevice<Held>>;

/// A virtio disk, and who uses it.
struct Stock {
    name: String,
    share: Share<Disk<Held>, Held>,
    users: Vec<User>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct User {
    domain: DomainId,
    number: u32,
    writes: bool,
}

/// A virtual disk that is being served.
struct Vbd {
    statistics: Arc<Statistics>,
    ended: Rc<Ended>,
    bytes: u64,
    in_memory: bool,
    /// The same disk for an emulated drive.
    emulated: Option<Device>,
}

#[derive(Default)]
struct Ended {
    done: Cell<bool>,
    signal: Signal,
}

/// What a virtual disk stands on.
pub enum Media<'a> {
    /// A virtio disk, by serial number.
    Device(&'a str),
    /// Memory of dom0's.
    Memory(Memory),
}

/// The bytes of a disk in memory. They are in whole pages, of which the last need not be full.
pub struct Memory {
    pages: Pages,
    size: usize,
}

impl Memory {
    /// So many zeroes; `None` when there is not enough memory.
    pub fn new(size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok()?;
        Some(Self { pages: memory::pages(size.div_ceil(PAGE_SIZE))?, size })
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        self.pages.bytes().get_mut(..self.size).unwrap_or_default()
    }
}

/// All disks.
pub struct Disks {
    stock: RefCell<Vec<Stock>>,
    vbds: RefCell<BTreeMap<(DomainId, u32), Vbd>>,
    /// Ports that dom0 has bound for disks which were plugged in later, and keeps.
    ports: Cell<u64>,
    /// Functions that were looked at.
    functions: RefCell<Vec<DeviceFunction>>,
    store: StoreHandle,
    spawner: Spawner,
}

impl Disks {
    /// No disks yet.
    pub fn new(store: StoreHandle, spawner: Spawner) -> Self {
        Self {
            stock: RefCell::default(),
            vbds: RefCell::default(),
            ports: Cell::new(0),
            functions: RefCell::default(),
            store,
            spawner,
        }
    }

    /// Sets a virtio disk up that the machine started with.
    pub fn open(&self, pci: &mut Pci, found: Found) -> Result<(), Unusable> {
        self.functions.borrow_mut().push(found.function);
        let line = pci.interrupt_line(found.function);
        let disk = Disk::open(pci.open(found)?, line, &self.spawner)?;
        log::info!("disk function={} name={}", found.function, disk.name());
        self.add(disk);
        Ok(())
    }

    fn add(&self, disk: Disk<Held>) {
        let name = String::from(disk.name());
        self.stock.borrow_mut().push(Stock { name, share: Share::new(disk), users: Vec::new() });
    }

    fn has(&self, name: &str) -> bool {
        self.stock.borrow().iter().any(|disk| disk.name == name)
    }

    /// Event channels that dom0 has more than at its start, for the interrupts of disks that came later.
    pub fn later_ports(&self) -> u64 {
        self.ports.get()
    }

    /// Looks for disks that were plugged in after the start.
    fn find_new(&self) {
        let before = ports_in_use();
        self.open_new();
        if let (Some(before), Some(now)) = (before, ports_in_use()) {
            self.ports.set(self.ports.get() + now.saturating_sub(before));
        }
    }

    fn open_new(&self) {
        let mut pci = Pci::new();
        let mut known = self.functions.borrow_mut();
        for found in pci.scan() {
            if found.kind != DeviceType::Block || known.contains(&found.function) {
                continue;
            }
            known.push(found.function);
            let opened = pci.assign(found.function).and_then(|()| pci.open(found));
            let line = pci.interrupt_line(found.function);
            match opened.and_then(|opened| Disk::open(opened, line, &self.spawner)) {
                Ok(disk) => {
                    log::info!("disk function={} name={} plugged=later", found.function, disk.name());
                    self.add(disk);
                }
                Err(error) => log::error!("{} cannot be used: {error}", found.function),
            }
        }
    }

    /// What there is.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let stock = self.stock.borrow();
        let disks = stock.iter().map(|disk| DeviceInfo {
            kind: "disk".into(),
            name: disk.name.clone(),
            bytes: disk.share.shape().sectors * SECTOR_SIZE,
            users: disk.users.iter().map(|user| user.domain.0).collect(),
        });
        let vbds = self.vbds.borrow();
        let memory = vbds.iter().filter(|(_, vbd)| vbd.in_memory).map(|((domain, number), vbd)| DeviceInfo {
            kind: "ram-disk".into(),
            name: format!("{number}"),
            bytes: vbd.bytes,
            users: [domain.0].into(),
        });
        disks.chain(memory).collect()
    }

    /// What a virtual disk has done so far.
    pub fn statistics(&self, domain: DomainId, number: u32) -> Snapshot {
        self.vbds.borrow().get(&(domain, number)).map(|vbd| vbd.statistics.snapshot()).unwrap_or_default()
    }

    /// The size of a virtual disk in bytes, and the name of the virtio disk that it stands on.
    pub fn media(&self, domain: DomainId, number: u32) -> (u64, Option<String>) {
        let bytes = self.vbds.borrow().get(&(domain, number)).map_or(0, |vbd| vbd.bytes);
        let stock = self.stock.borrow();
        let uses =
            |stock: &&Stock| stock.users.iter().any(|user| (user.domain, user.number) == (domain, number));
        (bytes, stock.iter().find(uses).map(|stock| stock.name.clone()))
    }

    /// Asks the guest to let go of a disk, and waits for that, but not for ever.
    pub async fn release(&self, domain: DomainId, disk: &PlannedDisk) -> bool {
        let ended = self.vbds.borrow().get(&(domain, disk.vdev.number)).map(|vbd| Rc::clone(&vbd.ended));
        match ended {
            Some(ended) => goodbye(&self.store, &backend_disk(domain, disk), || ended.done.get()).await,
            None => true,
        }
    }

    /// Starts the back end of a disk whose nodes are written, and returns when it waits for its guest.
    pub async fn attach(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        media: Media<'_>,
    ) -> Result<(), DiskRefusal> {
        let target = disk.target.clone().unwrap_or_default();
        let (device, emulated) = self.open_media(domain, disk, media, &target)?;
        self.start(domain, disk, device, emulated);
        let place = backend_disk(domain, disk);
        let outcome = wait_for(&self.store, &format!("{place}/state"), State::InitWait.text()).await;
        if let Err(error) = outcome {
            self.detach(domain, disk).await;
            return Err(DiskRefusal::Failed(error));
        }
        Ok(())
    }

    /// A disk for a back end, and the same for an emulated drive.
    fn open_media(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        media: Media<'_>,
        target: &str,
    ) -> Result<(Device, Option<Device>), DiskRefusal> {
        match media {
            Media::Device(name) => {
                if !self.has(name) {
                    self.find_new();
                }
                self.take(name, domain, disk, target)
            }
            Media::Memory(memory) => {
                let size = memory.size as u64;
                if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
                    return Err(DiskRefusal::Size { target: target.into(), bytes: size });
                }
                let first = memory.pages.first();
                let memory = RamDisk::new(memory, disk.read_only).placed(first);
                if !disk.emulated {
                    return Ok((Box::new(memory), None));
                }
                let share = Share::new(memory);
                let another = share.another();
                Ok((Box::new(share), Some(Box::new(another))))
            }
        }
    }

    /// Opens a disk that has an emulated drive and no back end.
    pub fn open_emulated(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        media: Media<'_>,
    ) -> Result<Device, DiskRefusal> {
        let target = disk.target.clone().unwrap_or_default();
        let (device, emulated) = self.open_media(domain, disk, media, &target)?;
        Ok(emulated.unwrap_or(device))
    }

    /// Lets go of such disks, but for the one named `keep`.
    pub fn close_others(&self, domain: DomainId, number: u32, keep: Option<&str>) {
        for stock in self.stock.borrow_mut().iter_mut().filter(|stock| Some(stock.name.as_str()) != keep) {
            stock.users.retain(|user| (user.domain, user.number) != (domain, number));
        }
    }

    /// A disk that has a back end, for the emulated drive that it is too.
    pub fn take_emulated(&self, domain: DomainId, number: u32) -> Option<Device> {
        self.vbds.borrow_mut().get_mut(&(domain, number))?.emulated.take()
    }

    fn take(
        &self,
        name: &str,
        domain: DomainId,
        disk: &PlannedDisk,
        target: &str,
    ) -> Result<(Device, Option<Device>), DiskRefusal> {
        let mut stock = self.stock.borrow_mut();
        let found = stock.iter_mut().find(|stock| stock.name == name);
        let found = found.ok_or_else(|| DiskRefusal::Missing { target: target.into() })?;
        let writes = !disk.read_only;
        if let Some(other) = found.users.iter().find(|user| writes || user.writes) {
            return Err(DiskRefusal::InUse { target: target.into(), by: other.domain });
        }
        if writes && found.share.shape().read_only {
            return Err(DiskRefusal::ReadOnly { target: target.into() });
        }
        found.users.push(User { domain, number: disk.vdev.number, writes });
        let emulated = disk.emulated.then(|| Box::new(found.share.another()) as Device);
        Ok((Box::new(found.share.another()), emulated))
    }

    fn start(&self, domain: DomainId, disk: &PlannedDisk, device: Device, emulated: Option<Device>) {
        let bytes = device.shape().sectors * SECTOR_SIZE;
        let config = Config {
            domain,
            read_only: disk.read_only,
            removable: disk.cdrom,
            cdrom: disk.cdrom,
            limits: Limits::default(),
        };
        let mut backend = Backend::new(Kernel::default(), device, config);
        let ended = Rc::new(Ended::default());
        let vbd = Vbd {
            statistics: backend.statistics(),
            ended: Rc::clone(&ended),
            bytes,
            in_memory: disk.in_memory,
            emulated,
        };
        self.vbds.borrow_mut().insert((domain, disk.vdev.number), vbd);
        let place = Place { back: backend_disk(domain, disk), front: frontend_disk(domain, disk) };
        let client = self.store.client();
        self.spawner.spawn(charged(Meter::new(domain), async move {
            let end = serve(&mut backend, &client, &place).await;
            log::debug!("back end ended how={end:?} place={}", place.back);
            drop(backend);
            ended.done.set(true);
            ended.signal.raise();
        }));
    }

    /// Stops a back end. Returns when no request is under way and nothing of the guest is mapped.
    pub async fn detach(&self, domain: DomainId, disk: &PlannedDisk) {
        let key = (domain, disk.vdev.number);
        let ended = self.vbds.borrow().get(&key).map(|vbd| Rc::clone(&vbd.ended));
        if let Some(ended) = ended {
            let client = self.store.client();
            let place = backend_disk(domain, disk);
            if let Err(error) = client.with(|client, store| client.remove(store, 0, &place))
                && error != Errno::NoEnt
            {
                log::error!("a back end's folder cannot be removed: {error} place={place}");
            }
            while !ended.done.get() {
                ended.signal.next().await;
            }
        }
        self.vbds.borrow_mut().remove(&key);
        for stock in self.stock.borrow_mut().iter_mut() {
            stock.users.retain(|user| (user.domain, user.number) != key);
        }
    }
}

/// Asks the front end of a back end to let go, and waits until that has ended; false when the guest takes too long.
pub(super) async fn goodbye(store: &StoreHandle, place: &str, is_done: impl Fn() -> bool) -> bool {
    let client = store.client();
    let online = format!("{place}/online");
    if client.with(|client, store| client.write(store, 0, &online, b"0")).is_err() {
        return true;
    }
    let deadline = clock::now() + GOODBYE;
    while !is_done() && clock::now() < deadline {
        clock::sleep(Duration::from_millis(5)).await;
    }
    is_done()
}

/// Waits until a node has a value, for as long as a back end may take.
pub(super) async fn wait_for(store: &StoreHandle, path: &str, wanted: &str) -> Result<(), Errno> {
    let client = store.client();
    let mut watch = client.watch(path).await?;
    let mut timeout = pin!(clock::sleep(PATIENCE));
    loop {
        if client.text(path)?.as_deref() == Some(wanted) {
            return Ok(());
        }
        let changed = poll_fn(|context| {
            if watch.poll_changed(context).is_ready() {
                return Poll::Ready(true);
            }
            timeout.as_mut().poll(context).map(|()| false)
        });
        if !changed.await {
            return Err(Errno::TimedOut);
        }
    }
}

/// Event channels of the whole machine.
fn ports_in_use() -> Option<u64> {
    let mut audit = Audit::default();
    hypercall::control(Operation::Audit, &mut audit).ok()?;
    Some(audit.ports)
}
