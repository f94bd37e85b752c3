//! Media that come and go, and controllers that are reset, while a request is on its way: the next command has its answer. Media that are
//! missing, cannot be read, or end too early.

use crate::fuzzing::device::Device;
use crate::support::bench::{Made, World, world};
use trunnion_devices::width::Width;

const DONE: u32 = 0xd0;

/// A command that reads one sector of the first floppy disk.
fn floppy_reads(world: &mut World, sector: u8) {
    for (port, value) in [(0x0c, 0), (0x0b, 0x46), (4, 0), (4, 0x40), (0x81, 0), (5, 0xff), (5, 1), (0x0a, 2)]
    {
        world.out(port, Width::Byte, value);
    }
    for value in [0x46, sector / 18 % 2 * 4, 0, sector / 18 % 2, sector % 18 + 1, 2, 18, 0x1b, 0xff] {
        world.out(0x3f5, Width::Byte, u32::from(value));
    }
}

/// Polls, and reads the result's first byte.
fn result(world: &mut World) -> u32 {
    world.poll();
    assert_eq!(world.read(0x3f4, Width::Byte), DONE);
    let bytes: Vec<u32> = (0..7).map(|_| world.read(0x3f5, Width::Byte)).collect();
    bytes[0]
}

fn placed() -> World {
    let mut world = world(true);
    world.place();
    world
}

#[test]
fn a_floppy_command_after_a_reset_under_a_request_has_its_answer() {
    let mut world = placed();
    floppy_reads(&mut world, 0);
    world.out(0x3f4, Width::Byte, 0x80);
    floppy_reads(&mut world, 0);
    assert_eq!(world.read(0x3f4, Width::Byte), 0x10, "a transfer");
    assert_eq!(result(&mut world), 0);
    assert_eq!(world.ram.bytes(0x4000, 512), [5; 512]);
}

#[test]
fn a_floppy_disk_that_goes_under_an_abandoned_request_leaves_nothing_behind() {
    let mut world = placed();
    let disk = world.media[2].clone();
    floppy_reads(&mut world, 0);
    world.out(0x3f4, Width::Byte, 0x80);
    world.board.insert_floppy(0, disk.map(|medium| Box::new(medium) as _));
    assert_eq!(world.read(0x3f4, Width::Byte), 0x80, "no result of a command that was given up");
    floppy_reads(&mut world, 0);
    assert_eq!(result(&mut world), 0);
    // And one that is not given up fails.
    floppy_reads(&mut world, 0);
    world.board.insert_floppy(0, None);
    assert_eq!(result(&mut world) & 0xc0, 0x40);
}

/// Begins READ (10) of one sector of 2,048 bytes through the data port.
fn disc_reads(world: &mut World) {
    order(world, [0x28, 0, 0, 0, 1, 0]);
}

#[test]
fn a_disc_that_goes_under_a_request_leaves_nothing_behind() {
    let mut world = placed();
    let again = world.media[1].clone();
    // The first command after a change is refused, to tell of it.
    disc_reads(&mut world);
    world.poll();
    disc_reads(&mut world);
    assert_eq!(world.read(0x376, Width::Byte), 0x80, "it reads");
    world.board.ide.change(1, 0, None);
    assert_eq!(world.read(0x376, Width::Byte) & 0x81, 1, "the command fails");
    // The same under a reset: the drive is free, and so is the next request.
    world.board.ide.change(1, 0, again.clone().map(|medium| Box::new(medium) as _));
    disc_reads(&mut world);
    world.poll();
    disc_reads(&mut world);
    for value in [4, 0] {
        world.out(0x376, Width::Byte, value);
    }
    assert_eq!(world.read(0x376, Width::Byte) & 0x80, 0x80, "it waits for its request");
    world.board.ide.change(1, 0, again.map(|medium| Box::new(medium) as _));
    assert_eq!(world.read(0x376, Width::Byte) & 0x80, 0);
    disc_reads(&mut world);
    world.poll();
    disc_reads(&mut world);
    world.poll();
    assert_eq!(world.read(0x376, Width::Byte) & 0x89, 8, "data");
    assert_eq!(world.read(0x170, Width::Word), 0x0909);
}

