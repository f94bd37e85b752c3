//! A back end that lies in a guest of its own, and the guest that it lies to: the shipped front ends of a disk and a network port,
//! again and again, beside that guest's honest devices. Every request ends, every page comes back.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;

use trunnion_frontends::block::Disk;
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::mapping::Window;
use trunnion_frontends::net::{Nic, Offload, Options};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::Store;
use trunnion_frontends::testbed::liar::Liar;
use trunnion_frontends::xenbus::{BackDevice, Client, Device, clients};
use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::xenbus::{BackStep, State};

use super::kernel::Kernel;
use super::workload::{Work, join};

/// The classes of the two devices, which dom0 has no back ends for.
pub const CLASSES: [&str; 2] = ["hvbd", "hvif"];
/// Turns of a connection, at most.
const TURNS: u64 = 16;
/// Looks at whether the device is there.
const LOOKS: u32 = 20;
/// Frames of a connection.
const FRAMES: u64 = 12;

/// The liar's main task; it ends with its domain.
pub async fn lie(kernel: &Rc<Kernel>) {
    let Ok(store) = Store::new(&**kernel) else { return };
    let halves = CLASSES.map(|class| Box::pin(serve(kernel, &store, class)) as Work<'_>);
    if let Err(text) = join(halves.into()).await
        && !kernel.is_dead()
    {
        kernel.shared.complain(format!("the liar, domain {}: {text}", kernel.id()));
    }
}

/// Serves one client of a class after the other.
async fn serve(kernel: &Rc<Kernel>, store: &Store<'_, Kernel>, class: &str) -> Result<(), String> {
    let failed = |error: Error| format!("{error}");
    let window = Window::new(&**kernel, 48).map_err(failed)?;
    let mut attached = store.watch("backend").await.map_err(failed)?;
    loop {
        if let Ok([Some(client)]) = clients(store, class).await {
            // Ends with an error when the other half goes in the middle of something.
            let _ = connections(kernel, store, &window, class, client).await;
            if window.used() != 0 {
                return Err(format!("{} pages of {class} are still mapped", window.used()));
            }
        }
        attached.changed().await.map_err(failed)?;
    }
}

async fn connections(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    window: &Window<'_, Kernel>,
    class: &str,
    client: Client,
) -> Result<(), Error> {
    let below = |end| kernel.shared.below(end);
    let liar = Liar::new(&below, TURNS);
    let mut device = BackDevice::open(store, class, client).await?;
    loop {
        let ended = if class == CLASSES[0] {
            liar.disk(&**kernel, window, &mut device).await
        } else {
            liar.port(&**kernel, window, &mut device).await
        };
        if ended.is_err() {
            // The ring is let go; whoever is still there may begin again.
            device.set_state(State::Closed).await?;
        }
        loop {
            match device.next_step(State::Closed).await? {
                BackStep::Offer => break,
                BackStep::Remove => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The other guest's task: so many connections of either device. What its own devices find is for them to say.
pub async fn believe(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    grants: &GrantTable<'_, Kernel>,
    rounds: u64,
) -> Result<(), String> {
    let disk: Work<'_> = Box::pin(async {
        for _ in 0..rounds {
            if disk(kernel, store, grants).await.is_err() {
                kernel.shared.tell(|tales| tales.unconnected += 1);
            }
        }
        Ok(())
    });
    let port: Work<'_> = Box::pin(async {
        for _ in 0..rounds {
            if port(kernel, store, grants).await.is_err() {
                kernel.shared.tell(|tales| tales.unconnected += 1);
            }
        }
        Ok(())
    });
    join(vec![disk, port]).await
}

/// A device, once it is there: the liar may be built later, or never, or have ended.
async fn find<'s, 'p>(
    kernel: &Kernel,
    store: &'s Store<'p, Kernel>,
    class: &str,
) -> Result<Device<'s, 'p, Kernel>, Error> {
    for _ in 0..LOOKS {
        if let Ok(device) = Device::open(store, class, "0").await {
            return Ok(device);
        }
        kernel.sleep(200_000).await;
    }
    Err(Error::Closed)
}

/// Does some work, and has something else go on meanwhile that tells the work when nobody will answer any more.
async fn beside(work: impl Future<Output = Result<(), String>>, other: impl Future) {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut over = false;
    poll_fn(|context| {
        over = over || other.as_mut().poll(context).is_ready();
        work.as_mut().poll(context).map(drop)
    })
    .await;
}

async fn disk(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    grants: &GrantTable<'_, Kernel>,
) -> Result<(), Error> {
    let disk = Disk::connect(grants, find(kernel, store, CLASSES[0]).await?).await?;
    kernel.shared.tell(|tales| tales.connections += 1);
    let works = (0..4).map(|task| Box::pin(requests(kernel, &disk, task)) as Work<'_>);
    beside(join(works.collect()), disk.unplugged()).await;
    if disk.fault().is_some() {
        kernel.shared.tell(|tales| tales.seen += 1);
    }
    if kernel.shared.permille(200) {
        // As a second kernel finds it: nobody has closed anything.
        drop(disk);
        return Ok(());
    }
    disk.close().await.map(drop)
}

async fn requests(kernel: &Kernel, disk: &Disk<'_, '_, Kernel>, task: u64) -> Result<(), String> {
    for round in 0..3 {
        let pages = 1 + kernel.shared.below(14) as usize;
        let Ok(buffer) = Buffer::new(kernel, pages * PAGE_SIZE) else { continue };
        let result = match (task + round) % 3 {
            0 => disk.read(task * 8, buffer).await.1,
            1 => disk.write(task * 8, buffer).await.1,
            _ => disk.flush().await,
        };
        let answered = result.is_ok();
        kernel.shared.tell(|tales| *if answered { &mut tales.done } else { &mut tales.failed } += 1);
    }
    Ok(())
}

async fn port(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    grants: &GrantTable<'_, Kernel>,
) -> Result<(), Error> {
    let options = Options { offload: kernel.shared.permille(700) };
    let nic = Nic::connect(grants, find(kernel, store, CLASSES[1]).await?, options).await?;
    kernel.shared.tell(|tales| tales.connections += 1);
    exchange(kernel, &nic).await;
    if nic.fault().is_some() {
        kernel.shared.tell(|tales| tales.seen += 1);
    }
    nic.close().await.map(drop)
}

/// Sends, and hears what comes back.
async fn exchange(kernel: &Kernel, nic: &Nic<'_, '_, Kernel>) {
    let heard = Cell::new(0);
    let sending = async {
        for _ in 0..FRAMES {
            let bytes = vec![0x5a; 60 + kernel.shared.below(9_000) as usize];
            let _ = nic.send(&bytes, Offload::default()).await;
        }
        // What comes back takes its time.
        kernel.sleep(kernel.shared.below(2_000_000)).await;
        Ok(())
    };
    let hearing = async {
        let mut bytes = vec![0; 10_000];
        while nic.receive(&mut bytes).await.is_ok() {
            heard.set(heard.get() + 1);
        }
        Ok(())
    };
    let unplugged = async {
        let _ = nic.unplugged().await;
        Ok(())
    };
    let other = join(vec![Box::pin(hearing) as Work<'_>, Box::pin(unplugged)]);
    beside(sending, other).await;
    kernel.shared.tell(|tales| tales.done += heard.get());
}
