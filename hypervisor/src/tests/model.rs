//! Device models: what a vCPU asks, and what becomes of the answer.

use std::collections::VecDeque;

use trunnion_protocol::control::{
    ANSWER_OFFSET, ANSWER_STATE, Answer, DomainRef, Gpr, ModelAnswer, ModelSignal, NO_VECTOR, Operation,
    REQUEST_STATE, Request, RequestKind, SetModel, SignalKind, VcpuState, answer_flags,
};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::Hypercall::EventChannelOp;
use trunnion_protocol::hypercall::event::{AllocUnbound, Op as EventOp};
use trunnion_protocol::id::{DomainId, Port};
use zerocopy::{FromBytes, IntoBytes};

use super::kit::{Guest, World};
use crate::fake::FakeContext;
use crate::lapic;
use crate::schedule::Activity;
use crate::seam::{Event, Exit, PortAccess, SecondLevelFault};

type Play = Box<dyn FnMut(&mut FakeContext) -> Exit + Send>;

/// A guest with a device model in dom0.
struct Modelled {
    world: World,
    guest: Guest,
    /// First address of the model's pages, in dom0.
    pages: u64,
    port: Port,
}

impl Modelled {
    fn new(vcpus: u32) -> Self {
        let world = World::new();
        let guest = world.guest(vcpus);
        let open = AllocUnbound { domain: DomainId::SELF, remote: guest.id, port: Port(0) };
        let port =
            world.with(&world.dom0, EventChannelOp, EventOp::AllocUnbound.number(), open).unwrap().port;
        let pages = world.base + 0x10_0000;
        let call = SetModel { domain: guest.id.0, flags: 0, port: port.0, frame: pages >> 12 };
        let wrong =
            [SetModel { port: 77, ..call }, SetModel { frame: 0, ..call }, SetModel { domain: 0, ..call }];
        for wrong in wrong {
            assert_eq!(world.control(Operation::SetModel, &wrong), Err(Errno::Inval));
        }
        world.control(Operation::SetModel, &call).unwrap();
        assert_eq!(world.control(Operation::SetModel, &call), Err(Errno::Exist));
        Self { world, guest, pages, port }
    }

    /// What the guest does, one exit after the other; then it halts, and takes interrupts.
    fn play(&self, plays: Vec<Play>) {
        let mut plays = VecDeque::from(plays);
        let script = move |context: &mut FakeContext| match plays.pop_front() {
            Some(mut play) => play(context),
            None => {
                context.state.rflags |= 0x200;
                Exit::Halt
            }
        };
        self.world.host.machine.script(1, Box::new(script));
    }

    fn start(&self, plays: Vec<Play>) {
        self.play(plays);
        self.world.unpause(&self.guest);
        self.world.run(6);
    }

    fn page<T: FromBytes>(&self, offset: usize) -> T {
        let mut bytes = vec![0; size_of::<T>()];
        self.world.read(&self.world.dom0, self.pages + offset as u64, &mut bytes);
        T::read_from_bytes(&bytes).unwrap()
    }

    fn request(&self) -> Request {
        self.page(0)
    }

    fn kind(&self) -> Option<RequestKind> {
        assert!(self.asks());
        RequestKind::from_number(self.request().kind)
    }

    fn asks(&self) -> bool {
        let vcpu = &self.guest.vcpus[0];
        let waits = !vcpu.question.lock().is_answered();
        assert!(!waits || vcpu.state.activity() == Activity::Blocked);
        waits
    }

    fn try_answer(&self, answer: &Answer) -> Result<(), Errno> {
        self.world.write(&self.world.dom0, self.pages + ANSWER_OFFSET as u64, answer.as_bytes());
        let call = ModelAnswer { domain: self.guest.id.0, rest: 0, vcpu: 0 };
        self.world.control(Operation::ModelAnswer, &call).map(|_| ())
    }

    fn answer(&self, answer: &Answer) {
        self.try_answer(&Answer { serial: self.request().serial, ..*answer }).unwrap();
        self.world.run(6);
    }

    fn signal(&self, kind: SignalKind, address: u64, data: u32) -> Result<ModelSignal, Errno> {
        let domain = self.guest.id.0;
        let call = ModelSignal { domain, kind: kind.number(), address, data, ..ModelSignal::default() };
        self.world.control(Operation::ModelSignal, &call)
    }

