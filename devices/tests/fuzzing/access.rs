//! What is done to a board: accesses of its guest to a device, memory that changes under a DMA, and what comes from outside. The same
//! actions on two boards in the same state have the same answers.

use trunnion_backends::frame::{Checksum, Frame, NetPort, Piece, Place};
use trunnion_devices::board::{Event, Nic, State};
use trunnion_devices::i8042::Motion;
use trunnion_devices::ioapic::Message;
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;
use trunnion_devices::{e1000, floppy, ide, ne2000};
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::shared::SharedPage;

use super::device::{Beginning, Device};
use super::{Source, order};
use crate::support::bench::World;

/// Actions of a case at most: a fuzzer's input ends earlier.
const ACTIONS: usize = 2_000;
/// Polls after which whoever waits for the storage has what it waits for.
const PATIENCE: usize = 64;

/// Values that mean something to some device.
pub const VALUES: &[u64] = &[
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
    0x46,
    0x60,
    0x80,
    0xa0,
    0xc5,
    0xc8,
    0xca,
    0xd1,
    0xd4,
    0xe0,
    0xe6,
    0xec,
    0xef,
    0xff,
    0x1000,
    0x2000,
    0x8000,
    0xffff,
    0xf_0000,
    0x10_0000,
    0xffff_ffff,
    0x8000_0900,
    0x7fff_ffff,
];

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Action {
    In(u16, Width),
    Out(u16, Width, u32),
    /// A repeated access, of so many bytes.
    InRow(u16, Width, usize),
    OutRow(u16, Width, Vec<u8>),
    /// Writes one behind the other that are an order to a device.
    Order(Vec<(u16, Width, u32)>),
    Read(u64, usize),
    Write(u64, usize, u64),
    /// Two words in RAM: descriptors, or entries of a table.
    Fill(u64, [u64; 2]),
    /// Time passes, and the board is looked at.
    Pass(u64),
    Acknowledge,
    /// A local APIC ends an interrupt.
    End(u8),
    Keys([u8; 2]),
    Mouse(i16, i16, u8),
    Power,
    Sleep,
    Say(Vec<u8>),
    /// A frame for both cards: its length and what it is full of.
    Frame(usize, u8),
    /// The storage answers or not, with errors or not.
    Storage {
        held: bool,
        failing: bool,
    },
    /// The disc or the floppy disk is taken out, or put in again.
    Disc(bool),
    Diskette(bool),
}

/// What an action brought.
#[derive(PartialEq, Eq, Debug)]
pub struct Answer {
    read: Vec<u8>,
    wants: bool,
    events: Vec<Event>,
    messages: Vec<Message>,
    log: Vec<u8>,
    lines: Vec<Vec<u8>>,
    said: Vec<u8>,
    sent: Vec<Vec<u8>>,
    deadline: Option<Time>,
}

impl Answer {
    /// What an access read.
    pub fn read(&self) -> &[u8] {
        &self.read
    }
}

/// Everything that a board and its devices save. `None` while the storage has a request.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Saved {
    board: State,
    ide: [ide::State; 2],
    floppy: floppy::State,
    cards: Vec<Card>,
}

#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Card {
    E1000(e1000::State),
    Ne2000(ne2000::State),
}

impl Saved {
    /// The parts in which two states differ.
    pub fn difference(&self, other: &Self) -> String {
        let mut parts = vec![];
        let (one, two) = (format!("{:?}", self.board), format!("{:?}", other.board));
        if let Some(at) = one.bytes().zip(two.bytes()).position(|(one, two)| one != two) {
            let around = at.saturating_sub(300)..at + 100;
            parts.push(format!("board: {:?} and {:?}", one.get(around.clone()), two.get(around)));
        }
        if self.ide != other.ide {
            parts.push(format!("drives: {:?} and {:?}", self.ide, other.ide));
        }
        if self.floppy != other.floppy {
            parts.push(format!("floppy: {:?} and {:?}", self.floppy, other.floppy));
        }
        if self.cards != other.cards {
            parts.push("cards".into());
        }
        parts.join("; ")
    }
}

