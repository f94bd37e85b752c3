//! The bridges, and a network back end for each port of a guest.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use trunnion_backends::bridge::Bridge;
use trunnion_backends::net::{Config, Place, Shared, Snapshot, Vif, serve};
use trunnion_guest::executor::Spawner;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::State;

use super::capture::Capture;
use super::charge::{Meter, charged};
use super::disks::{goodbye, wait_for};
use super::grants::Kernel;
use super::store::StoreHandle;
use crate::config::{FIRST_BRIDGE, Nic};
use crate::control::Outbox;
use crate::control::reply::NicInfo;
use crate::devices::interrupt::Signal;
use crate::plan::{backend_nic, frontend_nic};

/// Queues of a guest's port at most.
const QUEUES: u32 = 4;

/// A port that is being served.
struct Served {
    vif: Rc<Vif<Kernel>>,
    ended: Rc<Ended>,
}

#[derive(Default)]
struct Ended {
    done: Cell<bool>,
    signal: Signal,
}

/// All networks.
pub struct Nets {
    bridges: RefCell<BTreeMap<String, Rc<Bridge>>>,
    vifs: RefCell<BTreeMap<(DomainId, u32), Served>>,
    shared: RefCell<Option<Rc<Shared<Kernel>>>>,
    captures: RefCell<BTreeMap<(DomainId, u32), Rc<Capture>>>,
    store: StoreHandle,
    spawner: Spawner,
}

impl Nets {
    /// No networks yet.
    pub fn new(store: StoreHandle, spawner: Spawner) -> Self {
        Self {
            bridges: RefCell::default(),
            vifs: RefCell::default(),
            shared: RefCell::default(),
            captures: RefCell::default(),
            store,
            spawner,
        }
    }

    /// A bridge by name; made when it is first asked for.
    pub fn bridge(&self, name: &str) -> Rc<Bridge> {
        let mut bridges = self.bridges.borrow_mut();
        if let Some(bridge) = bridges.get(name) {
            return Rc::clone(bridge);
        }
        let bridge = Rc::new(Bridge::new(name));
        bridges.insert(name.to_string(), Rc::clone(&bridge));
        bridge
    }

    /// The bridge of the uplink and of dom0 itself.
    pub fn first_bridge(&self) -> Rc<Bridge> {
        self.bridge(FIRST_BRIDGE)
    }

    /// What all ports share; made with the first.
    fn shared(&self) -> Option<Rc<Shared<Kernel>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_none() {
            *shared = Shared::new(&Kernel::default()).map(Rc::new);
        }
        shared.clone()
    }

    /// Starts the back end of a port whose nodes are written, and returns when it waits for its guest.
    pub async fn attach(&self, domain: DomainId, number: u32, nic: &Nic) -> Result<(), Errno> {
        let shared = self.shared().ok_or(Errno::NoMem)?;
        let config =
            Config { domain, address: nic.mac.0, any_address: false, rate: nic.rate, queues: QUEUES };
        let bridge = self.bridge(nic.bridge_name());
        let vif = Rc::new(Vif::new(Kernel::default(), config, bridge, shared));
        if let Some(capture) = self.captures.borrow().get(&(domain, number)) {
            vif.watch(Rc::<Capture>::clone(capture));
        }
        let ended = Rc::new(Ended::default());
        let place = Place { back: backend_nic(domain, number), front: frontend_nic(domain, number) };
        let served = Served { vif: Rc::clone(&vif), ended: Rc::clone(&ended) };
        self.vifs.borrow_mut().insert((domain, number), served);
        let client = self.store.client();
        let state = format!("{}/state", place.back);
        self.spawner.spawn(charged(Meter::new(domain), async move {
            let end = serve(&vif, &client, &place).await;
            log::debug!("back end ended how={end:?} place={}", place.back);
            drop(vif);
            ended.done.set(true);
            ended.signal.raise();
        }));
        let outcome = wait_for(&self.store, &state, State::InitWait.text()).await;
        if outcome.is_err() {
            self.detach(domain, number).await;
        }
        outcome
    }

    /// Stops a back end. Returns when nothing of the guest is held.
    pub async fn detach(&self, domain: DomainId, number: u32) {
        let ended = self.vifs.borrow().get(&(domain, number)).map(|served| Rc::clone(&served.ended));
        if let Some(ended) = ended {
            let client = self.store.client();
            let place = backend_nic(domain, number);
            if let Err(error) = client.with(|client, store| client.remove(store, 0, &place))
                && error != Errno::NoEnt
            {
                log::error!("a back end's folder cannot be removed: {error} place={place}");
            }
            while !ended.done.get() {
                ended.signal.next().await;
            }
        }
        self.vifs.borrow_mut().remove(&(domain, number));
    }

    /// Asks the guest to let go of a port, and waits for that, but not for ever.
    pub async fn release(&self, domain: DomainId, number: u32) {
        let ended = self.vifs.borrow().get(&(domain, number)).map(|served| Rc::clone(&served.ended));
        let Some(ended) = ended else { return };
        if !goodbye(&self.store, &backend_nic(domain, number), || ended.done.get()).await {
            log::warn!("a guest does not let go of a network port domain={domain} port={number}");
        }
    }

    /// Records what passes through a port from now on, also when it is attached later.
    pub fn capture(&self, domain: DomainId, number: u32, capture: Capture) {
        let capture = Rc::new(capture);
        if let Some(served) = self.vifs.borrow().get(&(domain, number)) {
            served.vif.watch(Rc::<Capture>::clone(&capture));
        }
        let mut captures = self.captures.borrow_mut();
        let vifs = self.vifs.borrow();
        // Those of domains that are gone have nothing more to say once the tool has it all.
        let lives = |id: DomainId| id == domain || vifs.keys().any(|(owner, _)| *owner == id);
        captures.retain(|(owner, _), capture| lives(*owner) || !capture.is_empty());
        captures.insert((domain, number), capture);
    }

    /// Moves what was recorded to the tool, as far as there is room.
    pub fn deliver(&self, outbox: &mut Outbox) {
        for capture in self.captures.borrow().values() {
            capture.deliver(outbox);
        }
    }

    /// Frames that records leave out.
    pub fn unrecorded(&self) -> u64 {
        self.captures.borrow().values().map(|capture| capture.lost()).sum()
    }

    /// What a port has done so far.
    pub fn statistics(&self, domain: DomainId, number: u32) -> Snapshot {
        let vifs = self.vifs.borrow();
        vifs.get(&(domain, number)).map(|served| served.vif.statistics().snapshot()).unwrap_or_default()
    }

    /// The ports of a domain.
    pub fn list(&self, domain: DomainId) -> Vec<NicInfo> {
        let vifs = self.vifs.borrow();
        let ports = vifs.iter().filter(|((owner, _), _)| *owner == domain);
        ports
            .map(|((_, number), served)| {
                let counts = served.vif.statistics().snapshot();
                NicInfo {
                    number: *number,
                    mac: crate::config::Mac(served.vif.config().address).to_string(),
                    bridge: served.vif.bridge().name().to_string(),
                    connected: served.vif.is_connected(),
                    rx_packets: counts.rx_packets,
                    rx_bytes: counts.rx_bytes,
                    tx_packets: counts.tx_packets,
                    tx_bytes: counts.tx_bytes,
                    dropped: counts.dropped(),
                }
            })
            .collect()
    }
}
