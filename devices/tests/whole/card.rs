//! The NE2000 with a driver that does what Linux's does: it acknowledges received frames after it has looked for the last one, and takes nine
//! at an interrupt. It keeps the boundary a page behind, also before the ring's first page.

use std::rc::Rc;
use std::task::Waker;

use crate::support::Ram;
use crate::support::bench::{Echo, World, world};
use trunnion_backends::frame::{Checksum, NetPort};
use trunnion_devices::ne2000::Ne2000;
use trunnion_devices::nic::send;
use trunnion_devices::width::Width;

const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 0, 0, 9];
/// Pages of the ring.
const FIRST: u8 = 0x4c;
const LAST: u8 = 0x80;
/// Where frames to be sent lie.
const SEND: u8 = 0x40;

struct Driver {
    card: Ne2000,
    ram: Ram,
    wire: Rc<Echo>,
    taken: Vec<Vec<u8>>,
    /// A frame that comes when the driver has seen that there is no further one, before it acknowledges.
    late: Option<Vec<u8>>,
}

impl Driver {
    fn new() -> Self {
        let wire = Rc::new(Echo(Default::default()));
        let outlet: Rc<dyn NetPort> = wire.clone();
        let card = Ne2000::new(ADDRESS, Some(outlet));
        let mut driver = Self { card, ram: Ram::new(1 << 16), wire, taken: Vec::new(), late: None };
        for (register, value) in [
            (0, 0x21),
            (14, 0x49),
            (10, 0),
            (11, 0),
            (12, 0x20),
            (13, 2),
            (4, SEND),
            (1, FIRST),
            (3, LAST - 1),
            (2, LAST),
            (7, 0xff),
            (15, 0),
            (0, 0x61),
        ] {
            driver.set(register, value);
        }
        for (register, value) in (1..).zip(ADDRESS) {
            driver.set(register, value);
        }
        for (register, value) in [(7, FIRST), (0, 0x21), (7, 0xff), (15, 0x3f), (0, 0x22), (13, 0), (12, 4)] {
            driver.set(register, value);
        }
        driver
    }

    fn set(&mut self, register: u16, value: u8) {
        self.card.write(&self.ram, register, Width::Byte, u32::from(value));
        self.card.poll(Waker::noop());
    }

    fn get(&mut self, register: u16) -> u8 {
        self.card.read(register, Width::Byte) as u8
    }

    /// A remote DMA from or to the card's memory.
    fn remote(&mut self, at: u16, bytes: u16, command: u8) {
        for (register, value) in (8..).zip(at.to_le_bytes().into_iter().chain(bytes.to_le_bytes())) {
            self.set(register, value);
        }
        self.set(0, command);
    }

    fn read(&mut self, at: u16, bytes: usize) -> Vec<u8> {
        self.remote(at, bytes as u16, 0x0a);
        let mut all = Vec::new();
        for width in core::iter::repeat_n(Width::Double, bytes / 4)
            .chain((bytes & 2 != 0).then_some(Width::Word))
            .chain((bytes & 1 != 0).then_some(Width::Byte))
        {
            let value = self.card.read(16, width).to_le_bytes();
            all.extend_from_slice(&value[..width.bytes()]);
        }
        assert_eq!(self.get(7) & 0x40, 0x40, "the remote DMA is complete");
        self.set(7, 0x40);
        all
    }

    fn send(&mut self, frame: &[u8]) {
        self.set(15, 0);
        let even = frame.len().next_multiple_of(2);
        self.remote(u16::from(SEND) << 8, even as u16, 0x12);
        for word in frame.chunks(2) {
            let word = u32::from(word[0]) | u32::from(*word.get(1).unwrap_or(&0)) << 8;
            self.card.write(&self.ram, 16, Width::Word, word);
        }
        assert_eq!(self.get(7) & 0x40, 0x40, "the remote DMA is complete");
        let [low, high] = (frame.len() as u16).to_le_bytes();
        for (register, value) in [(7, 0x40), (0, 0x20), (5, low), (6, high), (4, SEND), (0, 0x26), (15, 0x3f)]
        {
            self.set(register, value);
        }
    }

    /// What Linux does at an interrupt.
    fn interrupt(&mut self) {
        self.set(0, 0x20);
        for _ in 0..12 {
            let status = self.get(7);
            if status == 0 {
                break;
            }
            assert_eq!(status & 0x10, 0, "nothing is overwritten");
            if status & 1 != 0 {
                self.receive();
            }
            if status & 2 != 0 {
                self.set(7, 2);
            }
            self.set(0, 0x22);
        }
        self.set(0, 0x22);
    }

