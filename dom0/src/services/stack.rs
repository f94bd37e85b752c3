//! dom0's own address on the first bridge, by smoltcp: it answers pings, and offers the three small services by which
//! networks are measured (UDP echo on port 7, TCP sink on port 9, TCP source on port 19).
//!
//! Its port reads frames as they are: a guest's large packets come whole, and checksums that are blank are not computed
//! only to be looked at. Frames from the wire are checked here.

mod sockets;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr, Ipv6Address, Ipv6Cidr};
use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::frame::{Checksum, Frame, HEAD, MAX_FRAME, NetPort, Piece, Place};
use trunnion_backends::host::{GrantCopier, GrantCopy};
use trunnion_backends::net::{bring, offload};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::memory::{self, Pages};
use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::errno::GrantStatus;

use super::grants::Kernel;
use super::nets::Nets;
use super::remote::Remote;
use super::segments::{self, LARGE, WIRE};
use crate::devices::interrupt::Signal;
use sockets::Sockets;

/// dom0's address on the wire.
const ADDRESS: [u8; 6] = [0x00, 0x16, 0x3e, 0xff, 0xff, 0x00];
/// Its address of IPv6, which the one on the wire gives it (RFC 4291, appendix A): one for the link alone.
const LOCAL: Ipv6Cidr = Ipv6Cidr::new(Ipv6Address::new(0xfe80, 0, 0, 0, 0x0216, 0x3eff, 0xfeff, 0xff00), 64);
/// Frames that wait to be looked at, and the memory that they take: guests choose how large they are.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 2 << 20;
/// Buffers of each kind that are kept to be used again.
const SPARE: usize = 16;
/// Frames that are sent in one go.
const RUN: usize = 64;
/// Bytes of payload of a wire's frame.
const MTU: usize = 1500;

/// A frame in pages of its own, to and from which the hypervisor copies without a stop in between.
struct Packet {
    pages: Pages,
    /// First byte.
    start: usize,
    length: usize,
}

impl Packet {
    fn bytes(&mut self) -> &mut [u8] {
        self.pages.bytes().get_mut(self.start..self.start + self.length).unwrap_or_default()
    }

    /// Bytes of memory.
    fn size(&self) -> usize {
        self.pages.as_ref().len() * PAGE_SIZE
    }
}

/// A frame of which copies are noted.
struct Arrival {
    packet: Packet,
    copies: usize,
    /// Its checksum is to be looked at.
    unknown: bool,
}

/// Pages to be used again, by how many frames take: small ones with what may lie before them, and any.
#[derive(Default)]
struct Spare([Vec<Pages>; KINDS.len()]);

/// Pages for a frame, with those that its place in the first one may cost.
const KINDS: [usize; 3] = [2, 5, MAX_FRAME.div_ceil(PAGE_SIZE) + 1];

impl Spare {
    fn take(&mut self, length: usize) -> Option<Packet> {
        let needed = length.div_ceil(PAGE_SIZE) + 1;
        let (spare, count) = self.0.iter_mut().zip(KINDS).find(|(_, count)| *count >= needed)?;
        let pages = spare.pop().or_else(|| memory::pages(count))?;
        Some(Packet { pages, start: 0, length })
    }

    fn give(&mut self, pages: Pages) {
        let count = pages.as_ref().len();
        if let Some((spare, _)) = self.0.iter_mut().zip(KINDS).find(|(_, kind)| *kind == count)
            && spare.len() < SPARE
        {
            spare.push(pages);
        }
    }
}

/// What came in, and what is to go out.
#[derive(Default)]
struct Queues {
    /// Frames of the present run, and the copies that bring their bytes.
    arriving: Vec<Arrival>,
    copies: Vec<GrantCopy>,
    results: Vec<Result<(), GrantStatus>>,
    came: VecDeque<Packet>,
    /// Bytes that those and the arriving ones take.
    waiting: usize,
    going: VecDeque<Packet>,
    spare: Spare,
}

