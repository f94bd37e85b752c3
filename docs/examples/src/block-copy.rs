//! Copies the disk `xvda` to the disk `xvdb`, several requests at a time, and makes the copy durable.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;

use trunnion_frontends::block::Disk;
use trunnion_frontends::console::Console;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::Store;
use trunnion_frontends::xenbus::Device;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::blkif::{SECTOR_SIZE, device_number};
use trunnion_protocol::hypercall::sched::ShutdownReason;

static KERNEL: Kernel = Kernel;
/// Copies under way at once.
const DEPTH: usize = 8;

type Disks<'t> = Disk<'t, 'static, Kernel>;
type Copy<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

async fn connect<'t>(
    store: &'t Store<'static, Kernel>,
    grants: &'t GrantTable<'static, Kernel>,
    name: &str,
) -> Result<Disks<'t>, String> {
    let number = device_number(name).ok_or("no such name")?.to_string();
    let device = Device::open(store, "vbd", &number).await.map_err(|error| format!("{name}: {error}"))?;
    Disk::connect(grants, device).await.map_err(|error| format!("{name}: {error}"))
}

/// Copies one piece. The buffer goes into each request and comes back with its answer.
async fn piece(from: &Disks<'_>, to: &Disks<'_>, sector: u64, bytes: usize) -> Result<(), String> {
    let buffer = Buffer::new(&KERNEL, bytes).map_err(|error| error.to_string())?;
    let (buffer, read) = from.read(sector, buffer).await;
    read.map_err(|error| format!("read at sector {sector}: {error}"))?;
    let (_, written) = to.write(sector, buffer).await;
    written.map_err(|error| format!("write at sector {sector}: {error}"))
}

async fn copy(from: &Disks<'_>, to: &Disks<'_>) -> Result<u64, String> {
    let end = from.shape().sectors;
    if to.shape().sectors < end {
        return Err("xvdb is smaller than xvda".into());
    }
    let step = from.most_bytes().min(to.most_bytes()) / SECTOR_SIZE;
    let mut next = 0;
    let mut copies: Vec<Copy<'_>> = Vec::new();
    poll_fn(|context| {
        loop {
            while copies.len() < DEPTH && next < end {
                let sectors = (end - next).min(step as u64);
                copies.push(Box::pin(piece(from, to, next, sectors as usize * SECTOR_SIZE)));
                next += sectors;
            }
            if copies.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let before = copies.len();
            let mut failed = None;
            copies.retain_mut(|copy| match copy.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(result) => {
                    failed = failed.take().or(result.err());
                    false
                }
            });
            if let Some(error) = failed {
                return Poll::Ready(Err(error));
            }
            if copies.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await?;
    to.flush().await.map_err(|error| error.to_string())?;
    Ok(end * SECTOR_SIZE as u64)
}

async fn run() -> Result<String, String> {
    let store = Store::new(&KERNEL).map_err(|error| error.to_string())?;
    let grants = GrantTable::new(&KERNEL, 4).map_err(|error| error.to_string())?;
    let from = connect(&store, &grants, "xvda").await?;
    let to = connect(&store, &grants, "xvdb").await?;
    let before = clock::now();
    let bytes = copy(&from, &to).await?;
    let took = clock::now().saturating_sub(before);
    from.close().await.map_err(|error| error.to_string())?;
    to.close().await.map_err(|error| error.to_string())?;
    Ok(format!("copied {bytes} bytes in {} ms", took.as_millis()))
}

async fn guest(_: Spawner, _: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let ended = Box::pin(run()).await;
    let (line, reason) = match &ended {
        Ok(line) => (line, ShutdownReason::PowerOff),
        Err(line) => (line, ShutdownReason::Crash),
    };
    console.write(format!("block-copy: {line}\r\n").as_bytes()).await;
    console.flush().await;
    reason
}

trunnion_guest::entry!(guest);