    fn receive(&mut self) {
        for _ in 0..9 {
            self.set(0, 0x60);
            let current = self.get(7);
            self.set(0, 0x20);
            let mut page = self.get(3) + 1;
            if page >= LAST {
                page = FIRST;
            }
            if page == current {
                break;
            }
            let at = u16::from(page) << 8;
            let header = self.read(at, 4);
            let length = usize::from(u16::from_le_bytes([header[2], header[3]])) - 4;
            let frame = self.read(at + 4, length);
            self.taken.push(frame);
            self.set(3, header[1] - 1);
        }
        if let Some(frame) = self.late.take() {
            self.come(&frame);
        }
        self.set(7, 1);
    }

    /// A frame comes over the wire.
    fn come(&mut self, frame: &[u8]) {
        let inbox: Rc<dyn NetPort> = self.card.inbox();
        assert!(send(&self.ram, &inbox, frame, Checksum::Good, None));
        self.card.poll(Waker::noop());
    }

    fn run(&mut self) {
        while self.card.line() {
            self.interrupt();
        }
    }
}

/// A frame of so many bytes for the card.
fn frame(length: usize, number: usize) -> Vec<u8> {
    let head = ADDRESS.into_iter().chain([2; 6]).chain([8, 0]);
    head.chain((number..).map(|byte| byte as u8)).take(length).collect()
}

#[test]
fn frames_of_all_lengths_go_both_ways() {
    let mut driver = Driver::new();
    for (number, length) in (60..1515).chain(60..300).enumerate() {
        let frame = frame(length, number);
        driver.send(&frame);
        driver.run();
        assert_eq!(driver.wire.0.borrow_mut().pop(), Some(frame.clone()));
        driver.come(&frame);
        driver.run();
        assert_eq!(driver.taken.pop(), Some(frame));
    }
}

#[test]
fn more_frames_than_a_driver_takes_at_once_all_reach_it() {
    let mut driver = Driver::new();
    let frames: Vec<_> = (0..100).map(|number| frame(60 + number * 14, number)).collect();
    for frame in &frames {
        let inbox: Rc<dyn NetPort> = driver.card.inbox();
        assert!(send(&driver.ram, &inbox, frame, Checksum::Good, None));
    }
    driver.card.poll(Waker::noop());
    driver.run();
    assert_eq!(driver.taken.len(), frames.len());
    assert!(driver.taken == frames);
}

#[test]
fn a_frame_that_comes_before_the_acknowledgement_is_told_of() {
    let mut driver = Driver::new();
    let frames = [frame(60, 0), frame(61, 1)];
    driver.late = Some(frames[1].clone());
    driver.come(&frames[0]);
    driver.run();
    assert!(driver.taken == frames);
}

#[test]
fn a_driver_without_interrupts_sees_frames_that_it_never_acknowledges() {
    let mut driver = Driver::new();
    driver.set(15, 0);
    for number in 0..20 {
        driver.come(&frame(60, number));
        driver.set(0, 0x62);
        let current = driver.get(7);
        driver.set(0, 0x22);
        let boundary = driver.get(3);
        assert_ne!(boundary + 1, current, "frame {number} is there");
        driver.set(3, current - 1);
    }
}

#[test]
fn its_memory_is_the_same_word_by_word_and_by_strings() {
    let mut world = world(false);
    world.place();
    world.out(0xc30e, Width::Byte, 0x49);
    let bytes = frame(301, 5);
    let begin = |world: &mut World, command| {
        for (register, value) in [(8, 0), (9, u32::from(SEND)), (10, 0x2d), (11, 1), (0, command)] {
            world.out(0xc300 + register, Width::Byte, value);
        }
    };
    begin(&mut world, 0x12);
    world.board.port_write_string(0xc310, Width::Double, &bytes, world.now);
    assert_eq!(world.read(0xc307, Width::Byte) & 0x40, 0x40, "the remote DMA is complete");
    begin(&mut world, 0x0a);
    let words: Vec<u8> =
        (0..151).flat_map(|_| (world.read(0xc310, Width::Word) as u16).to_le_bytes()).collect();
    assert_eq!(words[..301], bytes);
    begin(&mut world, 0x0a);
    let mut string = vec![0; 302];
    world.board.port_read_string(0xc310, Width::Word, &mut string, world.now);
    assert_eq!(string, words);
}