    fn line(&self, level: bool) {
        self.signal(SignalKind::Line, 0, level.into()).unwrap();
        self.world.run(6);
    }

    fn state<R>(&self, get: impl FnOnce(&mut VcpuState) -> R) -> R {
        self.world.register(&self.guest, 0, get)
    }

    fn context<R>(&self, get: impl FnOnce(&mut FakeContext) -> R) -> R {
        get(&mut self.guest.vcpus[0].body.lock().as_mut().unwrap().context)
    }

    fn taken(&self) -> Vec<u8> {
        self.context(|context| context.taken.clone())
    }
}

fn port(port: u16, size: u8, read: bool, value: u64) -> Play {
    Box::new(move |context| {
        context.state.gpr[Gpr::Rax as usize] = value;
        Exit::Port(PortAccess { port, size, read, string: false, repeat: false, length: 2 })
    })
}

fn touch(gpa: u64) -> Play {
    Box::new(move |_| {
        let gpa = trunnion_protocol::address::Gpa(gpa);
        Exit::Memory(SecondLevelFault { gpa, write: false, execute: false, walk: false })
    })
}

/// `mov %eax, (%rdi)` to a register of the local interrupt controller.
fn local(modelled: &Modelled, offset: u64, value: u64) -> Play {
    modelled.world.write(&modelled.guest, 0x8000, &[0x89, 0x07]);
    Box::new(move |context| {
        context.state.rip = 0x8000;
        context.state.gpr[Gpr::Rax as usize] = value;
        let gpa = trunnion_protocol::address::Gpa(lapic::BASE + offset);
        Exit::Memory(SecondLevelFault { gpa, write: true, execute: false, walk: false })
    })
}

#[test]
fn ports_are_read_and_written() {
    let it = Modelled::new(2);
    it.start(vec![
        port(0x3f8, 1, false, 0x1234),
        port(0x70, 1, true, 0x1111_2222_3333_4444),
        port(0xcf8, 4, true, u64::MAX),
    ]);
    let place = trunnion_protocol::event::place(it.port, it.world.dom0.width()).unwrap();
    assert_ne!(it.world.shared(&it.world.dom0, place.pending) & place.bit, 0, "the event is sent");
    let first = it.request();
    assert_eq!((first.serial, first.kind, first.port), (1, RequestKind::Port.number(), 0x3f8));
    assert_eq!((first.size, first.read, first.value), (1, 0, 0x34));
    it.answer(&Answer { value: 0xff, ..Answer::default() });
    let second = it.request();
    assert_eq!((second.serial, second.port, second.read), (2, 0x70, 1));
    it.answer(&Answer { value: 0x5678, ..Answer::default() });
    assert_eq!((it.request().serial, it.request().port), (3, 0xcf8));
    assert_eq!(it.state(|state| state.rip), 0x10_0006, "behind the third");
    it.answer(&Answer { value: 0xffff_ffff_8000_0001, ..Answer::default() });
    assert_eq!(it.state(|state| state.gpr[0]), 0x8000_0001, "the upper half is clear");
    assert!(!it.asks());
    it.world.destroy(it.guest);
}

#[test]
fn a_byte_leaves_the_rest_of_the_register() {
    let it = Modelled::new(1);
    it.start(vec![port(0x70, 1, true, 0x1111_2222_3333_4444)]);
    it.answer(&Answer { value: 0x5678, ..Answer::default() });
    assert_eq!(it.state(|state| state.gpr[0]), 0x1111_2222_3333_4478);
}

#[test]
fn instructions_are_carried_out_elsewhere() {
    let it = Modelled::new(1);
    let string = |_: &mut FakeContext| {
        Exit::Port(PortAccess { port: 0x1f0, size: 2, read: true, string: true, repeat: true, length: 2 })
    };
    it.start(vec![touch(0xfeb8_0000), Box::new(string), touch(0xfed0_00f0)]);
    let asked = it.request();
    assert_eq!((it.kind(), asked.value), (Some(RequestKind::Instruction), 0xfeb8_0000));
    let mut state: VcpuState = it.page(REQUEST_STATE);
    assert_eq!((state.rip, state.efer), (0x10_0000, 1 << 10 | 1 << 8));
    (state.rip, state.gpr[3], state.rflags) = (0x10_0005, 77, 0x246);
    it.world.write(&it.world.dom0, it.pages + ANSWER_STATE as u64, state.as_bytes());
    it.answer(&Answer { flags: answer_flags::STATE, ..Answer::default() });
    let (asked, state): (_, VcpuState) = (it.request(), it.page(REQUEST_STATE));
    assert_eq!((it.kind(), asked.value, state.rip), (Some(RequestKind::Instruction), 0x1f0, 0x10_0005));
    assert_eq!((state.gpr[3], state.rflags), (77, 0x246));
    it.play(vec![Box::new(|context| {
        assert_eq!(context.event.take(), None, "taken by the entry");
        Exit::Halt
    })]);
    let flags = answer_flags::EXCEPTION | answer_flags::ERROR;
    it.try_answer(&Answer { serial: 2, flags, vector: 13, error: 8, ..Answer::default() }).unwrap();
    it.world.run(1);
    assert_eq!(it.state(|state| state.rip), 0x10_0005 + 3, "the fake machine takes exceptions and goes on");
}

