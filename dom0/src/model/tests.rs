//! Requests made by hand.

use super::*;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::task::Waker;

use trunnion_backends::device::GuestPage;
use trunnion_devices::board::{Event, Parts};
use trunnion_protocol::address::{Gfn, Gpa, MachineAddress};
use trunnion_protocol::control::Gpr;

#[derive(Clone)]
struct Page(Rc<SharedPage>, Gfn);

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
struct Ram(Rc<Vec<Rc<SharedPage>>>);

impl GuestMemory for Ram {
    type Page = Page;
    fn page(&self, gfn: Gfn) -> Option<Page> {
        self.0.get(gfn.0 as usize).map(|page| Page(Rc::clone(page), gfn))
    }
    fn own(&self) -> Option<Page> {
        Some(Page(Rc::new(SharedPage::zeroed()), Gfn(1 << 40)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Answer(u32),
    Signal(SignalKind, u64, u32),
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Vec<Told>>>);

impl Core for Fake {
    fn answer(&self, vcpu: u32) {
        self.0.borrow_mut().push(Told::Answer(vcpu));
    }
    fn signal(&self, kind: SignalKind, address: u64, data: u32) {
        self.0.borrow_mut().push(Told::Signal(kind, address, data));
    }
}

type Pages = Rc<[SharedPage]>;

struct World {
    model: Model<Ram, Fake, Pages>,
    pages: Pages,
    ram: Ram,
    told: Fake,
    serial: u32,
    now: Time,
}

impl World {
    fn new() -> Self {
        let ram = Ram(Rc::new((0..256).map(|_| Rc::new(SharedPage::zeroed())).collect()));
        let board = Board::new(Parts {
            memory: ram.clone(),
            ram: 1 << 20,
            cpus: 2,
            epoch: 0,
            vga_rom: Some(vec![0x55; 4096]),
            hpet: true,
            platform: true,
            serial: [None, None],
            nics: Vec::new(),
        });
        let pages: Pages = (0..2).map(|_| SharedPage::zeroed()).collect();
        let told = Fake::default();
        let memory = [0..0xa_0000, 0xc_0000..0x10_0000, 0..0, 0..0];
        let model = Model::new(board, told.clone(), Rc::clone(&pages), memory);
        Self { model, pages, ram, told, serial: 0, now: Time(0) }
    }

    fn turn(&mut self) -> bool {
        let busy = self.model.turn(self.now);
        self.model.poll(&mut Context::from_waker(Waker::noop()), self.now);
        busy
    }

    fn ask(&mut self, vcpu: usize, request: &Request) -> Answer {
        self.serial += 1;
        self.pages[vcpu].store(0, &Request { serial: self.serial, ..*request }).unwrap();
        assert!(self.turn());
        let answer: Answer = self.pages[vcpu].load(ANSWER_OFFSET).unwrap();
        assert_eq!(answer.serial, self.serial);
        assert!(self.told.0.borrow().contains(&Told::Answer(vcpu as u32)));
        assert!(!self.turn(), "a request is answered once");
        answer
    }

    fn out(&mut self, port: u16, value: u32) {
        let kind = RequestKind::Port.number();
        self.ask(0, &Request { kind, port, size: 1, value: u64::from(value), ..Request::default() });
    }

    fn input(&mut self, port: u16, size: u8) -> u64 {
        let kind = RequestKind::Port.number();
        self.ask(1, &Request { kind, port, size, read: 1, ..Request::default() }).value
    }

    fn instruction(&mut self, code: &[u8], state: &VcpuState) -> (Answer, VcpuState) {
        self.ram.write(Gpa(0x7000), code).unwrap();
        let kind = RequestKind::Instruction.number();
        let state = VcpuState { rip: 0x7000, ..*state };
        self.pages[0].store(REQUEST_STATE, &state).unwrap();
        let answer = self.ask(0, &Request { kind, ..Request::default() });
        (answer, self.pages[0].load(ANSWER_STATE).unwrap())
    }
}

#[test]
fn ports_are_read_and_written_by_each_vcpu() {
    let mut world = World::new();
    world.out(0x70, 0x15);
    assert_eq!(world.input(0x71, 1), 0x80);
    assert_eq!(world.input(0x1234, 4), 0xffff_ffff);
}

#[test]
fn the_interrupt_line_is_told_when_it_changes_and_before_the_answer() {
    let mut world = World::new();
    // The timer's output is high from power-on, which the controllers see at the first look.
    assert!(!world.turn());
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        world.out(port, value);
    }
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 1)] {
        world.out(port, value);
    }
    world.told.0.borrow_mut().clear();
    world.now = Time(1_000_000);
    assert!(!world.turn());
    assert_eq!(*world.told.0.borrow(), [Told::Signal(SignalKind::Line, 0, 1)]);
    world.told.0.borrow_mut().clear();
    let kind = RequestKind::Acknowledge.number();
    assert_eq!(world.ask(0, &Request { kind, ..Request::default() }).value, 0x20);
    assert_eq!(*world.told.0.borrow(), [Told::Signal(SignalKind::Line, 0, 0), Told::Answer(0)]);
    assert_eq!(world.ask(0, &Request { kind, ..Request::default() }).value, NO_VECTOR);
}