impl Queues {
    /// Notes what is to be done for a frame; false when it finds no room.
    fn expect(&mut self, frame: &Frame<'_>) -> bool {
        if self.came.len() + self.arriving.len() >= WAITING {
            return false;
        }
        let Some(mut packet) = self.spare.take(frame.length) else { return false };
        // The pages of a sender begin with pages here, so that one copy brings each.
        let mut first = 0;
        for piece in frame.pieces {
            first += usize::from(piece.length);
            if matches!(piece.place, Place::Granted { .. }) {
                packet.start = first.next_multiple_of(PAGE_SIZE) - first;
                break;
            }
        }
        let (at, noted) = (packet.start, self.copies.len());
        let gfn = packet.pages.first();
        let fits = self.waiting.saturating_add(packet.size()) <= WAITING_BYTES;
        if !fits || !bring(frame, packet.pages.bytes(), gfn, at, &mut self.copies) {
            self.copies.truncate(noted);
            self.spare.give(packet.pages);
            return false;
        }
        self.waiting += packet.size();
        let copies = self.copies.len() - noted;
        self.arriving.push(Arrival { packet, copies, unknown: frame.checksum == Checksum::Unknown });
        true
    }

    /// Makes the copies, and takes what is good; returns how many frames are not.
    fn arrive(&mut self, host: &impl GrantCopier) -> u64 {
        self.results.clear();
        if !self.copies.is_empty() {
            host.copy(&self.copies, &mut self.results);
            self.copies.clear();
        }
        let (mut results, mut bad) = (self.results.drain(..), 0);
        for Arrival { mut packet, copies, unknown } in self.arriving.drain(..) {
            let whole = (0..copies).fold(true, |good, _| good & matches!(results.next(), Some(Ok(()))));
            if whole && (!unknown || offload::is_good(packet.bytes())) {
                segments::raise(packet.bytes());
                self.came.push_back(packet);
            } else {
                bad += 1;
                self.waiting = self.waiting.saturating_sub(packet.size());
                self.spare.give(packet.pages);
            }
        }
        bad
    }

    fn pop(&mut self) -> Option<Packet> {
        let packet = self.came.pop_front()?;
        self.waiting = self.waiting.saturating_sub(packet.size());
        Some(packet)
    }
}

/// The port, as the bridge sees it.
struct Port {
    kernel: Kernel,
    queues: RefCell<Queues>,
    arrived: Signal,
    dropped: Cell<u64>,
}

impl Port {
    fn drop_some(&self, count: u64) {
        self.dropped.set(self.dropped.get().wrapping_add(count));
    }
}

impl NetPort for Port {
    fn deliver(&self, frame: &Frame<'_>) {
        if !self.queues.borrow_mut().expect(frame) {
            self.drop_some(1);
        }
    }

    fn flush(&self) {
        self.drop_some(self.queues.borrow_mut().arrive(&self.kernel));
        self.arrived.raise();
    }

    fn reads(&self) -> bool {
        false
    }
}

/// The port, as smoltcp sees it.
struct Wire<'a>(&'a RefCell<Queues>);

struct Came<'a>(&'a RefCell<Queues>, Packet);

struct Going<'a>(&'a RefCell<Queues>);

impl phy::Device for Wire<'_> {
    type RxToken<'t>
        = Came<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Going<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Came<'_>, Going<'_>)> {
        let arrival = self.0.borrow_mut().pop()?;
        Some((Came(self.0, arrival), Going(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Going<'_>> {
        (self.0.borrow().going.len() < RUN).then_some(Going(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // What comes has been checked, what goes is completed by whoever needs it.
        checksum.tcp = phy::Checksum::None;
        checksum.udp = phy::Checksum::None;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + offload::ETHERNET + usize::from(LARGE - WIRE);
        capabilities.checksum = checksum;
        capabilities
    }
}

impl phy::RxToken for Came<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(mut self, f: F) -> R {
        let result = f(self.1.bytes());
        self.0.borrow_mut().spare.give(self.1.pages);
        result
    }
}

impl phy::TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        // Nothing is longer than what the stack was told.
        let packet = self.0.borrow_mut().spare.take(length);
        let Some(mut packet) = packet else { return f(&mut vec![0; length]) };
        let result = f(packet.bytes());
        self.0.borrow_mut().going.push_back(packet);
        result
    }
}

/// The moment, as smoltcp counts.
fn now() -> Instant {
    Instant::from_micros(clock::now().as_micros() as i64)
}

/// What an address in the manifest means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    None,
    Dhcp,
    Fixed(Ipv4Cidr),
}

fn plan(text: &str) -> Option<Plan> {
    match text {
        "none" | "" => Some(Plan::None),
        "dhcp" => Some(Plan::Dhcp),
        text => text.parse().ok().map(Plan::Fixed),
    }
}

