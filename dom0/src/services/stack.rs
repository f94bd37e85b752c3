//! dom0's own address on the first bridge, by smoltcp: it answers pings, and offers the three small services by which
//! networks are measured (UDP echo on port 7, TCP sink on port 9, TCP source on port 19).
//!
//! Its port reads frames as they are: a guest's large packets come whole, and checksums that are blank are not computed
//! only to be looked at. Frames from the wire are checked here.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use trunnion_backends::bridge::{Bridge, PortId};
use trunnion_backends::frame::{Checksum, Frame, HEAD, NetPort, Piece, Place};
use trunnion_backends::host::GrantCopier;
use trunnion_backends::net::{Gather, offload};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::memory::Pages;
use trunnion_protocol::address::{Gfn, PAGE_SIZE};

use super::grants::Kernel;
use super::nets::Nets;
use super::segments::{self, LARGE, WIRE};
use crate::devices::interrupt::Signal;

/// dom0's address on the wire.
const ADDRESS: [u8; 6] = [0x00, 0x16, 0x3e, 0xff, 0xff, 0x00];
/// Frames that wait to be looked at, and their bytes: guests choose how large they are.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 1 << 20;
/// Buffers that are kept to be used again; each may have grown to the largest frame.
const SPARE: usize = 16;
/// Pages of frames that are sent in one go.
const RUN: usize = 64;
/// Bytes of payload of a wire's frame.
const MTU: usize = 1500;
/// Bytes of a TCP window.
const WINDOW: usize = 256 << 10;
/// Connections of each measuring service at a time.
const SERVICES: usize = 2;

const ECHO: u16 = 7;
const SINK: u16 = 9;
const SOURCE: u16 = 19;

/// A frame: the first so many bytes of a buffer, which is kept as long as it is, so that its next use does not fill it with zeroes.
struct Packet {
    buffer: Vec<u8>,
    length: usize,
}

impl Packet {
    fn bytes(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.length).unwrap_or_default()
    }
}

/// What came in, and what is to go out.
#[derive(Default)]
struct Queues {
    came: VecDeque<Packet>,
    /// Bytes of those.
    waiting: usize,
    going: VecDeque<Packet>,
    /// Buffers for frames that come.
    spare: Vec<Vec<u8>>,
    /// Buffers for frames that go.
    outgoing: Vec<Vec<u8>>,
}

impl Queues {
    fn push(&mut self, arrival: Packet) {
        self.waiting += arrival.length;
        self.came.push_back(arrival);
    }

    fn pop(&mut self) -> Option<Packet> {
        let arrival = self.came.pop_front()?;
        self.waiting = self.waiting.saturating_sub(arrival.length);
        Some(arrival)
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }
}

/// The port, as the bridge sees it.
struct Port {
    kernel: Kernel,
    queues: RefCell<Queues>,
    gather: RefCell<Gather<Pages>>,
    arrived: Signal,
    dropped: Cell<u64>,
}

impl NetPort for Port {
    fn deliver(&self, frame: &Frame<'_>) {
        let mut queues = self.queues.borrow_mut();
        let mut buffer = queues.spare.pop().unwrap_or_default();
        let good = queues.came.len() < WAITING
            && queues.waiting.saturating_add(frame.length) <= WAITING_BYTES
            && (self.gather.borrow_mut().pull(&self.kernel, frame, &mut buffer)).is_some_and(|bytes| {
                let good = frame.checksum != Checksum::Unknown || offload::is_good(bytes);
                segments::raise(bytes);
                good
            });
        if good {
            queues.push(Packet { buffer, length: frame.length });
        } else {
            queues.recycle(buffer);
            self.dropped.set(self.dropped.get().wrapping_add(1));
        }
    }

    fn flush(&self) {
        self.arrived.raise();
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
        self.0.borrow_mut().recycle(self.1.buffer);
        result
    }
}

