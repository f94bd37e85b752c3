//! A board with cards and media, and windows at known places.

use std::rc::Rc;
use std::task::{Context, Waker};

use trunnion_backends::frame::{Checksum, Frame, NetPort};
use trunnion_backends::net::offload;
use trunnion_devices::board::{Board, Nic, Parts};
use trunnion_devices::e1000::E1000;
use trunnion_devices::ide::Kind;
use trunnion_devices::ne2000::Ne2000;
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;

use super::{Line, Ram, disk};

/// A wire that leads back to its card.
pub struct Echo(pub std::cell::RefCell<Vec<Vec<u8>>>);

impl NetPort for Echo {
    fn deliver(&self, frame: &Frame<'_>) {
        assert!(
            on_a_wire(frame, &mut self.0.borrow_mut()),
            "a card sends from its own pages, and what it promises"
        );
    }
    fn flush(&self) {}
}

/// Adds a frame as it is on a wire: large packets cut, and with their checksums. False when it is not what it claims to be.
fn on_a_wire(frame: &Frame<'_>, wire: &mut Vec<Vec<u8>>) -> bool {
    let mut bytes = Vec::new();
    if !frame.append_to(&mut bytes) {
        return false;
    }
    if let Some(gso) = frame.gso {
        return offload::segment(&bytes, gso, &mut Vec::new(), |piece| wire.push(piece.to_vec())).is_some();
    }
    if frame.checksum == Checksum::Blank {
        offload::complete(&mut bytes);
    }
    wire.push(bytes);
    true
}

pub struct World {
    pub board: Board<Ram>,
    pub ram: Ram,
    pub wire: Rc<Echo>,
    pub now: Time,
}

pub const RAM: u64 = 4 << 20;

pub fn world(media: bool) -> World {
    let ram = Ram::new(RAM as usize);
    let wire = Rc::new(Echo(Default::default()));
    let outlet: Rc<dyn NetPort> = wire.clone();
    let mut board = Board::new(Parts {
        memory: ram.clone(),
        ram: RAM,
        cpus: 2,
        epoch: 1_795_288_805,
        vga_rom: Some(vec![0x55; 4096]),
        hpet: true,
        platform: true,
        serial: [Some(Box::new(Line::default())), None],
        nics: vec![
            Nic::E1000(E1000::new([0x52, 0x54, 0, 0, 0, 1], Some(Rc::clone(&outlet)))),
            Nic::Ne2000(Ne2000::new([0x52, 0x54, 0, 0, 0, 2], Some(outlet))),
        ],
    });
    if media {
        board.ide.attach(0, 0, Kind::Disk, Some(disk(vec![7; 1 << 20], false)), "W");
        board.ide.attach(1, 0, Kind::Cd, Some(disk(vec![9; 1 << 20], true)), "W");
        board.insert_floppy(0, Some(disk(vec![5; 1_474_560], false)));
    }
    World { board, ram, wire, now: Time(0) }
}

impl World {
    pub fn out(&mut self, port: u16, width: Width, value: u32) {
        self.board.port_write(port, width, value, self.now);
    }
    pub fn poll(&mut self) {
        self.board.poll(&mut Context::from_waker(Waker::noop()), self.now);
    }
    pub fn config(&mut self, device: u32, function: u32, register: u32, value: u32) {
        self.out(0xcf8, Width::Double, 0x8000_0000 | device << 11 | function << 8 | register);
        self.out(0xcfc, Width::Double, value);
    }
    /// Windows where the walk finds them, and every function as bus master.
    pub fn place(&mut self) {
        self.config(1, 1, 0x20, 0xc000);
        self.config(2, 0, 0x10, 0xf000_0000);
        self.config(2, 0, 0x30, 0xf200_0001);
        self.config(3, 0, 0x10, 0xc100);
        self.config(3, 0, 0x14, 0xf300_0000);
        self.config(4, 0, 0x10, 0xf100_0000);
        self.config(4, 0, 0x14, 0xc200);
        self.config(5, 0, 0x10, 0xc300);
        self.config(1, 3, 0x40, 0xb001);
        self.config(1, 3, 0x80, 1);
        for (device, function) in [(1, 1), (2, 0), (3, 0), (4, 0), (5, 0)] {
            self.config(device, function, 4, 7);
        }
    }
}

impl World {
    pub fn read(&mut self, port: u16, width: Width) -> u32 {
        self.board.port_read(port, width, self.now)
    }
    /// A register of the e1000.
    pub fn card(&mut self, register: u64, value: u32) {
        assert!(self.board.memory_write(0xf100_0000 + register, &value.to_le_bytes(), self.now));
    }
    pub fn card_read(&mut self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        assert!(self.board.memory_read(0xf100_0000 + register, &mut bytes, self.now));
        u32::from_le_bytes(bytes)
    }
}
