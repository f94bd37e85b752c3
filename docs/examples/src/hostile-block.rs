//! A front end that lies, for whoever writes a back end: nonsense in every key, request and index of its disk `xvda`, many
//! connections one after the other; then an honest one, which must work as if nothing had been. `rounds=N` on the command line.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod random;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use random::Random;
use trunnion_frontends::block::Disk;
use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::{Access, Grant, GrantTable};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::Device;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::blkif::{Block, Operation};
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::Width;
use trunnion_protocol::ring::{FrontRing, Pages};
use trunnion_protocol::xenbus::State;

static KERNEL: Kernel = Kernel;
const NONE: Transaction = Transaction::NONE;
const DISK: &str = "51712";

fn request(random: &mut Random, references: &[GrantRef; 3]) -> Request {
    let mut segments = [Segment::default(); 11];
    for segment in &mut segments {
        let reference = match random.below(4) {
            0 => GrantRef(random.bits() as u32),
            1 => references[2],
            _ => references[random.below(2) as usize],
        };
        *segment = Segment { reference, first: random.below(9) as u8, last: random.below(9) as u8 };
    }
    let id = random.bits();
    // Writes go to no sector that exists, so that the disk keeps what it has.
    let sector = if random.below(2) == 0 { random.bits() } else { random.below(64) };
    match random.below(4) {
        0 => Request::Flush { handle: random.bits() as u16, id },
        1 => {
            let (inner, count) = (random.below(8) as u8 * 2, random.bits() as u16);
            Request::Indirect(Indirect {
                operation: 6,
                inner,
                count,
                id,
                sector,
                handle: 0,
                pages: [references[1]; 8],
            })
        }
        _ => {
            let count = random.below(14) as u8;
            Request::Transfer(Transfer { operation: Operation::Read, handle: 0, id, sector, count, segments })
        }
    }
}

type Shared<'t> = Grant<'t, 'static, Kernel>;

fn share<'t>(
    grants: &'t GrantTable<'static, Kernel>,
    device: &Device<'_, '_, Kernel>,
    access: Access,
) -> Result<Shared<'t>, Error> {
    let page = Buffer::new(&KERNEL, PAGE_SIZE)?;
    grants.offer(page, device.backend(), access).map_err(|(error, _)| error)
}

/// One connection of malice. Whatever it breaks is its own.
async fn attack(
    store: &Store<'static, Kernel>,
    grants: &GrantTable<'static, Kernel>,
    random: &mut Random,
) -> Result<bool, Error> {
    let device = Device::open(store, "vbd", DISK).await?;
    device.reset().await?;
    let (shared, data, readonly) = (
        share(grants, &device, Access::ReadWrite)?,
        share(grants, &device, Access::ReadWrite)?,
        share(grants, &device, Access::ReadOnly)?,
    );
    let channel = Channel::open(&KERNEL, device.backend())?;
    for (key, value) in [
        ("ring-ref", shared.reference().to_string()),
        ("event-channel", channel.port().to_string()),
        ("protocol", "x86_64-abi".into()),
    ] {
        let value: String = match random.below(20) {
            0 => random.bits().to_string(),
            1 => "-1".into(),
            _ => value,
        };
        device.write(NONE, key, &value).await?;
    }
    let references = [data.reference(), readonly.reference(), shared.reference()];
    let mut ring = FrontRing::<Block, _>::new(shared, Width::W64).ok_or(Error::Broken)?;
    device.set_state(State::Initialised).await?;
    let back = device.wait_back(|back| !matches!(back, State::InitWait | State::Initialising)).await?;
    for _ in 0..random.below(80) {
        let _ = ring.put(&request(random, &references));
        let _ = ring.publish();
        channel.notify();
        while let Ok(Some(_)) = ring.take() {}
        if random.below(40) == 0 {
            let state = State::ALL[1 + random.below(6) as usize];
            device.set_state(state).await?;
        }
    }
    let page = ring.into_pages();
    if random.below(2) == 0 {
        let page = Pages::page(&page, 0).ok_or(Error::Broken)?;
        let _ = page.store(random.below(64) as usize * 4, &(random.bits() as u32));
        channel.notify();
        clock::sleep(Duration::from_millis(1)).await;
    }
    device.set_state(State::Closing).await?;
    device.wait_back(|back| !matches!(back, State::Connected)).await?;
    device.set_state(State::Closed).await?;
    device.wait_back(|back| matches!(back, State::Closed | State::InitWait | State::Unknown)).await?;
    Ok(back == State::Connected)
}

async fn run(rounds: u32) -> Result<String, Error> {
    let store = Store::new(&KERNEL)?;
    let grants = GrantTable::new(&KERNEL, 1)?;
    let free = grants.free();
    let mut random = Random(1);
    let mut connected = 0;
    for _ in 0..rounds {
        connected += u32::from(Box::pin(attack(&store, &grants, &mut random)).await?);
    }
    // And now an honest one.
    let disk = Disk::connect(&grants, Device::open(&store, "vbd", DISK).await?).await?;
    let (_, result) = disk.read(0, Buffer::new(&KERNEL, PAGE_SIZE)?).await;
    result.map_err(|_| Error::Broken)?;
    disk.close().await?;
    // What the back end still held when it closed is back by now.
    let lost = free - grants.free();
    Ok(format!(
        "{rounds} attacks, {connected} got a connection, {lost} grants not back; the honest read works"
    ))
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let rounds = start.option("rounds").and_then(|text| text.parse().ok()).unwrap_or(100);
    let ended = Box::pin(run(rounds)).await;
    let line = match &ended {
        Ok(line) => line.clone(),
        Err(error) => format!("failed: {error}"),
    };
    console.write(format!("hostile-block: {line}\r\n").as_bytes()).await;
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
