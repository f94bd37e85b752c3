//! A back end that lies, for whoever writes a front end. `role=back` serves disks of the class `hvbd`: answers nobody asked for,
//! twice, with wrong identities and statuses, pages kept and scribbled on, states out of order. `role=front` uses such a disk with
//! this project's front end, `rounds=N` times: whatever the other side does, every request ends and every page comes back.
//! `xl device-attach FRONT class=hvbd backend=BACK` brings them together.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod random;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;
use core::time::Duration;

use random::Random;
use trunnion_frontends::block::Disk;
use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::{Mapping, Window};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::blkif::request::Request;
use trunnion_protocol::blkif::{Block, Response};
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{BackRing, RSP_PROD};
use trunnion_protocol::xenbus::{BackStep, State};

static KERNEL: Kernel = Kernel;
const CLASS: &str = "hvbd";
const NONE: Transaction = Transaction::NONE;
/// Requests of the front end in one connection.
const REQUESTS: u64 = 12;

/// How long a page may come back late.
const PATIENCE: Duration = Duration::from_secs(5);

type Back<'s> = BackDevice<'s, 'static, Kernel>;
type Mapped<'w> = Mapping<'w, 'static, Kernel>;
type Ring<'w> = BackRing<Block, Mapped<'w>>;

/// A number that is likely to be near something interesting.
fn nonsense(random: &mut Random) -> String {
    match random.below(5) {
        0 => "-1".into(),
        1 => u64::MAX.to_string(),
        2 => "x".repeat(random.below(40) as usize),
        3 => (1u64 << random.below(64)).to_string(),
        _ => random.below(1 << 20).to_string(),
    }
}

/// The properties of the disk, now and then one of nonsense.
async fn properties(device: &Back<'_>, random: &mut Random) -> Result<(), Error> {
    let honest = [("sectors", "2048"), ("sector-size", "512"), ("info", "0"), ("feature-flush-cache", "1")];
    for (key, value) in honest {
        if random.below(24) == 0 {
            device.write(NONE, key, &nonsense(random)).await?;
        } else {
            device.write(NONE, key, value).await?;
        }
    }
    Ok(())
}

/// An answer to a request: the truth, or not.
fn answer(request: &Request, last: &Response, random: &mut Random) -> (Response, Response) {
    let operation = match request {
        Request::Indirect(indirect) => indirect.inner,
        other => other.operation(),
    };
    let truth = Response { id: request.id(), operation, status: 0 };
    let told = match random.below(40) {
        0 => *last,
        1 => Response { id: random.bits(), ..truth },
        2 => Response { id: truth.id ^ 1 << random.below(64), ..truth },
        3 => Response { operation: random.bits() as u8, ..truth },
        4 => Response { status: random.bits() as i16, ..truth },
        _ => truth,
    };
    (truth, told)
}

/// One connection: so many turns of mischief on its ring.
async fn mischief<'w>(
    device: &Back<'_>,
    window: &'w Window<'static, Kernel>,
    mut ring: Ring<'w>,
    channel: &Channel<'static, Kernel>,
    random: &mut Random,
) -> Result<u32, Error> {
    let domain: DomainId = device.client().domain;
    let mut kept: Vec<Mapped<'w>> = Vec::new();
    let mut last = Response { id: 0, operation: 0, status: 0 };
    let mut lies = 0;
    for _ in 0..20 + random.below(20) {
        while let Ok(Some(claimed)) = ring.take() {
            if let Request::Transfer(transfer) = &claimed.request {
                for segment in transfer.segments().unwrap_or_default() {
                    // What is read changes after the check, and what is kept does not come back yet.
                    if let Ok(mapping) = window.map(domain, segment.reference) {
                        let _ =
                            mapping.page().store(random.below(1024) as usize * 4, &(random.bits() as u32));
                        if random.below(8) == 0 {
                            kept.push(mapping);
                        }
                    }
                }
            }
            let (truth, told) = answer(&claimed.request, &last, random);
            lies += u32::from(
                (told.id, told.operation, told.status) != (truth.id, truth.operation, truth.status),
            );
            last = truth;
            let _ = ring.answer(claimed, &told);
        }
        let _ = ring.publish();
        channel.notify();
        if random.below(40) == 0 {
            let state = random.below(State::ALL.len() as u64) as usize;
            device.set_state(*State::ALL.get(state).unwrap_or(&State::Unknown)).await?;
        }
        if random.below(4) == 0 {
            kept.clear();
            channel.notify();
        }
        clock::sleep(Duration::from_micros(100)).await;
    }
    kept.clear();
    if random.below(3) == 0 {
        let page = ring.into_pages();
        let _ = page.page().store(RSP_PROD, &(random.bits() as u32));
        channel.notify();
        clock::sleep(Duration::from_millis(1)).await;
        lies += 1;
    }
    Ok(lies)
}

/// One connection; how many lies were told. An error when the front end dies or gives up in the middle of it: its ring and its
/// keys go with it.
async fn connection(
    device: &Back<'_>,
    window: &Window<'static, Kernel>,
    random: &mut Random,
) -> Result<u32, Error> {
    let domain = device.client().domain;
    let page = window.map(domain, GrantRef(device.required("ring-ref").await?))?;
    let port = Port(device.required("event-channel").await?);
    let channel = Channel::join(&KERNEL, domain, port)?;
    let ring = Ring::new(page, Width::W64).ok_or(Error::Broken)?;
    device.set_state(State::Connected).await?;
    mischief(device, window, ring, &channel, random).await
}

