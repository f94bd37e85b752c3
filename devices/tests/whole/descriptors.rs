//! DMA descriptors, good ones and bad ones: outside RAM, in device space, at themselves, in loops, too short.

use crate::support::bench::{RAM, World, world};
use trunnion_backends::frame::{Checksum, Frame, NetPort, Piece, Place};
use trunnion_devices::board::Nic;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::width::Width;
use trunnion_protocol::address::{Gfn, Gpa, PAGE_SIZE};
use trunnion_protocol::netif::{Gso, GsoKind};
use trunnion_protocol::shared::SharedPage;

fn placed() -> World {
    let mut world = world(true);
    world.place();
    world
}

impl World {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).expect("RAM");
    }

    /// A descriptor of the bus master.
    fn prd(&mut self, at: u64, address: u32, bytes: u16, last: bool) {
        let entry = u64::from(address) | u64::from(bytes) << 32 | u64::from(last) << 63;
        self.put(at, &entry.to_le_bytes());
    }

    /// READ DMA (or WRITE DMA) of sectors from 8 on, with the table at an address; then the bus master's and the drive's status.
    fn ide(&mut self, write: bool, sectors: u8, table: u32) -> (u32, u32) {
        self.out(0xc002, Width::Byte, 6);
        self.out(0xc004, Width::Double, table);
        for (register, value) in
            [(6, 0xe0), (2, sectors), (3, 8), (4, 0), (5, 0), (7, if write { 0xca } else { 0xc8 })]
        {
            self.out(0x1f0 + register, Width::Byte, u32::from(value));
        }
        self.out(0xc000, Width::Byte, if write { 1 } else { 9 });
        for _ in 0..8 {
            self.poll();
        }
        assert!(!self.board.ide.is_busy());
        let status = (self.read(0xc002, Width::Byte), self.read(0x1f7, Width::Byte));
        self.out(0xc000, Width::Byte, 0);
        status
    }
}

#[test]
fn sectors_go_where_the_table_says() {
    let mut world = placed();
    world.prd(0x1000, 0x2000, 512, false);
    world.prd(0x1008, 0x3ff0, 512 + 16, true);
    assert_eq!(world.ide(false, 2, 0x1000), (4, 0x50));
    assert_eq!(world.ram.bytes(0x2000, 512), [7; 512]);
    assert_eq!(world.ram.bytes(0x3ff0, 512), [7; 512]);
    assert_eq!(world.ram.bytes(0x3ff0 + 512, 16), [0; 16], "no more than was asked for");
    // And back: what the guest has written is read again.
    world.put(0x8000, &[0x5a; 1024]);
    world.prd(0x1000, 0x8000, 1024, true);
    assert_eq!(world.ide(true, 2, 0x1000), (4, 0x50));
    world.prd(0x1000, 0xa000, 1024, true);
    assert_eq!(world.ide(false, 2, 0x1000), (4, 0x50));
    assert_eq!(world.ram.bytes(0xa000, 1024), [0x5a; 1024]);
}

#[test]
fn sectors_in_many_odd_pieces_are_whole() {
    let mut world = placed();
    // 256 sectors in pieces of 22 bytes; the storage takes 256 pieces at a time.
    let pieces = 256 * 512 / 22 + 1;
    for n in 0..pieces {
        world.prd(0x10_0000 + n * 8, 0x20_0000 + n as u32 * 24, 22, n + 1 == pieces);
    }
    assert_eq!(world.ide(false, 0, 0x10_0000), (4, 0x50));
    for n in [0, 1, 255, 256, 257, pieces - 2] {
        assert_eq!(world.ram.bytes(0x20_0000 + n * 24, 24), [[7; 22].as_slice(), &[0; 2]].concat(), "{n}");
    }
}

#[test]
fn tables_that_lead_nowhere_end_with_an_error() {
    // The table is not in RAM; it points into device space; beyond RAM; it ends too early.
    type Make = fn(&mut World) -> u32;
    let cases: &[(&str, Make)] = &[
        ("no table", |_| RAM as u32 + 0x1000),
        ("a table in device space", |_| 0xf100_0000),
        ("device space", |world| {
            world.prd(0x1000, 0xf100_0000, 0, true);
            0x1000
        }),
        ("beyond RAM", |world| {
            world.prd(0x1000, RAM as u32, 0, true);
            0x1000
        }),
        ("half in RAM", |world| {
            world.prd(0x1000, RAM as u32 - 512, 0, true);
            0x1000
        }),
        ("too short", |world| {
            world.prd(0x1000, 0x2000, 512, true);
            0x1000
        }),
    ];
    for (what, make) in cases {
        let mut world = placed();
        let table = make(&mut world);
        let (master, drive) = world.ide(false, 4, table);
        assert_eq!((master & 7, drive & 0x81), (6, 1), "{what}");
        // The next command works.
        world.prd(0x1000, 0x2000, 2048, true);
        assert_eq!(world.ide(false, 4, 0x1000), (4, 0x50), "{what}");
    }
}

