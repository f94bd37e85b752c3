//! A world of several guests with network ports: memory with grants, event channels, a clock, and front ends that play by
//! the rules.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use trunnion_backends::bridge::Bridge;
use trunnion_backends::device::GuestPage;
use trunnion_backends::frame::{Checksum, Frame, NetPort};
use trunnion_backends::host::{
    Clock, CopyPage, EventPort, Events, GrantCopier, GrantCopy, GrantMapper, Wanted,
};
use trunnion_backends::net::keys::{Features, LinkPlan, PortPlan, QueuePlan};
use trunnion_backends::net::{Config, Fault, Shared, Snapshot, Vif};
use trunnion_protocol::address::{Gfn, MachineAddress, PAGE_SIZE};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{ExtraInfo, Gso, Rx, RxRequest, Tx, TxRequest, TxSlot, rx, tx};
use trunnion_protocol::ring::{FrontRing, Pages};
use trunnion_protocol::shared::SharedPage;

/// A page, and whether it may be written.
type Granted = (Rc<SharedPage>, bool);

#[derive(Default)]
pub struct World {
    grants: RefCell<BTreeMap<(u16, u32), Granted>>,
    local: RefCell<BTreeMap<u64, (LocalPages, usize)>>,
    next: Cell<u32>,
    pub mapped: Cell<u32>,
    pub copy_calls: Cell<u32>,
    /// Bytes copied, and how many copies.
    pub copied: Cell<(u64, u32)>,
    pub now: Cell<Duration>,
    channels: RefCell<BTreeMap<(u16, u32), Rc<Channel>>>,
}

#[derive(Default)]
pub struct Channel {
    pub pending: Cell<bool>,
    pub bound: Cell<bool>,
    pub notified: Cell<u32>,
}

#[derive(Clone)]
pub struct LocalPages(Rc<Vec<SharedPage>>);

impl AsRef<[SharedPage]> for LocalPages {
    fn as_ref(&self) -> &[SharedPage] {
        &self.0
    }
}

pub struct Mapped(Rc<SharedPage>, Rc<World>);

impl GuestPage for Mapped {
    fn shared(&self) -> &SharedPage {
        &self.0
    }
    fn gfn(&self) -> Gfn {
        Gfn(0)
    }
    fn bus_address(&self) -> MachineAddress {
        MachineAddress(0)
    }
}

#[derive(Clone)]
pub struct Kernel(pub Rc<World>);

impl GrantMapper for Kernel {
    type Page = Mapped;
    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Mapped, GrantStatus>>) {
        for wanted in wanted {
            let page = self.0.page(domain, wanted.reference, wanted.access);
            results.push(page.map(|page| {
                self.0.mapped.set(self.0.mapped.get() + 1);
                Mapped(page, Rc::clone(&self.0))
            }));
        }
    }
    fn unmap(&self, pages: &mut Vec<Mapped>) {
        self.0.mapped.set(self.0.mapped.get() - pages.len() as u32);
        pages.clear();
    }
}

impl World {
    fn page(
        &self,
        domain: DomainId,
        reference: GrantRef,
        access: Access,
    ) -> Result<Rc<SharedPage>, GrantStatus> {
        let grants = self.grants.borrow();
        let (page, writable) = grants.get(&(domain.0, reference.0)).ok_or(GrantStatus::BadGntref)?;
        if access == Access::ReadWrite && !writable {
            return Err(GrantStatus::PermissionDenied);
        }
        Ok(Rc::clone(page))
    }

    pub fn grant(&self, domain: DomainId, page: &Rc<SharedPage>, writable: bool) -> GrantRef {
        let reference = self.next.get() + 8;
        self.next.set(self.next.get() + 1);
        self.grants.borrow_mut().insert((domain.0, reference), (Rc::clone(page), writable));
        GrantRef(reference)
    }

    pub fn revoke(&self, domain: DomainId, reference: GrantRef) {
        self.grants.borrow_mut().remove(&(domain.0, reference.0)).expect("a grant is revoked once");
    }

    pub fn open(&self, domain: DomainId, port: u32) -> Rc<Channel> {
        Rc::clone(self.channels.borrow_mut().entry((domain.0, port)).or_default())
    }