#[test]
fn an_event_of_the_exit_is_kept() {
    let it = Modelled::new(1);
    let cut_off: Play = Box::new(|context| {
        context.event = Some(Event::Interrupt(0x66));
        let gpa = trunnion_protocol::address::Gpa(0xfeba_0000);
        Exit::Memory(SecondLevelFault { gpa, write: true, execute: false, walk: false })
    });
    it.start(vec![cut_off]);
    assert_eq!(it.taken(), []);
    it.answer(&Answer { flags: answer_flags::EXCEPTION, vector: 6, ..Answer::default() });
    assert_eq!(it.taken(), [0x66]);
}

#[test]
fn nothing_else_lets_the_vcpu_run_on() {
    let it = Modelled::new(1);
    it.start(vec![local(&it, 0xf0, 0x1ff), port(0x60, 1, true, 0)]);
    let name = crate::vcpu::VcpuRef { domain: it.guest.clone(), index: 0 };
    crate::local::post(&it.world.host, &name, &name, 0x55, false);
    crate::local::post_nmi(&it.world.host, &name, &name);
    crate::schedule::wake(&it.world.host, &name);
    it.world.run(8);
    assert!(it.asks());
    assert_eq!(it.taken(), []);
    // Pausing, and answering meanwhile, loses nothing.
    let domain = DomainRef { domain: it.guest.id.0, pad: [0; 3] };
    it.world.control(Operation::Pause, &domain).unwrap();
    it.answer(&Answer { value: 7, ..Answer::default() });
    assert_eq!(it.state(|state| state.gpr[0]), 0, "paused");
    it.world.control(Operation::Unpause, &domain).unwrap();
    it.world.run(8);
    assert_eq!((it.state(|state| state.gpr[0]), it.taken()), (7, vec![0x55]));
}

#[test]
fn answers_that_are_stale_or_doubled_are_refused() {
    let it = Modelled::new(1);
    let none = Answer::default();
    assert_eq!(it.try_answer(&none), Err(Errno::Srch), "nothing is asked");
    it.start(vec![port(0x60, 1, true, 0)]);
    assert_eq!(it.try_answer(&Answer { serial: 2, ..none }), Err(Errno::Srch));
    it.try_answer(&Answer { serial: 1, value: 9, ..none }).unwrap();
    assert_eq!(it.try_answer(&Answer { serial: 1, value: 8, ..none }), Err(Errno::Srch), "twice");
    it.world.run(6);
    assert_eq!(it.try_answer(&Answer { serial: 1, ..none }), Err(Errno::Srch), "taken");
    let stranger = it.world.guest(1);
    let call = ModelAnswer { domain: stranger.id.0, rest: 0, vcpu: 0 };
    assert_eq!(it.world.control(Operation::ModelAnswer, &call), Err(Errno::Srch));
    let call = ModelAnswer { domain: it.guest.id.0, rest: 0, vcpu: 1 };
    assert_eq!(it.world.control(Operation::ModelAnswer, &call), Err(Errno::NoEnt));
}

#[test]
fn init_forgets_the_request() {
    let it = Modelled::new(1);
    it.start(vec![port(0x60, 1, true, 0)]);
    let name = crate::vcpu::VcpuRef { domain: it.guest.clone(), index: 0 };
    crate::start::init(&it.world.host, &name);
    assert_eq!(it.try_answer(&Answer { serial: 1, ..Answer::default() }), Err(Errno::Srch));
    it.play(vec![port(0x61, 1, true, 0)]);
    crate::start::startup(&it.world.host, &name, 0x9a);
    it.world.run(6);
    assert_eq!((it.request().serial, it.request().port), (2, 0x61));
    it.answer(&Answer { value: 3, ..Answer::default() });
    assert_eq!(it.state(|state| (state.gpr[0], state.cs.base)), (3, 0x9_a000));
    assert_eq!(it.guest.vcpus[0].state.activity(), Activity::Blocked);
}

