//! A board with cards and media, and windows at known places.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use trunnion_backends::device::{
    BlockDevice, BlockError, BlockRequest, BlockShape, Completion, Full, Ticket,
};
use trunnion_backends::frame::{Checksum, Frame, NetPort};
use trunnion_backends::net::offload;
use trunnion_backends::ram::RamDisk;
use trunnion_devices::board::{Board, Nic, Parts};
use trunnion_devices::e1000::E1000;
use trunnion_devices::ide::{Kind, Storage};
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::ne2000::Ne2000;
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;
use trunnion_protocol::address::{Gpa, PAGE_SIZE};

use super::{Line, Page, Ram};

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

/// A disk that answers when it is let, and with errors when it is told to.
pub struct Medium {
    disk: RamDisk<Vec<u8>, Page>,
    pub held: Cell<bool>,
    pub failing: Cell<bool>,
}

impl Medium {
    fn new(bytes: Vec<u8>, read_only: bool) -> Rc<Self> {
        Rc::new(Self {
            disk: RamDisk::new(bytes, read_only),
            held: Cell::new(false),
            failing: Cell::new(false),
        })
    }
}

impl BlockDevice<Page> for Medium {
    fn shape(&self) -> BlockShape {
        self.disk.shape()
    }
    fn submit(&self, request: BlockRequest<Page>) -> Result<Ticket, Full<BlockRequest<Page>>> {
        self.disk.submit(request)
    }
    fn poll_completed(&self, context: &mut Context<'_>) -> Poll<Completion<Page>> {
        if self.held.get() {
            return Poll::Pending;
        }
        let failing = self.failing.get();
        self.disk.poll_completed(context).map(|done| {
            let result = if failing { Err(BlockError::Device) } else { done.result };
            Completion { result, ..done }
        })
    }
}

pub struct World {
    pub board: Board<Ram>,
    pub ram: Ram,
    pub wire: Rc<Echo>,
    pub now: Time,
    /// The far end of the first serial port.
    pub line: Line,
    /// The disk, the disc and the floppy disk, as far as they are there.
    pub media: [Option<Rc<Medium>>; 3],
    made: Made,
}

pub const RAM: u64 = 4 << 20;

/// What a world is made of.
#[derive(Clone, Copy)]
pub struct Made {
    pub ram: u64,
    pub vga: bool,
    /// Bytes of the disk, the disc and the floppy disk.
    pub media: Option<[usize; 3]>,
}

pub fn world(media: bool) -> World {
    let media = media.then_some([1 << 20, 1 << 20, 1_474_560]);
    World::new(Made { ram: RAM, vga: true, media })
}

impl World {
    pub fn new(made: Made) -> Self {
        let bytes = made.media.map_or([None, None, None], |[disk, disc, floppy]| {
            [Some(vec![7; disk]), Some(vec![9; disc]), Some(vec![5; floppy])]
        });
        Self::with(made, bytes)
    }

    fn with(made: Made, media: [Option<Vec<u8>>; 3]) -> Self {
        let ram = Ram::new(made.ram as usize);
        let wire = Rc::new(Echo(Default::default()));
        let outlet: Rc<dyn NetPort> = wire.clone();
        let line = Line::default();
        let mut board = Board::new(Parts {
            memory: ram.clone(),
            ram: made.ram,
            cpus: 2,
            epoch: 1_795_288_805,
            vga_rom: made.vga.then(|| vec![0x55; 4096]),
            hpet: true,
            platform: true,
            serial: [Some(Box::new(line.clone())), None],
            nics: vec![
                Nic::E1000(E1000::new([0x52, 0x54, 0, 0, 0, 1], Some(Rc::clone(&outlet)))),
                Nic::Ne2000(Ne2000::new([0x52, 0x54, 0, 0, 0, 2], Some(outlet))),
            ],
        });
        let [disk, disc, floppy] = media;
        let media = [(disk, false), (disc, true), (floppy, false)]
            .map(|(bytes, read_only)| Some(Medium::new(bytes?, read_only)));
        let [disk, disc, floppy] =
            media.clone().map(|medium| medium.map(|medium| Box::new(medium) as Storage<Page>));
        if made.media.is_some() {
            board.ide.attach(0, 0, Kind::Disk, disk, "W");
            board.ide.attach(1, 0, Kind::Cd, disc, "W");
            board.insert_floppy(0, floppy);
        }
        Self { board, ram, wire, now: Time(0), line, media, made }
    }

    /// A board just made, of the same parts, with the same content of memory and media.
    pub fn twin(&self) -> Self {
        let media =
            [0, 1, 2].map(|n| self.media[n].as_ref().map(|medium| medium.disk.with_bytes(<[u8]>::to_vec)));
        let mut twin = Self::with(self.made, media);
        twin.now = self.now;
        for at in (0..self.made.ram).step_by(PAGE_SIZE) {
            twin.ram.write(Gpa(at), &self.ram.bytes(at, PAGE_SIZE)).expect("RAM");
        }
        // What a guest had unplugged is not plugged in again.
        twin.board.nics.truncate(self.board.nics.len());
        twin.line.0.borrow_mut().1.clone_from(&self.line.0.borrow().1);
        twin
    }
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
