//! A PC on the host: RAM, a board, and the emulator as its processor. One instruction takes a fixed time.
#![allow(dead_code, unreachable_pub, reason = "each program uses a part of it")]

pub mod bench;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use trunnion_backends::device::{CharDevice, GuestPage};
use trunnion_backends::ram::RamDisk;
use trunnion_devices::board::{Board, Event, Parts};
use trunnion_devices::emulate::{self, Machine, Outcome, Pending, Refused};
use trunnion_devices::ide::{Kind, Storage};
use trunnion_devices::memory::GuestMemory;
use trunnion_devices::tables::{self, Description};
use trunnion_devices::time::Time;
use trunnion_devices::width::Width;
use trunnion_protocol::address::{Gfn, Gpa, MachineAddress, PAGE_SIZE};
use trunnion_protocol::control::{Gpr, VcpuState};
use trunnion_protocol::shared::SharedPage;

#[derive(Clone)]
pub struct Page(Rc<SharedPage>, Gfn);

impl GuestPage for Page {
    fn shared(&self) -> &SharedPage {
        &self.0
    }
    fn gfn(&self) -> Gfn {
        self.1
    }
    fn bus_address(&self) -> MachineAddress {
        MachineAddress(self.1.address().0)
    }
}

#[derive(Clone)]
pub struct Ram(Rc<Vec<Rc<SharedPage>>>);

impl Ram {
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new((0..bytes / PAGE_SIZE).map(|_| Rc::new(SharedPage::zeroed())).collect()))
    }

    pub fn at(&self, address: u64) -> Option<&SharedPage> {
        self.0.get((address >> 12) as usize).map(|page| &**page)
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(Gpa(address), &mut bytes).expect("RAM");
        bytes
    }
}

impl GuestMemory for Ram {
    type Page = Page;
    fn page(&self, gfn: Gfn) -> Option<Page> {
        self.0.get(gfn.0 as usize).map(|page| Page(Rc::clone(page), gfn))
    }
    fn own(&self) -> Option<Page> {
        Some(Page(Rc::new(SharedPage::zeroed()), Gfn(1 << 40)))
    }
}

/// What a serial port says and hears.
#[derive(Clone, Default)]
pub struct Line(pub Rc<RefCell<(Vec<u8>, VecDeque<u8>)>>);

impl CharDevice for Line {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let mut state = self.0.borrow_mut();
        let count = into.len().min(state.1.len());
        for (to, from) in into.iter_mut().zip(state.1.drain(..count)) {
            *to = from;
        }
        count
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.0.borrow_mut().0.extend_from_slice(bytes);
        bytes.len()
    }
    fn poll_changed(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

pub fn disk(bytes: Vec<u8>, read_only: bool) -> Storage<Page> {
    Box::new(RamDisk::new(bytes, read_only))
}

/// The board as the processor sees it.
pub struct Bus {
    pub board: Board<Ram>,
    pub ram: Ram,
    /// What lies below 4 GiB.
    pub rom: Vec<u8>,
    pub now: Time,
}

impl Bus {
    fn gate(&self, at: u64) -> u64 {
        if self.board.a20() { at } else { at & !(1 << 20) }
    }
    fn rom(&self, at: u64) -> Option<&[u8]> {
        let start = (1u64 << 32) - self.rom.len() as u64;
        self.rom.get(usize::try_from(at.checked_sub(start)?).ok()?..)
    }
}

impl Machine for Bus {
    fn read(&mut self, at: Gpa, into: &mut [u8]) -> Result<(), Pending> {
        let at = self.gate(at.0);
        // Most accesses are to RAM beyond the devices of the first MiB.
        if (0xa_0000..0xc_0000).contains(&at) || at >= 0xe000_0000 || self.ram.at(at).is_none() {
            if self.board.memory_read(at, into, self.now) {
                return Ok(());
            }
            if let Some(rom) = self.rom(at) {
                into.fill(0xff);
                into.iter_mut().zip(rom).for_each(|(to, from)| *to = *from);
                return Ok(());
            }
        }
        match self.ram.at(at) {
            Some(page) => page.copy_out(at as usize & 0xfff, into).expect("one page"),
            None => into.fill(0xff),
        }
        Ok(())
    }
    fn write(&mut self, at: Gpa, from: &[u8]) -> Result<(), Pending> {
        let at = self.gate(at.0);
        if ((0xa_0000..0xc_0000).contains(&at) || self.ram.at(at).is_none())
            && self.board.memory_write(at, from, self.now)
        {
            return Ok(());
        }
        if let Some(page) = self.ram.at(at) {
            page.copy_in(at as usize & 0xfff, from).expect("one page");
        }
        Ok(())
    }
    fn port_read(&mut self, port: u16, width: Width) -> Result<u32, Pending> {
        Ok(self.board.port_read(port, width, self.now))
    }
    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<(), Pending> {
        self.board.port_write(port, width, value, self.now);
        Ok(())
    }
    fn cpuid(&mut self, leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            0 => [1, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
            // Time-stamp counter, MSRs, PAE, CMPXCHG8B, CMOV; no APIC, no FPU.
            1 => [0x0000_0611, 0, 0, 0x8178 & !0x0008 & !0x0200],
            0x8000_0000 => [0x8000_0001, 0, 0, 0],
            0x8000_0001 => [0, 0, 1, 0x2010_0000],
            _ => [0; 4],
        }
    }
    fn msr_read(&mut self, _: u32) -> Result<u64, Refused> {
        Ok(0)
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), Refused> {
        Ok(())
    }
    fn tsc(&mut self) -> u64 {
        self.now.0
    }
}

/// Nanoseconds of an instruction.
const INSTRUCTION: u64 = 100;

pub struct Pc {
    pub cpu: VcpuState,
    pub bus: Bus,
    pub serial: Line,
    pub log: Vec<u8>,
    pub halted: bool,
    pub steps: u64,
    /// What the guest wanted to become of itself.
    pub events: Vec<Event>,
    /// The next moment at which the board wants to be looked at.
    deadline: Option<Time>,
}

/// Why a PC stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Limit,
    Event(Event),
    /// HLT with interrupts off.
    Dead,
    Unknown([u8; 15]),
    Triple,
}