    fn copy(&self, copy: &GrantCopy) -> Result<(), GrantStatus> {
        let (from, to, length) =
            (usize::from(copy.from_offset), usize::from(copy.to_offset), usize::from(copy.length));
        assert!(length > 0 && from + length <= PAGE_SIZE && to + length <= PAGE_SIZE, "{copy:?}");
        let mut bytes = vec![0; length];
        match copy.from {
            CopyPage::Granted(domain, reference) => {
                self.page(domain, reference, Access::ReadOnly)?.copy_out(from, &mut bytes).unwrap();
            }
            CopyPage::Local(gfn) => {
                let local = self.local.borrow();
                let (pages, index) = local.get(&gfn.0).expect("a local page");
                pages.0[*index].copy_out(from, &mut bytes).unwrap();
            }
        }
        match copy.to {
            CopyPage::Granted(domain, reference) => {
                self.page(domain, reference, Access::ReadWrite)?.copy_in(to, &bytes).unwrap();
            }
            CopyPage::Local(gfn) => {
                let local = self.local.borrow();
                let (pages, index) = local.get(&gfn.0).expect("a local page");
                pages.0[*index].copy_in(to, &bytes).unwrap();
            }
        }
        let (total, count) = self.copied.get();
        self.copied.set((total + length as u64, count + 1));
        Ok(())
    }
}

impl GrantCopier for Kernel {
    type Local = LocalPages;
    fn local(&self, count: usize) -> Option<(LocalPages, Gfn)> {
        let pages = LocalPages(Rc::new((0..count).map(|_| SharedPage::zeroed()).collect()));
        let mut local = self.0.local.borrow_mut();
        let first = local.keys().last().map_or(0x1000, |last| last + 7);
        for index in 0..count {
            local.insert(first + index as u64, (pages.clone(), index));
        }
        Some((pages, Gfn(first)))
    }
    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
        self.0.copy_calls.set(self.0.copy_calls.get() + 1);
        results.extend(copies.iter().map(|copy| self.0.copy(copy)));
    }
}

pub struct BoundPort(Rc<Channel>);

impl EventPort for BoundPort {
    fn notify(&self) {
        self.0.notified.set(self.0.notified.get() + 1);
    }
    fn poll_event(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.0.pending.replace(false) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for BoundPort {
    fn drop(&mut self) {
        self.0.bound.set(false);
    }
}

impl Events for Kernel {
    type Port = BoundPort;
    fn bind(&self, domain: DomainId, remote: Port) -> Result<BoundPort, Errno> {
        let channels = self.0.channels.borrow();
        let channel = channels.get(&(domain.0, remote.0)).ok_or(Errno::Inval)?;
        if channel.bound.replace(true) {
            return Err(Errno::Inval);
        }
        Ok(BoundPort(Rc::clone(channel)))
    }
}

impl Clock for Kernel {
    fn now(&self) -> Duration {
        self.0.now.get()
    }
    fn sleep_until(&self, moment: Duration) -> Pin<Box<dyn Future<Output = ()>>> {
        let world = Rc::clone(&self.0);
        Box::pin(std::future::poll_fn(move |_| {
            if world.now.get() >= moment { Poll::Ready(()) } else { Poll::Pending }
        }))
    }
}

/// Pages of a guest's ring.
#[derive(Clone)]
pub struct RingMemory(pub Rc<SharedPage>);

impl Pages for RingMemory {
    fn count(&self) -> usize {
        1
    }
    fn page(&self, index: usize) -> Option<&SharedPage> {
        (index == 0).then_some(&*self.0)
    }
}

/// A received packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
}

/// What a guest sends.
#[derive(Clone, Default)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub blank: bool,
    pub gso: Option<Gso>,
    /// Bytes of the first fragment; 0 for a page.
    pub first: usize,
}

pub const ALL: Features = Features {
    sg: true,
    gso_v4: true,
    gso_v6: true,
    checksum_v4: true,
    checksum_v6: true,
    multicast_control: false,
};

/// A guest with one port.
pub struct Guest {
    pub world: Rc<World>,
    pub domain: DomainId,
    pub address: [u8; 6],
    pub vif: Rc<Vif<Kernel>>,
    pub tx: FrontRing<Tx, RingMemory>,
    pub rx: FrontRing<Rx, RingMemory>,
    pub tx_page: RingMemory,
    pub rx_page: RingMemory,
    pub channel: Rc<Channel>,
    in_flight: BTreeMap<u16, Vec<GrantRef>>,
    pub buffers: VecDeque<(u16, Rc<SharedPage>, GrantRef)>,
    next: u16,
    /// Statuses of answered requests, by identity.
    pub statuses: Vec<(u16, i16)>,
    pub received: Vec<Packet>,
    pub errors: u32,
}

/// A bridge with its world.
pub struct Lan {
    pub world: Rc<World>,
    pub bridge: Rc<Bridge>,
    pub shared: Rc<Shared<Kernel>>,
}

impl Lan {
    pub fn new() -> Self {
        let world = Rc::new(World::default());
        let shared = Rc::new(Shared::new(&Kernel(Rc::clone(&world))).unwrap());
        Self { world, bridge: Rc::new(Bridge::new("xenbr0")), shared }
    }

