//! What an honest guest does with its network port: it sends frames of all sizes to others and to everybody, hears what comes, and
//! checks that each is whole. Before it closes the port, or leaves it without a word, every frame is accounted for: those it
//! sent were taken or counted as dropped, those the back end delivered were heard.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use trunnion_backends::net::Snapshot;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::net::{NetError, Nic, Offload, Options};
use trunnion_frontends::store::Store;
use trunnion_frontends::xenbus::Device;

use super::kernel::Kernel;
use super::nets::{BROADCAST, Nets, address};
use super::workload::patiently;

/// Attempts to have every frame accounted for.
const PATIENCE: u32 = 100;

/// What a guest is to send.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The guest's number, from which its address follows.
    pub number: usize,
    /// Guests there are.
    pub guests: usize,
    /// Frames of each connection.
    pub frames: u64,
    /// Times that the port is connected.
    pub rounds: u64,
}

/// Frames of a connection.
#[derive(Default)]
struct Tally {
    /// What was counted before it began.
    before: Cell<Snapshot>,
    sent: Cell<u64>,
    heard: Cell<u64>,
}

fn add(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// The guest's task.
pub async fn run(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    grants: &GrantTable<'_, Kernel>,
    nets: &Nets,
    traffic: Traffic,
) -> Result<(), String> {
    for round in 0..traffic.rounds {
        let options = Options { offload: kernel.shared.permille(500) };
        let tally = Tally::default();
        let connect = async || {
            let device = Device::open(store, "vif", "0").await?;
            // Whatever an earlier connection was told of is not this one's.
            device.reset().await?;
            tally.before.set(nets.counts(kernel.id(), 0));
            Nic::connect(grants, device, options).await
        };
        let nic = patiently(kernel, connect).await?;
        if nic.address() != address(traffic.number) {
            return Err(format!("the port's address is {:x?}", nic.address()));
        }
        exchange(kernel, nets, &nic, traffic, &tally).await?;
        if let Some(fault) = nic.fault() {
            return Err(format!("the port: {fault}"));
        }
        if round + 1 < traffic.rounds && kernel.shared.permille(300) {
            // As a second kernel finds it: nobody has closed anything.
            drop(nic);
        } else {
            nic.close().await.map(drop).map_err(|error| format!("close: {error}"))?;
        }
    }
    Ok(())
}

/// Sends and hears until all was sent and everything is accounted for.
async fn exchange(
    kernel: &Rc<Kernel>,
    nets: &Nets,
    nic: &Nic<'_, '_, Kernel>,
    traffic: Traffic,
    tally: &Tally,
) -> Result<(), String> {
    let mut sending = Box::pin(async {
        for _ in 0..traffic.frames {
            send(kernel, nets, nic, traffic, tally).await?;
        }
        settle(kernel, nets, nic, tally).await
    });
    let mut hearing = Box::pin(hear(kernel, nets, nic, traffic, tally));
    // One of them ends only by a mistake. Both are polled at each wake-up: the port has one event for both rings.
    std::future::poll_fn(|context| match hearing.as_mut().poll(context) {
        Poll::Ready(error) => Poll::Ready(error),
        Poll::Pending => sending.as_mut().poll(context),
    })
    .await
}

async fn send(
    kernel: &Rc<Kernel>,
    nets: &Nets,
    nic: &Nic<'_, '_, Kernel>,
    traffic: Traffic,
    tally: &Tally,
) -> Result<(), String> {
    let chance = |end: u64| kernel.shared.below(end);
    if chance(4) == 0 {
        kernel.sleep(1_000 + chance(50_000)).await;
    }
    let to = match chance(8) {
        0 => BROADCAST,
        1 => [2, 0, 0, 0, 0, chance(256) as u8],
        _ => address(chance(traffic.guests as u64) as usize),
    };
    let length = match chance(6) {
        0 => 60 + chance(12_000),
        1 => [60, 256, 257, 4095, 4096, 4097, 1514][chance(7) as usize],
        _ => 60 + chance(1455),
    };
    let bytes = nets.wire.frame(to, address(traffic.number), length as usize);
    match nic.send(&bytes, Offload::default()).await {
        Ok(()) => {
            add(&tally.sent);
            Ok(())
        }
        Err(error) => Err(format!("a frame of {} bytes is not sent: {error}", bytes.len())),
    }
}

async fn hear(
    kernel: &Rc<Kernel>,
    nets: &Nets,
    nic: &Nic<'_, '_, Kernel>,
    traffic: Traffic,
    tally: &Tally,
) -> Result<(), String> {
    let mut bytes = vec![0; 70_000];
    loop {
        match nic.receive(&mut bytes).await {
            Ok(received) => {
                add(&tally.heard);
                nets.wire.hear(traffic.number, bytes.get(..received.length).unwrap_or_default())?;
            }
            Err(NetError::Closed) if kernel.is_dead() => return Ok(()),
            Err(error) => return Err(format!("a frame is not heard: {error}")),
        }
        if kernel.shared.permille(100) {
            // Buffers run out meanwhile.
            kernel.sleep(10_000 + kernel.shared.below(3_000_000)).await;
        }
    }
}

/// Waits until every frame is accounted for.
async fn settle(
    kernel: &Rc<Kernel>,
    nets: &Nets,
    nic: &Nic<'_, '_, Kernel>,
    tally: &Tally,
) -> Result<(), String> {
    let before = tally.before.get();
    let mut counts = before;
    for _ in 0..PATIENCE {
        counts = nets.counts(kernel.id(), 0);
        let sent = counts.tx_packets + counts.tx_dropped - before.tx_packets - before.tx_dropped;
        let heard = counts.rx_packets - before.rx_packets;
        if sent == tally.sent.get() && heard == tally.heard.get() && !nic.has_frame() {
            return Ok(());
        }
        // Long enough that the world comes to rest, and what was lost comes again.
        kernel.sleep(2_000_000).await;
    }
    let joined = nets.is_connected(kernel.id(), 0);
    Err(format!(
        "joined: {joined}; {} frames were sent and {} heard; counted are {counts:?}, before {before:?}",
        tally.sent.get(),
        tally.heard.get()
    ))
}