#[test]
fn a_table_that_is_overwritten_by_its_own_transfer_ends() {
    let mut world = placed();
    world.prd(0x1000, 0x1000, 0, true);
    assert_eq!(world.ide(false, 4, 0x1000), (4, 0x50));
    assert_eq!(world.ram.bytes(0x1000, 8), [7; 8]);
    // Without an end mark the reading goes on in what the transfer wrote.
    let mut world = placed();
    world.prd(0x1000, 0x1000, 512, false);
    let _ = world.ide(false, 4, 0x1000);
}

const RING: u64 = 0x4_0000;

impl World {
    fn transmit_ring(&mut self, at: u64) {
        self.card(0x3800, at as u32);
        self.card(0x3804, (at >> 32) as u32);
        self.card(0x3808, 16 * 16);
        self.card(0x3810, 0);
        self.card(0x3818, 0);
        self.card(0x0400, 2);
    }

    fn descriptor(&mut self, index: u64, low: u64, high: u64) {
        self.put(RING + index * 16, &low.to_le_bytes());
        self.put(RING + index * 16 + 8, &high.to_le_bytes());
    }

    fn receive_ring(&mut self, buffers: u64) {
        for n in 0..16 {
            self.descriptor(n, buffers + n * 2048, 0);
        }
        self.card(0x2800, RING as u32);
        self.card(0x2808, 16 * 16);
        self.card(0x2810, 0);
        self.card(0x2818, 15);
        // Enable, broadcast, strip the check sequence.
        self.card(0x0100, 1 << 1 | 1 << 15 | 1 << 26);
    }
}

/// A packet comes for the card. How many packets were lost so far.
fn deliver(world: &World, bytes: &[u8], gso: Option<Gso>) -> u64 {
    let Nic::E1000(card) = &world.board.nics[0] else { unreachable!() };
    let inbox = card.inbox();
    let pages: Vec<SharedPage> = bytes.chunks(PAGE_SIZE).map(|_| SharedPage::zeroed()).collect();
    let pieces: Vec<Piece<'_>> = pages
        .iter()
        .zip(bytes.chunks(PAGE_SIZE))
        .map(|(page, bytes)| {
            page.copy_in(0, bytes).expect("a page");
            let place = Place::Local { page, gfn: Gfn(0), offset: 0 };
            Piece { place, length: bytes.len() as u16 }
        })
        .collect();
    let head = &bytes[..bytes.len().min(100)];
    inbox.deliver(&Frame { head, pieces: &pieces, length: bytes.len(), checksum: Checksum::Good, gso });
    inbox.dropped()
}

/// Ethernet, IPv4, TCP, and so many bytes.
fn packet(data: usize) -> Vec<u8> {
    let mut packet = vec![0u8; 54];
    packet[12] = 8;
    packet[14] = 0x45;
    packet[22..24].copy_from_slice(&[64, 6]);
    packet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[46] = 0x50;
    packet[47] = 0x18;
    // The pseudo-header without the length: 10.0.0.1, 10.0.0.2, 6.
    packet[50..52].copy_from_slice(&(0x0a00u16 + 1 + 0x0a00 + 2 + 6).to_be_bytes());
    packet.extend((0..data).map(|n| n as u8));
    packet
}

#[test]
fn a_packet_that_would_be_cut_into_frames_too_long_for_a_card_is_dropped() {
    let world = placed();
    let large = packet(20_000);
    let size = |size| Some(Gso { kind: GsoKind::TcpV4, size });
    assert_eq!(deliver(&world, &large, size(1460)), 0);
    assert_eq!(deliver(&world, &large, size(16_000)), 0);
    assert_eq!(deliver(&world, &large, size(16_100)), 1);
    assert_eq!(deliver(&world, &large, size(u16::MAX)), 2);
}

#[test]
fn a_card_sends_and_hears() {
    let mut world = placed();
    world.transmit_ring(RING);
    world.put(0x5_0000, &[0xff; 100]);
    // End of packet, report status.
    world.descriptor(0, 0x5_0000, 0x64 | 9 << 24);
    world.card(0xd0, 1);
    world.card(0x3818, 1);
    assert_eq!(*world.wire.0.borrow(), [vec![0xff; 100]]);
    assert_eq!(world.ram.bytes(RING + 12, 1), [1], "the descriptor is done");
    assert_eq!(world.card_read(0xc0) & 1, 1);
    // Back to the card.
    world.receive_ring(0x6_0000);
    deliver(&world, &[0xff; 70], None);
    world.poll();
    assert_eq!(world.ram.bytes(0x6_0000, 71), [[0xff; 70].as_slice(), &[0]].concat());
    assert_eq!(world.ram.bytes(RING + 8, 5), [70, 0, 0, 0, 7]);
    assert_eq!(world.card_read(0x2810), 1);
}