#[test]
fn an_instruction_reaches_the_screen_and_memory() {
    let mut world = World::new();
    // Text mode: memory on, planes 0 and 1 in turn, at 0xb8000.
    world.out(0x3c2, 0x67);
    for (index, register, value) in [(0x3c4, 2, 3), (0x3c4, 4, 2), (0x3ce, 5, 0x10), (0x3ce, 6, 0x0e)] {
        world.out(index, register);
        world.out(index + 1, value);
    }
    let mut state = VcpuState::real_mode(0);
    state.es.base = 0xb_8000;
    state.es.selector = 0xb800;
    state.gpr[Gpr::Rcx as usize] = 4000;
    state.gpr[Gpr::Rax as usize] = 0x0741;
    // rep stosw: one request is enough for a screen.
    let (answer, after) = world.instruction(&[0xf3, 0xab], &state);
    assert_eq!((answer.flags, after.rip), (answer_flags::STATE, 0x7002));
    assert_eq!(after.gpr[Gpr::Rcx as usize], 0);
    // mov ax, es:[0]
    let (_, after) = world.instruction(&[0x26, 0xa1, 0, 0], &VcpuState { gpr: [0; 16], ..state });
    assert_eq!(after.gpr[Gpr::Rax as usize], 0x0741);
}

#[test]
fn what_is_not_known_is_an_invalid_opcode() {
    let mut world = World::new();
    // movaps xmm0, [0]
    let (answer, after) = world.instruction(&[0x0f, 0x28, 0x06, 0, 0], &VcpuState::real_mode(0));
    assert_eq!(answer.flags & answer_flags::EXCEPTION, answer_flags::EXCEPTION);
    assert_eq!((answer.vector, answer.flags & answer_flags::ERROR), (6, 0));
    assert_eq!(after.rip, 0x7000);
}

#[test]
fn messages_of_the_io_apic_go_as_on_the_bus() {
    let edge = Message { vector: 0x31, mode: 0, logical: false, destination: 2, level: false };
    assert_eq!(bus_message(&edge), (0xfee0_2000, 0x31));
    let level = Message { vector: 0x41, mode: 1, logical: true, destination: 3, level: true };
    assert_eq!(bus_message(&level), (0xfee0_300c, 0xc141));
}

#[test]
fn a_guest_can_reset_itself() {
    let mut world = World::new();
    world.out(0xcf9, 6);
    assert_eq!(world.model.board.take_event(), Some(Event::Reset));
}

/// Sets a guest's timers.
type Set = fn(&mut World);
/// The vector of the line whose level counts.
const LEVEL: u32 = 0x51;

