//! The network's two halves against each other, by seeds: front ends as guests use them, back ends and a bridge as dom0 has
//! them, and between them a world that reorders tasks, delays events and destroys guests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use trunnion_backends::bridge::Bridge;
use trunnion_backends::device::GuestPage;
use trunnion_backends::host::{
    Clock, CopyPage, EventPort, Events, GrantCopier, GrantCopy, GrantMapper, StoreClient, StoreWatch, Wanted,
};
use trunnion_backends::net::{Config, Place, Shared, Vif, serve};
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::{Mapping, Window};
use trunnion_frontends::net::{Nic, Offload, Options};
use trunnion_frontends::platform::Platform;
use trunnion_frontends::store::{Store, Transaction, Watch};
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::Device;
use trunnion_protocol::address::{Gfn, MachineAddress};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::shared::SharedPage;

type LocalPages = Rc<Vec<SharedPage>>;

/// dom0's kernel: the world's own guest number 0.
#[derive(Clone)]
struct Kernel {
    window: &'static Window<'static, Guest>,
    guest: &'static Guest,
    local: Rc<RefCell<BTreeMap<u64, (LocalPages, usize)>>>,
    time: Rc<Cell<u64>>,
}

struct Page(Mapping<'static, 'static, Guest>);

impl GuestPage for Page {
    fn shared(&self) -> &SharedPage {
        self.0.page()
    }
    fn gfn(&self) -> Gfn {
        Gfn(0)
    }
    fn bus_address(&self) -> MachineAddress {
        MachineAddress(0)
    }
}

impl GrantMapper for Kernel {
    type Page = Page;
    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Page, GrantStatus>>) {
        for wanted in wanted {
            results.push(self.window.map(domain, wanted.reference).map(Page).map_err(status));
        }
    }
    fn unmap(&self, pages: &mut Vec<Page>) {
        for page in pages.drain(..) {
            page.0.unmap().expect("what is mapped can be unmapped");
        }
    }
}

fn status(error: Error) -> GrantStatus {
    match error {
        Error::Grant(status) => status,
        _ => GrantStatus::GeneralError,
    }
}

/// Local pages that are reached like others.
struct Pages(LocalPages);

impl AsRef<[SharedPage]> for Pages {
    fn as_ref(&self) -> &[SharedPage] {
        &self.0
    }
}

impl Kernel {
    fn take(&self, copy: &GrantCopy, bytes: &mut [u8]) -> Result<(), GrantStatus> {
        match copy.from {
            CopyPage::Granted(domain, reference) => {
                let page = self.window.map_to_read(domain, reference).map_err(status)?;
                page.copy_out(usize::from(copy.from_offset), bytes).expect("inside the page");
                page.unmap().map_err(status)
            }
            CopyPage::Local(gfn) => {
                let local = self.local.borrow();
                let (pages, index) = local.get(&gfn.0).expect("a local page");
                pages[*index].copy_out(usize::from(copy.from_offset), bytes).expect("inside the page");
                Ok(())
            }
        }
    }

    fn put(&self, copy: &GrantCopy, bytes: &[u8]) -> Result<(), GrantStatus> {
        match copy.to {
            CopyPage::Granted(domain, reference) => {
                let page = self.window.map(domain, reference).map_err(status)?;
                page.page().copy_in(usize::from(copy.to_offset), bytes).expect("inside the page");
                page.unmap().map_err(status)
            }
            CopyPage::Local(gfn) => {
                let local = self.local.borrow();
                let (pages, index) = local.get(&gfn.0).expect("a local page");
                pages[*index].copy_in(usize::from(copy.to_offset), bytes).expect("inside the page");
                Ok(())
            }
        }
    }
}

impl GrantCopier for Kernel {
    type Local = Pages;
    fn local(&self, count: usize) -> Option<(Pages, Gfn)> {
        let pages: LocalPages = Rc::new((0..count).map(|_| SharedPage::zeroed()).collect());
        let mut local = self.local.borrow_mut();
        let first = local.keys().last().map_or(1 << 20, |last| last + 2);
        for index in 0..count {
            local.insert(first + index as u64, (pages.clone(), index));
        }
        Some((Pages(pages), Gfn(first)))
    }
    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
        for copy in copies {
            let mut bytes = vec![0; usize::from(copy.length)];
            results.push(self.take(copy, &mut bytes).and_then(|()| self.put(copy, &bytes)));
        }
    }
}