    pub fn vif(&self, domain: u16, change: impl FnOnce(&mut Config)) -> Rc<Vif<Kernel>> {
        let mut config = Config {
            domain: DomainId(domain),
            address: [0, 0x16, 0x3e, 0, 0, domain as u8],
            any_address: false,
            rate: None,
            queues: 4,
        };
        change(&mut config);
        let kernel = Kernel(Rc::clone(&self.world));
        Rc::new(Vif::new(kernel, config, Rc::clone(&self.bridge), Rc::clone(&self.shared)))
    }

    pub fn guest(&self, domain: u16, features: Features, change: impl FnOnce(&mut Config)) -> Guest {
        let vif = self.vif(domain, change);
        let (tx_page, rx_page) =
            (RingMemory(Rc::new(SharedPage::zeroed())), RingMemory(Rc::new(SharedPage::zeroed())));
        let tx = FrontRing::new(tx_page.clone(), Width::W64).unwrap();
        let rx = FrontRing::new(rx_page.clone(), Width::W64).unwrap();
        let domain = DomainId(domain);
        let channel = self.world.open(domain, 3);
        let plan = LinkPlan {
            queues: vec![QueuePlan {
                tx: self.world.grant(domain, &tx_page.0, true),
                rx: self.world.grant(domain, &rx_page.0, true),
                port: PortPlan::One(Port(3)),
            }],
            features,
        };
        vif.connect(&plan).unwrap();
        let address = vif.config().address;
        Guest {
            world: Rc::clone(&self.world),
            domain,
            address,
            vif,
            tx,
            rx,
            tx_page,
            rx_page,
            channel,
            in_flight: BTreeMap::new(),
            buffers: VecDeque::new(),
            next: 0,
            statuses: Vec::new(),
            received: Vec::new(),
            errors: 0,
        }
    }
}

impl Guest {
    /// Offers buffers.
    pub fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let page = Rc::new(SharedPage::zeroed());
            let reference = self.world.grant(self.domain, &page, true);
            let id = self.id();
            self.rx.put(&RxRequest { id, reference }).expect("the test leaves room");
            self.buffers.push_back((id, page, reference));
        }
        let _ = self.rx.publish();
    }

    fn id(&mut self) -> u16 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    pub fn raw(&mut self, slot: TxSlot) {
        self.tx.put(&slot).expect("the test leaves room");
    }

    /// Puts a packet; returns the identity of its first request.
    pub fn put(&mut self, sent: &Sent) -> u16 {
        let first = if sent.first == 0 { sent.bytes.len().min(PAGE_SIZE) } else { sent.first };
        let (head, rest) = sent.bytes.split_at(first.min(sent.bytes.len()));
        let fragments: Vec<&[u8]> = std::iter::once(head).chain(rest.chunks(PAGE_SIZE)).collect();
        let id = self.id();
        let mut references = Vec::new();
        let count = fragments.len();
        for (index, fragment) in fragments.into_iter().enumerate() {
            let page = SharedPage::zeroed();
            let offset = (PAGE_SIZE - fragment.len()).min(64);
            page.copy_in(offset, fragment).unwrap();
            let reference = self.world.grant(self.domain, &Rc::new(page), false);
            references.push(reference);
            let mut flags = if index + 1 < count { tx::MORE } else { 0 };
            if index == 0 {
                flags |= if sent.blank { tx::CHECKSUM_BLANK | tx::DATA_VALIDATED } else { 0 };
                flags |= if sent.gso.is_some() { tx::EXTRA } else { 0 };
            }
            let size = if index == 0 { sent.bytes.len() } else { fragment.len() };
            let request = TxRequest { reference, offset: offset as u16, flags, id, size: size as u16 };
            self.raw(request.into());
            if index == 0
                && let Some(gso) = sent.gso
            {
                self.raw(ExtraInfo::gso(gso).into());
            }
        }
        self.in_flight.insert(id, references);
        id
    }

    /// Lets the back end work until it has nothing to do, and takes what came.
    pub fn run(&mut self) -> Option<Fault> {
        let _ = self.tx.publish();
        let fault = self.poll();
        self.take();
        fault
    }

    pub fn poll(&self) -> Option<Fault> {
        for _ in 0..1000 {
            let flag = std::sync::Arc::new(Flag::default());
            let waker = std::task::Waker::from(std::sync::Arc::clone(&flag));
            if let Poll::Ready(fault) = self.vif.poll(&mut Context::from_waker(&waker)) {
                return Some(fault);
            }
            if !flag.0.swap(false, std::sync::atomic::Ordering::Relaxed) {
                return None;
            }
        }
        panic!("the back end never sleeps");
    }

    /// Takes answers and packets, and asks for events.
    pub fn take(&mut self) {
        loop {
            self.take_once();
            let (tx, rx) = (self.tx.arm().unwrap(), self.rx.arm().unwrap());
            if !tx && !rx {
                return;
            }
        }
    }

    fn take_once(&mut self) {
        while let Some(answer) = self.tx.take().unwrap() {
            if answer.status == 1 {
                continue;
            }
            self.statuses.push((answer.id, answer.status));
            if let Some(references) = self.in_flight.get_mut(&answer.id) {
                let reference = references.remove(0);
                self.world.revoke(self.domain, reference);
                if references.is_empty() {
                    self.in_flight.remove(&answer.id);
                }
            }
        }
        while let Some(slot) = self.rx.take().unwrap() {
            let first = slot.response();
            let mut packet = Packet {
                bytes: Vec::new(),
                checksum: match first.flags & (rx::CHECKSUM_BLANK | rx::DATA_VALIDATED) {
                    0 => Checksum::Unknown,
                    rx::DATA_VALIDATED => Checksum::Good,
                    _ => Checksum::Blank,
                },
                gso: None,
            };
            let (mut response, mut index) = (first, 0);
            let mut failed = false;
            loop {
                let (id, page, reference) = self.buffers.pop_front().expect("a buffer for each answer");
                self.world.revoke(self.domain, reference);
                assert_eq!(id, response.id, "each answer is in its request's slot");
                failed |= response.status < 0;
                let start = packet.bytes.len();
                packet.bytes.resize(start + response.status.max(0) as usize, 0);
                page.copy_out(usize::from(response.offset), &mut packet.bytes[start..]).unwrap();
                if index == 0 && response.flags & rx::EXTRA != 0 {
                    let extra = self.rx.take().unwrap().expect("extra information follows").extra();
                    packet.gso = extra.as_gso();
                    let (_, _, reference) = self.buffers.pop_front().expect("it takes a buffer");
                    self.world.revoke(self.domain, reference);
                }
                if response.flags & rx::MORE == 0 {
                    break;
                }
                response = self.rx.take().unwrap().expect("a fragment follows").response();
                index += 1;
            }
            if failed {
                self.errors += 1;
            } else {
                self.received.push(packet);
            }
        }
    }

    pub fn counts(&self) -> Snapshot {
        self.vif.statistics().snapshot()
    }

    /// Requests that have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.in_flight.len()
    }
}

