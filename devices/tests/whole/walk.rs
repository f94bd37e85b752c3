//! Random walks over every port and every device address with every width: nothing panics, nothing gets stuck, and a saved
//! state loads to the same state. The seed is printed; `TRUNNION_SEED` repeats it.

use crate::support::bench::{RAM, World, world};
use trunnion_backends::frame::{Frame, NetPort};
use trunnion_devices::board::Nic;
use trunnion_devices::ide;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;

const ACCESSES: u64 = 150_000;

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub(crate) fn seed(of: u64) -> u64 {
    let seed = std::env::var("TRUNNION_SEED")
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let seed = seed.unwrap_or(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(of));
    println!("seed {seed:#x}");
    seed
}

/// Ports with something behind them are met more often than chance would have it.
const BUSY: &[(u16, u16)] = &[
    (0x00, 0x14),
    (0x20, 2),
    (0x40, 4),
    (0x60, 5),
    (0x70, 2),
    (0x80, 0x20),
    (0xa0, 2),
    (0xb2, 2),
    (0xc0, 0x20),
    (0x170, 8),
    (0x1ce, 2),
    (0x1f0, 8),
    (0x2f8, 8),
    (0x376, 1),
    (0x3b0, 0x30),
    (0x3f0, 0x10),
    (0x4d0, 2),
    (0x510, 0x10),
    (0xcf8, 8),
    (0xb000, 0x40),
    (0xc000, 0x10),
    (0xc200, 0x40),
    (0xc300, 0x20),
];

/// Values that mean something to some device.
pub(crate) const VALUES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    0x10,
    0x11,
    0x20,
    0x21,
    0x25,
    0x28,
    0x30,
    0x35,
    0x40,
    0x45,
    0x60,
    0x80,
    0xa0,
    0xc8,
    0xca,
    0xd1,
    0xd4,
    0xe0,
    0xec,
    0xef,
    0xff,
    0x1000,
    0x8000,
    0xffff,
    0xf_0000,
    0x10_0000,
    0xffff_ffff,
    0x8000_0900,
    0x7fff_ffff,
];

/// One access, anywhere.
fn access(world: &mut World, random: &mut Random) {
    let width = random.pick(&[Width::Byte, Width::Word, Width::Double]);
    let port = if random.below(8) == 0 {
        random.next() as u16
    } else {
        let (first, length) = random.pick(BUSY);
        first + random.below(u64::from(length)) as u16
    };
    let value = if random.below(2) == 0 { random.pick(VALUES) } else { random.next() };
    match random.below(6) {
        0 | 1 => {
            let read = world.board.port_read(port, width, world.now);
            assert_eq!(read & !width.mask(), 0, "port {port:#x}");
        }
        2 | 3 => world.out(port, width, value as u32),
        what => {
            let base = random.pick(&[
                0xa_0000,
                0xfec0_0000,
                0xfed0_0000,
                0xf000_0000,
                0xf100_0000,
                0xf200_0000,
                0xf300_0000,
            ]);
            let at = base + random.below(if base == 0xf100_0000 { 0x6000 } else { 0x400 });
            let length = random.pick(&[1, 2, 4, 8]);
            if what == 4 {
                world.board.memory_read(at, &mut [0; 8][..length], world.now);
            } else {
                world.board.memory_write(at, &value.to_le_bytes()[..length], world.now);
            }
        }
    }
}

fn walk(world: &mut World, random: &mut Random, accesses: u64) {
    for count in 0..accesses {
        access(world, random);
        if random.below(16) == 0 {
            // Descriptors and tables appear where devices are told to look.
            let at = random.below(RAM - 16) & !7;
            let entry = [random.pick(VALUES), random.below(RAM + 0x1_0000) | random.below(2) << 63];
            world.ram.write(Gpa(at), &entry[0].to_le_bytes()).expect("RAM");
            world.ram.write(Gpa(at + 8), &entry[1].to_le_bytes()).expect("RAM");
        }
        if count % 32 == 0 {
            world.now = world.now.after(random.below(3_000_000));
            world.poll();
            while world.board.take_event().is_some() {}
            let _ = (world.board.take_log(), world.board.take_messages());
            // Whoever waits for a moment that is past looks at the board for ever.
            assert!(world.board.deadline().is_none_or(|deadline| deadline > world.now));
            if world.board.wants() {
                world.board.acknowledge();
            }
            let mut frames = world.wire.0.borrow_mut();
            frames.truncate(4);
            for frame in frames.drain(..) {
                for nic in &world.board.nics {
                    let inbox = match nic {
                        Nic::E1000(card) => card.inbox(),
                        Nic::Ne2000(card) => card.inbox(),
                    };
                    let page = trunnion_protocol::shared::SharedPage::zeroed();
                    let part = &frame[..frame.len().min(1514)];
                    page.copy_in(0, part).expect("a page");
                    let piece = trunnion_backends::frame::Piece {
                        place: trunnion_backends::frame::Place::Local {
                            page: &page,
                            gfn: trunnion_protocol::address::Gfn(0),
                            offset: 0,
                        },
                        length: part.len() as u16,
                    };
                    inbox.deliver(&Frame {
                        head: &part[..part.len().min(192)],
                        pieces: &[piece],
                        length: part.len(),
                        checksum: trunnion_backends::frame::Checksum::Good,
                        gso: None,
                    });
                    inbox.flush();
                }
            }
        }
        if count % 4096 == 0 {
            same_after_load(world);
            if let Some(vga) = &world.board.vga {
                let screen = vga.screen();
                assert_eq!(screen.pixels.len(), screen.width * screen.height * 3);
                let _ = vga.text();
            }
            // A guest that moved a window away gets it back, so that the walk goes on there.
            world.place();
        }
    }
}