fn width(source: &mut Source) -> Width {
    [Width::Byte, Width::Word, Width::Double][source.below(3) as usize]
}

fn value(source: &mut Source) -> u64 {
    if source.one_in(2) { VALUES[source.below(VALUES.len() as u64) as usize] } else { source.bits() }
}

/// An entry of a table: of a bus master, of a card, or anything.
fn entry(source: &mut Source, ram: u64) -> [u64; 2] {
    let at = source.below(ram + 0x1_0000);
    let length = source.below(0x2000);
    match source.below(4) {
        0 => [at & !1 | length << 32 | source.below(2) << 63, at & !1 | 512 << 32 | 1 << 63],
        1 => [at, length | source.below(256) << 24 | source.below(256) << 32],
        2 => [at, source.bits()],
        _ => [value(source), source.bits()],
    }
}

/// The next thing that happens to a device.
pub fn action(device: &Device, ram: u64, source: &mut Source) -> Action {
    match source.below(32) {
        0..=18 => access(device, source),
        19..=22 => Action::Order(order::of(device.name, source)),
        23 => {
            let port = port(device, source);
            let (width, bytes) = (width(source), source.below(600) as usize);
            if source.one_in(2) {
                Action::InRow(port, width, bytes)
            } else {
                Action::OutRow(port, width, vec![value(source) as u8; bytes])
            }
        }
        24 | 25 => {
            // Mostly where registers are told to look.
            let hot = [0x1000, 0x2000, 0x8000, 0xf_0000][source.below(4) as usize] + 16 * source.below(8);
            let at = if source.one_in(4) { source.below(ram - 16) & !7 } else { hot };
            Action::Fill(at, entry(source, ram))
        }
        26 | 27 => {
            // From a few nanoseconds to thirteen days.
            let bits = source.below(50);
            Action::Pass(source.bits() & ((2 << bits) - 1))
        }
        28 => match source.below(2) {
            0 => Action::Acknowledge,
            _ => Action::End(source.below(256) as u8),
        },
        29 => Action::Frame(source.below(1600) as usize, source.below(256) as u8),
        _ => match source.below(8) {
            0 => Action::Keys([source.below(256) as u8, source.below(256) as u8]),
            1 => Action::Mouse(source.bits() as i16, source.bits() as i16, source.below(8) as u8),
            2 => Action::Power,
            3 => Action::Sleep,
            4 => Action::Say(vec![source.below(256) as u8; source.below(40) as usize]),
            5 => Action::Storage { held: source.one_in(2), failing: source.one_in(3) },
            6 => Action::Disc(source.one_in(2)),
            _ => Action::Diskette(source.one_in(2)),
        },
    }
}

fn port(device: &Device, source: &mut Source) -> u16 {
    match device.ports {
        [] => 0x80,
        ports => {
            let (first, length) = ports[source.below(ports.len() as u64) as usize];
            first + source.below(u64::from(length)) as u16
        }
    }
}

/// An access to the device.
pub fn access(device: &Device, source: &mut Source) -> Action {
    let write = source.one_in(2);
    let choices = device.ports.len() + device.memory.len();
    let choice = source.below(choices as u64) as usize;
    match device.memory.get(choice.wrapping_sub(device.ports.len())) {
        None => {
            let (first, length) = device.ports[choice];
            let port = first + source.below(u64::from(length)) as u16;
            let width = width(source);
            if write { Action::Out(port, width, value(source) as u32) } else { Action::In(port, width) }
        }
        Some(&(first, length)) => {
            let at = first + source.below(length);
            let at = if source.one_in(4) { at } else { at & !3 };
            let bytes = [4, 1, 2, 8][source.below(4) as usize];
            if write { Action::Write(at, bytes, value(source)) } else { Action::Read(at, bytes) }
        }
    }
}

