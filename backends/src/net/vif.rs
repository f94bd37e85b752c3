//! A guest's port: its queues, and the way between them and the bridge.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::Width;
use trunnion_protocol::netif::{Gso, GsoKind, Tx};
use trunnion_protocol::ring::{BackRing, Overrun};

use super::groups::Groups;
use super::keys::{Features, LinkPlan, PortPlan};
use super::limit::Bucket;
use super::offload::{self, Version};
use super::receive::{Done, Kept, Receiver};
use super::send::Rules;
use super::statistics::Statistics;
use super::workshop::{Room, Shared, source};
use crate::bridge::{Bridge, PortId};
use crate::frame::{Checksum, Frame, NetPort, Tap};
use crate::handshake::map_rings;
use crate::host::{EventPort, NetHost};
use crate::pages::RingPages;

/// How long a limited guest may send at full speed after a pause.
const BURST: Duration = Duration::from_millis(50);

/// What a port is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The guest.
    pub domain: DomainId,
    /// Its address.
    pub address: [u8; 6],
    /// It may send from other addresses too.
    pub any_address: bool,
    /// Bytes a second that it may send.
    pub rate: Option<u64>,
    /// Most queues.
    pub queues: u32,
}

/// Why a connection failed. The device is closed; a new handshake may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The guest wrote an impossible index.
    Ring(Overrun),
    /// A ring's page cannot be mapped.
    RingPage(GrantStatus),
    /// A port cannot be joined.
    Port(Errno),
    /// A packet has more slots than any packet can have.
    Chain,
    /// A packet's last slots are missing.
    Cut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(overrun) => fmt::Display::fmt(overrun, f),
            Self::RingPage(status) => write!(f, "a ring cannot be mapped: {status}"),
            Self::Port(errno) => write!(f, "an event channel cannot be joined: {errno}"),
            Self::Chain => f.write_str("a packet has too many slots"),
            Self::Cut => f.write_str("a packet's last slots are missing"),
        }
    }
}

impl core::error::Error for Fault {}

/// The two rings of a queue, with their ports.
struct Queue<H: NetHost> {
    send: RefCell<BackRing<Tx, RingPages<H::Page>>>,
    receive: RefCell<Receiver<RingPages<H::Page>>>,
    /// Of both rings, or of the first.
    port: H::Port,
    /// Of the second.
    second: Option<H::Port>,
}

impl<H: NetHost> Queue<H> {
    fn notify_receiver(&self) {
        self.second.as_ref().unwrap_or(&self.port).notify();
    }
}

/// A connection.
struct Link<H: NetHost> {
    queues: Vec<Queue<H>>,
    features: Features,
    groups: RefCell<Groups>,
}

/// One port of one guest. It is polled by one task, and takes frames from others.
pub struct Vif<H: NetHost> {
    host: H,
    config: Config,
    bridge: Rc<Bridge>,
    shared: Rc<Shared<H>>,
    link: RefCell<Option<Rc<Link<H>>>>,
    port: Cell<Option<PortId>>,
    statistics: Statistics,
    limit: RefCell<Option<Bucket>>,
    sleep: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    /// The last packets went to somebody who reads them.
    whole: Cell<bool>,
    fault: Cell<Option<Fault>>,
    waker: RefCell<Option<Waker>>,
    tap: RefCell<Option<Rc<dyn Tap>>>,
}

impl<H: NetHost> Vif<H> {
    /// A port that is not connected.
    pub fn new(host: H, config: Config, bridge: Rc<Bridge>, shared: Rc<Shared<H>>) -> Self {
        let limit = config.rate.map(|rate| {
            let burst = rate.saturating_mul(BURST.as_millis() as u64) / 1000;
            Bucket::new(rate, burst, host.now())
        });
        Self {
            host,
            config,
            bridge,
            shared,
            link: RefCell::new(None),
            port: Cell::new(None),
            statistics: Statistics::default(),
            limit: RefCell::new(limit),
            sleep: RefCell::new(None),
            whole: Cell::new(false),
            fault: Cell::new(None),
            waker: RefCell::new(None),
            tap: RefCell::new(None),
        }
    }

    /// The counters.
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// What the port was made for.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The bridge that it is a port of while it is connected.
    pub const fn bridge(&self) -> &Rc<Bridge> {
        &self.bridge
    }

    /// From now on `tap` sees the frames that the guest has sent, and those that are for it.
    pub fn watch(&self, tap: Rc<dyn Tap>) {
        *self.tap.borrow_mut() = Some(tap);
    }

    fn show(&self, frame: &Frame<'_>) {
        if let Some(tap) = &*self.tap.borrow() {
            tap.passes(frame);
        }
    }