/// Whatever a device saves, it loads, and then is in the same state.
fn same_after_load(world: &mut World) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(value: &T, what: &str) -> T {
        let bytes = postcard::to_allocvec(value).expect(what);
        let back: T = postcard::from_bytes(&bytes).expect(what);
        assert!(*value == back, "{what}");
        back
    }
    world.poll();
    let board = &mut world.board;
    if let Some(state) = board.ide.save() {
        let back: [ide::State; 2] = again(&state, "IDE");
        board.ide.load(back);
        assert!(board.ide.save() == Some(state), "IDE");
    }
    if let Some(state) = board.floppy.save() {
        let back = again(&state, "floppy");
        board.floppy.load(back);
        assert!(board.floppy.save() == Some(state), "floppy");
    }
    for nic in &mut board.nics {
        match nic {
            Nic::E1000(card) => {
                let state = card.save();
                card.load(again(&state, "e1000"));
                assert!(card.save() == state, "e1000");
            }
            Nic::Ne2000(card) => {
                let state = card.save();
                card.load(again(&state, "NE2000"));
                assert!(card.save() == state, "NE2000");
            }
        }
    }
    let state = board.save();
    board.load(again(&state, "board"));
    assert!(board.save() == state, "board");
}

#[test]
fn an_empty_board_takes_every_access() {
    let mut world = world(false);
    world.place();
    walk(&mut world, &mut Random(seed(1)), ACCESSES);
}

#[test]
fn a_full_board_takes_every_access() {
    let mut world = world(true);
    world.place();
    walk(&mut world, &mut Random(seed(2)), ACCESSES);
}

#[test]
fn a_board_in_the_middle_of_a_transfer_takes_every_access() {
    for of in 3..7 {
        let mut world = world(true);
        world.place();
        // Reads 256 sectors by DMA, from a table at 0x1000 whose only entry points at itself.
        world.ram.write(Gpa(0x1000), &0x1000u64.to_le_bytes()).expect("RAM");
        world.out(0xc004, Width::Double, 0x1000);
        for (register, value) in [(6, 0xe0), (2, 0), (3, 0), (4, 0), (5, 0), (7, 0xc8)] {
            world.out(0x1f0 + register, Width::Byte, value);
        }
        world.out(0xc000, Width::Byte, 9);
        walk(&mut world, &mut Random(seed(of)), ACCESSES / 10);
    }
}

/// What storage, networks and lines may change.
fn changing(world: &World) -> impl PartialEq + use<> {
    let board = &world.board;
    let cards: Vec<_> = board
        .nics
        .iter()
        .map(|nic| match nic {
            Nic::E1000(card) => (Some(card.save()), None),
            Nic::Ne2000(card) => (None, Some(card.save())),
        })
        .collect();
    (board.ide.save(), board.floppy.save(), cards, board.wants())
}

#[test]
fn after_an_access_that_touches_nothing_there_is_nothing_to_do() {
    let mut world = world(true);
    world.place();
    let mut random = Random(seed(8));
    let (mut quiet, mut still) = (0, false);
    for count in 0..8_000 {
        if count % 64 == 0 {
            world.now = world.now.after(random.below(3_000_000));
            still = false;
        }
        if !still {
            world.poll();
            let before = changing(&world);
            world.poll();
            world.board.take_touched();
            still = changing(&world) == before;
            world.wire.0.borrow_mut().clear();
        }
        let deadline = world.board.deadline();
        access(&mut world, &mut random);
        if world.board.take_touched() {
            still = false;
        } else if still {
            quiet += 1;
            let (before, next) = (changing(&world), world.board.deadline());
            assert!(
                next.is_none_or(|next| deadline.is_some_and(|deadline| deadline <= next)),
                "access {count}"
            );
            world.poll();
            assert!(changing(&world) == before && world.board.deadline() == next, "access {count}");
        }
    }
    assert!(quiet > 1_000, "{quiet}");
}
