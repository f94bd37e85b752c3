//! A back end that lies, against the network front end: answers never asked for and twice, fragments that leave their page, packets
//! without end, extra information of nonsense, indices that jump, states out of order, frames that change while they are looked at.
//! Whatever it does, nothing panics, every task ends, and every page comes back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::Window;
use trunnion_frontends::net::{Fault, NetError, Nic, Offload, Options};
use trunnion_frontends::store::Store;
use trunnion_frontends::testbed::liar::Liar;
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};

const SEEDS: u64 = 600;
/// Frames that the front end sends in one connection.
const FRAMES: u32 = 30;

/// The frame of a number: its length and every byte follow from it.
fn frame(number: u32) -> Vec<u8> {
    let length = 60 + number as usize * 769 % 6000;
    (0..length)
        .map(|at| if at < 4 { number.to_le_bytes()[at] } else { (number as usize + at) as u8 })
        .collect()
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|number| frame(u32::from_le_bytes(*number)) == bytes)
}

/// The back end: one connection.
async fn lie(world: &World, back: &Guest, honest: bool) -> Result<(), Error> {
    let store = Store::new(back)?;
    let window = Window::new(back, 48)?;
    let [Some(client)] = clients(&store, "vif").await? else { return Err(Error::Closed) };
    let mut device = BackDevice::open(&store, "vif", client).await?;
    let below = |end| world.below(end);
    let liar = if honest { Liar::honest(&below, 200) } else { Liar::new(&below, 60) };
    liar.port(back, &window, &mut device).await
}

#[derive(Default)]
struct Outcomes {
    sent: Cell<u32>,
    received: Cell<u32>,
    torn: Cell<u32>,
    lost: Cell<u32>,
    unconnected: Cell<u32>,
    cut: Cell<u32>,
    faults: RefCell<BTreeMap<&'static str, u32>>,
}

fn add(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

async fn send(nic: &Nic<'_, '_, Guest>, outcomes: &Outcomes) {
    for number in 0..FRAMES {
        match nic.send(&frame(number), Offload::default()).await {
            Ok(()) => add(&outcomes.sent),
            Err(NetError::Length) => {}
            Err(_) => break,
        }
    }
}

/// Takes frames until the port is closed.
async fn receive(nic: &Nic<'_, '_, Guest>, outcomes: &Outcomes) {
    let mut bytes = vec![0; 7000];
    loop {
        match nic.receive(&mut bytes).await {
            Ok(received) if is_whole(&bytes[..received.length]) => add(&outcomes.received),
            Ok(_) => add(&outcomes.torn),
            Err(NetError::TooLong) => add(&outcomes.lost),
            Err(_) => break,
        }
    }
}

async fn use_port(world: &World, front: &Guest, back: &Guest, outcomes: &Outcomes) -> Result<(), Error> {
    let store = Store::new(front)?;
    let grants = GrantTable::new(front, 2)?;
    let device = Device::open(&store, "vif", "0").await?;
    let Ok(nic) = Nic::connect(&grants, device, Options { offload: true }).await else {
        add(&outcomes.unconnected);
        world.detach(front, back, "vif", 0);
        return Ok(());
    };
    {
        let mut works = (
            pin!(send(&nic, outcomes)),
            pin!(receive(&nic, outcomes)),
            pin!(async {
                // Somebody stops waiting for the end in the middle of it, and begins again.
                let patience = world.below(40);
                let mut unplugged = Box::pin(nic.unplugged());
                let mut polls = 0;
                let ended = poll_fn(|context| {
                    polls += 1;
                    match unplugged.as_mut().poll(context) {
                        Poll::Ready(_) => Poll::Ready(true),
                        Poll::Pending if polls > patience => Poll::Ready(false),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await;
                drop(unplugged);
                if !ended {
                    add(&outcomes.cut);
                    let _ = nic.unplugged().await;
                }
            }),
        );
        let mut done = [false; 3];
        poll_fn(|context| {
            done[0] = done[0] || works.0.as_mut().poll(context).is_ready();
            done[1] = done[1] || works.1.as_mut().poll(context).is_ready();
            done[2] = done[2] || works.2.as_mut().poll(context).is_ready();
            // A port with a fault is closed without waiting for the other side's end.
            let over = done[2] || nic.fault().is_some();
            if done[0] && done[1] && over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    let fault = match nic.fault() {
        None => "none",
        Some(Fault::Unasked { .. }) => "unasked",
        Some(Fault::Fragment { .. }) => "fragment",
        Some(Fault::Chain) => "chain",
        Some(Fault::Index(_)) => "index",
        Some(_) => "another",
    };
    *outcomes.faults.borrow_mut().entry(fault).or_default() += 1;
    nic.close().await?;
    assert_eq!(grants.lost(), 0);
    Ok(())
}

fn run(seed: u64, honest: bool, outcomes: &Rc<Outcomes>) {
    let world = World::new(seed);
    let (front, back) = (world.guest(3), world.guest(7));
    world.attach(&front, &back, "vif", 0);
    world.set("/local/domain/3/device/vif/0/mac", "00:16:3e:00:00:03");
    let before = world.held();
    back.spawn({
        let (back, world) = (back.clone(), world.clone());
        async move { lie(&world, &back, honest).await.expect("the bad back end does its work") }
    });
    front.spawn({
        let (front, back, world, outcomes) =
            (front.clone(), back.clone(), world.clone(), Rc::clone(outcomes));
        async move { use_port(&world, &front, &back, &outcomes).await.expect("the front end ends well") }
    });
    world.run().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
    assert_eq!(world.held(), before, "seed {seed}: something is left");
}

fn tell(outcomes: &Outcomes) {
    let Outcomes { sent, received, torn, lost, unconnected, cut, faults } = outcomes;
    println!(
        "{sent:?} sent, {received:?} received, {torn:?} torn, {lost:?} lost, {unconnected:?} not connected, {cut:?} ends begun again, {:?}",
        faults.borrow()
    );
}

#[test]
fn a_network_back_end_that_lies_harms_nobody() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..SEEDS {
        run(seed, false, &outcomes);
    }
    tell(&outcomes);
    // A search that never gets to the lies is worth nothing.
    let faults = outcomes.faults.borrow();
    let wanted = ["none", "unasked", "fragment", "chain", "index"];
    assert!(wanted.iter().all(|fault| faults.contains_key(fault)), "{faults:?}");
    assert!(outcomes.received.get() > 1_000 && outcomes.cut.get() > 50 && outcomes.unconnected.get() > 10);
}

#[test]
fn the_same_network_back_end_when_it_is_honest() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..100 {
        run(seed, true, &outcomes);
    }
    tell(&outcomes);
    assert_eq!(outcomes.faults.borrow().keys().collect::<Vec<_>>(), [&"none"]);
    assert_eq!((outcomes.torn.get(), outcomes.lost.get(), outcomes.unconnected.get()), (0, 0, 0));
    assert_eq!(outcomes.sent.get(), 100 * FRAMES);
}