impl phy::TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut buffer = self.0.borrow_mut().outgoing.pop().unwrap_or_default();
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let mut packet = Packet { buffer, length };
        let result = f(packet.bytes());
        self.0.borrow_mut().going.push_back(packet);
        result
    }
}

/// The sockets of the services.
struct Sockets {
    set: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    echo: SocketHandle,
    sinks: Vec<SocketHandle>,
    sources: Vec<SocketHandle>,
}

fn stream() -> tcp::Socket<'static> {
    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; WINDOW]), tcp::SocketBuffer::new(vec![0; WINDOW]));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

impl Sockets {
    fn new(dhcp: bool) -> Self {
        let mut set = SocketSet::new(Vec::new());
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 32 << 10]);
        Self {
            dhcp: dhcp.then(|| set.add(dhcpv4::Socket::new())),
            echo: set.add(udp::Socket::new(buffer(), buffer())),
            sinks: (0..SERVICES).map(|_| set.add(stream())).collect(),
            sources: (0..SERVICES).map(|_| set.add(stream())).collect(),
            set,
        }
    }

    /// Does what the services do; true when something moved.
    fn serve(&mut self) -> bool {
        let mut moved = false;
        let socket = self.set.get_mut::<udp::Socket<'_>>(self.echo);
        if !socket.is_open() {
            let _ = socket.bind(ECHO);
        }
        while socket.can_send()
            && let Ok((data, from)) = socket.recv().map(|(data, from)| (Vec::from(data), from))
        {
            moved |= socket.send_slice(&data, from).is_ok();
        }
        for handle in &self.sinks {
            let socket = listening(&mut self.set, *handle, SINK);
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {
                moved = true;
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
                moved = true;
            }
        }
        for handle in &self.sources {
            let socket = listening(&mut self.set, *handle, SOURCE);
            while socket.can_send() && socket.send(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {
                moved = true;
            }
            if !socket.may_recv() && socket.may_send() {
                socket.close();
                moved = true;
            }
        }
        moved
    }
}