struct Bound(Channel<'static, Guest>, &'static Guest);

impl EventPort for Bound {
    fn notify(&self) {
        self.0.notify();
    }
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        // Whoever asks looks at the ring after this, and is woken at the next event.
        self.1.on_event(self.0.port(), context.waker());
        Poll::Pending
    }
}

impl Events for Kernel {
    type Port = Bound;
    fn bind(&self, domain: DomainId, remote: Port) -> Result<Bound, Errno> {
        let channel = Channel::join(self.guest, domain, remote).map_err(|_| Errno::Inval)?;
        Ok(Bound(channel, self.guest))
    }
}

impl Clock for Kernel {
    fn now(&self) -> Duration {
        self.time.set(self.time.get() + 1000);
        Duration::from_nanos(self.time.get())
    }
    fn sleep_until(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::pending())
    }
}

/// dom0's store, as the back end sees it.
struct Client(&'static Store<'static, Guest>);

type Changed = Pin<Box<dyn Future<Output = Watch<'static, 'static, Guest>>>>;

struct Watching(Changed);

fn next(mut watch: Watch<'static, 'static, Guest>) -> Changed {
    Box::pin(async move {
        let _ = watch.changed().await;
        watch
    })
}

impl StoreWatch for Watching {
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.0.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(watch) => {
                self.0 = next(watch);
                Poll::Ready(())
            }
        }
    }
}

fn errno(error: Error) -> Errno {
    match error {
        Error::Store(errno) => errno,
        _ => Errno::Io,
    }
}

impl StoreClient for Client {
    type Watch = Watching;
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Errno> {
        let mut bytes = [0; 256];
        match self.0.read(Transaction::NONE, path, &mut bytes).await {
            Ok(value) => Ok(Some(value.to_vec())),
            Err(Error::Store(Errno::NoEnt)) => Ok(None),
            Err(error) => Err(errno(error)),
        }
    }
    async fn write_all(&self, directory: &str, values: &[(String, String)]) -> Result<(), Errno> {
        for (key, value) in values {
            let path = format!("{directory}/{key}");
            self.0.write(Transaction::NONE, &path, value.as_bytes()).await.map_err(errno)?;
        }
        Ok(())
    }
    async fn watch(&self, path: &str) -> Result<Watching, Errno> {
        self.0.watch(path).await.map(|watch| Watching(next(watch))).map_err(errno)
    }
}

/// A world with dom0, its bridge, and what was seen.
struct Net {
    world: World,
    kernel: Kernel,
    store: &'static Store<'static, Guest>,
    bridge: Rc<Bridge>,
    shared: Rc<Shared<Kernel>>,
    dom0: &'static Guest,
}

fn address(domain: u16) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, domain as u8]
}

impl Net {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let dom0: &'static Guest = Box::leak(Box::new(world.guest(0)));
        let window = Box::leak(Box::new(Window::new(dom0, 48).expect("there is space")));
        let kernel = Kernel { window, guest: dom0, local: Rc::default(), time: Rc::new(Cell::new(1)) };
        let store = Box::leak(Box::new(Store::new(dom0).expect("dom0 has a store")));
        let shared = Rc::new(Shared::new(&kernel).expect("there is memory"));
        Self { world, kernel, store, bridge: Rc::new(Bridge::new("xenbr0")), shared, dom0 }
    }

    /// A guest with a port, whose back end runs in dom0.
    fn guest(&self, domain: u16) -> (Guest, Rc<Vif<Kernel>>, Rc<Cell<bool>>) {
        let guest = self.world.guest(domain);
        self.world.attach(&guest, self.dom0, "vif", 0);
        let mac = address(domain).map(|byte| format!("{byte:02x}")).join(":");
        self.world.set(&format!("/local/domain/{domain}/device/vif/0/mac"), &mac);
        let config = Config {
            domain: DomainId(domain),
            address: address(domain),
            any_address: false,
            rate: None,
            queues: 1,
        };
        let vif =
            Rc::new(Vif::new(self.kernel.clone(), config, Rc::clone(&self.bridge), Rc::clone(&self.shared)));
        let place = Place {
            back: format!("/local/domain/0/backend/vif/{domain}/0"),
            front: format!("/local/domain/{domain}/device/vif/0"),
        };
        let (store, served, ended) = (self.store, Rc::clone(&vif), Rc::new(Cell::new(false)));
        let done = Rc::clone(&ended);
        self.dom0.spawn(async move {
            serve(&served, &Client(store), &place).await;
            done.set(true);
        });
        (guest, vif, ended)
    }
}

