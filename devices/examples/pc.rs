//! Boots a medium on the host: Debian's SeaBIOS on the board, with the emulator as the processor. Slow, and complete enough to see
//! how far a boot loader comes without any hypervisor.
//!
//! `cargo run --release -p trunnion-devices --example pc -- [--disk FILE] [--cd FILE] [--floppy FILE] [--memory MIB] [--millions N]
//! [--until TEXT] [--type SCANCODE,SCANCODE] [--picture FILE.ppm]`. Scan codes are of set 2, in hexadecimal. It prints the firmware's log, the
//! serial line and the screen.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;

use support::{Pc, disk};
use trunnion_devices::ide::Kind;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1))
    };
    let number = |name: &str, default: u64| option(name).map_or(Ok(default), |text| text.parse());
    let file = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let memory = usize::try_from(number("--memory", 64)?)? << 20;
    let mut pc = Pc::new(
        memory,
        file("/usr/share/seabios/bios-256k.bin")?,
        Some(file("/usr/share/seabios/vgabios-stdvga.bin")?),
    );
    if let Some(path) = option("--disk") {
        pc.attach(0, 0, Kind::Disk, file(path)?);
    }
    if let Some(path) = option("--cd") {
        pc.attach(1, 0, Kind::Cd, file(path)?);
    }
    if let Some(path) = option("--floppy") {
        pc.bus.board.insert_floppy(0, Some(disk(file(path)?, false)));
    }
    let steps = number("--millions", 500)?.saturating_mul(1_000_000);
    let nothing = String::from("\u{1}");
    let text = option("--until").unwrap_or(&nothing);
    let mut end = pc.run_until(text, steps);
    if let Some(codes) = option("--type") {
        for code in codes.split(',') {
            pc.bus.board.keyboard.keyboard.press(&[u8::from_str_radix(code, 16)?]);
            pc.run(500_000);
        }
        end = pc.run_until(&nothing, 100_000_000);
    }
    if let (Some(path), Some(vga)) = (option("--picture"), &pc.bus.board.vga) {
        let screen = vga.screen();
        let mut picture = format!("P6\n{} {}\n255\n", screen.width, screen.height).into_bytes();
        picture.extend_from_slice(&screen.pixels);
        std::fs::write(path, picture)?;
    }
    println!("--- firmware\n{}\n--- serial\n{}", String::from_utf8_lossy(&pc.log), pc.said());
    println!(
        "--- screen\n{}\n--- {end:?} after {} instructions, {:?}\n{}",
        pc.screen(),
        pc.steps,
        pc.bus.now,
        pc.cpu
    );
    Ok(())
}
