//! Console, store and network first; then one loop around the stack.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::net::phy::Phy;
use trunnion_frontends::net::{Nic, Options};
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::Device;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;

/// The platform that all front ends share.
static PLATFORM: Kernel = Kernel;
/// Frames of the grant table.
const GRANT_FRAMES: usize = 2;
/// Readers at a time.
const READERS: usize = 4;
/// Bytes of a request, and of a page.
const BUFFER: usize = 4096;

pub(crate) async fn main(_: Spawner, start: StartInfo) -> ShutdownReason {
    let console = match Console::primary(&PLATFORM) {
        Ok(console) => console,
        Err(error) => {
            log::error!("there is no console: {error}");
            return ShutdownReason::Crash;
        }
    };
    let outcome = serve(&console, &start).await;
    let (line, reason) = match outcome {
        Ok(pages) => (format!("web: {pages} pages served, powering off\r\n"), ShutdownReason::PowerOff),
        Err(error) => (format!("web: FAILED: {error}\r\n"), ShutdownReason::Crash),
    };
    console.write(line.as_bytes()).await;
    console.flush().await;
    reason
}

/// The value of `key=` on the command line.
fn option<'a>(start: &'a StartInfo, key: &str) -> Option<&'a str> {
    start.command_line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn now() -> Instant {
    Instant::from_micros(clock::now().as_micros() as i64)
}

async fn serve(console: &Console<'static, Kernel>, start: &StartInfo) -> Result<u64, Error> {
    let store = Store::new(&PLATFORM)?;
    let grants = GrantTable::new(&PLATFORM, GRANT_FRAMES)?;
    let name = store.read_text::<64>(Transaction::NONE, "name").await?;
    let device = Device::open(&store, "vif", "0").await?;
    let nic = Nic::connect(&grants, device, Options::default()).await?;
    let address = EthernetAddress(nic.address());
    console.write(format!("web: {address} is connected\r\n").as_bytes()).await;

    let mut config = Config::new(HardwareAddress::Ethernet(address));
    config.random_seed = clock::now().as_nanos() as u64;
    let mut wire = Phy::new(&nic);
    let mut interface = Interface::new(config, &mut wire, now());
    let mut sockets = SocketSet::new(Vec::new());
    let fixed = option(start, "ip").and_then(|text| text.parse::<Ipv4Cidr>().ok());
    let router = option(start, "gateway").and_then(|text| text.parse::<Ipv4Address>().ok());
    let dhcp = fixed.is_none().then(|| sockets.add(dhcpv4::Socket::new()));
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let readers: Vec<SocketHandle> = (0..READERS)
        .map(|_| {
            let mut socket = tcp::Socket::new(buffer(), buffer());
            let _ = socket.listen(80);
            sockets.add(socket)
        })
        .collect();
    // Somebody listens before anybody is told where.
    if let Some(address) = fixed {
        set_address(console, &mut interface, Some(address), router).await;
    }
    let limit = option(start, "requests").and_then(|text| text.parse::<u64>().ok());

    let (mut pages, mut seen) = (0, 0);
    loop {
        interface.poll(now(), &mut wire, &mut sockets);
        if let Some(handle) = dhcp {
            let event = sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll();
            match event {
                Some(dhcpv4::Event::Configured(lease)) => {
                    let (address, router) = (lease.address, lease.router);
                    set_address(console, &mut interface, Some(address), router).await;
                }
                Some(dhcpv4::Event::Deconfigured) => {
                    set_address(console, &mut interface, None, None).await;
                }
                None => {}
            }
        }
        let mut busy = false;
        for handle in &readers {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                let _ = socket.listen(80);
            }
            pages += u64::from(answer(socket, name.as_str(), pages));
            busy |= socket.is_active();
        }
        interface.poll(now(), &mut wire, &mut sockets);
        if limit.is_some_and(|limit| pages >= limit) && !busy {
            break;
        }
        wait(&nic, &mut interface, &sockets, &mut seen).await;
        if let Some(fault) = nic.fault() {
            console.write(format!("web: {fault}\r\n").as_bytes()).await;
            return Err(Error::Broken);
        }
    }
    nic.close().await?;
    Ok(pages)
}

/// Waits for a frame, or for the stack's next moment.
async fn wait(nic: &Nic<'_, '_, Kernel>, interface: &mut Interface, sockets: &SocketSet<'_>, seen: &mut u64) {
    let delay = interface.poll_delay(now(), sockets).map_or(Duration::from_secs(1), Duration::from);
    if delay.is_zero() {
        return;
    }
    let mut sleep = pin!(clock::sleep(delay));
    poll_fn(|context| {
        if nic.has_frame() || nic.poll_event(context, seen).is_ready() {
            return Poll::Ready(());
        }
        sleep.as_mut().poll(context)
    })
    .await;
}

async fn set_address(
    console: &Console<'static, Kernel>,
    interface: &mut Interface,
    address: Option<Ipv4Cidr>,
    router: Option<Ipv4Address>,
) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        if let Some(address) = address {
            let _ = addresses.push(IpCidr::Ipv4(address));
        }
    });
    match router {
        Some(router) => drop(interface.routes_mut().add_default_ipv4_route(router)),
        None => drop(interface.routes_mut().remove_default_ipv4_route()),
    }
    if let Some(address) = address {
        console.write(format!("web: http://{}/\r\n", address.address()).as_bytes()).await;
    }
}

/// Answers a request that has come whole; true when it has.
fn answer(socket: &mut tcp::Socket<'_>, name: &str, pages: u64) -> bool {
    if !socket.may_recv() || !socket.can_send() {
        // The other side has ended: so do we. A connection that is only being opened cannot receive either.
        if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        return false;
    }
    let whole = socket.peek(BUFFER).is_ok_and(|bytes| bytes.windows(4).any(|end| end == b"\r\n\r\n"));
    if !whole {
        if socket.recv_queue() == BUFFER {
            // It will never be whole.
            socket.abort();
        }
        return false;
    }
    let _ = socket.recv(|bytes| (bytes.len(), ()));
    let body = page(name, pages + 1);
    let head = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = socket.send_slice(head.as_bytes());
    let _ = socket.send_slice(body.as_bytes());
    socket.close();
    true
}

fn page(name: &str, pages: u64) -> String {
    format!(
        "<!doctype html>\n<title>{name}</title>\n<h1>{name}</h1>\n<p>A kernel written in Rust serves this page over its own \
         network front end. It is page number {pages}, {:.3} seconds after power-on.</p>\n",
        clock::now().as_secs_f64()
    )
}