/// Reads a sector of the first disk by PIO; status and error.
fn disk_reads(world: &mut World, sector: u32) -> (u32, u32) {
    let [low, mid, high, head] = sector.to_le_bytes();
    for (register, value) in [(6, 0xe0 | head), (2, 1), (3, low), (4, mid), (5, high), (7, 0x20)] {
        world.out(0x1f0 + register, Width::Byte, u32::from(value));
    }
    world.poll();
    (world.read(0x1f7, Width::Byte), world.read(0x1f1, Width::Byte))
}

/// Reads the disc, and what the drive says about it: key and code.
fn disc_says(world: &mut World, sector: u32) -> (u32, [u32; 2]) {
    let [a, b, c, d] = sector.to_be_bytes().map(u32::from);
    let status = packet(world, [0x28, a | b << 8, c | d << 8, 0, 1, 0]) & 0x89;
    assert_eq!(packet(world, [3, 0, 18, 0, 0, 0]) & 0x89, 8, "its sense");
    let words: Vec<u32> = (0..9).map(|_| world.read(0x170, Width::Word)).collect();
    (status, [words[1] & 15, words[6] & 0xff])
}

/// Gives the CD drive a packet.
fn order(world: &mut World, words: [u32; 6]) {
    for (register, value) in [(6, 0), (1, 0), (4, 0), (5, 8), (7, 0xa0)] {
        world.out(0x170 + register, Width::Byte, value);
    }
    for word in words {
        world.out(0x170, Width::Word, word);
    }
}

/// The status after a packet.
fn packet(world: &mut World, words: [u32; 6]) -> u32 {
    order(world, words);
    world.poll();
    world.read(0x177, Width::Byte)
}

#[test]
fn sectors_that_a_file_system_says_and_the_medium_has_not_are_errors() {
    // A partition table, a volume descriptor, and a boot sector may all say more than there is.
    let mut world = World::new(Made { media: Some([512 * 100, 2048 * 10, 512 * 30]), ..Device::large() });
    world.place();
    assert_eq!(disk_reads(&mut world, 100), (0x51, 0x10));
    assert_eq!(disk_reads(&mut world, 0x0fff_ffff), (0x51, 0x10));
    assert_eq!(disk_reads(&mut world, 99), (0x58, 0));
    let _ = disc_says(&mut world, 0);
    assert_eq!(disc_says(&mut world, 10), (1, [5, 0x21]));
    assert_eq!(disc_says(&mut world, u32::MAX), (1, [5, 0x21]));
    floppy_reads(&mut world, 17);
    assert_eq!(result(&mut world), 0);
    floppy_reads(&mut world, 18 + 12);
    assert_eq!(result(&mut world) & 0xc0, 0x40);
    floppy_reads(&mut world, 18 + 11);
    assert_eq!(result(&mut world), 4);
}

#[test]
fn media_that_cannot_be_read_say_so_and_are_read_again() {
    let mut world = placed();
    let _ = disc_says(&mut world, 0);
    for failing in [true, false] {
        world.media.iter().flatten().for_each(|medium| medium.failing.set(failing));
        assert_eq!(disk_reads(&mut world, 3), if failing { (0x51, 0x40) } else { (0x58, 0) });
        assert_eq!(disc_says(&mut world, 3), if failing { (1, [3, 0x11]) } else { (8, [0, 0]) });
        floppy_reads(&mut world, 3);
        assert_eq!(result(&mut world), if failing { 0x40 } else { 0 });
    }
}

#[test]
fn drives_without_media_say_so() {
    let mut world = placed();
    world.board.ide.change(1, 0, None);
    world.board.insert_floppy(0, None);
    assert_eq!(disc_says(&mut world, 0), (1, [2, 0x3a]));
    floppy_reads(&mut world, 0);
    assert_eq!(result(&mut world), 0x40);
    // A disk that is not there is no drive.
    world.out(0x1f6, Width::Byte, 0xf0);
    assert_eq!(world.read(0x1f7, Width::Byte), 0);
}