/// The seeds of a test: so many, twenty times as many in the full tier, or the one of `TRUNNION_SEED`.
fn seeds(few: u64) -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("TRUNNION_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seed..seed + 1;
    }
    0..if cfg!(full_tier) { few * 20 } else { few }
}

/// A frame of `length` bytes with a number in it.
fn frame(to: [u8; 6], from: [u8; 6], number: u32, length: usize) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend(number.to_be_bytes());
    bytes.extend((bytes.len()..length).map(|n| (n as u32).wrapping_mul(number | 1) as u8));
    bytes
}

async fn connect<'t>(
    grants: &'t GrantTable<'t, Guest>,
    store: &'t Store<'t, Guest>,
    offload: bool,
) -> Nic<'t, 't, Guest> {
    let device = Device::open(store, "vif", "0").await.expect("the toolstack made it");
    Nic::connect(grants, device, Options { offload }).await.expect("the back end is there")
}

/// Lets the other tasks have a turn.
async fn turn() {
    let mut had = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::replace(&mut had, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Lengths of the frames of a run.
const LENGTHS: [usize; 8] = [60, 64, 255, 256, 257, 1000, 1514, 4096];

#[test]
fn frames_arrive_whole_and_in_order() {
    for seed in seeds(150) {
        let net = Net::new(seed);
        let (one, one_vif, _) = net.guest(1);
        let (two, two_vif, _) = net.guest(2);
        let ready = Rc::new(Cell::new(false));
        let got = Rc::new(Cell::new(0));
        let count = 40;
        {
            let (two, ready, got) = (two.clone(), Rc::clone(&ready), Rc::clone(&got));
            two.clone().spawn(async move {
                let grants = GrantTable::new(&two, 1).unwrap();
                let store = Store::new(&two).unwrap();
                let nic = connect(&grants, &store, seed % 2 == 0).await;
                assert_eq!(nic.address(), address(2));
                ready.set(true);
                let mut bytes = vec![0; 70_000];
                for number in 0..count {
                    let received = nic.receive(&mut bytes).await.unwrap();
                    let length = LENGTHS[number as usize % LENGTHS.len()];
                    assert!(bytes[..received.length] == frame(address(2), address(1), number, length));
                    got.set(got.get() + 1);
                }
                let device = nic.close().await.unwrap();
                drop(device);
            });
        }
        let heard = Rc::clone(&got);
        one.clone().spawn(async move {
            let grants = GrantTable::new(&one, 1).unwrap();
            let store = Store::new(&one).unwrap();
            let nic = connect(&grants, &store, seed % 3 == 0).await;
            while !ready.get() {
                turn().await;
            }
            for number in 0..count {
                let length = LENGTHS[number as usize % LENGTHS.len()];
                let bytes = frame(address(2), address(1), number, length);
                nic.send(&bytes, Offload::default()).await.unwrap();
            }
            // What is still in the ring when a port is closed is not sent.
            while heard.get() < count {
                turn().await;
            }
            nic.close().await.unwrap();
        });
        let done =
            net.world.run_until(|_| !one_vif.is_connected() && got.get() == count && !two_vif.is_connected());
        done.unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        let (sent, received) = (one_vif.statistics().snapshot(), two_vif.statistics().snapshot());
        assert_eq!(
            (sent.tx_packets, received.rx_packets),
            (u64::from(count), u64::from(count)),
            "seed {seed}"
        );
        assert_eq!(sent.dropped() + received.dropped(), 0, "seed {seed}");
        net.world.settle();
        assert_eq!(net.world.held().mappings, 0, "seed {seed}");
        assert_eq!(net.bridge.ports(), 0, "seed {seed}");
    }
}

#[test]
fn a_guest_that_dies_costs_the_others_nothing() {
    for seed in seeds(100) {
        let net = Net::new(seed);
        let (one, one_vif, _) = net.guest(1);
        let (two, two_vif, _) = net.guest(2);
        let (three, _three_vif, ended) = net.guest(3);
        let got = Rc::new(Cell::new(0u32));
        // The third floods the others, and dies in the middle of it.
        {
            let three = three.clone();
            three.clone().spawn(async move {
                let grants = GrantTable::new(&three, 1).unwrap();
                let store = Store::new(&three).unwrap();
                let nic = connect(&grants, &store, true).await;
                for number in 0.. {
                    let to = if number % 2 == 0 { [0xff; 6] } else { address(2) };
                    nic.send(&frame(to, address(3), number, 1000), Offload::default()).await.unwrap();
                }
            });
        }
        for (guest, own, other) in [(one, 1, 2), (two, 2, 1)] {
            let got = Rc::clone(&got);
            guest.clone().spawn(async move {
                let grants = GrantTable::new(&guest, 1).unwrap();
                let store = Store::new(&guest).unwrap();
                let nic = connect(&grants, &store, true).await;
                let mut bytes = vec![0; 70_000];
                let mut number = 0;
                // Each answers the other; the first word is said again until it is heard.
                while number < 30 {
                    let say = frame(address(other), address(own), number, 100);
                    nic.send(&say, Offload::default()).await.unwrap();
                    let received = nic.receive(&mut bytes).await.unwrap();
                    if bytes[..received.length].get(6..12) == Some(&address(other)[..]) {
                        number += 1;
                        got.set(got.get() + 1);
                    }
                }
                // Whoever is ahead keeps talking until the other has heard enough.
                loop {
                    let say = frame(address(other), address(own), number, 100);
                    nic.send(&say, Offload::default()).await.unwrap();
                    nic.receive(&mut bytes).await.unwrap();
                }
            });
        }
        let life = 2000 + net.world.below(3000);
        let mut steps = 0;
        let run = net.world.run_until(|_| {
            steps += 1;
            steps > life
        });
        run.unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        net.world.destroy(&three);
        net.world.remove(&three, net.dom0, "vif", 0);
        let run = net.world.run_until(|_| ended.get() && got.get() >= 60);
        run.unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        assert!(one_vif.is_connected() && two_vif.is_connected(), "seed {seed}");
        assert_eq!(net.bridge.ports(), 2, "seed {seed}");
    }
}

#[test]
fn a_port_is_closed_and_connected_again_and_again() {
    for seed in seeds(100) {
        let net = Net::new(seed);
        let (one, one_vif, _) = net.guest(1);
        let (two, two_vif, _) = net.guest(2);
        let (got, rounds) = (Rc::new(Cell::new(0u32)), Rc::new(Cell::new(0u32)));
        {
            let (two, got) = (two.clone(), Rc::clone(&got));
            two.clone().spawn(async move {
                let grants = GrantTable::new(&two, 1).unwrap();
                let store = Store::new(&two).unwrap();
                let nic = connect(&grants, &store, true).await;
                let mut bytes = vec![0; 70_000];
                loop {
                    let received = nic.receive(&mut bytes).await.unwrap();
                    assert!(received.length == 200 && bytes[6..12] == address(1), "a frame as it was sent");
                    got.set(got.get() + 1);
                }
            });
        }
        let done = Rc::clone(&rounds);
        one.clone().spawn(async move {
            let grants = GrantTable::new(&one, 1).unwrap();
            let store = Store::new(&one).unwrap();
            let free = grants.free();
            for round in 0..6 {
                let nic = connect(&grants, &store, round % 2 == 0).await;
                for number in 0..round * 7 {
                    let bytes = frame(address(2), address(1), number, 200);
                    nic.send(&bytes, Offload::default()).await.unwrap();
                }
                drop(nic.close().await.unwrap());
                assert_eq!(grants.free(), free, "every page comes back");
                done.set(done.get() + 1);
            }
        });
        let run = net.world.run_until(|_| rounds.get() == 6);
        run.unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        assert!(!one_vif.is_connected() && two_vif.is_connected(), "seed {seed}");
        assert!(got.get() <= 7 * 15, "seed {seed}: no frame comes twice");
        assert_eq!(net.bridge.ports(), 1, "seed {seed}");
    }
}
