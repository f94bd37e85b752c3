//! A back end that lies, against the block front end: answers never asked for, twice, with wrong identities, operations and
//! indices, properties of nonsense, states out of order, pages kept and scribbled on. Whatever it does, every request ends, nothing
//! panics, and every page comes back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use trunnion_frontends::block::{BlockError, Disk, Fault};
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::{Mapping, Window};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};
use trunnion_protocol::blkif::request::Request;
use trunnion_protocol::blkif::{Block, Response};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, RSP_PROD};
use trunnion_protocol::xenbus::State;

const SEEDS: u64 = 3_000;
const NONE: Transaction = Transaction::NONE;

/// A number that is likely to be near something interesting.
fn nonsense(world: &World) -> String {
    match world.below(8) {
        0 => "0".into(),
        1 => world.below(64).to_string(),
        2 => u64::MAX.to_string(),
        3 => "-1".into(),
        4 => "x".repeat(world.below(40) as usize),
        5 => (1u64 << world.below(64)).to_string(),
        _ => world.below(1 << 20).to_string(),
    }
}

/// Most bytes of honest properties, now and then one of nonsense.
async fn properties(world: &World, device: &BackDevice<'_, '_, Guest>, honest: bool) -> Result<(), Error> {
    for (key, value) in [
        ("feature-max-indirect-segments", "32"),
        ("feature-flush-cache", "1"),
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("info", "0"),
    ] {
        if honest || world.below(12) != 0 {
            device.write(NONE, key, value).await?;
        } else if world.below(3) != 0 {
            device.write(NONE, key, &nonsense(world)).await?;
        }
    }
    Ok(())
}

/// The bad back end: one connection, so many turns of mischief, and then it lets everything go.
async fn lie(world: &World, back: &Guest, honest: bool) -> Result<(), Error> {
    let store = Store::new(back)?;
    let window = Window::new(back, 48)?;
    let [Some(client)] = clients(&store, "vbd").await? else { return Err(Error::Closed) };
    let mut device = BackDevice::open(&store, "vbd", client).await?;
    properties(world, &device, honest).await?;
    device.set_state(State::InitWait).await?;
    device.next_step(State::InitWait).await?;
    if device.front_state().await? == State::Initialised {
        let page = window.map(client.domain, GrantRef(device.required("ring-ref").await?))?;
        let channel = Channel::join(back, client.domain, Port(device.required("event-channel").await?))?;
        device.set_state(State::Connected).await?;
        let ring = mischief(world, &device, &window, page, &channel, honest).await?;
        device.set_state(State::Closing).await?;
        drop(ring);
        channel.notify();
        // The front end looks once more at pages that were kept before it hears no more of this port.
        for _ in 0..40 {
            if matches!(device.front_state().await?, State::Closed | State::Unknown) {
                break;
            }
            channel.notify();
        }
    }
    device.set_state(State::Closed).await
}

