//! Both halves in one process, under orders drawn from seeds, with honest and dishonest peers.

use std::cell::Cell;
use std::rc::Rc;

use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::{Access, GrantTable};
use trunnion_frontends::mapping::Window;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::testbed::{Guest, World};
use trunnion_frontends::xenbus::{BackDevice, Client, Device, clients};
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, FrontRing, RSP_PROD};
use trunnion_protocol::xenbus::State;
use trunnion_vrng::back::{Figures, Source, serve};
use trunnion_vrng::front::Entropy;
use trunnion_vrng::wire::{CLASS, LIMIT, Request, Response, Vrng};

/// Seeds of each test; every one is an order of its own.
const SEEDS: u64 = 300;

/// Counts up, so that a test knows what is right.
struct Counting(u8);

impl Source for Counting {
    fn fill(&mut self, into: &mut [u8]) {
        for byte in into {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
    }
}

/// A world with both guests and a device between them.
fn world(seed: u64) -> (World, Guest, Guest) {
    let world = World::new(seed);
    let (front, back) = (world.guest(3), world.guest(7));
    world.attach(&front, &back, CLASS, 0);
    (world, front, back)
}

// ANCHOR: back
/// Starts the back end; what it did comes back when it ends.
fn spawn_back(back: &Guest) -> Rc<Cell<Option<Figures>>> {
    let figures = Rc::new(Cell::new(None));
    back.spawn({
        let (back, figures) = (back.clone(), Rc::clone(&figures));
        async move {
            let store = Store::new(&back).unwrap();
            let window = Window::new(&back, 4).unwrap();
            let [client] = clients(&store, CLASS).await.unwrap();
            let client = client.expect("a client is there");
            figures.set(Some(serve(&store, &window, client, &mut Counting(0)).await.unwrap()));
            assert_eq!(window.used(), 0, "a page is still mapped");
        }
    });
    figures
}
// ANCHOR_END: back

/// Connects, and tries again while a step is refused.
async fn connect<'t, 'p>(
    store: &'t Store<'p, Guest>,
    grants: &'t GrantTable<'p, Guest>,
) -> Result<Entropy<'t, 'p, Guest>, Error> {
    Entropy::connect(grants, Device::open(store, CLASS, "0").await?).await
}

fn check(world: &World, seed: u64) {
    world.run().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
}

// ANCHOR: bytes
#[test]
fn bytes_come_and_nothing_is_left() {
    for seed in 0..SEEDS {
        let (world, front, back) = world(seed);
        let before = world.held();
        let figures = spawn_back(&back);
        front.spawn({
            let (front, world, back) = (front.clone(), world.clone(), back.clone());
            async move {
                let store = Store::new(&front).unwrap();
                let grants = GrantTable::new(&front, 1).unwrap();
                let mut entropy = connect(&store, &grants).await.unwrap();
                let mut bytes = vec![0; 3 * LIMIT + 100];
                entropy.fill(&mut bytes).await.unwrap();
                assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8));
                entropy.close().await.unwrap();
                world.detach(&front, &back, CLASS, 0);
            }
        });
        check(&world, seed);
        assert_eq!(figures.get(), Some(Figures { bytes: 3 * LIMIT as u64 + 100, refused: 0 }));
        assert_eq!(world.held(), before, "seed {seed}: something is left");
    }
}
// ANCHOR_END: bytes

// ANCHOR: unplug
#[test]
fn the_device_is_taken_away_in_the_middle() {
    for seed in 0..SEEDS {
        let (world, front, back) = world(seed);
        let before = world.held();
        spawn_back(&back);
        let read = Rc::new(Cell::new(0));
        front.spawn({
            let (front, read) = (front.clone(), Rc::clone(&read));
            async move {
                let store = Store::new(&front).unwrap();
                let grants = GrantTable::new(&front, 1).unwrap();
                let mut entropy = connect(&store, &grants).await.unwrap();
                let mut bytes = [0; 64];
                while entropy.fill(&mut bytes).await != Err(Error::Closed) {
                    read.set(read.get() + 1);
                }
                entropy.close().await.unwrap();
            }
        });
        // At a moment of the seed's choice.
        let moment = world.below(20);
        world.run_until(|_| read.get() > moment).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        world.detach(&front, &back, CLASS, 0);
        check(&world, seed);
        assert_eq!(world.states(&front, &back, CLASS, 0), (State::Closed, State::Closed), "seed {seed}");
        assert_eq!(world.held(), before, "seed {seed}: something is left");
    }
}
// ANCHOR_END: unplug

