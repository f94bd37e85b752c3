//! Two guests share a page and an event channel; nobody is in the path between them. `role=left` grants the page and opens
//! the port, `role=right` maps and joins them; then a number goes back and forth, one higher each time. They find each other as the
//! halves of a device do: `xl device-attach LEFT class=share backend=RIGHT`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::Poll;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::event::Channel;
use trunnion_frontends::grant::{Access, GrantTable};
use trunnion_frontends::mapping::Window;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::platform::Platform;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::{BackDevice, Device, clients};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::{GrantRef, Port};
use trunnion_protocol::ring::Pages;
use trunnion_protocol::shared::{SharedPage, WordOffset};
use trunnion_protocol::xenbus::State;

static KERNEL: Kernel = Kernel;
const CLASS: &str = "share";
const NONE: Transaction = Transaction::NONE;
/// Where the number is.
const NUMBER: WordOffset = WordOffset::at::<0>();
/// How far it goes.
const LAST: u32 = 2_000;

/// Waits until the number is odd (or even), and makes it one higher, until it has come to its last value.
async fn play(page: &SharedPage, channel: &Channel<'_, Kernel>, odd: bool) {
    let word = page.word(NUMBER);
    loop {
        let number = poll_fn(|context| {
            // First the waker, then the look: an event between the two is not lost.
            KERNEL.on_event(channel.port(), context.waker());
            let number = word.load(Ordering::Acquire);
            if (number % 2 == 1) == odd || number >= LAST { Poll::Ready(number) } else { Poll::Pending }
        })
        .await;
        if number >= LAST {
            // The other side may wait for the last one.
            return channel.notify();
        }
        word.store(number + 1, Ordering::Release);
        channel.notify();
    }
}

/// Shares a page, and plays until the number is at its end.
async fn left(store: &Store<'_, Kernel>) -> Result<(), Error> {
    let mut attached = store.watch("device").await?;
    while store.read_text::<128>(NONE, &format!("device/{CLASS}/0/backend")).await.is_err() {
        attached.changed().await?;
    }
    let device = Device::open(store, CLASS, "0").await?;
    device.reset().await?;
    let grants = GrantTable::new(&KERNEL, 1)?;
    let page = Buffer::new(&KERNEL, PAGE_SIZE)?;
    let grant = grants.offer(page, device.backend(), Access::ReadWrite).map_err(|(error, _)| error)?;
    let channel = Channel::open(&KERNEL, device.backend())?;
    device.write(NONE, "page-ref", &format!("{}", grant.reference())).await?;
    device.write(NONE, "event-channel", &format!("{}", channel.port())).await?;
    device.set_state(State::Initialised).await?;
    device.wait_back(|back| back == State::Connected).await?;
    play(Pages::page(&grant, 0).ok_or(Error::NotMapped)?, &channel, false).await;
    // The page comes back when the other side has let go of it.
    device.wait_back(|back| back != State::Connected).await?;
    drop(channel);
    let page = grant.revoke().map_err(|_| Error::Broken)?;
    device.set_state(State::Closed).await?;
    let mut last = [0; 4];
    page.read(0, &mut last)?;
    if u32::from_le_bytes(last) == LAST { Ok(()) } else { Err(Error::Broken) }
}

/// Maps the page, and plays.
async fn right(store: &Store<'_, Kernel>) -> Result<(), Error> {
    let mut attached = store.watch("backend").await?;
    let client = loop {
        if let [Some(client)] = clients(store, CLASS).await? {
            break client;
        }
        attached.changed().await?;
    };
    let mut device = BackDevice::open(store, CLASS, client).await?;
    device.set_state(State::InitWait).await?;
    device.next_step(State::InitWait).await?;
    let window = Window::new(&KERNEL, 1)?;
    let page = window.map(client.domain, GrantRef(device.required("page-ref").await?))?;
    let channel = Channel::join(&KERNEL, client.domain, Port(device.required("event-channel").await?))?;
    device.set_state(State::Connected).await?;
    play(page.page(), &channel, true).await;
    page.unmap()?;
    device.set_state(State::Closed).await
}

async fn run(start: &StartInfo, console: &Console<'_, Kernel>) -> Result<(), Error> {
    let store = Store::new(&KERNEL)?;
    let role = start.option("role").unwrap_or("left");
    console.write(format!("share: {role}, waiting to be attached\r\n").as_bytes()).await;
    let before = clock::now();
    match role {
        "right" => right(&store).await?,
        _ => left(&store).await?,
    }
    let took = clock::now().saturating_sub(before);
    console.write(format!("share: {LAST} turns, done after {} ms\r\n", took.as_millis()).as_bytes()).await;
    Ok(())
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let ended = run(&start, &console).await;
    if let Err(error) = &ended {
        console.write(format!("share: failed: {error}\r\n").as_bytes()).await;
    }
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
