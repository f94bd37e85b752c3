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
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::Window;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::Store;
use trunnion_frontends::testbed::liar::Liar;
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};

const SEEDS: u64 = 3_000;

/// The back end: one connection.
async fn lie(world: &World, back: &Guest, honest: bool) -> Result<(), Error> {
    let store = Store::new(back)?;
    let window = Window::new(back, 48)?;
    let [Some(client)] = clients(&store, "vbd").await? else { return Err(Error::Closed) };
    let mut device = BackDevice::open(&store, "vbd", client).await?;
    let below = |end| world.below(end);
    let liar = if honest { Liar::honest(&below, 40) } else { Liar::new(&below, 40) };
    liar.disk(back, &window, &mut device).await
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
