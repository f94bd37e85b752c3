//! Debian's SeaBIOS and VGA BIOS run on the board, with the emulator as the processor: they set up every device, and boot from
//! a disk, a floppy and a CD.

use std::sync::Once;

use crate::support::{Pc, disk};
use trunnion_cli::setup::{self, Permission, Tool};
use trunnion_devices::board::Event;
use trunnion_devices::ide::Kind;
use trunnion_devices::width::Width;

/// Instructions in which firmware has to come to the end of its work.
const LIMIT: u64 = 60_000_000;

fn pc() -> Pc {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        setup::ensure(&[Tool::SeaBios], Permission::Install).unwrap_or_else(|failure| panic!("{failure}"));
    });
    let file = |path: &str| std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let bios = file("/usr/share/seabios/bios-256k.bin");
    Pc::new(32 << 20, bios, Some(file("/usr/share/seabios/vgabios-stdvga.bin")))
}

/// Prints the eight characters of sector 2 of the drive that it was booted from (`read`), or of its own byte 0x100; echoes a key;
/// switches the machine off.
fn boot_sector(read: bool) -> [u8; 512] {
    #[rustfmt::skip]
    let load: &[u8] = &[
        0xb8, 0x01, 0x02,       // mov ax, 0x0201: read one sector
        0xb9, 0x02, 0x00,       // mov cx, 2: of cylinder 0, the second
        0xb6, 0x00,             // mov dh, 0: of head 0; DL is the drive
        0xbb, 0x00, 0x06,       // mov bx, 0x600
        0xcd, 0x13,             // int 0x13
        0xbe, 0x00, 0x06,       // mov si, 0x600
    ];
    #[rustfmt::skip]
    let print: &[u8] = &[
        0xb9, 0x08, 0x00,       // mov cx, 8
        0xac,                   // lodsb
        0xb4, 0x0e,             // mov ah, 0xe
        0xbb, 0x07, 0x00,       // mov bx, 7
        0x51, 0xcd, 0x10, 0x59, // push cx; int 0x10; pop cx
        0xe2, 0xf4,             // loop to lodsb
        0xb4, 0x00, 0xcd, 0x16, // mov ah, 0; int 0x16: a key
        0xb4, 0x0e, 0xcd, 0x10, // mov ah, 0xe; int 0x10
        0xb9, 0xff, 0xff,       // mov cx, 0xffff
        0xe2, 0xfe,             // loop to itself
        0xba, 0x04, 0x06,       // mov dx, 0x604: the PM1 control register
        0xb8, 0x01, 0x20,       // mov ax, 0x2001: S5
        0xef, 0xf4,             // out dx, ax; hlt
    ];
    let mut sector = [0; 512];
    let mut code = vec![0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0]; // xor ax, ax; mov ds, ax; mov es, ax
    code.extend_from_slice(if read { load } else { &[0xbe, 0x00, 0x7d] }); // mov si, 0x7d00
    code.extend_from_slice(print);
    sector[..code.len()].copy_from_slice(&code);
    sector[0x100..0x108].copy_from_slice(b"FROM CD!");
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Waits for a text, types a, sees it, and sees the machine switched off.
fn boots(pc: &mut Pc, text: &str) {
    let end = pc.run_until(text, LIMIT);
    let shown = format!("{}\n{}\n{}", pc.screen(), String::from_utf8_lossy(&pc.log), pc.cpu);
    assert_eq!(end, Ok(()), "{shown}");
    pc.bus.board.keyboard.keyboard.press(&[0x1c, 0xf0, 0x1c]);
    assert_eq!(pc.run_until(&format!("{text}a"), LIMIT), Ok(()), "{}", pc.screen());
    if pc.events.is_empty() {
        pc.run(LIMIT);
    }
    assert_eq!(pc.events, [Event::Off]);
    let screen = pc.bus.board.vga.as_ref().expect("a VGA").screen();
    assert_eq!((screen.width, screen.height), (720, 400));
    assert!(screen.pixels.iter().filter(|&&byte| byte != 0).count() > 1000, "letters are drawn");
    println!("{} instructions", pc.steps);
}

#[test]
fn seabios_boots_a_disk() {
    let mut pc = pc();
    let mut image = vec![0u8; 1 << 20];
    image[..512].copy_from_slice(&boot_sector(true));
    image[512..520].copy_from_slice(b"SECTOR2!");
    pc.attach(0, 0, Kind::Disk, image);
    boots(&mut pc, "SECTOR2!");
    for line in
        ["Found QEMU fw_cfg", "PS2 keyboard initialized", "ata0-0: TRUNNION DISK ATA-6 Hard-Disk (1 MiBytes)"]
    {
        assert!(pc.shows(line), "{line}");
    }
}

/// The bytes of the guest's RAM from an address on.
fn at(pc: &Pc, address: u32, length: usize) -> Vec<u8> {
    pc.bus.ram.bytes(address.into(), length)
}

fn word(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes"))
}

/// A table of the guest's RAM that sums to zero.
fn table(pc: &Pc, address: u32) -> Vec<u8> {
    let bytes = at(pc, address, word(&at(pc, address, 8), 4) as usize);
    assert_eq!(bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0, "{:?}", &bytes[..4]);
    bytes
}

/// SeaBIOS puts the tables where operating systems look for them, reads them itself, and adds what it is.
#[test]
fn seabios_hands_the_tables_on() {
    let mut pc = pc();
    let mut image = vec![0u8; 1 << 20];
    image[..512].copy_from_slice(&boot_sector(true));
    image[512..520].copy_from_slice(b"SECTOR2!");
    pc.attach(0, 0, Kind::Disk, image);
    assert_eq!(pc.run_until("SECTOR2!", LIMIT), Ok(()), "{}", pc.screen());
    let segment = at(&pc, 0xf_0000, 0x1_0000);
    let find = |what: &[u8]| {
        segment.chunks(16).position(|line| line.starts_with(what)).map(|line| &segment[line * 16..])
    };
    let root = find(b"RSD PTR ").expect("a root pointer");
    let list = table(&pc, word(root, 16));
    let tables: Vec<_> = list[36..].chunks(4).map(|address| table(&pc, word(address, 0))).collect();
    let names: Vec<_> =
        tables.iter().map(|table| String::from_utf8_lossy(&table[..4]).into_owned()).collect();
    assert_eq!(names, ["FACP", "APIC", "HPET"]);
    assert_eq!(table(&pc, word(&tables[0], 40))[..4], *b"DSDT");
    // The ports of power management are where the tables say, and the timer there runs.
    let ports = word(&tables[0], 76) as u16;
    let now = pc.bus.now;
    let ticks = pc.bus.board.port_read(ports, Width::Double, now);
    assert!(ticks != 0 && ticks >> 24 == 0, "{ticks:#x}");
    let anchor = find(b"_SM_").expect("an entry point");
    let structures = at(&pc, word(anchor, 0x18), usize::from(anchor[0x16]) | usize::from(anchor[0x17]) << 8);
    let text = String::from_utf8_lossy(&structures);
    for part in ["SeaBIOS", "HVM domU", "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"] {
        assert!(text.contains(part), "{part}: {text:?}");
    }
    assert!(!pc.shows("internal error"), "{}", String::from_utf8_lossy(&pc.log));
}

#[test]
fn seabios_boots_a_floppy() {
    let mut pc = pc();
    let mut image = vec![0u8; 1_474_560];
    image[..512].copy_from_slice(&boot_sector(true));
    image[512..520].copy_from_slice(b"FLOPPY 2");
    pc.bus.board.insert_floppy(0, Some(disk(image, false)));
    boots(&mut pc, "FLOPPY 2");
}

#[test]
fn seabios_boots_a_cd() {
    // El Torito, without emulation: a boot record, a catalogue, one sector of code.
    let mut image = vec![0u8; 32 * 2048];
    let record = &mut image[17 * 2048..];
    record[..6].copy_from_slice(b"\0CD001");
    record[6] = 1;
    record[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    record[0x47] = 20;
    let catalogue = &mut image[20 * 2048..];
    catalogue[0] = 1;
    catalogue[0x1e..0x21].copy_from_slice(&[0x55, 0xaa, 0x88]);
    catalogue[0x26] = 4;
    catalogue[0x28] = 21;
    image[21 * 2048..][..512].copy_from_slice(&boot_sector(false));
    let mut pc = pc();
    pc.attach(1, 0, Kind::Cd, image);
    boots(&mut pc, "FROM CD!");
}