#[derive(Default)]
pub struct Flag(pub std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A port that keeps the bytes of what it gets.
#[derive(Default)]
pub struct Reader {
    pub frames: RefCell<Vec<Packet>>,
    pub flushes: Cell<u32>,
}

impl NetPort for Reader {
    fn deliver(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        if frame.append_to(&mut bytes) {
            self.frames.borrow_mut().push(Packet { bytes, checksum: frame.checksum, gso: frame.gso });
        } else {
            self.frames.borrow_mut().push(Packet {
                bytes: frame.head.to_vec(),
                checksum: frame.checksum,
                gso: frame.gso,
            });
        }
    }
    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }
}

/// A frame of TCP or UDP over IPv4 or IPv6 with a blank checksum.
pub fn packet(to: [u8; 6], from: [u8; 6], v6: bool, protocol: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    let transport: usize = if protocol == 6 { 20 } else { 8 };
    let length = (transport + data.len()) as u16;
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfc; 16]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend(length.wrapping_add(20).to_be_bytes());
        bytes.extend([0, 9, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, from[5], 10, 0, 0, to[5]]);
    }
    bytes.extend([0x12, 0x34, 0, 80]);
    if protocol == 6 {
        bytes.extend([0, 0, 0, 100, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    } else {
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend_from_slice(data);
    bytes
}

/// UDP's number.
pub const UDP: u8 = 17;

pub fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 253) as u8).collect()
}

/// Two guests that know each other's addresses.
pub fn pair(features: Features) -> (Lan, Guest, Guest) {
    let lan = Lan::new();
    let mut one = lan.guest(1, ALL, |_| {});
    let mut two = lan.guest(2, features, |_| {});
    for (from, to) in [(&mut one, [2; 6]), (&mut two, [2; 6])] {
        from.put(&Sent { bytes: packet(to, from.address, false, UDP, b"hello"), ..Sent::default() });
        assert_eq!(from.run(), None);
    }
    // The first was flooded to the other, which had no buffers yet.
    two.offer(1);
    one.offer(1);
    assert_eq!((two.poll(), one.poll()), (None, None));
    two.take();
    one.take();
    assert_eq!((one.received.len(), two.received.len()), (1, 1));
    one.received.clear();
    two.received.clear();
    lan.world.copied.set((0, 0));
    (lan, one, two)
}
