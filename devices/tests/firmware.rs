//! Debian's SeaBIOS and VGA BIOS run on the board, with the emulator as the processor.

mod support;

use support::Pc;
use trunnion_devices::ide::Kind;

/// A package's file; `None`, with a message, where the package is not installed.
fn file(path: &str) -> Option<Vec<u8>> {
    std::fs::read(path).map_err(|error| eprintln!("{path}: {error}; the package seabios has it")).ok()
}

fn pc() -> Option<Pc> {
    let bios = file("/usr/share/seabios/bios-256k.bin")?;
    let vga = file("/usr/share/seabios/vgabios-stdvga.bin")?;
    Some(Pc::new(32 << 20, bios, Some(vga)))
}

#[test]
fn seabios_boots_a_disk() {
    let Some(mut pc) = pc() else { return };
    // Prints a letter by the BIOS, one on the serial line, and reads sector 1 to 0x600.
    let mut image = vec![0u8; 1 << 20];
    image[..512].copy_from_slice(&boot_sector());
    image[512..520].copy_from_slice(b"SECTOR1!");
    pc.attach(0, 0, Kind::Disk, image);
    let end = pc.run_until("SECTOR1!", 60_000_000);
    println!(
        "{}\n--- log\n{}\n--- {end:?} after {} steps at {:?}\n{}",
        pc.screen(),
        String::from_utf8_lossy(&pc.log),
        pc.steps,
        pc.bus.now,
        pc.cpu
    );
    assert_eq!(end, Ok(()));
}

fn boot_sector() -> [u8; 512] {
    #[rustfmt::skip]
    let code: &[u8] = &[
        0x31, 0xc0,             // xor ax, ax
        0x8e, 0xd8, 0x8e, 0xc0, // mov ds, ax; mov es, ax
        0xb8, 0x01, 0x02,       // mov ax, 0x0201
        0xb9, 0x02, 0x00,       // mov cx, 2
        0xb6, 0x00,             // mov dh, 0
        0xbb, 0x00, 0x06,       // mov bx, 0x600
        0xcd, 0x13,             // int 0x13
        0xbe, 0x00, 0x06,       // mov si, 0x600
        0xb9, 0x08, 0x00,       // mov cx, 8
        0xac,                   // lodsb
        0xb4, 0x0e,             // mov ah, 0xe
        0xbb, 0x07, 0x00,       // mov bx, 7
        0x51, 0xcd, 0x10, 0x59, // push cx; int 0x10; pop cx
        0xe2, 0xf4,             // loop -12
        0xfa, 0xf4,             // cli; hlt
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(code);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
