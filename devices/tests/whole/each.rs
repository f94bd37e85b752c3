//! A random walk over each device by itself: its ports and its memory, with every width, from reset, in the middle of transfers, and with
//! interrupts pending. Nothing panics, nothing gets stuck, and each walk says which registers it reached and how many values they showed.
//! `TRUNNION_TIER=full` makes a million accesses to each device; `TRUNNION_SEED` chooses others.

use std::collections::BTreeSet;

use crate::support::bench::{RAM, World, world};
use crate::walk::{Random, VALUES, seed};
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::width::Width;
use trunnion_protocol::address::Gpa;

/// Accesses to each device, and in the full tier from each beginning.
const ACCESSES: u64 = 1_000;
const FULL: u64 = 1_000_000 / 3;

/// A device: ports, and device memory, as first and length.
struct Device {
    name: &'static str,
    ports: &'static [(u16, u16)],
    memory: &'static [(u64, u64)],
}

const fn ports(name: &'static str, ports: &'static [(u16, u16)]) -> Device {
    Device { name, ports, memory: &[] }
}

const DEVICES: [Device; 20] = [
    ports("8237", &[(0, 0x10), (0x80, 0x10), (0xc0, 0x20)]),
    ports("8259", &[(0x20, 2), (0xa0, 2), (0x4d0, 2)]),
    ports("8254", &[(0x40, 4), (0x61, 1)]),
    ports("i8042", &[(0x60, 1), (0x64, 1), (0x92, 1)]),
    ports("RTC", &[(0x70, 4)]),
    ports("resets", &[(0xb2, 2), (0xcf9, 1), (0xe9, 1), (0x402, 1)]),
    ports("IDE, first channel", &[(0x1f0, 8), (0x3f6, 1), (0xc000, 8)]),
    ports("IDE, second channel", &[(0x170, 8), (0x376, 1), (0xc008, 8)]),
    ports("COM1", &[(0x3f8, 8)]),
    ports("COM2", &[(0x2f8, 8)]),
    ports("floppy", &[(0x3f0, 6), (0x3f7, 1)]),
    Device {
        name: "VGA",
        ports: &[(0x3b0, 0x30), (0x1ce, 2)],
        memory: &[(0xa_0000, 0x2_0000), (0xf000_0000, 0x100_0000), (0xf200_0000, 0x1_0000)],
    },
    ports("fw_cfg", &[(0x510, 2), (0x514, 8)]),
    Device { name: "platform", ports: &[(0x10, 4), (0xc100, 0x100)], memory: &[(0xf300_0000, 0x1000)] },
    ports("PCI", &[(0xcf8, 8)]),
    ports("PM", &[(0xb000, 0x40)]),
    Device { name: "e1000", ports: &[(0xc200, 0x40)], memory: &[(0xf100_0000, 0x6000)] },
    ports("NE2000", &[(0xc300, 0x20)]),
    Device { name: "I/O APIC", ports: &[], memory: &[(0xfec0_0000, 0x20)] },
    Device { name: "HPET", ports: &[], memory: &[(0xfed0_0000, 0x400)] },
];

/// What a walk reached.
#[derive(Default)]
struct Reached {
    ports: BTreeSet<(u16, bool)>,
    memory: BTreeSet<(u64, bool)>,
    /// Values that reads showed, by where.
    values: BTreeSet<(u64, u64)>,
    /// Looks at which the interrupt output was high.
    interrupts: u64,
    events: u64,
}

impl Reached {
    /// A read showed a value; of those that show very many, not all are kept.
    fn show(&mut self, at: u64, value: u64) {
        if self.values.len() < 1 << 16 {
            self.values.insert((at, value));
        }
    }
}

/// How a walk begins.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    Reset,
    Transfers,
    Interrupts,
}

impl Beginning {
    fn world(self) -> World {
        let mut world = world(true);
        world.place();
        match self {
            Self::Reset => {}
            Self::Transfers => transfers(&mut world),
            Self::Interrupts => interrupts(&mut world),
        }
        world
    }
}

/// A read of 256 sectors by bus master under way, with a table whose only entry points at itself, and half a packet in the card.
fn transfers(world: &mut World) {
    world.ram.write(Gpa(0x1000), &0x1000u64.to_le_bytes()).expect("RAM");
    world.out(0xc004, Width::Double, 0x1000);
    for (register, value) in [(6, 0xe0), (2, 0), (3, 0), (4, 0), (5, 0), (7, 0xc8)] {
        world.out(0x1f0 + register, Width::Byte, value);
    }
    world.out(0xc000, Width::Byte, 9);
    // A descriptor of 100 bytes that does not end its packet, in a ring of eight.
    world.ram.write(Gpa(0x2000), &0x3000u64.to_le_bytes()).expect("RAM");
    world.ram.write(Gpa(0x2008), &(0x64u64 | 8 << 24).to_le_bytes()).expect("RAM");
    for (register, value) in [(0x3800, 0x2000), (0x3808, 128), (0x0400, 2), (0x3818, 1)] {
        world.card(register, value);
    }
    assert!(world.board.ide.is_busy() || world.read(0x1f7, Width::Byte) & 0x89 != 0, "a transfer");
}

/// The 8259s are set up with all lines open, and keyboard, serial port, card, drive and timer have something to say.
fn interrupts(world: &mut World) {
    for (port, value) in
        [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2)]
    {
        world.out(port, Width::Byte, value);
    }
    for (port, value) in
        [(0xa1, 1), (0x21, 0), (0xa1, 0), (0x64, 0x60), (0x60, 0x47), (0x64, 0xd2), (0x60, 0x1c)]
    {
        world.out(port, Width::Byte, value);
    }
    for (port, value) in [(0x3f9, 0xf), (0x1f6, 0xe0), (0x1f7, 0xec), (0x43, 0x34), (0x40, 0x10), (0x40, 0)] {
        world.out(port, Width::Byte, value);
    }
    world.card(0xd0, 0xffff);
    world.card(0xc8, 0x84);
    world.now = world.now.after(1_000_000);
    world.poll();
    assert!(world.board.wants(), "an interrupt is pending");
}

