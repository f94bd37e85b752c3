//! A shell on the console: lines with echo, four verbs. `run=VERB,VERB` on the command line types for you.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use trunnion_frontends::console::Console;
use trunnion_guest::executor::Spawner;
use trunnion_guest::platform::Kernel;
use trunnion_guest::start::StartInfo;
use trunnion_guest::{clock, memory};
use trunnion_protocol::hypercall::sched::ShutdownReason;

static KERNEL: Kernel = Kernel;

async fn line(console: &Console<'_, Kernel>) -> String {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        console.read(&mut byte).await;
        match byte[0] {
            b'\r' | b'\n' => {
                console.write(b"\r\n").await;
                return line;
            }
            0x08 | 0x7f if line.pop().is_some() => console.write(b"\x08 \x08").await,
            typed @ 0x20..0x7f if line.len() < 200 => {
                line.push(char::from(typed));
                console.write(&byte).await;
            }
            _ => {}
        }
    }
}

/// Does what a line says; a reason to end, or nothing.
async fn perform(console: &Console<'_, Kernel>, line: &str) -> Option<ShutdownReason> {
    let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let answer = match verb {
        "" => return None,
        "echo" => String::from(rest),
        "time" => format!("{:.3} s since power-on", clock::now().as_secs_f64()),
        "heap" => {
            let (used, free) = usage();
            format!("{} KiB used, {} KiB free", used >> 10, free >> 10)
        }
        "poweroff" => return Some(ShutdownReason::PowerOff),
        _ => String::from("verbs: echo TEXT, time, heap, poweroff"),
    };
    console.write(format!("{answer}\r\n").as_bytes()).await;
    None
}

#[cfg(target_os = "none")]
fn usage() -> (u64, u64) {
    memory::heap_usage()
}

#[cfg(not(target_os = "none"))]
fn usage() -> (u64, u64) {
    let _ = memory::holes;
    (0, 0)
}

async fn guest(_: Spawner, start: StartInfo) -> ShutdownReason {
    let Ok(console) = Console::primary(&KERNEL) else { return ShutdownReason::Crash };
    let reason = 'shell: {
        for verb in start.option("run").unwrap_or_default().split(',').filter(|verb| !verb.is_empty()) {
            console.write(format!("> {verb}\r\n").as_bytes()).await;
            if let Some(reason) = perform(&console, verb).await {
                break 'shell reason;
            }
        }
        loop {
            console.write(b"> ").await;
            if let Some(reason) = perform(&console, &line(&console).await).await {
                break 'shell reason;
            }
        }
    };
    console.flush().await;
    reason
}

trunnion_guest::entry!(guest);
