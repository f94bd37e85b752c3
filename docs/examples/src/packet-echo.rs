//! A kernel that sends back every Ethernet frame of one type (0x88b5, for experiments) to where it came from, and counts the
//! others: the network front end without any stack. `frames=N` on the command line: power off after N of them; `ask=MAC`: be
//! the one who asks, N times, and compare what comes back.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::net::{NetError, Nic, Offload, Options};
use trunnion_frontends::store::Store;
use trunnion_frontends::xenbus::Device;
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;

static KERNEL: Kernel = Kernel;
/// Local experiments (IEEE 802, 9.2.3).
const KIND: [u8; 2] = [0x88, 0xb5];
/// Bytes of the longest frame on a wire.
const FRAME: usize = 1514;
/// A question that got no answer is asked again this often.
const TRIES: u32 = 100;

/// Sends frames of its type back; returns how many others there were.
async fn echo(nic: &Nic<'_, 'static, Kernel>, frames: u64) -> Result<u64, NetError> {
    let (mut bytes, mut seen, mut others) = (vec![0; FRAME], 0, 0);
    while seen < frames {
        let length = nic.receive(&mut bytes).await?.length;
        let Some(frame) = bytes.get_mut(..length).filter(|frame| frame.get(12..14) == Some(&KIND[..])) else {
            others += 1;
            continue;
        };
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&nic.address());
        nic.send(frame, Offload::default()).await?;
        seen += 1;
    }
    Ok(others)
}

/// Asks, each time with other bytes and another length; returns how often it had to ask again.
async fn ask(nic: &Nic<'_, 'static, Kernel>, peer: [u8; 6], frames: u64) -> Result<u64, NetError> {
    let (mut bytes, mut again) = (vec![0; FRAME], 0);
    for number in 0..frames {
        let mut question = [&peer[..], &nic.address()[..], &KIND[..], &number.to_be_bytes()[..]].concat();
        let length = 60 + (number as usize * 97) % (FRAME - 60);
        question.extend((question.len()..length).map(|at| (at as u64 * 31 + number) as u8));
        'asked: for attempt in 0.. {
            nic.send(&question, Offload::default()).await?;
            let until = clock::now() + Duration::from_millis(200);
            while clock::now() < until {
                let Some(received) = nic.try_receive(&mut bytes) else {
                    clock::sleep(Duration::from_micros(200)).await;
                    continue;
                };
                // The question's addresses are swapped; the rest is the same.
                if bytes.get(12..received?.length) == question.get(12..) {
                    break 'asked;
                }
            }
            again += 1;
            if attempt == TRIES {
                return Err(NetError::Closed);
            }
        }
    }
    Ok(again)
}

async fn run(start: &StartInfo) -> Result<String, Error> {
    let store = Store::new(&KERNEL)?;
    let grants = GrantTable::new(&KERNEL, 2)?;
    let nic = Nic::connect(&grants, Device::open(&store, "vif", "0").await?, Options::default()).await?;
    let frames = start.option("frames").and_then(|text| text.parse().ok()).unwrap_or(100);
    let peer: Option<Vec<u8>> = start
        .option("ask")
        .map(|mac| mac.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect());
    let line = match peer.and_then(|peer| <[u8; 6]>::try_from(peer).ok()) {
        Some(peer) => ask(&nic, peer, frames)
            .await
            .map(|again| format!("{frames} answers, all right; asked again {again} times")),
        None => {
            echo(&nic, frames).await.map(|others| format!("{frames} frames sent back, {others} others seen"))
        }
    };
    let line = line.map_err(|_| Error::Broken)?;
    // The last answers are on their way.
    clock::sleep(Duration::from_millis(50)).await;
    nic.close().await?;
    Ok(line)
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let ended = Box::pin(run(&start)).await;
    let line = match &ended {
        Ok(line) => line.clone(),
        Err(error) => format!("failed: {error}"),
    };
    console.write(format!("packet-echo: {line}\r\n").as_bytes()).await;
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