/// Serves the first client, one connection after the other, until its device is taken away or it is gone.
async fn back(store: &Store<'static, Kernel>, random: &mut Random) -> Result<String, Error> {
    let window = Window::new(&KERNEL, 48)?;
    let mut attached = store.watch("backend").await?;
    let client = loop {
        if let [Some(client)] = clients(store, CLASS).await? {
            break client;
        }
        attached.changed().await?;
    };
    let mut device = BackDevice::open(store, CLASS, client).await?;
    let (mut connections, mut broken, mut lies) = (0, 0, 0);
    let mut state = State::InitWait;
    properties(&device, random).await?;
    device.set_state(state).await?;
    loop {
        let step = device.next_step(state).await?;
        state = match step {
            BackStep::Stay => continue,
            BackStep::Offer => {
                // Fails when the device is gone; so does the next state.
                let _ = properties(&device, random).await;
                State::InitWait
            }
            BackStep::Connect => {
                match connection(&device, &window, random).await {
                    Ok(told) => {
                        connections += 1;
                        lies += told;
                    }
                    Err(_) => broken += 1,
                }
                State::Closing
            }
            BackStep::Close => State::Closing,
            BackStep::Release | BackStep::Remove => State::Closed,
        };
        let told = device.set_state(state).await;
        if step == BackStep::Remove || told.is_err() || device.front_state().await? == State::Unknown {
            break;
        }
    }
    let kept = window.used();
    Ok(format!("{connections} connections, {broken} broken off, {lies} lies, {kept} pages kept"))
}

/// What became of the requests.
#[derive(Default)]
struct Outcomes {
    done: u64,
    failed: u64,
    faults: u64,
    unconnected: u64,
}

type Work<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

async fn request(disk: &Disk<'_, 'static, Kernel>, number: u64) -> bool {
    let Ok(buffer) = Buffer::new(&KERNEL, (1 + number as usize % 3) * PAGE_SIZE) else { return false };
    match number % 4 {
        3 => disk.flush().await.is_ok(),
        2 => disk.write(number * 8, buffer).await.1.is_ok(),
        _ => disk.read(number * 8, buffer).await.1.is_ok(),
    }
}

/// All requests of a connection at once.
async fn requests(disk: &Disk<'_, 'static, Kernel>, outcomes: &mut Outcomes) {
    let mut works: Vec<Work<'_>> = (0..REQUESTS).map(|n| Box::pin(request(disk, n)) as Work<'_>).collect();
    let mut unplugged = pin!(disk.unplugged());
    let mut heard = false;
    poll_fn(|context| {
        // It tells the requests that nobody will answer any more.
        heard = heard || unplugged.as_mut().poll(context).is_ready();
        works.retain_mut(|work| match work.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(done) => {
                *if done { &mut outcomes.done } else { &mut outcomes.failed } += 1;
                false
            }
        });
        if works.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// One connection to the liar.
async fn round(
    store: &Store<'static, Kernel>,
    grants: &GrantTable<'static, Kernel>,
    outcomes: &mut Outcomes,
) -> Result<(), Error> {
    let device = Device::open(store, CLASS, "0").await?;
    let Ok(disk) = Disk::connect(grants, device).await else {
        outcomes.unconnected += 1;
        return Ok(());
    };
    requests(&disk, outcomes).await;
    outcomes.faults += u64::from(disk.fault().is_some());
    disk.close().await.map(drop)
}

/// Connects again and again, and looks at the end whether everything came back.
async fn front(store: &Store<'static, Kernel>, rounds: u32) -> Result<String, Error> {
    let mut attached = store.watch("device").await?;
    while store.read_text::<128>(NONE, &format!("device/{CLASS}/0/backend")).await.is_err() {
        attached.changed().await?;
    }
    let grants = GrantTable::new(&KERNEL, 1)?;
    let free = grants.free();
    let mut outcomes = Outcomes::default();
    for _ in 0..rounds {
        Box::pin(round(store, &grants, &mut outcomes)).await?;
    }
    // A back end that says it is closed may hold a page a little longer: its last mappings go when it turns to something else.
    let deadline = clock::now() + PATIENCE;
    while grants.free() < free && clock::now() < deadline {
        clock::sleep(Duration::from_millis(1)).await;
    }
    let Outcomes { done, failed, faults, unconnected } = outcomes;
    let lost = free - grants.free();
    Ok(format!(
        "{rounds} rounds, {done} requests done, {failed} failed, {faults} lies seen, {unconnected} times not connected, {lost} grants not back"
    ))
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let Ok(store) = Store::new(&KERNEL) else { return ShutdownReason::Crash };
    let rounds = start.option("rounds").and_then(|text| text.parse().ok()).unwrap_or(50);
    let role = start.option("role").unwrap_or("front");
    let ended = match role {
        "back" => Box::pin(back(&store, &mut Random(1))).await,
        _ => Box::pin(front(&store, rounds)).await,
    };
    let line = match &ended {
        Ok(line) => line.clone(),
        Err(error) => format!("failed: {error}"),
    };
    console.write(format!("hostile-back: {role}: {line}\r\n").as_bytes()).await;
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
