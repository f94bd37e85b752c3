//! The disk check: a pattern that depends on the sector goes to both ends of each writable disk, several requests at a
//! time, is made durable, and is read back and compared. The pattern stays: the demo's disk is the demo's.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;

use trunnion_frontends::block::{BlockError, Disk};
use trunnion_frontends::page::Buffer;
use trunnion_frontends::xenbus::{self, Device};
use trunnion_guest::clock;
use trunnion_guest::platform::Kernel;

use crate::kernel::Guest;

/// Bytes of a request.
const REQUEST: usize = 40 * 1024;
/// Requests in flight.
const DEPTH: u64 = 8;
/// Rounds of that many requests at each end of the disk.
const ROUNDS: u64 = 4;
const SECTOR: usize = 512;

type Trial<T> = Result<T, String>;

/// Checks every disk of the guest.
pub(crate) async fn check_all(guest: &'static Guest) -> Trial<()> {
    let mut names = [0; 1024];
    let names: Vec<String> = match xenbus::devices(&guest.store, "vbd", &mut names).await {
        Ok(names) => names.map(String::from).collect(),
        Err(_) => Vec::new(),
    };
    if names.is_empty() {
        guest.say("disk: none").await;
    }
    for name in names {
        Box::pin(check(guest, &name)).await.map_err(|error| format!("disk {name}: {error}"))?;
    }
    Ok(())
}

async fn check(guest: &'static Guest, name: &str) -> Trial<()> {
    let text = |error: trunnion_frontends::error::Error| format!("{error}");
    let device = Device::open(&guest.store, "vbd", name).await.map_err(text)?;
    let disk = Disk::connect(&guest.grants, device).await.map_err(text)?;
    let shape = *disk.shape();
    guest
        .say(&format!(
            "disk {name}: {} KiB, sectors of {} bytes{}{}",
            shape.sectors / 2,
            shape.sector_size,
            if shape.read_only { ", read-only" } else { "" },
            if shape.flush { ", flush" } else { "" },
        ))
        .await;
    let before = clock::now();
    let sectors = (REQUEST / SECTOR) as u64;
    let span = (sectors * DEPTH * ROUNDS).min(shape.sectors / 2 / sectors * sectors);
    let starts = [0, (shape.sectors - span) / sectors * sectors];
    let mut bytes = 0;
    if shape.read_only {
        let read = |at| read(guest, &disk, at);
        bytes += each(0, span, read).await?;
    } else {
        for start in starts {
            bytes += each(start, span, |at| write(guest, &disk, at)).await?;
        }
        if shape.flush {
            disk.flush().await.map_err(|error| format!("flush: {error}"))?;
        }
        for start in starts {
            bytes += each(start, span, |at| verify(guest, &disk, at)).await?;
        }
        expect_refusals(guest, &disk).await?;
    }
    let took = clock::now().saturating_sub(before);
    guest
        .say(&format!("disk {name}: {bytes} bytes moved and verified in {:.3} ms", took.as_secs_f64() * 1e3))
        .await;
    disk.close().await.map(drop).map_err(text)
}

type Work<'a> = Pin<Box<dyn Future<Output = Trial<u64>> + 'a>>;

/// Runs requests over a span of sectors, some at a time; returns the bytes moved.
async fn each<'a, F: Future<Output = Trial<u64>> + 'a>(
    start: u64,
    span: u64,
    request: impl Fn(u64) -> F,
) -> Trial<u64> {
    let sectors = (REQUEST / SECTOR) as u64;
    let mut at = start;
    let mut total = 0;
    while at + sectors <= start + span {
        let mut works: Vec<Option<Work<'a>>> = Vec::new();
        while at + sectors <= start + span && (works.len() as u64) < DEPTH {
            works.push(Some(Box::pin(request(at))));
            at += sectors;
        }
        poll_fn(|context| {
            let mut waiting = false;
            for work in &mut works {
                let Some(future) = work else { continue };
                match future.as_mut().poll(context) {
                    Poll::Pending => waiting = true,
                    Poll::Ready(Ok(bytes)) => {
                        total += bytes;
                        *work = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                }
            }
            if waiting { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await?;
    }
    Ok(total)
}

/// The pattern's eight bytes at a place of a sector.
const fn word(sector: u64, index: u64) -> u64 {
    (sector << 8 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn pattern(sector: u64) -> Vec<u8> {
    let sectors = (REQUEST / SECTOR) as u64;
    let words = (sector..sector + sectors).flat_map(|sector| (0..64).map(move |index| word(sector, index)));
    words.flat_map(u64::to_le_bytes).collect()
}

fn buffer(length: usize) -> Trial<Buffer<Kernel>> {
    Buffer::new(&Kernel, length).map_err(|error| format!("{error}"))
}

async fn write(_: &Guest, disk: &Disk<'_, '_, Kernel>, sector: u64) -> Trial<u64> {
    let buffer = buffer(REQUEST)?;
    buffer.write(0, &pattern(sector)).map_err(|error| format!("{error}"))?;
    let (_, result) = disk.write(sector, buffer).await;
    result.map(|()| REQUEST as u64).map_err(|error| format!("write at sector {sector}: {error}"))
}

async fn read(_: &Guest, disk: &Disk<'_, '_, Kernel>, sector: u64) -> Trial<u64> {
    let (_, result) = disk.read(sector, buffer(REQUEST)?).await;
    result.map(|()| REQUEST as u64).map_err(|error| format!("read at sector {sector}: {error}"))
}

async fn verify(_: &Guest, disk: &Disk<'_, '_, Kernel>, sector: u64) -> Trial<u64> {
    let (buffer, result) = disk.read(sector, buffer(REQUEST)?).await;
    result.map_err(|error| format!("read at sector {sector}: {error}"))?;
    let mut bytes = alloc::vec![0; REQUEST];
    buffer.read(0, &mut bytes).map_err(|error| format!("{error}"))?;
    match bytes.iter().zip(&pattern(sector)).position(|(is, should)| is != should) {
        None => Ok(REQUEST as u64),
        Some(at) => Err(format!("wrong byte {at} behind sector {sector}")),
    }
}

/// What cannot be done is refused, by this side already, and nothing breaks.
async fn expect_refusals(_: &Guest, disk: &Disk<'_, '_, Kernel>) -> Trial<()> {
    let beyond = disk.read(disk.shape().sectors, buffer(SECTOR)?).await.1;
    if beyond != Err(BlockError::OutOfRange) {
        return Err(format!("a read beyond the end gives {beyond:?}"));
    }
    Ok(())
}