impl Pc {
    pub fn new(ram: usize, rom: Vec<u8>, vga_rom: Option<Vec<u8>>) -> Self {
        let memory = Ram::new(ram);
        let serial = Line::default();
        // The end of the ROM is also seen below 1 MiB.
        let shadow = rom.len().min(0x2_0000);
        if shadow > 0 {
            memory.write(Gpa(0x10_0000 - shadow as u64), &rom[rom.len() - shadow..]).expect("RAM");
        }
        let description = Description {
            cpus: 1,
            low: ram as u64,
            high: 0,
            hpet: true,
            vga: vga_rom.is_some(),
            floppy: true,
            uuid: [0x5a; 16],
        };
        let mut board = Board::new(Parts {
            memory: memory.clone(),
            ram: ram as u64,
            cpus: 1,
            epoch: 1_795_288_805,
            vga_rom,
            hpet: true,
            platform: true,
            nics: Vec::new(),
            serial: [Some(Box::new(serial.clone())), None],
        });
        for (name, content) in tables::files(&description) {
            board.fwcfg.add(name, content);
        }
        let mut cpu = VcpuState::real_mode(0);
        cpu.rip = 0xfff0;
        cpu.cs.selector = 0xf000;
        cpu.cs.base = 0xf_0000;
        Self {
            cpu,
            bus: Bus { board, ram: memory, rom, now: Time(0) },
            serial,
            log: Vec::new(),
            halted: false,
            steps: 0,
            events: Vec::new(),
            deadline: None,
        }
    }

    pub fn attach(&mut self, channel: usize, device: usize, kind: Kind, bytes: Vec<u8>) {
        self.bus.board.ide.attach(channel, device, kind, Some(disk(bytes, kind == Kind::Cd)), "TR0001");
    }

    /// Executes `steps` instructions at most.
    pub fn run(&mut self, steps: u64) -> End {
        let mut context = Context::from_waker(Waker::noop());
        for count in 0..steps {
            self.steps += 1;
            if self.halted {
                let next = self.bus.board.deadline().unwrap_or(Time(self.bus.now.0 + 1_000_000));
                self.bus.now =
                    Time(next.0.max(self.bus.now.0 + INSTRUCTION).min(self.bus.now.0 + 10_000_000));
            } else {
                self.bus.now = Time(self.bus.now.0 + INSTRUCTION);
            }
            if count % 64 == 0
                || self.halted
                || self.deadline.is_some_and(|deadline| deadline <= self.bus.now)
            {
                self.bus.board.poll(&mut context, self.bus.now);
                self.deadline = self.bus.board.deadline();
                self.log.extend(self.bus.board.take_log());
                if let Some(event) = self.bus.board.take_event() {
                    self.events.push(event);
                    return End::Event(event);
                }
            }
            let open = self.cpu.rflags & 0x200 != 0 && self.cpu.interruptibility & 3 == 0;
            if open && self.bus.board.wants() {
                self.halted = false;
                let vector = self.bus.board.acknowledge();
                emulate::interrupt(&mut self.cpu, &mut self.bus, vector, None).expect("delivery");
            }
            if self.halted {
                if self.cpu.rflags & 0x200 == 0 {
                    return End::Dead;
                }
                continue;
            }
            match emulate::step(&mut self.cpu, &mut self.bus) {
                Outcome::Done => {}
                Outcome::Halted => self.halted = true,
                Outcome::Pending => unreachable!("nothing here answers later"),
                Outcome::Unknown(bytes) => return End::Unknown(bytes),
                Outcome::Fault(fault) => {
                    if fault.error.is_some() && fault.vector == 14 {
                        self.cpu.cr2 = fault.address;
                    }
                    let error = fault.error.filter(|_| self.cpu.cr0 & 1 != 0);
                    if emulate::interrupt(&mut self.cpu, &mut self.bus, fault.vector, error).is_err() {
                        return End::Triple;
                    }
                }
            }
        }
        End::Limit
    }

    /// Runs until a text is on the screen or has been said, for `steps` instructions at most.
    pub fn run_until(&mut self, text: &str, steps: u64) -> Result<(), End> {
        let mut left = steps;
        while left > 0 {
            let now = left.min(200_000);
            left -= now;
            let end = self.run(now);
            if self.shows(text) {
                return Ok(());
            }
            if end != End::Limit {
                return Err(end);
            }
        }
        Err(End::Limit)
    }

    pub fn shows(&self, text: &str) -> bool {
        self.screen().contains(text)
            || self.said().contains(text)
            || String::from_utf8_lossy(&self.log).contains(text)
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.serial.0.borrow().0).into_owned()
    }

    pub fn screen(&self) -> String {
        self.bus
            .board
            .vga
            .as_ref()
            .and_then(trunnion_devices::vga::Vga::text)
            .map_or(String::new(), |lines| lines.join("\n"))
    }

    pub fn gpr(&self, which: Gpr) -> u64 {
        self.cpu.gpr[which as usize]
    }
}