/// Gives dom0 its address and starts the services, the control server too if it is asked for.
pub fn start(nets: &Nets, address: &str, remote: Option<Remote>, spawner: &Spawner) {
    let plan = match plan(address) {
        Some(Plan::None) => {
            if remote.is_some() {
                log::error!("nobody reaches the control server: dom0 has no address");
            }
            return;
        }
        Some(plan) => plan,
        None => {
            log::error!("dom0 gets no address: `{address}` is none");
            return;
        }
    };
    let kernel = Kernel::default();
    let port = Rc::new(Port {
        kernel,
        queues: RefCell::default(),
        arrived: Signal::default(),
        dropped: Cell::new(0),
    });
    let bridge = nets.first_bridge();
    let as_port: Rc<dyn NetPort> = Rc::<Port>::clone(&port);
    let id = bridge.join(as_port, clock::now());
    spawner.spawn(Stack { port, bridge, id, plan, remote }.run());
}

struct Stack {
    port: Rc<Port>,
    bridge: Rc<Bridge>,
    id: PortId,
    plan: Plan,
    remote: Option<Remote>,
}

impl Stack {
    async fn run(self) {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(ADDRESS)));
        config.random_seed = clock::now().as_nanos() as u64;
        let mut wire = Wire(&self.port.queues);
        let mut interface = Interface::new(config, &mut wire, now());
        match self.plan {
            Plan::Fixed(address) => set_address(&mut interface, Some(address)),
            _ => set_addresses(&mut interface, None),
        }
        log::info!("dom0 has the address {LOCAL}");
        let mut sockets = Sockets::new(self.plan == Plan::Dhcp, self.remote.as_ref());
        loop {
            loop {
                interface.poll(now(), &mut wire, &mut sockets.set);
                configure(&mut interface, &mut sockets);
                let moved = sockets.serve() | sockets.listen(self.remote.as_ref(), clock::now());
                let sent = self.send();
                if !moved && !sent && self.port.queues.borrow().came.is_empty() {
                    break;
                }
                trunnion_guest::executor::yield_now().await;
            }
            let wait = interface.poll_delay(now(), &sockets.set).map(Duration::from);
            // A service that has nothing to do still looks now and then at its clock.
            let wait = wait.unwrap_or(Duration::MAX).min(sockets.patience()).max(Duration::from_micros(100));
            let mut sleep = pin!(clock::sleep(wait));
            core::future::poll_fn(|context| {
                let answered =
                    self.remote.as_ref().is_some_and(|remote| remote.answered().poll(context).is_ready());
                if self.port.arrived.poll(context).is_ready() || answered {
                    return Poll::Ready(());
                }
                core::future::Future::poll(sleep.as_mut(), context)
            })
            .await;
        }
    }

    /// Hands frames to the bridge; true when there were some.
    fn send(&self) -> bool {
        let going = core::mem::take(&mut self.port.queues.borrow_mut().going);
        if going.is_empty() {
            return false;
        }
        let now = clock::now();
        let sent: Vec<Packet> = going.into_iter().map(|packet| self.send_one(packet, now)).collect();
        self.bridge.flush();
        let mut queues = self.port.queues.borrow_mut();
        sent.into_iter().for_each(|packet| queues.spare.give(packet.pages));
        true
    }

    /// Sends a frame, which is to be kept as it is until the next flush.
    fn send_one(&self, mut packet: Packet, now: Duration) -> Packet {
        let bytes = packet.bytes();
        segments::lower(bytes);
        let gso = segments::cut(bytes);
        let blank = offload::blank(bytes);
        let (mut head, length) = ([0; HEAD], bytes.len());
        let head = head.get_mut(..length.min(HEAD)).unwrap_or_default();
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = *from;
        }
        let first = packet.pages.first();
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(length.div_ceil(PAGE_SIZE));
        for (index, page) in packet.pages.as_ref().iter().enumerate().take(length.div_ceil(PAGE_SIZE)) {
            let part = (length - index * PAGE_SIZE).min(PAGE_SIZE);
            let place = Place::Local { page, gfn: Gfn(first.0 + index as u64), offset: 0 };
            pieces.push(Piece { place, length: part as u16 });
        }
        let checksum = if blank { Checksum::Blank } else { Checksum::Good };
        self.bridge.forward(self.id, &Frame { head, pieces: &pieces, length, checksum, gso }, now);
        drop(pieces);
        packet
    }
}

/// The address of IPv4, and always that of IPv6.
fn set_addresses(interface: &mut Interface, address: Option<Ipv4Cidr>) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        for address in address.map(IpCidr::Ipv4).into_iter().chain([IpCidr::Ipv6(LOCAL)]) {
            let _ = addresses.push(address);
        }
    });
}

