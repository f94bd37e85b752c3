//! A random walk over each device by itself, and over the board: its ports and its memory, with every width, from reset, in the middle of
//! transfers, and with interrupts pending. Nothing panics, nothing gets stuck, and each walk says which registers it reached, and what those
//! that have few values, as a status has, showed. `TRUNNION_TIER=full` makes a million accesses to each device; `TRUNNION_SEED` chooses others.

use std::collections::{BTreeMap, BTreeSet};

use crate::fuzzing::access::{self, Action};
use crate::fuzzing::device::{Beginning, DEVICES, Device};
use crate::fuzzing::{Source, source};
use crate::support::bench::World;
use trunnion_devices::width::Width;

/// Accesses to each device, and in the full tier from each beginning.
const ACCESSES: u64 = 1_000;
const FULL: u64 = 1_000_000 / 3 + 1;
/// A register that has shown more values than these has no states to be told.
const STATES: usize = 16;

/// What a walk reached.
#[derive(Default)]
struct Reached {
    /// Ports and words of device memory, that were read, or written.
    ports: BTreeSet<(u64, bool)>,
    memory: BTreeSet<(u64, bool)>,
    /// Values that reads of a byte showed, by where; some more than are told.
    values: BTreeMap<u64, BTreeSet<u8>>,
    /// Looks at which the interrupt output was high.
    interrupts: u64,
}

impl Reached {
    fn note(&mut self, action: &Action, read: &[u8]) {
        let (at, write, port) = match action {
            Action::In(port, _) => (u64::from(*port), false, true),
            Action::Out(port, ..) => (u64::from(*port), true, true),
            Action::Read(at, _) => (*at, false, false),
            Action::Write(at, ..) => (*at, true, false),
            _ => return,
        };
        if port {
            self.ports.insert((at, write));
        } else if self.memory.len() < 1 << 16 {
            self.memory.insert((at & !3, write));
        }
        if let Some(&byte) = read.first()
            && (port || self.values.len() < 1 << 12)
        {
            let values = self.values.entry(at).or_default();
            if values.len() <= STATES {
                values.insert(byte);
            }
        }
    }

    /// Places as ranges, and the states of those that have some.
    fn tell(&self, name: &str, beginning: Beginning) {
        let ranges = |places: &BTreeSet<(u64, bool)>, write: bool, step: u64| {
            let mut ranges: Vec<(u64, u64)> = vec![];
            for &(at, _) in places.iter().filter(|(_, written)| *written == write) {
                match ranges.last_mut() {
                    Some((_, end)) if *end == at => *end = at + step,
                    _ => ranges.push((at, at + step)),
                }
            }
            let shown: Vec<String> =
                ranges.iter().take(40).map(|(first, end)| format!("{first:x}-{:x}", end - 1)).collect();
            format!("{} in {} ranges: {}", places.len(), ranges.len(), shown.join(" "))
        };
        println!("{name} from {beginning:?}: {} looks with an interrupt", self.interrupts);
        for (what, places, step) in [("ports", &self.ports, 1), ("memory", &self.memory, 4)] {
            if !places.is_empty() {
                println!("  {what} read, {}", ranges(places, false, step));
                println!("  {what} written, {}", ranges(places, true, step));
            }
        }
        let states = self.values.iter().filter(|(_, values)| (2..=STATES).contains(&values.len()));
        for (at, values) in states.take(40) {
            println!("  {at:x} showed {values:x?}");
        }
    }
}

fn walk(device: &Device, world: &mut World, source: &mut Source, accesses: u64, reached: &mut Reached) {
    let ram = Device::large().ram;
    for count in 0..accesses {
        let action = access::access(device, source);
        let answer = world.apply(&action);
        reached.note(&action, answer.read());
        if source.one_in(8) {
            // What is no access: memory that changes, time that passes, what comes from outside.
            world.apply(&access::action(device, ram, source));
        }
        if count % 32 == 0 {
            world.apply(&Action::Pass(source.below(3_000_000)));
            reached.interrupts += u64::from(world.board.wants());
        }
        if count % 256 == 0 {
            // A guest that moved a window away gets it back, so that the walk goes on there; and the storage answers again.
            world.place();
            world.apply(&Action::Storage { held: false, failing: false });
        }
    }
    world.settle();
}

#[test]
fn each_device_takes_every_access_from_every_beginning() {
    let full = std::env::var("TRUNNION_TIER").is_ok_and(|tier| tier == "full");
    let accesses = if full { FULL } else { ACCESSES };
    for (number, device) in (100u64..).zip(&DEVICES) {
        for (index, beginning) in (0u64..).zip(Beginning::ALL) {
            // A short walk has one beginning for each device, in turn.
            if !full && (number + index) % 3 != 0 {
                continue;
            }
            let mut reached = Reached::default();
            let mut world = beginning.world(Device::large());
            let seed = source::chosen().unwrap_or(number);
            walk(device, &mut world, &mut Source::seed(seed), accesses, &mut reached);
            reached.tell(device.name, beginning);
            // Not those that have nothing behind them.
            let few = device.ports.iter().filter(|(_, length)| *length < 0x1000);
            let ports: BTreeSet<u16> =
                few.flat_map(|(first, length)| (0..*length).map(move |n| first + n)).collect();
            let least = if full { 2 * ports.len() } else { ports.len() / 2 };
            assert!(reached.ports.len() >= least, "every port is read and written in a long walk");
        }
    }
}

#[test]
fn the_interval_timer_wakes_nobody_while_the_event_timer_has_its_place() {
    let mut world = Beginning::Reset.world(Device::large());
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
    let mut world = Beginning::Reset.world(Device::large());
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