async fn mischief<'w, 'p>(
    world: &World,
    device: &BackDevice<'_, 'p, Guest>,
    window: &'w Window<'p, Guest>,
    page: Mapping<'w, 'p, Guest>,
    channel: &Channel<'p, Guest>,
    honest: bool,
) -> Result<BackRing<Block, Mapping<'w, 'p, Guest>>, Error> {
    let domain = device.client().domain;
    let mut ring = BackRing::<Block, _>::new(page, Width::W64).ok_or(Error::Broken)?;
    let mut kept = Vec::new();
    let mut last = Response { id: 0, operation: 0, status: 0 };
    let chance = |one_in: u64| !honest && world.below(one_in) == 0;
    for _ in 0..world.below(40) {
        while let Ok(Some(claimed)) = ring.take() {
            if let Request::Transfer(transfer) = &claimed.request {
                for segment in transfer.segments().unwrap_or_default() {
                    // What is read is data that changes after the check; what is kept does not come back yet.
                    if let Ok(mapping) = window.map(domain, segment.reference) {
                        let _ = mapping
                            .page()
                            .store(world.below(1024) as usize * 4, &(world.below(1 << 32) as u32));
                        if chance(8) {
                            kept.push(mapping);
                        }
                    }
                }
            }
            let truth =
                Response { id: claimed.request.id(), operation: claimed.request.operation(), status: 0 };
            let truth = match &claimed.request {
                Request::Indirect(indirect) => Response { operation: indirect.inner, ..truth },
                _ => truth,
            };
            let answer = match world.below(24) {
                _ if honest => truth,
                0 => last,
                1 => Response { id: world.below(u64::MAX), ..truth },
                2 => Response { id: truth.id ^ 1 << world.below(64), ..truth },
                3 => Response { operation: world.below(256) as u8, ..truth },
                4 => Response { status: world.below(1 << 16) as i16, ..truth },
                _ => truth,
            };
            last = truth;
            let _ = ring.answer(claimed, &answer);
        }
        let _ = ring.publish();
        channel.notify();
        if chance(30) {
            device.set_state(State::ALL[world.below(State::ALL.len() as u64) as usize]).await?;
        } else {
            device.write(NONE, "turn", &nonsense(world)).await?;
        }
        if chance(4) {
            kept.clear();
            channel.notify();
        }
    }
    kept.clear();
    if chance(3) {
        let page = ring.into_pages();
        let _ = page.page().store(RSP_PROD, &(world.below(1 << 32) as u32));
        channel.notify();
        return BackRing::new(page, Width::W64).ok_or(Error::Broken);
    }
    Ok(ring)
}

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Waits for all of `works`, beside one that may go on.
async fn all(mut works: Vec<Work<'_>>, mut beside: Pin<Box<dyn Future<Output = Result<(), Error>> + '_>>) {
    let mut beside_ended = false;
    poll_fn(|context| {
        if !beside_ended {
            beside_ended = beside.as_mut().poll(context).is_ready();
        }
        works.retain_mut(|work| work.as_mut().poll(context).is_pending());
        if works.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[derive(Default)]
struct Outcomes {
    results: RefCell<BTreeMap<String, u32>>,
    faults: RefCell<BTreeMap<&'static str, u32>>,
    unconnected: Cell<u32>,
}

async fn requests(guest: &Guest, disk: &Disk<'_, '_, Guest>, task: u64, outcomes: &Outcomes) {
    for round in 0..4u64 {
        let pages = 1 + (task + round) % 3 * 7;
        let buffer = Buffer::new(guest, (pages * 4096) as usize).expect("there is memory");
        let result = match round % 3 {
            0 => disk.read(task * 8, buffer).await.1,
            1 => disk.write(task * 8, buffer).await.1,
            _ => disk.flush().await,
        };
        let result = result.map_or_else(|error: BlockError| format!("{error}"), |()| "done".into());
        *outcomes.results.borrow_mut().entry(result).or_default() += 1;
    }
}

async fn use_disk(world: &World, front: &Guest, back: &Guest, outcomes: &Outcomes) -> Result<(), Error> {
    let store = Store::new(front)?;
    let grants = GrantTable::new(front, 2)?;
    let free = grants.free();
    let connected = Disk::connect(&grants, Device::open(&store, "vbd", "51712").await?).await;
    let Ok(disk) = connected else {
        outcomes.unconnected.set(outcomes.unconnected.get() + 1);
        // The toolstack takes the device away; whatever was shared is free again as soon as the back end lets go.
        world.detach(front, back, "vbd", 51712);
        return Ok(());
    };
    let works = (0..6).map(|task| Box::pin(requests(front, &disk, task, outcomes)) as Work<'_>).collect();
    all(works, Box::pin(disk.unplugged())).await;
    let fault = match disk.fault() {
        None => "none",
        Some(Fault::Unasked { .. }) => "unasked",
        Some(Fault::Twice { .. }) => "twice",
        Some(Fault::Operation { .. }) => "operation",
        Some(Fault::Index(_)) => "index",
        Some(_) => "another",
    };
    *outcomes.faults.borrow_mut().entry(fault).or_default() += 1;
    disk.close().await?;
    assert_eq!(grants.lost(), 0);
    assert!(grants.free() <= free);
    Ok(())
}

fn run(seed: u64, honest: bool, outcomes: &Rc<Outcomes>) {
    let world = World::new(seed);
    let (front, back) = (world.guest(3), world.guest(7));
    world.attach(&front, &back, "vbd", 51712);
    let before = world.held();
    back.spawn({
        let (back, world) = (back.clone(), world.clone());
        async move { lie(&world, &back, honest).await.expect("the bad back end does its work") }
    });
    front.spawn({
        let (front, back, world, outcomes) =
            (front.clone(), back.clone(), world.clone(), Rc::clone(outcomes));
        async move { use_disk(&world, &front, &back, &outcomes).await.expect("the front end ends well") }
    });
    world.run().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
    assert_eq!(world.held(), before, "seed {seed}: something is left");
}

#[test]
fn a_back_end_that_lies_harms_nobody() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..SEEDS {
        run(seed, false, &outcomes);
    }
    println!(
        "results {:?}, faults {:?}, not connected {}",
        outcomes.results.borrow(),
        outcomes.faults.borrow(),
        outcomes.unconnected.get()
    );
    // A search that never gets to the lies is worth nothing.
    let faults = outcomes.faults.borrow();
    assert!(["unasked", "operation", "none"].iter().all(|fault| faults.contains_key(fault)), "{faults:?}");
    assert!(outcomes.results.borrow().get("done").is_some_and(|&done| done > 1_000));
    assert!(outcomes.unconnected.get() > 10);
}

#[test]
fn the_same_back_end_when_it_is_honest() {
    let outcomes = Rc::new(Outcomes::default());
    for seed in 0..200 {
        run(seed, true, &outcomes);
    }
    assert_eq!(outcomes.faults.borrow().keys().collect::<Vec<_>>(), [&"none"]);
    // Some close before the front end has looked.
    assert!(outcomes.unconnected.get() < 20);
}