fn set_address(interface: &mut Interface, address: Option<Ipv4Cidr>) {
    set_addresses(interface, address);
    match address {
        Some(address) => log::info!("dom0 has the address {address}"),
        None => log::info!("dom0 has no address any more"),
    }
}

/// Follows what DHCP says.
fn configure(interface: &mut Interface, sockets: &mut Sockets) {
    let Some(handle) = sockets.dhcp else { return };
    match sockets.set.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
        None => {}
        Some(dhcpv4::Event::Configured(lease)) => {
            set_address(interface, Some(lease.address));
            if let Some(router) = lease.router {
                let _ = interface.routes_mut().add_default_ipv4_route(router);
            }
        }
        Some(dhcpv4::Event::Deconfigured) if interface.ipv4_addr().is_none() => {}
        Some(dhcpv4::Event::Deconfigured) => {
            set_address(interface, None);
            interface.routes_mut().remove_default_ipv4_route();
        }
    }
}

#[cfg(test)]
mod tests {
    use trunnion_protocol::id::{DomainId, GrantRef};

    use super::*;

    /// Copies nothing, and says yes or no.
    struct Copier(bool);

    impl GrantCopier for Copier {
        type Local = Pages;

        fn local(&self, count: usize) -> Option<(Pages, Gfn)> {
            memory::pages(count).map(|pages| (pages, Gfn(0)))
        }

        fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
            results.extend(copies.iter().map(|_| if self.0 { Ok(()) } else { Err(GrantStatus::BadPage) }));
        }
    }

    /// A frame with a local head and so many granted pages.
    fn expect(queues: &mut Queues, granted: usize) -> bool {
        let page = memory::pages(1).unwrap();
        let [page] = page.as_ref() else { return false };
        page.copy_in(0, &[7; 192]).unwrap();
        let local = Place::Local { page, gfn: Gfn(1), offset: 0 };
        let mut pieces = vec![Piece { place: local, length: 192 }];
        for index in 0..granted {
            let (domain, reference) = (DomainId(3), GrantRef(index as u32));
            let offset = if index == 0 { 126 } else { 0 };
            let length = PAGE_SIZE as u16 - offset;
            pieces.push(Piece { place: Place::Granted { domain, reference, offset }, length });
        }
        let length = pieces.iter().map(|piece| usize::from(piece.length)).sum();
        queues.expect(&Frame { head: &[], pieces: &pieces, length, checksum: Checksum::Blank, gso: None })
    }

    #[test]
    fn one_copy_brings_each_page_behind_the_bytes_that_are_here() {
        let mut queues = Queues::default();
        assert!(expect(&mut queues, 15) && queues.copies.len() == 15);
        assert!(queues.copies.iter().skip(1).all(|copy| (copy.to_offset, copy.length) == (0, 4096)));
        assert!(expect(&mut queues, 0) && queues.copies.len() == 15);
        assert_eq!(queues.arrive(&Copier(true)), 0);
        let mut packet = queues.pop().unwrap();
        assert_eq!(packet.bytes().len(), 192 + 15 * PAGE_SIZE - 126);
        assert!(packet.bytes()[..192].iter().all(|byte| *byte == 7));
        assert_eq!(queues.pop().unwrap().bytes(), [7; 192]);
        assert!(expect(&mut queues, 2) && expect(&mut queues, 0));
        assert_eq!((queues.arrive(&Copier(false)), queues.came.len()), (1, 1));
    }

    #[test]
    fn buffers_are_bounded() {
        let mut queues = Queues::default();
        let came = (0..300).filter(|_| expect(&mut queues, 15)).count();
        assert!(came > 20 && queues.waiting <= WAITING_BYTES, "{came}");
        assert!(!expect(&mut queues, 17), "longer than any frame");
        assert_eq!(queues.arrive(&Copier(true)), 0);
        while let Some(packet) = queues.pop() {
            queues.spare.give(packet.pages);
        }
        assert_eq!((queues.waiting, queues.spare.0[2].len()), (0, SPARE));
        let came = (0..300).filter(|_| expect(&mut queues, 0)).count();
        assert!(came > 200 && came <= WAITING, "{came}");
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(plan("dhcp"), Some(Plan::Dhcp));
        assert_eq!(plan("none"), Some(Plan::None));
        assert!(matches!(plan("10.0.2.1/24"), Some(Plan::Fixed(_))));
        assert_eq!(plan("10.0.2.1"), None);
    }
}