impl World {
    /// Does it.
    pub fn apply(&mut self, action: &Action) -> Answer {
        let mut read = vec![];
        match action {
            Action::In(port, width) => {
                let value = self.read(*port, *width);
                assert_eq!(value & !width.mask(), 0, "{action:?}");
                read.extend(value.to_le_bytes());
            }
            Action::Out(port, width, value) => self.out(*port, *width, *value),
            Action::Order(writes) => {
                for (port, width, value) in writes {
                    self.out(*port, *width, *value);
                }
            }
            Action::InRow(port, width, bytes) => {
                read.resize(*bytes, 0);
                self.board.port_read_string(*port, *width, &mut read, self.now);
            }
            Action::OutRow(port, width, bytes) => {
                self.board.port_write_string(*port, *width, bytes, self.now);
            }
            Action::Read(at, bytes) => {
                read.resize(*bytes, 0);
                self.board.memory_read(*at, &mut read, self.now);
            }
            Action::Write(at, bytes, value) => {
                self.board.memory_write(*at, &value.to_le_bytes()[..*bytes], self.now);
            }
            Action::Fill(at, entry) => {
                self.ram.write(Gpa(*at), entry.map(u64::to_le_bytes).as_flattened()).expect("RAM");
            }
            Action::Pass(nanoseconds) => {
                self.now = self.now.after(*nanoseconds);
                self.poll();
                // Whoever waits for a moment that is past looks at the board for ever.
                let deadline = self.board.deadline();
                assert!(deadline.is_none_or(|deadline| deadline > self.now), "{deadline:?}");
            }
            Action::Acknowledge => {
                if self.board.wants() {
                    read.push(self.board.acknowledge());
                }
            }
            Action::End(vector) => self.board.end(*vector),
            Action::Keys(codes) => self.board.keyboard.keyboard.press(codes),
            Action::Mouse(x, y, buttons) => {
                self.board.keyboard.mouse.move_by(Motion { x: *x, y: *y, buttons: *buttons });
            }
            Action::Power => self.board.pm.press_power(),
            Action::Sleep => self.board.pm.press_sleep(),
            Action::Say(bytes) => self.line.0.borrow_mut().1.extend(bytes),
            Action::Frame(length, with) => self.frame(&vec![*with; *length]),
            Action::Storage { held, failing } => {
                for medium in self.media.iter().flatten() {
                    medium.held.set(*held);
                    medium.failing.set(*failing);
                }
            }
            Action::Disc(there) => {
                let disc = self.media[1].clone().filter(|_| *there);
                self.board.ide.change(1, 0, disc.map(|medium| Box::new(medium) as _));
            }
            Action::Diskette(there) => {
                let disk = self.media[2].clone().filter(|_| *there);
                self.board.insert_floppy(0, disk.map(|medium| Box::new(medium) as _));
            }
        }
        Answer {
            read,
            wants: self.board.wants(),
            events: std::iter::from_fn(|| self.board.take_event()).collect(),
            messages: self.board.take_messages(),
            log: self.board.take_log(),
            lines: self.board.platform.take_lines(),
            said: std::mem::take(&mut self.line.0.borrow_mut().0),
            sent: self.wire.0.take(),
            deadline: self.board.deadline(),
        }
    }

    /// A frame comes for all cards.
    pub fn frame(&self, bytes: &[u8]) {
        for nic in &self.board.nics {
            let inbox = match nic {
                Nic::E1000(card) => card.inbox(),
                Nic::Ne2000(card) => card.inbox(),
            };
            let page = SharedPage::zeroed();
            page.copy_in(0, bytes).expect("a page");
            let place = Place::Local { page: &page, gfn: Gfn(0), offset: 0 };
            let piece = Piece { place, length: bytes.len() as u16 };
            inbox.deliver(&Frame {
                head: &bytes[..bytes.len().min(192)],
                pieces: &[piece],
                length: bytes.len(),
                checksum: Checksum::Good,
                gso: None,
            });
            inbox.flush();
        }
    }

