//! Prints what the guest may read of the store: its own part, as a tree with values.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trunnion_frontends::console::Console;
use trunnion_frontends::error::Error;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_protocol::hypercall::sched::ShutdownReason;

static KERNEL: Kernel = Kernel;
const NONE: Transaction = Transaction::NONE;

async fn browse(console: &Console<'_, Kernel>) -> Result<(), Error> {
    let store = Store::new(&KERNEL)?;
    let domid = store.read_text::<16>(NONE, "domid").await?;
    let mut todo = Vec::from([(0, format!("/local/domain/{domid}"))]);
    while let Some((depth, path)) = todo.pop() {
        let name = path.rsplit('/').next().unwrap_or_default();
        let value = match store.read_text::<256>(NONE, &path).await {
            Ok(value) => value.as_str().to_string(),
            Err(error) => format!("({error})"),
        };
        console.write(format!("{:1$}{name} = \"{value}\"\r\n", "", 2 * depth).as_bytes()).await;
        let mut names = [0; 2048];
        // A node that cannot be listed has nothing below it for us.
        let Ok(names) = store.list(NONE, &path, &mut names).await else { continue };
        let mut below: Vec<String> = names.map(|name| format!("{path}/{name}")).collect();
        below.sort_unstable_by(|a, b| b.cmp(a));
        todo.extend(below.into_iter().map(|path| (depth + 1, path)));
    }
    Ok(())
}

async fn guest(_: Spawner, _: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let ended = browse(&console).await;
    if let Err(error) = &ended {
        console.write(format!("store-browser: {error}\r\n").as_bytes()).await;
    }
    console.flush().await;
    if ended.is_ok() { ShutdownReason::PowerOff } else { ShutdownReason::Crash }
}

trunnion_guest::entry!(guest);
