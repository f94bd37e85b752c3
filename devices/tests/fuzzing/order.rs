//! Orders as drivers give them, of several writes: what chance alone would hardly find.

use trunnion_devices::width::Width;

use super::Source;

type Writes = Vec<(u16, Width, u32)>;

/// An order to the device with a name; to one that takes none, nothing.
pub fn of(name: &str, source: &mut Source) -> Writes {
    match name {
        "ide" => disk(source),
        "cd" => packet(source),
        "floppy" => floppy(source),
        "e1000" => card(source),
        "pic" => words(&[0x20, 0x21, 0x21, 0x21], &[0x11, 8, 4, 1]),
        "uart" => words(&[0x3fb, 0x3fc, 0x3f9, 0x3fa], &[3, 0xb, 0xf, 1]),
        "board" => {
            let name = ["ide", "cd", "floppy", "e1000", "pic", "uart"][source.below(6) as usize];
            of(name, source)
        }
        _ => vec![],
    }
}

fn words(ports: &[u16], values: &[u8]) -> Writes {
    ports.iter().zip(values).map(|(&port, &value)| (port, Width::Byte, u32::from(value))).collect()
}

/// A table for the bus master of a channel, mostly, and its start.
fn master(channel: u16, source: &mut Source) -> Writes {
    let table = [0x1000, 0x2000, 0x8000, 0xf_0000][source.below(4) as usize];
    let port = 0xc000 + 8 * channel;
    vec![(port + 4, Width::Double, table), (port, Width::Byte, [9, 1, 0, 8][source.below(4) as usize])]
}

/// A command of ATA, within the disk or not, and sometimes a reset in the middle.
fn disk(source: &mut Source) -> Writes {
    const COMMANDS: [u8; 16] =
        [0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xe7, 0xec, 0xef];
    let command = COMMANDS[source.below(16) as usize];
    let count = source.below(20) as u8;
    let (low, mid) = (source.below(256) as u8, if source.one_in(4) { source.below(256) as u8 } else { 0 });
    let mut writes = words(
        &[0x1f6, 0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f7],
        &[0xe0 | if source.one_in(8) { 0x10 } else { 0 }, count, low, mid, 0, command],
    );
    writes.extend(master(0, source));
    if source.one_in(8) {
        writes.extend(words(&[0x3f6, 0x3f6], &[4, 0]));
    }
    writes
}

/// A packet of ATAPI.
fn packet(source: &mut Source) -> Writes {
    const COMMANDS: [u8; 16] =
        [0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8, 0xbe];
    let mut packet = [0; 12];
    packet[0] = COMMANDS[source.below(16) as usize];
    // Sectors and lengths.
    packet[5] = source.below(256) as u8;
    packet[8] = source.below(256) as u8;
    packet[9] = source.below(4) as u8;
    if source.one_in(4) {
        let at = 1 + source.below(11) as usize;
        packet[at] = source.below(256) as u8;
    }
    let dma = source.below(2) as u8;
    let mut writes = words(
        &[0x176, 0x171, 0x174, 0x175, 0x177],
        &[0xa0, dma, source.below(256) as u8, source.below(9) as u8, 0xa0],
    );
    for pair in packet.chunks(2) {
        writes.push((0x170, Width::Word, u32::from(pair[0]) | u32::from(pair[1]) << 8));
    }
    writes.extend(master(1, source));
    if source.one_in(8) {
        writes.push((0x177, Width::Byte, 8));
    }
    writes
}

/// A command of the floppy controller with the channel of its DMA set up, and sometimes a reset in the middle.
fn floppy(source: &mut Source) -> Writes {
    let mut writes = words(
        &[0x0c, 0x0b, 0x04, 0x04, 0x81],
        &[0, [0x46, 0x4a, 0x56, 0x42][source.below(4) as usize], 0, 0x40, 0],
    );
    let bytes = [511, 1023, 0xffff, source.below(0x2000) as u32][source.below(4) as usize];
    writes.extend(words(&[0x05, 0x05, 0x0a], &[bytes as u8, (bytes >> 8) as u8, 2]));
    if source.one_in(8) {
        writes.extend(words(&[0x3f2, 0x3f2], &[8, 0x0c | source.below(4) as u8]));
    } else if source.one_in(4) {
        writes.extend(words(&[0x3f4], &[0x80]));
    }
    let drive = if source.one_in(8) { source.below(8) as u8 } else { 0 };
    let (cylinder, head, sector) = (source.below(4) as u8, source.below(2) as u8, 1 + source.below(18) as u8);
    let command: Vec<u8> = match source.below(8) {
        0 => vec![7, drive],
        1 => vec![8],
        2 => vec![0x0f, drive, source.below(90) as u8],
        3 => vec![3, 0xdf, 2],
        4 => vec![0x4a, drive],
        5 => vec![0x45, drive, cylinder, head, sector, 2, 18, 0x1b, 0xff],
        _ => vec![0x46 | (source.below(2) as u8) << 7, drive, cylinder, head, sector, 2, 18, 0x1b, 0xff],
    };
    writes.extend(command.iter().map(|&byte| (0x3f5, Width::Byte, u32::from(byte))));
    writes
}

/// A ring of the card, through the window of its ports, and that there is something in it.
fn card(source: &mut Source) -> Writes {
    let ring = [0x1000, 0x2000, 0x8000, 0xf_0000][source.below(4) as usize];
    let length = 128 * (1 + source.below(4) as u32);
    let (head, tail) = (source.below(9) as u32, source.below(40) as u32);
    let registers: &[(u32, u32)] = if source.one_in(2) {
        &[(0x3800, ring), (0x3804, 0), (0x3808, length), (0x3810, head), (0x400, 2), (0x3818, tail)]
    } else {
        &[(0x2800, ring), (0x2804, 0), (0x2808, length), (0x2810, head), (0x100, 0x801a), (0x2818, tail)]
    };
    let mut writes = vec![];
    for &(register, value) in registers.iter().chain(&[(0xd0, 0xffff)]) {
        writes.extend([(0xc200, Width::Double, register), (0xc204, Width::Double, value)]);
    }
    writes
}