#[test]
fn either_guest_dies_in_the_middle() {
    for seed in 0..SEEDS {
        let (world, front, back) = world(seed);
        spawn_back(&back);
        let read = Rc::new(Cell::new(0));
        front.spawn({
            let (front, read) = (front.clone(), Rc::clone(&read));
            async move {
                let store = Store::new(&front).unwrap();
                let grants = GrantTable::new(&front, 1).unwrap();
                let mut entropy = connect(&store, &grants).await.unwrap();
                let mut bytes = [0; 64];
                while entropy.fill(&mut bytes).await.is_ok() {
                    read.set(read.get() + 1);
                }
                entropy.close().await.unwrap();
            }
        });
        let moment = world.below(5);
        world.run_until(|_| read.get() > moment).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
        let dies = if seed % 2 == 0 { &front } else { &back };
        world.destroy(dies);
        world.remove(&front, &back, CLASS, 0);
        check(&world, seed);
        assert_eq!(world.held().mappings, 0, "seed {seed}");
        assert_eq!(world.held().ports, 0, "seed {seed}");
    }
}

/// Whatever a front end may write: requests of any length to any page, indices that jump, keys of nonsense.
#[test]
fn a_hostile_front_end_gets_nothing_and_breaks_nothing() {
    for seed in 0..SEEDS {
        let (world, front, back) = world(seed);
        let figures = spawn_back(&back);
        front.spawn({
            let (front, world, back) = (front.clone(), world.clone(), back.clone());
            async move {
                let store = Store::new(&front).unwrap();
                let grants = GrantTable::new(&front, 1).unwrap();
                let device = Device::open(&store, CLASS, "0").await.unwrap();
                device.reset().await.unwrap();
                let page = Buffer::new(&front, LIMIT).unwrap();
                let shared = grants.offer(page, back.id(), Access::ReadWrite).unwrap();
                let readonly = Buffer::new(&front, LIMIT).unwrap();
                let readonly = grants.offer(readonly, back.id(), Access::ReadOnly).unwrap();
                let reference = match world.below(4) {
                    0 => world.below(1000).to_string(),
                    1 => "-1".into(),
                    _ => shared.reference().to_string(),
                };
                let channel = Channel::open(&front, back.id()).unwrap();
                let mut ring = FrontRing::<Vrng, _>::new(shared, Width::W64).unwrap();
                device.write(Transaction::NONE, "ring-ref", &reference).await.unwrap();
                if world.below(8) != 0 {
                    let port = if world.below(8) == 0 { 99 } else { channel.port().0 };
                    device.write(Transaction::NONE, "event-channel", &port.to_string()).await.unwrap();
                }
                device.set_state(State::Initialised).await.unwrap();
                for id in 0..40 {
                    let reference = match world.below(3) {
                        0 => readonly.reference(),
                        1 => GrantRef(world.below(u64::from(u32::MAX)) as u32),
                        _ => GrantRef(world.below(600) as u32),
                    };
                    let length = [0, 1, 4096, 4097, u32::MAX][world.below(5) as usize];
                    let _ = ring.put(&Request { id, reference, length });
                    let _ = ring.publish();
                    channel.notify();
                    while let Ok(Some(_)) = ring.take() {}
                    // A state out of order makes the back end look at the store meanwhile.
                    if world.below(10) == 0 {
                        let state = State::ALL[world.below(State::ALL.len() as u64) as usize];
                        device.set_state(state).await.unwrap();
                    }
                }
                if let Ok(Some(page)) =
                    Ok::<_, ()>(trunnion_protocol::ring::Pages::page(&ring.into_pages(), 0))
                {
                    let _ = page.store(0, &(world.below(1 << 32) as u32));
                }
                channel.notify();
                device.set_state(State::Closed).await.unwrap();
                world.detach(&front, &back, CLASS, 0);
            }
        });
        check(&world, seed);
        assert!(figures.get().is_some(), "seed {seed}");
        assert_eq!(world.held().mappings, 0, "seed {seed}");
    }
}