    /// Whether rings are joined.
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_some()
    }

    /// Joins the guest's rings, and the bridge. On failure nothing is held.
    pub fn connect(self: &Rc<Self>, plan: &LinkPlan) -> Result<(), Fault>
    where
        H: 'static,
    {
        self.disconnect();
        let references = plan.queues.iter().flat_map(|queue| [queue.tx, queue.rx]);
        let mut pages = map_rings(&self.host, self.config.domain, references).map_err(Fault::RingPage)?;
        let mut queues = Vec::with_capacity(plan.queues.len());
        let mut failed = None;
        let mut rings = pages.drain(..);
        for queue in &plan.queues {
            let (Some(tx), Some(rx)) = (rings.next(), rings.next()) else { break };
            let tx = BackRing::new(RingPages(alloc::vec![tx]), Width::W64);
            let rx = BackRing::new(RingPages(alloc::vec![rx]), Width::W64);
            // A page has room for a ring.
            let (Some(tx), Some(rx)) = (tx, rx) else { break };
            match self.bind(queue.port) {
                Ok((port, second)) => queues.push(Queue {
                    send: RefCell::new(tx),
                    receive: RefCell::new(Receiver::new(rx, self.config.domain)),
                    port,
                    second,
                }),
                Err(errno) => {
                    failed = Some(Fault::Port(errno));
                    let mut pages = tx.into_pages().0;
                    pages.append(&mut rx.into_pages().0);
                    self.host.unmap(&mut pages);
                    break;
                }
            }
        }
        let mut rest: Vec<_> = rings.collect();
        if let Some(fault) = failed {
            queues.into_iter().for_each(|queue| self.release(queue, &mut rest));
            if !rest.is_empty() {
                self.host.unmap(&mut rest);
            }
            return Err(fault);
        }
        let groups = Groups::new(plan.features.multicast_control);
        let link = Link { queues, features: plan.features, groups: RefCell::new(groups) };
        *self.link.borrow_mut() = Some(Rc::new(link));
        let port: Rc<dyn NetPort> = Rc::<Self>::clone(self);
        self.port.set(Some(self.bridge.join(port, self.host.now())));
        Ok(())
    }

    fn bind(&self, plan: PortPlan) -> Result<(H::Port, Option<H::Port>), Errno> {
        match plan {
            PortPlan::One(port) => Ok((self.host.bind(self.config.domain, port)?, None)),
            PortPlan::Two(tx, rx) => {
                let tx = self.host.bind(self.config.domain, tx)?;
                Ok((tx, Some(self.host.bind(self.config.domain, rx)?)))
            }
        }
    }

    fn release(&self, queue: Queue<H>, pages: &mut Vec<H::Page>) {
        pages.append(&mut queue.send.into_inner().into_pages().0);
        let receiver = queue.receive.into_inner();
        self.statistics.change(|counts| counts.rx_dropped += receiver.waiting() as u64);
        pages.append(&mut receiver.ring.into_pages().0);
    }

    /// Leaves the bridge and the rings: nothing of the guest is held any more.
    pub fn disconnect(&self) {
        if let Some(port) = self.port.take() {
            self.bridge.leave(port);
        }
        self.sleep.borrow_mut().take();
        self.fault.set(None);
        let link = self.link.borrow_mut().take();
        // Nobody keeps a connection across a call.
        if let Some(link) = link.and_then(Rc::into_inner) {
            let mut pages = Vec::new();
            link.queues.into_iter().for_each(|queue| self.release(queue, &mut pages));
            self.host.unmap(&mut pages);
        }
    }

    fn current(&self) -> Option<Rc<Link<H>>> {
        self.link.borrow().clone()
    }

    /// Does a bounded amount of work; pending when it is to be polled again. Ready only when the connection failed, which
    /// has then been left.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Fault> {
        let outcome = match self.current() {
            None => Ok(false),
            Some(link) => self.step(&link, context),
        };
        match (outcome, self.fault.take()) {
            (Ok(again), None) => {
                if again {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            (Err(fault), _) | (Ok(_), Some(fault)) => {
                self.disconnect();
                Poll::Ready(fault)
            }
        }
    }

    fn step(&self, link: &Link<H>, context: &mut Context<'_>) -> Result<bool, Fault> {
        {
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        let mut again = false;
        for queue in &link.queues {
            again |= hears(&queue.port, context);
            if let Some(second) = &queue.second {
                again |= hears(second, context);
            }
            again |= self.send(link, queue, context)?;
            again |= self.drain(queue)?;
        }
        Ok(again)
    }

    /// One run of packets from the guest. True if there may be more at once.
    fn send(&self, link: &Link<H>, queue: &Queue<H>, context: &mut Context<'_>) -> Result<bool, Fault> {
        let now = self.host.now();
        if !self.is_open(now, context) {
            return Ok(false);
        }
        let mut ring = queue.send.borrow_mut();
        let rules = Rules {
            domain: self.config.domain,
            address: (!self.config.any_address).then_some(self.config.address),
        };
        let mut run = self.shared.run.borrow_mut();
        let mut limit = self.limit.borrow_mut();
        let taken = run.take(&mut ring, rules, &mut link.groups.borrow_mut(), self.whole.get(), |bytes| {
            limit.as_mut().is_none_or(|limit| {
                limit.take(bytes as u64);
                limit.is_open(now)
            })
        });
        drop(limit);
        if !run.is_empty() {
            run.fetch(&self.host);
            let Some(port) = self.port.get() else { return Ok(false) };
            let mut whole = false;
            let (packets, bytes, dropped) = run.forward(rules, |frame| {
                self.show(frame);
                whole |= self.bridge.forward(port, frame, now);
            });
            self.bridge.flush();
            self.whole.set(whole);
            self.statistics.change(|counts| {
                counts.tx_packets += packets;
                counts.tx_bytes += bytes;
                counts.tx_dropped += dropped;
            });
            run.answer(&mut ring, self.config.domain);
            if ring.publish().is_due() {
                self.statistics.change(|counts| counts.events += 1);
                queue.port.notify();
            }
        }
        taken?;
        ring.arm().map_err(Fault::Ring)
    }

    /// Whether the guest may send; if not, the task is woken when it may.
    fn is_open(&self, now: Duration, context: &mut Context<'_>) -> bool {
        let mut limit = self.limit.borrow_mut();
        let Some(limit) = limit.as_mut() else { return true };
        let mut sleep = self.sleep.borrow_mut();
        if limit.is_open(now) {
            *sleep = None;
            return true;
        }
        let sleep = sleep.get_or_insert_with(|| self.host.sleep_until(limit.opens_at()));
        if sleep.as_mut().poll(context).is_ready() {
            *sleep = self.host.sleep_until(limit.opens_at());
            if sleep.as_mut().poll(context).is_ready() {
                // The moment has come since the clock was read.
                context.waker().wake_by_ref();
            }
        }
        false
    }

    /// Gives the guest what has waited for its buffers. True if there may be more at once.
    fn drain(&self, queue: &Queue<H>) -> Result<bool, Fault> {
        let mut receiver = queue.receive.borrow_mut();
        if !receiver.has_backlog() {
            return Ok(false);
        }
        let now = self.host.now();
        let expired = receiver.expire(now) as u64;
        self.statistics.change(|counts| counts.rx_dropped += expired);
        let mut stage = self.shared.stage.borrow_mut();
        let mut list = Vec::new();
        stage.clear();
        while let Some(kept) = receiver.next_kept(now).map_err(Fault::Ring)? {
            list.clear();
            if !stage.put(&kept.bytes, |page, length| list.push((page, 0, length))) {
                let done = receiver.flush(&self.host, self.scratch());
                self.account(queue, &done);
                stage.clear();
                list.clear();
                stage.put(&kept.bytes, |page, length| list.push((page, 0, length)));
            }
            receiver
                .place(list.iter().copied(), kept.bytes.len(), kept.checksum, kept.gso)
                .map_err(Fault::Ring)?;
        }
        let done = receiver.flush(&self.host, self.scratch());
        self.account(queue, &done);
        if receiver.has_backlog() { receiver.ring.arm().map_err(Fault::Ring) } else { Ok(false) }
    }

    fn account(&self, queue: &Queue<H>, done: &Done) {
        self.statistics.change(|counts| {
            counts.rx_packets += done.packets;
            counts.rx_bytes += done.bytes;
            counts.rx_dropped += done.failed;
            counts.events += u64::from(done.notify);
        });
        if done.notify {
            queue.notify_receiver();
        }
    }

    fn scratch(&self) -> Gfn {
        self.shared.gather.borrow().scratch()
    }

    fn dropped(&self) {
        self.statistics.change(|counts| counts.rx_dropped += 1);
    }

    /// Ends the connection when the task is polled next.
    fn fail(&self, overrun: Overrun) {
        self.fault.set(Some(Fault::Ring(overrun)));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Places a frame in the guest's buffers, or keeps it until there are some.
    fn place(&self, queue: &Queue<H>, frame: &Frame<'_>) {
        let mut receiver = queue.receive.borrow_mut();
        let pieces = frame.pieces.iter().map(|piece| {
            let (page, offset) = source(&piece.place);
            (page, offset, piece.length)
        });
        if !receiver.has_backlog() {
            match receiver.place(pieces, frame.length, frame.checksum, frame.gso) {
                Ok(true) => return,
                Ok(false) => {}
                Err(overrun) => return self.fail(overrun),
            }
        }
        let mut bytes = Vec::new();
        if self.shared.gather.borrow_mut().pull(&self.host, frame, &mut bytes).is_none() {
            return self.dropped();
        }
        self.keep(&mut receiver, bytes, frame.checksum, frame.gso);
    }

    fn keep(
        &self,
        receiver: &mut Receiver<RingPages<H::Page>>,
        bytes: Vec<u8>,
        checksum: Checksum,
        gso: Option<Gso>,
    ) {
        let first = !receiver.has_backlog();
        let Some(room) = Room::take(&self.shared.kept, bytes.len()) else { return self.dropped() };
        if !receiver.keep(Kept { bytes, checksum, gso, room }, self.host.now()) {
            return self.dropped();
        }
        if first {
            // The task asks for an event at the next buffer.
            self.wake();
        }
    }

    /// Does in software what the guest cannot: cuts the packet, fills checksums in.
    fn rework(&self, queue: &Queue<H>, features: &Features, frame: &Frame<'_>) {
        let (mut buffer, mut cut) = mem::take(&mut *self.shared.bytes.borrow_mut());
        let pulled = self.shared.gather.borrow_mut().pull(&self.host, frame, &mut buffer);
        let mut stage = self.shared.stage.borrow_mut();
        stage.clear();
        let mut list = Vec::new();
        let mut put = |bytes: &[u8]| {
            if bytes.len() > PAGE_SIZE && !features.sg {
                return self.dropped();
            }
            self.statistics.change(|counts| counts.rx_software += 1);
            let mut receiver = queue.receive.borrow_mut();
            let keep = |receiver: &mut Receiver<_>| {
                self.keep(receiver, bytes.to_vec(), Checksum::Good, None);
            };
            if receiver.has_backlog() {
                return keep(&mut receiver);
            }
            list.clear();
            if !stage.put(bytes, |page, length| list.push((page, 0, length))) {
                let done = receiver.flush(&self.host, self.scratch());
                self.account(queue, &done);
                stage.clear();
                list.clear();
                stage.put(bytes, |page, length| list.push((page, 0, length)));
            }
            match receiver.place(list.iter().copied(), bytes.len(), Checksum::Good, None) {
                Ok(true) => {}
                Ok(false) => keep(&mut receiver),
                Err(overrun) => self.fail(overrun),
            }
        };
        let good = pulled.is_some_and(|bytes| match frame.gso {
            Some(gso) => offload::segment(bytes, gso, &mut cut, |bytes| put(bytes)).is_some(),
            None => {
                let good = frame.checksum != Checksum::Blank || offload::complete(bytes);
                if good {
                    put(bytes);
                }
                good
            }
        });
        if !good {
            self.dropped();
        }
        // What was staged must not outlive this call.
        let done = queue.receive.borrow_mut().flush(&self.host, self.scratch());
        self.account(queue, &done);
        drop(stage);
        *self.shared.bytes.borrow_mut() = (buffer, cut);
    }
}

/// Makes the next event wake the task; true if one came meanwhile. An event says nothing but "look", which is done anyhow; but a
/// port that tells of one has not kept the waker.
fn hears(port: &impl EventPort, context: &mut Context<'_>) -> bool {
    port.poll_event(context).is_ready() && port.poll_event(context).is_ready()
}

/// Whether a guest takes a frame as it is.
fn takes(features: &Features, frame: &Frame<'_>) -> bool {
    if frame.length > PAGE_SIZE && !features.sg {
        return false;
    }
    match frame.gso.map(|Gso { kind, .. }| kind) {
        Some(GsoKind::TcpV4) if !features.gso_v4 => return false,
        Some(GsoKind::TcpV6) if !features.gso_v6 => return false,
        _ => {}
    }
    if frame.checksum != Checksum::Blank {
        return true;
    }
    match offload::headers(frame.head).map(|headers| headers.version) {
        Some(Version::V4) => features.checksum_v4,
        Some(Version::V6) => features.checksum_v6,
        None => false,
    }
}

impl<H: NetHost> NetPort for Vif<H> {
    fn deliver(&self, frame: &Frame<'_>) {
        let Some(link) = self.current() else { return };
        let Some(&to) = frame.head.first_chunk::<6>() else { return };
        if !link.groups.borrow().hears(to) {
            return;
        }
        self.show(frame);
        let index = match link.queues.len() {
            0 | 1 => 0,
            count => offload::flow(frame.head) as usize % count,
        };
        let Some(queue) = link.queues.get(index) else { return };
        if takes(&link.features, frame) {
            self.place(queue, frame);
        } else {
            self.rework(queue, &link.features, frame);
        }
    }

    fn flush(&self) {
        let Some(link) = self.current() else { return };
        for queue in &link.queues {
            let done = queue.receive.borrow_mut().flush(&self.host, self.scratch());
            self.account(queue, &done);
        }
    }

    fn reads(&self) -> bool {
        false
    }
}

impl<H: NetHost> Drop for Vif<H> {
    fn drop(&mut self) {
        self.disconnect();
    }
}