    /// Lets the storage answer until nobody waits for it, puts media in, and loses frames that no card has taken.
    pub fn settle(&mut self) {
        self.apply(&Action::Storage { held: false, failing: false });
        for _ in 0..PATIENCE {
            self.poll();
        }
        self.apply(&Action::Disc(true));
        self.apply(&Action::Diskette(true));
        for nic in &self.board.nics {
            match nic {
                Nic::E1000(card) => card.inbox().clear(),
                Nic::Ne2000(card) => card.inbox().clear(),
            }
        }
        self.apply(&Action::Pass(0));
        assert!(!self.board.ide.is_busy(), "the drives have an answer");
        for (channel, control) in [0x3f6, 0x376].into_iter().enumerate() {
            let status = self.board.ide.read_control(channel);
            // While it is held in reset a drive is busy.
            let free = status & 0x80 == 0 || status == 0xff || {
                self.out(control, Width::Byte, 0);
                self.board.ide.read_control(channel) & 0x80 == 0
            };
            assert!(free, "a drive is busy without a request");
        }
        let floppy = self.board.floppy.read(4);
        assert!(self.board.floppy.save().is_some() && floppy != 0x10, "the floppy controller has an answer");
    }

    /// All that is saved, of a board whose storage is at rest.
    pub fn save(&self) -> Saved {
        Saved {
            board: self.board.save(),
            ide: self.board.ide.save().expect("no drive has a request"),
            floppy: self.board.floppy.save().expect("no drive has a request"),
            cards: self
                .board
                .nics
                .iter()
                .map(|nic| match nic {
                    Nic::E1000(card) => Card::E1000(card.save()),
                    Nic::Ne2000(card) => Card::Ne2000(card.save()),
                })
                .collect(),
        }
    }

    /// Takes over what a board of the same parts has saved.
    pub fn load(&mut self, saved: Saved) {
        self.board.ide.load(saved.ide);
        self.board.floppy.load(saved.floppy);
        for (nic, card) in self.board.nics.iter_mut().zip(saved.cards) {
            match (nic, card) {
                (Nic::E1000(card), Card::E1000(state)) => card.load(state),
                (Nic::Ne2000(card), Card::Ne2000(state)) => card.load(state),
                _ => panic!("the cards of a twin are of the same kinds"),
            }
        }
        self.board.load(saved.board);
    }
}

/// Anything at all happens to a device; then nothing hangs, and what it saves another board loads.
pub fn case(device: &Device, mut source: Source) {
    let beginning = Beginning::ALL[source.below(3) as usize];
    let made = device.small();
    let mut world = beginning.world(made);
    for count in 0..ACTIONS {
        if source.is_spent() {
            break;
        }
        world.apply(&action(device, made.ram, &mut source));
        if count % 256 == 255 {
            // A guest that moved a window away gets it back, so that the walk goes on there.
            world.place();
        }
    }
    if let Some(vga) = &world.board.vga {
        let screen = vga.screen();
        assert_eq!(screen.pixels.len(), screen.width * screen.height * 3);
        let _ = vga.text();
    }
    world.settle();
    let saved = world.save();
    let mut twin = world.twin();
    twin.load(saved.clone());
    let again = twin.save();
    assert!(saved == again, "{}", saved.difference(&again));
}

/// After any past, a board that was just made takes a saved state over and answers everything as the one that saved it.
pub fn twins(device: &Device, beginning: Beginning, before: usize, after: usize, source: &mut Source) {
    let made = device.small();
    let mut world = beginning.world(made);
    for _ in 0..before {
        world.apply(&action(device, made.ram, source));
    }
    world.settle();
    let saved = world.save();
    let bytes = postcard::to_allocvec(&saved).expect("a state can be written");
    let mut twin = world.twin();
    let read: Saved = postcard::from_bytes(&bytes).expect("what was written can be read");
    assert!(saved == read, "{}: {}", device.name, saved.difference(&read));
    twin.load(read);
    let again = twin.save();
    assert!(saved == again, "{}: {}", device.name, saved.difference(&again));
    let mut past = Vec::new();
    for _ in 0..after {
        let action = action(device, made.ram, source);
        past.push(action.clone());
        let (one, two) = (world.apply(&action), twin.apply(&action));
        assert_eq!(one, two, "{} {source}, since the state was loaded: {past:x?}", device.name);
    }
    world.settle();
    twin.settle();
    let (one, two) = (world.save(), twin.save());
    assert!(one == two, "{} {source}: {}", device.name, one.difference(&two));
}