#[test]
fn a_large_packet_is_cut_with_good_checksums() {
    let mut world = placed();
    world.transmit_ring(RING);
    // The driver leaves the lengths out.
    let packet = packet(3000);
    let length = packet.len() as u64;
    world.put(0x5_0000, &packet);
    // Context: IP checksum at 24 from 14, TCP's at 50 from 34; header 54, segments of 1460.
    let context = 0x0e | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40;
    world.descriptor(0, context, 1 << 29 | 3 << 24 | 54 << 40 | 1460 << 48);
    world.descriptor(1, 0x5_0000, length | 1 << 20 | (0x20 | 8 | 4 | 1) << 24 | 3 << 40);
    world.card(0x3818, 2);
    let frames = world.wire.0.borrow().clone();
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 134]);
    for (n, frame) in frames.iter().enumerate() {
        assert!(trunnion_backends::net::offload::is_good(frame), "segment {n}");
        assert_eq!(u32::from_be_bytes(frame[38..42].try_into().expect("four")), n as u32 * 1460);
        assert_eq!(frame[47] & 8 != 0, n == 2, "PSH is the last segment's");
    }
}

#[test]
fn rings_that_lead_nowhere_stop_the_card() {
    for at in [RAM, 0xf100_0000, u64::MAX << 12, RAM - 8] {
        let mut world = placed();
        world.transmit_ring(at);
        world.card(0x3818, 15);
        world.poll();
        assert!(world.wire.0.borrow().is_empty(), "{at:#x}");
    }
    // Data in device space, and a ring whose data is the ring.
    let mut world = placed();
    world.transmit_ring(RING);
    world.descriptor(0, 0xf100_0000, 0x64 | 9 << 24);
    world.descriptor(1, RING, 256 | 9 << 24);
    world.card(0x3818, 2);
    assert_eq!(world.wire.0.borrow().len(), 1);
    // A tail beyond the ring.
    world.card(0x3818, 0xffff);
    world.poll();
    assert_eq!(world.wire.0.borrow().len(), 1);
    // Buffers that are the ring itself.
    let mut world = placed();
    world.receive_ring(RING);
    world.transmit_ring(0x5_0000);
    world.card(0x0100, 1 << 1 | 3 << 3 | 3 << 6);
    world.put(0x5_0000, &[0x6_0000u64.to_le_bytes(), (0x64_u64 | 9 << 24).to_le_bytes()].concat());
    for _ in 0..40 {
        world.card(0x3810, 0);
        world.card(0x3818, 1);
        world.poll();
    }
}

#[test]
fn the_firmware_interface_takes_no_descriptor_outside_ram() {
    let mut world = placed();
    let ask = |world: &mut World, at: u64| {
        world.out(0x514, Width::Double, ((at >> 32) as u32).swap_bytes());
        world.out(0x518, Width::Double, (at as u32).swap_bytes());
    };
    let descriptor = |control: u32, length: u32, to: u64| {
        let words = [control.to_be_bytes(), length.to_be_bytes()];
        [words.as_flattened(), &to.to_be_bytes()].concat()
    };
    // Select the signature and read it.
    let read = 10;
    for (to, length, ok) in [
        (0x5000, 4, true),
        (RAM, 4, false),
        (0xf100_0000, 4, false),
        (u64::MAX - 1, 4, false),
        (RAM - 2, 4, false),
        (0x5000, u32::MAX, false),
    ] {
        world.put(0x3000, &descriptor(read, length, to));
        ask(&mut world, 0x3000);
        assert_eq!(world.ram.bytes(0x3000, 4), [0, 0, 0, u8::from(!ok)], "{to:#x} {length:#x}");
    }
    assert_eq!(world.ram.bytes(0x5000, 4), *b"QEMU");
    // At itself: the answer comes last.
    world.put(0x3000, &descriptor(read, 16, 0x3000));
    ask(&mut world, 0x3000);
    assert_eq!(world.ram.bytes(0x3000, 5), [0; 5]);
    // A descriptor that is not there.
    for at in [RAM, 0xf100_0000, u64::MAX, RAM - 8] {
        ask(&mut world, at);
    }
}

#[test]
fn a_floppys_channel_that_leads_nowhere_ends() {
    // The first megabyte beyond RAM, and the end of RAM; once more from its begin (mode 0x56) for ever.
    for (page, mode) in [(0x40, 0x46), (0xff, 0x46), (0x3f, 0x46), (0x40, 0x56), (0x40, 0x4a)] {
        let mut world = placed();
        for (port, value) in
            [(0x0c, 0), (0x0b, mode), (4, 0), (4, 0xfe), (0x81, page), (5, 0xff), (5, 3), (0x0a, 2)]
        {
            world.out(port, Width::Byte, value);
        }
        let command = if mode == 0x4a { 0x45 } else { 0x46 };
        for value in [command, 0, 0, 0, 1, 2, 18, 0x1b, 0xff] {
            world.out(0x3f5, Width::Byte, value);
        }
        world.poll();
        assert_eq!(world.read(0x3f4, Width::Byte), 0xd0, "{page:#x} {mode:#x}: a result");
        assert_eq!(world.read(0x3f5, Width::Byte), 0, "{page:#x} {mode:#x}");
    }
}