/// How often the board is looked at in ten milliseconds of a guest with such timers, and how many interrupts the hypervisor is told of. The
/// guest acknowledges and ends each at once.
fn storm(set: &[Set]) -> (u64, u64) {
    const END: u64 = 10_000_000;
    let mut world = World::new();
    for set in set {
        set(&mut world);
    }
    let (mut looks, mut told, mut moment) = (0, 0, None);
    loop {
        while world.model.board.wants() {
            world.ask(0, &Request { kind: RequestKind::Acknowledge.number(), ..Request::default() });
        }
        // Register C: the clock tells again.
        world.out(0x70, 0x0c);
        world.input(0x71, 1);
        let told_at_end = |world: &World| {
            let told = world.told.0.borrow();
            let is_interrupt =
                |told: &&Told| !matches!(told, Told::Answer(_) | Told::Signal(SignalKind::Line, _, 0));
            told.iter().filter(is_interrupt).count() as u64
        };
        world.told.0.borrow_mut().clear();
        let kind = RequestKind::End.number();
        world.ask(1, &Request { kind, value: u64::from(LEVEL), ..Request::default() });
        assert!(told_at_end(&world) <= 1, "the end of a level brings one interrupt at most");
        moment = world.model.next_look(moment, None, world.now);
        let Some(next) = moment.filter(|next| next.0 < END) else { return (looks, told) };
        world.now = next;
        world.model.poll(&mut Context::from_waker(Waker::noop()), world.now);
        looks += 1;
        told += told_at_end(&world);
    }
}

impl World {
    /// Writes a register of four bytes.
    fn store(&mut self, at: u64, value: u32) {
        assert!(self.model.board.memory_write(at, &value.to_le_bytes(), self.now));
    }

    /// An input of the I/O APIC with its vector, and whether its level counts.
    fn route(&mut self, input: u32, vector: u32, level: bool) {
        for (register, value) in [(0x11, 0), (0x10, vector | u32::from(level) << 15)] {
            self.store(0xfec0_0000, register + 2 * input);
            self.store(0xfec0_0010, value);
        }
    }
}

/// The 8259s, which end by themselves and let timer and clock through.
fn route_ports(world: &mut World) {
    let first = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x21, 0xfa)];
    let second = [(0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 3), (0xa1, 0xfe)];
    for (port, value) in first.into_iter().chain(second) {
        world.out(port, value);
    }
}

/// The interval timer with a count of one, which is taken for two.
fn interval(world: &mut World) {
    for (port, value) in [(0x43, 0x34), (0x40, 1), (0x40, 0)] {
        world.out(port, value);
    }
    world.route(2, 0x40, false);
}

/// The clock at 8192 Hz.
fn clock(world: &mut World) {
    for (port, value) in [(0x70, 0x0a), (0x71, 0x23), (0x70, 0x0b), (0x71, 0x42)] {
        world.out(port, value);
    }
    world.route(8, 0x41, false);
}

/// The comparators of the event timer, each period a tick; the second one has a level that stays.
fn event(world: &mut World) {
    for timer in 0..3 {
        world.route(20 + timer, LEVEL - 1 + timer, timer == 1);
        let config = (20 + timer) << 9 | 0x4c | u32::from(timer == 1) << 1;
        world.store(0xfed0_0100 + 0x20 * u64::from(timer), config);
        world.store(0xfed0_0108 + 0x20 * u64::from(timer), 1);
    }
    world.store(0xfed0_0010, 1);
}

#[test]
fn timers_are_looked_at_no_more_often_than_is_good_for_others() {
    // Each with how often it is looked at, and the interrupts of a look.
    let all: [(&[Set], u64, u64); 5] = [
        (&[interval], 200, 1),
        (&[route_ports, interval], 200, 2),
        (&[route_ports, clock], 82, 2),
        (&[event], 200, 3),
        (&[route_ports, interval, clock, event], 200, 7),
    ];
    for (set, most, each) in all {
        let (looks, told) = storm(set);
        assert!((most / 2..=most).contains(&looks), "{looks} looks instead of {most}");
        assert!(told <= looks * each && told >= looks / 2, "{told} interrupts at {looks} looks");
    }
}