/// Whatever a back end may answer: never asked for, twice, too long, nothing, indices that jump.
#[test]
fn a_hostile_back_end_is_an_error() {
    let mut errors = [0; 3];
    for seed in 0..SEEDS {
        let (world, front, back) = world(seed);
        let outcome = Rc::new(Cell::new(None));
        back.spawn({
            let (back, world) = (back.clone(), world.clone());
            async move { lie(&world, &back).await.unwrap() }
        });
        front.spawn({
            let (front, outcome) = (front.clone(), Rc::clone(&outcome));
            async move {
                let store = Store::new(&front).unwrap();
                let grants = GrantTable::new(&front, 1).unwrap();
                let Ok(mut entropy) = connect(&store, &grants).await else {
                    return outcome.set(Some(Err(Error::Closed)));
                };
                let mut bytes = [0; 10_000];
                outcome.set(Some(entropy.fill(&mut bytes).await));
                entropy.close().await.unwrap();
            }
        });
        check(&world, seed);
        match outcome.get() {
            Some(Err(Error::Broken)) => errors[0] += 1,
            Some(Err(Error::Closed)) => errors[1] += 1,
            Some(Ok(())) => errors[2] += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    println!("broken {}, closed {}, not noticed {}", errors[0], errors[1], errors[2]);
    assert!(errors[0] > 0 && errors[1] > 0);
}

async fn lie(world: &World, back: &Guest) -> Result<(), Error> {
    let store = Store::new(back)?;
    let window = Window::new(back, 4)?;
    let [Some(client)] = clients(&store, CLASS).await? else { return Err(Error::Closed) };
    let client: Client = client;
    let mut device = BackDevice::open(&store, CLASS, client).await?;
    device.write(Transaction::NONE, "max-bytes", "4096").await?;
    device.set_state(State::InitWait).await?;
    device.next_step(State::InitWait).await?;
    let page = window.map(client.domain, GrantRef(device.required("ring-ref").await?))?;
    let channel = Channel::join(back, client.domain, Port(device.required("event-channel").await?))?;
    let mut ring = BackRing::<Vrng, _>::new(page, Width::W64).ok_or(Error::Broken)?;
    device.set_state(State::Connected).await?;
    let mut last = 0;
    for _ in 0..=world.below(60) {
        if let Ok(Some(claimed)) = ring.take() {
            let asked = claimed.request;
            let id = match world.below(6) {
                0 => last,
                1 => world.below(u64::MAX),
                _ => asked.id,
            };
            let length = match world.below(4) {
                0 => world.below(1 << 32) as u32,
                _ => asked.length,
            };
            let status = if world.below(12) == 0 { world.below(100) as i16 } else { 0 };
            last = asked.id;
            let _ = ring.answer(claimed, &Response { id, length, status });
            let _ = ring.publish();
        }
        channel.notify();
        device.write(Transaction::NONE, "turn", "").await?;
    }
    let page = ring.into_pages();
    if world.below(2) == 0 {
        let _ = page.page().store(RSP_PROD, &(world.below(1 << 32) as u32));
        channel.notify();
    }
    device.set_state(State::Closing).await?;
    while !matches!(device.front_state().await?, State::Closed | State::Unknown) {
        device.write(Transaction::NONE, "turn", "").await?;
    }
    drop(page);
    device.set_state(State::Closed).await
}