fn walk(device: &Device, world: &mut World, random: &mut Random, accesses: u64, reached: &mut Reached) {
    for count in 0..accesses {
        let value = if random.below(2) == 0 { random.pick(VALUES) } else { random.next() };
        let write = random.below(2) == 0;
        let choices = device.ports.len() + device.memory.len();
        let choice = random.below(choices as u64) as usize;
        if let Some(&(first, length)) = device.ports.get(choice) {
            let port = first + random.below(u64::from(length)) as u16;
            let width = random.pick(&[Width::Byte, Width::Word, Width::Double]);
            reached.ports.insert((port, write));
            if write {
                world.out(port, width, value as u32);
            } else {
                let read = world.read(port, width);
                assert_eq!(read & !width.mask(), 0, "{} port {port:#x}", device.name);
                reached.show(u64::from(port), u64::from(read));
            }
        } else if let Some(&(first, length)) = device.memory.get(choice - device.ports.len()) {
            let at = first + random.below(length);
            let bytes = random.pick(&[1, 2, 4, 8]);
            reached.memory.insert((at & !3, write));
            if write {
                world.board.memory_write(at, &value.to_le_bytes()[..bytes], world.now);
            } else {
                let mut read = [0; 8];
                world.board.memory_read(at, &mut read[..bytes], world.now);
                reached.show(at, u64::from_le_bytes(read));
            }
        }
        if random.below(64) == 0 {
            // Descriptors and tables appear where devices are told to look.
            let at = random.below(RAM - 16) & !7;
            let entry = [random.pick(VALUES), random.below(RAM + 0x1_0000) | random.below(2) << 63];
            world.ram.write(Gpa(at), entry.map(u64::to_le_bytes).as_flattened()).expect("RAM");
        }
        if count % 32 == 0 {
            world.now = world.now.after(random.below(3_000_000));
            world.poll();
            reached.interrupts += u64::from(world.board.wants());
            while world.board.take_event().is_some() {
                reached.events += 1;
            }
            let _ = (world.board.take_log(), world.board.take_messages());
            // Whoever waits for a moment that is past looks at the board for ever.
            assert!(world.board.deadline().is_none_or(|deadline| deadline > world.now));
            world.wire.0.borrow_mut().clear();
            if world.board.wants() && random.below(4) == 0 {
                world.board.acknowledge();
            }
        }
        if count % 4096 == 0 {
            // A guest that moved a window away gets it back, so that the walk goes on there.
            world.place();
        }
    }
}

#[test]
fn each_device_takes_every_access_from_every_beginning() {
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    let accesses = if full { FULL } else { ACCESSES };
    for (number, device) in (100u64..).zip(&DEVICES) {
        let beginnings = [Beginning::Reset, Beginning::Transfers, Beginning::Interrupts];
        for (index, beginning) in (0u64..).zip(beginnings) {
            // A short walk has one beginning for each device, in turn.
            if !full && (number + index) % 3 != 0 {
                continue;
            }
            let mut reached = Reached::default();
            let mut world = beginning.world();
            walk(device, &mut world, &mut Random(seed(number)), accesses, &mut reached);
            let ports: u64 = device.ports.iter().map(|(_, length)| u64::from(*length)).sum();
            println!(
                "{} from {beginning:?}: {} of {} port accesses, {} words of memory, {} values, {} interrupts, {} events",
                device.name,
                reached.ports.len(),
                2 * ports,
                reached.memory.len(),
                reached.values.len(),
                reached.interrupts,
                reached.events
            );
            let least = if full { 2 * ports } else { ports / 2 };
            assert!(reached.ports.len() as u64 >= least, "every port is read and written in a long walk");
        }
    }
}

#[test]
fn the_interval_timer_wakes_nobody_while_the_event_timer_has_its_place() {
    let mut world = Beginning::Reset.world();
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0x10)] {
        world.out(port, Width::Byte, value);
    }
    assert!(world.board.memory_write(0xfed0_0010, &3u32.to_le_bytes(), world.now));
    world.now = world.now.after(1_000_000_000);
    world.poll();
    assert_eq!(world.board.deadline(), None);
    assert!(world.board.memory_write(0xfed0_0010, &1u32.to_le_bytes(), world.now));
    world.poll();
    let deadline = world.board.deadline().expect("the interval timer's next edge");
    assert!(deadline > world.now && deadline < world.now.after(10_000_000), "{deadline:?}");
}

#[test]
fn a_byte_of_the_ne2000s_memory_counts_as_a_word_in_word_mode() {
    let mut world = Beginning::Reset.world();
    world.place();
    let mut prom = |mode: u32| -> Vec<u32> {
        for (register, value) in [(0, 0x21), (14, mode), (10, 32), (11, 0), (8, 0), (9, 0), (0, 0x0a)] {
            world.out(0xc300 + register, Width::Byte, value);
        }
        (0..16).map(|_| world.read(0xc310, Width::Byte)).collect()
    };
    let (words, bytes) = (prom(0x49), prom(0x48));
    // Such a card shows each byte of its address twice.
    let halves: Vec<u32> = bytes.iter().copied().step_by(2).collect();
    assert_eq!(words[..8], halves, "{words:x?} {bytes:x?}");
    assert!(
        words[0] != words[1] && bytes[0] == bytes[1] && words[14..] == [0x57; 2],
        "{words:x?} {bytes:x?}"
    );
}