#[test]
fn a_domain_ends_while_it_waits() {
    let it = Modelled::new(1);
    it.start(vec![port(0x60, 1, true, 0)]);
    let frame = trunnion_protocol::address::Mfn(it.pages >> 12);
    assert_eq!(it.world.host.frames.references(frame), 2);
    let Modelled { world, guest, .. } = it;
    world.destroy(guest);
    assert_eq!(world.host.frames.references(frame), 1);
}

#[test]
fn the_line_is_acknowledged() {
    let it = Modelled::new(1);
    it.start(vec![]);
    assert!(!it.asks() && it.guest.vcpus[0].state.activity() == Activity::Blocked);
    it.line(true);
    assert_eq!(
        it.kind(),
        Some(RequestKind::Acknowledge),
        "HLT wakes, before the local APIC was ever touched"
    );
    it.signal(SignalKind::Line, 0, 0).unwrap();
    it.answer(&Answer { value: 0x08, ..Answer::default() });
    assert_eq!(it.taken(), [0x08]);
    it.line(true);
    it.signal(SignalKind::Line, 0, 0).unwrap();
    it.answer(&Answer { value: NO_VECTOR, ..Answer::default() });
    assert_eq!((it.taken(), it.asks()), (vec![0x08], false));
    // With interrupts off a window is asked for, and nothing else happens.
    it.play(vec![Box::new(|context| {
        context.state.rflags &= !0x200;
        Exit::Interrupt
    })]);
    it.context(|context| context.state.rflags &= !0x200);
    it.line(true);
    assert_eq!(it.kind(), Some(RequestKind::Acknowledge), "the halt at the script's end lets it in");
    it.answer(&Answer { value: 0x09, ..Answer::default() });
    assert_eq!(it.kind(), Some(RequestKind::Acknowledge), "the line is still up");
    assert_eq!(it.taken(), [0x08, 0x09]);
}

#[test]
fn a_masked_lint0_holds_the_line() {
    let it = Modelled::new(1);
    it.start(vec![local(&it, 0xf0, 0x1ff), local(&it, 0x350, 0x1_0700)]);
    it.line(true);
    assert!(!it.asks());
    it.play(vec![local(&it, 0x350, 0x700)]);
    it.signal(SignalKind::Nmi, 0, 0).unwrap();
    it.world.run(6);
    assert_eq!(it.kind(), Some(RequestKind::Acknowledge));
}

#[test]
fn messages_are_interrupts_and_levels_have_ends() {
    let it = Modelled::new(2);
    it.start(vec![local(&it, 0xf0, 0x1ff)]);
    it.signal(SignalKind::Message, 0xfee0_0000, 0x41).unwrap();
    it.world.run(6);
    assert_eq!(it.taken(), [0x41]);
    it.play(vec![local(&it, 0xb0, 0)]);
    it.signal(SignalKind::Nmi, 0, 0).unwrap();
    it.world.run(6);
    assert!(!it.asks(), "the end of an edge tells nobody");
    it.play(vec![local(&it, 0xb0, 0)]);
    it.signal(SignalKind::Message, 0xfee0_0000, 0x8000 | 0x52).unwrap();
    it.world.run(6);
    assert_eq!(it.taken(), [0x41, 0x52]);
    assert_eq!((it.kind(), it.request().value), (Some(RequestKind::End), 0x52));
    it.answer(&Answer::default());
    assert!(!it.asks());
    // For the other vCPU, for nobody, and malformed.
    it.signal(SignalKind::Message, 0xfee0_2000, 0x61).unwrap();
    it.signal(SignalKind::Message, 0xfee0_7000, 0x61).unwrap();
    it.world.run(6);
    assert_eq!(it.taken(), [0x41, 0x52]);
    assert_eq!(it.signal(SignalKind::Message, 0xfed0_0000, 0x61), Err(Errno::Inval));
    assert_eq!(it.signal(SignalKind::Message, 0xfee0_0000, 0x05), Err(Errno::Inval));
}
