//! A guest that serves random bytes to others. With `once` on its command line it ends when its first client is done.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::mapping::Window;
use trunnion_frontends::store::Store;
use trunnion_frontends::xenbus::{Client, clients};
use trunnion_guest::clock;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_vrng::back::{Source, serve};
use trunnion_vrng::wire::CLASS;

static KERNEL: Kernel = Kernel;

/// The clock's last bits, mixed (SplitMix64). It shows the way of the bytes; for keys, take a hardware source.
struct Noise(u64);

impl Source for Noise {
    fn fill(&mut self, into: &mut [u8]) {
        for piece in into.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from(clock::now().subsec_nanos());
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            piece.copy_from_slice((mixed ^ mixed >> 31).to_le_bytes().get(..piece.len()).unwrap_or_default());
        }
    }
}

/// Serves one client to its end, and says what was done.
async fn attend(
    store: &Store<'static, Kernel>,
    window: &Window<'static, Kernel>,
    client: Client,
    console: &Console<'static, Kernel>,
) {
    let line = match serve(store, window, client, &mut Noise(clock::now().as_nanos() as u64)).await {
        Ok(figures) => format!("{} bytes, {} refused", figures.bytes, figures.refused),
        Err(error) => format!("{error}"),
    };
    console.write(format!("vrng-back: client {}: {line}\r\n", client.domain).as_bytes()).await;
}

async fn run(spawner: &Spawner, once: bool, console: &'static Console<'static, Kernel>) -> Result<(), Error> {
    let store: &'static Store<'static, Kernel> = Box::leak(Box::new(Store::new(&KERNEL)?));
    let window: &'static Window<'static, Kernel> = Box::leak(Box::new(Window::new(&KERNEL, 16)?));
    let served = Rc::new(RefCell::new(Vec::new()));
    console.write(b"vrng-back: waiting for clients\r\n").await;
    let mut watch = store.watch("backend").await?;
    loop {
        for client in clients::<8, _>(store, CLASS).await?.into_iter().flatten() {
            if once {
                attend(store, window, client, console).await;
                return Ok(());
            }
            if served.borrow().contains(&client) {
                continue;
            }
            served.borrow_mut().push(client);
            let served = Rc::clone(&served);
            spawner.spawn(async move {
                attend(store, window, client, console).await;
                served.borrow_mut().retain(|other| *other != client);
            });
        }
        watch.changed().await?;
    }
}

async fn guest(spawner: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let console = Box::leak(Box::new(console));
    let ended = run(&spawner, start.has_option("once"), console).await;
    if let Err(error) = &ended {
        console.write(format!("vrng-back: failed: {error}\r\n").as_bytes()).await;
    }
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