fn listening<'a>(
    set: &'a mut SocketSet<'static>,
    handle: SocketHandle,
    port: u16,
) -> &'a mut tcp::Socket<'static> {
    let socket = set.get_mut::<tcp::Socket<'_>>(handle);
    if !socket.is_open() {
        let _ = socket.listen(port);
    }
    socket
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

/// Gives dom0 its address and starts the services.
pub fn start(nets: &Nets, address: &str, spawner: &Spawner) {
    let plan = match plan(address) {
        Some(Plan::None) => return,
        Some(plan) => plan,
        None => {
            log::error!("dom0 gets no address: `{address}` is none");
            return;
        }
    };
    let kernel = Kernel::default();
    let (Some(gather), Some((pages, first))) = (Gather::new(&kernel), kernel.local(RUN)) else {
        log::error!("dom0 gets no address: there is not enough memory");
        return;
    };
    let port = Rc::new(Port {
        kernel,
        queues: RefCell::default(),
        gather: RefCell::new(gather),
        arrived: Signal::default(),
        dropped: Cell::new(0),
    });
    let bridge = nets.first_bridge();
    let as_port: Rc<dyn NetPort> = Rc::<Port>::clone(&port);
    let id = bridge.join(as_port, clock::now());
    spawner.spawn(Stack { port, bridge, id, pages, first, plan }.run());
}

struct Stack {
    port: Rc<Port>,
    bridge: Rc<Bridge>,
    id: PortId,
    pages: Pages,
    first: Gfn,
    plan: Plan,
}

impl Stack {
    async fn run(self) {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(ADDRESS)));
        config.random_seed = clock::now().as_nanos() as u64;
        let mut wire = Wire(&self.port.queues);
        let mut interface = Interface::new(config, &mut wire, now());
        if let Plan::Fixed(address) = self.plan {
            set_address(&mut interface, Some(address));
        }
        let mut sockets = Sockets::new(self.plan == Plan::Dhcp);
        loop {
            loop {
                interface.poll(now(), &mut wire, &mut sockets.set);
                configure(&mut interface, &mut sockets);
                let moved = sockets.serve();
                let sent = self.send();
                if !moved && !sent && self.port.queues.borrow().came.is_empty() {
                    break;
                }
                trunnion_guest::executor::yield_now().await;
            }
            let wait = interface.poll_delay(now(), &sockets.set).map(Duration::from);
            // A service that has nothing to do still looks now and then at its clock.
            let wait = wait.unwrap_or(Duration::from_mins(1)).max(Duration::from_micros(100));
            let mut sleep = pin!(clock::sleep(wait));
            core::future::poll_fn(|context| {
                if self.port.arrived.poll(context).is_ready() {
                    return Poll::Ready(());
                }
                core::future::Future::poll(sleep.as_mut(), context)
            })
            .await;
        }
    }

    /// Hands frames to the bridge; true when there were some.
    fn send(&self) -> bool {
        let now = clock::now();
        let mut page = 0;
        let mut sent = false;
        loop {
            let Some(mut packet) = self.port.queues.borrow_mut().going.pop_front() else { break };
            sent = true;
            if page + packet.length.div_ceil(PAGE_SIZE) > RUN {
                self.bridge.flush();
                page = 0;
            }
            page += self.send_one(packet.bytes(), page, now);
            let mut queues = self.port.queues.borrow_mut();
            if queues.outgoing.len() < SPARE {
                queues.outgoing.push(packet.buffer);
            }
        }
        if sent {
            self.bridge.flush();
        }
        sent
    }

    /// Sends a frame from the pages from `at` on; returns how many it takes until the next flush.
    fn send_one(&self, bytes: &mut [u8], at: usize, now: Duration) -> usize {
        segments::lower(bytes);
        let gso = segments::cut(bytes);
        let blank = offload::blank(bytes);
        let pages = self.pages.as_ref().get(at..).unwrap_or_default();
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(bytes.len().div_ceil(PAGE_SIZE));
        for ((index, page), part) in pages.iter().enumerate().zip(bytes.chunks(PAGE_SIZE)) {
            if page.copy_in(0, part).is_err() {
                return 0;
            }
            let gfn = Gfn(self.first.0 + (at + index) as u64);
            pieces.push(Piece { place: Place::Local { page, gfn, offset: 0 }, length: part.len() as u16 });
        }
        let frame = Frame {
            head: bytes.get(..bytes.len().min(HEAD)).unwrap_or_default(),
            pieces: &pieces,
            length: bytes.len(),
            checksum: if blank { Checksum::Blank } else { Checksum::Good },
            gso,
        };
        self.bridge.forward(self.id, &frame, now);
        pieces.len()
    }
}

fn set_address(interface: &mut Interface, address: Option<Ipv4Cidr>) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        if let Some(address) = address {
            let _ = addresses.push(IpCidr::Ipv4(address));
        }
    });
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
        Some(dhcpv4::Event::Deconfigured) if interface.ip_addrs().is_empty() => {}
        Some(dhcpv4::Event::Deconfigured) => {
            set_address(interface, None);
            interface.routes_mut().remove_default_ipv4_route();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_bounded() {
        let mut queues = Queues::default();
        for _ in 0..100 {
            queues.push(Packet { buffer: vec![0; 64_000], length: 60_000 });
        }
        assert_eq!(queues.waiting, 6_000_000);
        while let Some(arrival) = queues.pop() {
            queues.recycle(arrival.buffer);
        }
        assert_eq!((queues.waiting, queues.spare.len()), (0, SPARE));
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(plan("dhcp"), Some(Plan::Dhcp));
        assert_eq!(plan("none"), Some(Plan::None));
        assert!(matches!(plan("10.0.2.1/24"), Some(Plan::Fixed(_))));
        assert_eq!(plan("10.0.2.1"), None);
    }
}
