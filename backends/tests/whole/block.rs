//! The block back end's data path, against an honest front end, a hostile one, and a device that fails.

use super::memory::placed;
use crate::support::front::{Front, content};
use crate::support::{GUEST, Host, Mapped, Woken, World};
use trunnion_backends::block::{Backend, Config, Fault, Limits};
use trunnion_backends::device::{BlockDevice, BlockError, BlockOperation};
use trunnion_backends::faulty::{Fate, Faulty};
use trunnion_backends::planted::Bug;
use trunnion_backends::ram::RamDisk;
use trunnion_backends::share::Share;
use trunnion_protocol::blkif::Operation;
use trunnion_protocol::blkif::request::{Indirect, Request, Segment, Transfer};
use trunnion_protocol::id::GrantRef;
use trunnion_protocol::layout::Width;

pub(super) const SECTORS: usize = 4096;

/// What the disk holds at first: every byte of a sector is its number.
pub(super) fn numbered() -> Vec<u8> {
    let mut bytes = vec![0; SECTORS * 512];
    for (number, sector) in bytes.chunks_exact_mut(512).enumerate() {
        sector.fill(number as u8);
    }
    bytes
}

pub(super) fn disk() -> RamDisk<Vec<u8>, Mapped> {
    RamDisk::new(numbered(), false)
}

pub(super) fn config() -> Config {
    Config { domain: GUEST, read_only: false, removable: false, cdrom: false, limits: Limits::default() }
}

pub(super) fn run<D: BlockDevice<Mapped>>(
    woken: &std::sync::Arc<Woken>,
    backend: &mut Backend<Host, D>,
) -> Option<Fault> {
    woken.run(|context| backend.poll(context))
}

#[test]
fn data_goes_both_ways_in_every_form() {
    for (width, in_memory) in [Width::W64, Width::W32].into_iter().flat_map(|w| [(w, false), (w, true)]) {
        for order in 0..=4 {
            let world = World::new();
            let mut front = Front::new(&world, width, order, 3);
            let disk = if in_memory { placed(&world).0 } else { disk() };
            let mut backend = Backend::new(Host(world.clone()), disk, config());
            let woken = Woken::new();
            backend.connect(&front.plan).unwrap();
            let page =
                |seed: u8| std::array::from_fn(|byte| (byte as u8).wrapping_mul(31).wrapping_add(seed));
            // Plain, indirect, and pieces of pages.
            for (pages, first, last, sector) in
                [(1, 0, 7, 0), (11, 0, 7, 100), (12, 0, 7, 300), (256, 0, 7, 1000), (5, 2, 6, 33)]
            {
                let contents: Vec<[u8; 4096]> = (0..pages).map(|index| page(index as u8)).collect();
                front.transfer(true, sector, &contents, first, last);
                front.kick();
                assert_eq!(run(&woken, &mut backend), None);
                let answers = front.responses();
                assert_eq!(answers.len(), 1);
                assert_eq!((answers[0].0.operation, answers[0].0.status), (1, 0));
                front.transfer(false, sector, &vec![[0xee; 4096]; pages], first, last);
                front.flush();
                front.kick();
                assert_eq!(run(&woken, &mut backend), None);
                let answers = front.responses();
                assert_eq!(answers.len(), 2);
                let (_, buffer) = answers.iter().find(|(answer, _)| answer.operation == 0).unwrap();
                let range = usize::from(first) * 512..(usize::from(last) + 1) * 512;
                for (index, expected) in contents.iter().enumerate() {
                    let got = content(buffer, index);
                    assert_eq!(got[range.clone()], expected[range.clone()]);
                    assert!(got[..range.start].iter().chain(&got[range.end..]).all(|&byte| byte == 0xee));
                }
            }
            let counted = backend.statistics().snapshot();
            assert_eq!((counted.reads, counted.writes, counted.flushes, counted.errors), (5, 5, 5, 0));
            let bytes = (1 + 11 + 12 + 256) * 4096 + 5 * 5 * 512;
            assert_eq!((counted.read_bytes, counted.write_bytes), (bytes, bytes));
            backend.disconnect();
            assert_eq!(world.mapped.get(), 0);
        }
    }
}

#[test]
fn a_run_of_requests_costs_one_map_one_unmap_and_one_event() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    let mut backend = Backend::new(Host(world.clone()), disk(), config());
    let woken = Woken::new();
    backend.connect(&front.plan).unwrap();
    assert_eq!(run(&woken, &mut backend), None);
    let (maps, unmaps) = (world.map_calls.get(), world.unmap_calls.get());
    for sector in 0..32 {
        front.transfer(false, sector * 8, &[[0; 4096]; 2], 0, 7);
    }
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    assert_eq!(front.responses().len(), 32);
    assert_eq!((world.map_calls.get() - maps, world.unmap_calls.get() - unmaps), (1, 1));
    assert_eq!(front.channel.notified.get(), 1);
    backend.disconnect();
}

/// Pages that the front end grants for good are mapped once, whatever they are used for, and all of them go with the connection.
#[test]
fn pages_that_may_stay_are_mapped_once() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    front.plan.persistent = true;
    let mut backend = Backend::new(Host(world.clone()), disk(), config());
    let woken = Woken::new();
    backend.connect(&front.plan).unwrap();
    let ring = world.mapped.get();
    let page = std::rc::Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
    let reference = world.grant(&page, true);
    let segment = Segment { reference, first: 0, last: 7 };
    let mut calls = 0;
    for round in 0..20u8 {
        let content = [round; 4096];
        page.copy_in(0, &content).unwrap();
        front.raw(&transfer(Operation::Write, u64::from(round) * 8, 1, segment));
        front.kick();
        assert_eq!(run(&woken, &mut backend), None);
        page.copy_in(0, &[0xee; 4096]).unwrap();
        front.raw(&transfer(Operation::Read, u64::from(round) * 8, 1, segment));
        front.kick();
        assert_eq!(run(&woken, &mut backend), None);
        let mut got = [0; 4096];
        page.copy_out(0, &mut got).unwrap();
        assert_eq!(got, content);
        if round == 0 {
            calls = world.map_calls.get();
        }
        while let Some(response) = front.ring.take().unwrap() {
            assert_eq!(response.status, 0);
        }
    }
    assert_eq!((world.mapped.get(), world.map_calls.get()), (ring + 1, calls), "nothing was mapped again");
    // One page for two requests at a time is mapped twice, and once when both are done.
    front.raw(&transfer(Operation::Read, 0, 1, segment));
    front.raw(&transfer(Operation::Read, 8, 1, segment));
    front.raw(&transfer(Operation::Read, 16, 1, Segment { reference: GrantRef(u32::MAX), ..segment }));
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    let statuses = std::iter::from_fn(|| front.ring.take().unwrap()).map(|response| response.status);
    assert_eq!(statuses.sum::<i16>(), -1, "the claim on no grant failed, and the others did not");
    assert_eq!(world.mapped.get(), ring + 1);
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0);
}

fn transfer(operation: Operation, sector: u64, count: u8, segment: Segment) -> Request {
    Request::Transfer(Transfer { operation, handle: 0, id: 5, sector, count, segments: [segment; 11] })
}

#[test]
fn impossible_requests_are_answered_with_errors() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    let woken = Woken::new();
    let mut backend = Backend::new(Host(world.clone()), disk(), config());
    backend.connect(&front.plan).unwrap();
    let page = std::rc::Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
    let reference = world.grant(&page, true);
    let read_only = world.grant(&page, false);
    let good = Segment { reference, first: 0, last: 7 };
    let indirect =
        Indirect { operation: 6, inner: 0, count: 1, id: 5, sector: 0, handle: 0, pages: [reference; 8] };
    let last = SECTORS as u64 - 8;
    for (request, status) in [
        (transfer(Operation::Read, 0, 1, good), 0),
        (transfer(Operation::Read, last, 1, good), 0),
        (transfer(Operation::Read, last + 1, 1, good), -1),
        (transfer(Operation::Read, u64::MAX, 1, good), -1),
        (transfer(Operation::Read, u64::MAX - 7, 1, good), -1),
        (transfer(Operation::Read, 0, 0, good), -1),
        (transfer(Operation::Read, 0, 12, good), -1),
        (transfer(Operation::Read, 0, 255, good), -1),
        (transfer(Operation::Read, 0, 1, Segment { first: 4, last: 3, ..good }), -1),
        (transfer(Operation::Read, 0, 1, Segment { last: 8, ..good }), -1),
        (transfer(Operation::Read, 0, 1, Segment { first: 255, last: 255, ..good }), -1),
        (transfer(Operation::Read, 0, 3, Segment { reference: GrantRef(u32::MAX), ..good }), -1),
        (transfer(Operation::Read, 0, 1, Segment { reference: read_only, ..good }), -1),
        (transfer(Operation::Write, 0, 1, Segment { reference: read_only, ..good }), 0),
        (transfer(Operation::WriteBarrier, 0, 1, good), -2),
        (Request::Discard { handle: 0, id: 5, sector: 0, sectors: 8, secure: false }, -2),
        (Request::Unknown { operation: 77, id: 5 }, -2),
        (Request::Indirect(Indirect { inner: 6, ..indirect }), -2),
        (Request::Indirect(Indirect { inner: 200, ..indirect }), -2),
        (Request::Indirect(Indirect { count: 0, ..indirect }), -1),
        (Request::Indirect(Indirect { count: 257, ..indirect }), -1),
        (Request::Indirect(Indirect { count: u16::MAX, ..indirect }), -1),
        (Request::Indirect(Indirect { pages: [GrantRef(999); 8], ..indirect }), -1),
    ] {
        front.raw(&request);
        front.kick();
        assert_eq!(run(&woken, &mut backend), None);
        let answer = front.ring.take().unwrap().unwrap();
        assert_eq!((answer.id, answer.operation), (5, request.operation()), "{request:?}");
        assert_eq!(answer.status, status, "{request:?}");
        let _ = front.ring.arm();
        assert_eq!(world.mapped.get(), 1, "only the ring is mapped");
    }
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    let woken = Woken::new();
    let mut backend = Backend::new(Host(world.clone()), disk(), Config { read_only: true, ..config() });
    assert!(backend.shape().read_only);
    backend.connect(&front.plan).unwrap();
    front.transfer(true, 0, &[[1; 4096]], 0, 7);
    front.transfer(false, 0, &[[1; 4096]], 0, 7);
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    let mut answers: Vec<_> =
        front.responses().iter().map(|(answer, _)| (answer.operation, answer.status)).collect();
    answers.sort_unstable();
    assert_eq!(answers, [(0, 0), (1, -1)]);
    backend.disconnect();
}

#[test]
fn pages_stay_mapped_while_a_device_has_them() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    let woken = Woken::new();
    let device = std::rc::Rc::new(Faulty::new(disk(), |_: &_| Fate::Hold));
    let mut backend = Backend::new(Host(world.clone()), device.clone(), config());
    backend.connect(&front.plan).unwrap();
    for sector in 0..4 {
        front.transfer(sector % 2 == 0, sector * 8, &[[9; 4096]; 2], 0, 7);
    }
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    assert_eq!((device.held(), world.mapped.get()), (4, 1 + 8));
    // The guest dies.
    backend.disconnect();
    assert_eq!((backend.in_flight(), world.mapped.get()), (4, 8));
    let idle = Woken::new();
    for left in (0..4).rev() {
        assert_eq!(idle.run(|context| backend.poll_idle(context)), None);
        assert!(device.release(left / 2));
        if left > 0 {
            assert_eq!(idle.run(|context| backend.poll_idle(context)), None);
        }
        assert_eq!(idle.run(|context| backend.poll_idle(context)), if left == 0 { Some(()) } else { None });
        assert_eq!(world.mapped.get(), 2 * left as u32);
    }
    // Nobody was answered, and a new connection starts clean.
    assert!(front.ring.take().unwrap().is_none());
    let again = Front::new(&world, Width::W32, 0, 4);
    backend.connect(&again.plan).unwrap();
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0);
}

#[test]
fn device_errors_are_reported_not_hidden() {
    let world = World::new();
    let mut front = Front::new(&world, Width::W64, 0, 3);
    let woken = Woken::new();
    let device = Faulty::new(disk(), |request: &trunnion_backends::device::BlockRequest<Mapped>| {
        match (request.operation, request.sector) {
            (BlockOperation::Flush, _) => Fate::Fail(BlockError::Unsupported),
            (_, 8) => Fate::Fail(BlockError::Device),
            _ => Fate::Pass,
        }
    });
    let mut backend = Backend::new(Host(world.clone()), device, config());
    backend.connect(&front.plan).unwrap();
    let good = front.transfer(false, 0, &[[0; 4096]], 0, 7);
    let bad = front.transfer(false, 8, &[[0; 4096]], 0, 7);
    let flush = front.flush();
    front.kick();
    assert_eq!(run(&woken, &mut backend), None);
    for (answer, _) in front.responses() {
        let expected = [(good, 0), (bad, -1), (flush, -2)].into_iter().find(|(id, _)| *id == answer.id);
        assert_eq!(Some((answer.id, answer.status)), expected);
    }
    assert_eq!(backend.statistics().snapshot().errors, 2);
    backend.disconnect();
}

#[test]
fn a_bad_ring_is_refused_and_leaves_nothing() {
    let world = World::new();
    let front = Front::new(&world, Width::W64, 1, 3);
    let mut backend = Backend::new(Host(world.clone()), disk(), config());
    let mut plan = front.plan.clone();
    plan.references[1] = GrantRef(4000);
    assert!(matches!(backend.connect(&plan), Err(Fault::RingPage(_))));
    plan = front.plan.clone();
    plan.port = trunnion_protocol::id::Port(99);
    assert!(matches!(backend.connect(&plan), Err(Fault::Port(_))));
    plan.references.clear();
    assert!(matches!(backend.connect(&plan), Err(Fault::NoSlots)));
    assert_eq!(world.mapped.get(), 0);
}

/// A small generator, so that a seed is enough to replay.
struct Rng(u64);
impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// First sector, sectors, and the data of a write.
type Open = (u64, u64, Option<Vec<[u8; 4096]>>);

/// One seeded life of a disk under a device that refuses, holds, reorders and fails; the content is compared with a model.
fn life(seed: u64, bug: Option<Bug>) {
    let rng = std::rc::Rc::new(std::cell::RefCell::new(Rng(seed | 1)));
    let pick = |below| rng.borrow_mut().next(below);
    let world = World::new();
    let width = if pick(2) == 0 { Width::W64 } else { Width::W32 };
    let mut front = Front::new(&world, width, pick(3) as u32, 3);
    let harsh = std::rc::Rc::new(std::cell::Cell::new(true));
    let device = {
        let (rng, harsh) = (rng.clone(), harsh.clone());
        std::rc::Rc::new(Faulty::new(disk(), move |_: &_| {
            if !harsh.get() {
                return Fate::Pass;
            }
            match rng.borrow_mut().next(10) {
                0 => Fate::Refuse,
                1 => Fate::Fail(BlockError::Device),
                2..=4 => Fate::Hold,
                _ => Fate::Pass,
            }
        }))
    };
    let limits = Limits { requests: 4 + pick(40) as usize, pages: 16 + pick(300) as usize };
    let mut backend = Backend::new(Host(world.clone()), device.clone(), Config { limits, ..config() });
    if let Some(bug) = bug {
        backend.plant(bug);
    }
    let woken = Woken::new();
    backend.connect(&front.plan).unwrap();
    let mut model = numbered();
    // What is in flight; no two overlap, so that the order of completion does not matter.
    let mut open = std::collections::BTreeMap::<u64, Open>::new();
    let (mut put, mut answered, mut events) = (0, 0, 0);
    for round in 0..60 {
        for _ in 0..pick(8) {
            let pages = if pick(4) == 0 { 12 + pick(20) } else { 1 + pick(11) };
            let (sector, write) = (pick(SECTORS as u64 - pages * 8), pick(2) == 0);
            let overlaps =
                |&(other, sectors, _): &Open| sector < other + sectors && other < sector + pages * 8;
            if front.ring.free() == 0 || open.values().any(overlaps) {
                continue;
            }
            put += 1;
            if pick(10) == 0 {
                open.insert(front.half_granted(sector), (sector, 0, None));
                continue;
            }
            let contents: Vec<[u8; 4096]> = (0..pages).map(|_| [pick(256) as u8; 4096]).collect();
            let id = front.transfer(write, sector, &contents, 0, 7);
            open.insert(id, (sector, pages * 8, write.then_some(contents)));
        }
        front.kick();
        if pick(5) == 0 {
            front.channel.kick(); // An event that nobody needed.
        }
        if pick(2) == 0 {
            assert_eq!(run(&woken, &mut backend), None, "seed {seed} round {round}");
        }
        if device.held() > 0 {
            device.release(pick(device.held() as u64) as usize);
        }
        let last = round == 59;
        if last {
            harsh.set(false);
            while device.held() > 0 {
                device.release(0);
                assert_eq!(run(&woken, &mut backend), None, "seed {seed}");
            }
            assert_eq!(run(&woken, &mut backend), None, "seed {seed}");
        }
        // The front end sleeps until it is notified.
        if front.channel.notified.get() == events {
            continue;
        }
        events = front.channel.notified.get();
        for (answer, buffer) in front.responses() {
            answered += 1;
            let (sector, sectors, data) = open.remove(&answer.id).expect("answered once");
            let place = sector as usize * 512..(sector + sectors) as usize * 512;
            match (answer.status, data) {
                (0, Some(data)) => model[place].copy_from_slice(data.as_flattened()),
                (0, None) => {
                    let got: Vec<u8> =
                        (0..buffer.pages.len()).flat_map(|page| content(&buffer, page)).collect();
                    assert!(got == model[place], "seed {seed}: a read differs from the model");
                }
                (-1, _) => {}
                (status, _) => panic!("seed {seed}: status {status}"),
            }
        }
    }
    assert_eq!((put, open.len()), (answered, 0), "seed {seed}: every request is answered once");
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0, "seed {seed}");
    device
        .inner()
        .with_bytes(|bytes| assert!(bytes == model, "seed {seed}: the disk differs from the model"));
}

#[test]
fn many_seeded_lives() {
    for seed in 0..400 {
        life(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1), None);
    }
}

#[test]
fn planted_mistakes_are_found() {
    let missed: Vec<_> = Bug::ALL
        .into_iter()
        .filter(|&bug| {
            !(0..100u64).any(|seed| {
                let seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
                std::panic::catch_unwind(|| life(seed, Some(bug))).is_err()
            })
        })
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// How far hostile requests get, so that a generator that only meets the first check is noticed.
#[derive(Default)]
struct Reached {
    broken: u32,
    statuses: [u32; 3],
    moved: u64,
}

/// Whatever bytes and indices a guest writes: no panic, no page left mapped, every request answered once.
fn hostile(seed: u64, reached: &mut Reached) {
    let mut rng = Rng(seed | 1);
    let world = World::new();
    let width = if rng.next(2) == 0 { Width::W64 } else { Width::W32 };
    let front = Front::new(&world, width, 0, 3);
    let page = &front.memory[0];
    for word in 16..1024 {
        page.store(word * 4, &(rng.next(1 << 32) as u32)).unwrap();
    }
    for _ in 0..4 {
        let page = std::rc::Rc::new(trunnion_protocol::shared::SharedPage::zeroed());
        for segment in 0..512 {
            page.store(segment * 8, &(rng.next(14) as u32)).unwrap();
            page.store(segment * 8 + 4, &(rng.next(9) as u8)).unwrap();
            page.store(segment * 8 + 5, &(rng.next(9) as u8)).unwrap();
        }
        world.grant(&page, rng.next(3) > 0);
    }
    // Mostly plausible fields, with grants that exist, so that each check is met and some requests pass.
    let (stride, sector, first) = if width == Width::W32 { (108, 12, 20) } else { (112, 16, 24) };
    for slot in 0..32 {
        let at = 64 + slot * stride;
        let operation = rng.next(8) as u8;
        page.store(at, &operation).unwrap();
        page.store(at + 1, &(rng.next(if operation == 6 { 3 } else { 13 }) as u8)).unwrap();
        page.store(at + 2, &(rng.next(40) as u16)).unwrap();
        if rng.next(8) > 0 {
            page.store(at + sector, &rng.next(SECTORS as u64)).unwrap();
        }
        let grants = if operation == 6 { first + 4 } else { first };
        for segment in 0..10 {
            page.store(at + grants + segment * 8, &(rng.next(6) as u32 + 8)).unwrap();
            if operation != 6 && rng.next(16) > 0 {
                let low = rng.next(8) as u16;
                let high = low + rng.next(u64::from(8 - low)) as u16;
                page.store(at + grants + segment * 8 + 4, &(low | high << 8)).unwrap();
            }
        }
    }
    let mut backend = Backend::new(Host(world.clone()), disk(), config());
    let woken = Woken::new();
    backend.connect(&front.plan).unwrap();
    let mut index = 0u32;
    for _ in 0..rng.next(12) {
        index = if rng.next(10) == 0 {
            rng.next(1 << 32) as u32
        } else {
            index.wrapping_add(rng.next(34) as u32)
        };
        page.store(0, &index).unwrap();
        front.channel.kick();
        if run(&woken, &mut backend).is_some() {
            assert!(!backend.is_connected());
            reached.broken += 1;
            break;
        }
        assert_eq!(page.load::<u32>(8).unwrap(), index, "seed {seed}: every request is answered");
        assert_eq!(world.mapped.get(), 1, "seed {seed}");
    }
    for slot in 0..(index as usize).min(32) {
        let status = page.load::<i16>(64 + slot * stride + 10).unwrap();
        if let Some(count) = reached.statuses.get_mut(status.unsigned_abs() as usize) {
            *count += 1;
        }
    }
    let counted = backend.statistics().snapshot();
    reached.moved += counted.reads + counted.writes;
    backend.disconnect();
    assert_eq!(world.mapped.get(), 0, "seed {seed}");
}

#[test]
fn hostile_front_ends_harm_nobody() {
    let mut reached = Reached::default();
    for seed in 0..3000 {
        hostile(0xd134_2543_de82_ef95_u64.wrapping_mul(seed + 1), &mut reached);
    }
    println!(
        "3000 rings: {} broken, {} requests moved data, answers by status {:?}",
        reached.broken, reached.moved, reached.statuses
    );
    assert!(
        reached.broken > 300 && reached.moved > 1000 && reached.statuses.iter().all(|&count| count > 1000)
    );
}

#[test]
fn guests_that_share_a_disk_get_their_own_answers() {
    let world = World::new();
    let share = Share::new(disk());
    let mut guests: Vec<_> = (0..3)
        .map(|port| {
            let front = Front::new(&world, Width::W64, 0, port + 1);
            let mut backend = Backend::new(Host(world.clone()), share.another(), config());
            backend.connect(&front.plan).unwrap();
            (front, backend, Woken::new())
        })
        .collect();
    for round in 0..50 {
        for (index, (front, ..)) in guests.iter_mut().enumerate() {
            for step in 0..round % 5 {
                front.transfer(false, (index * 1000 + step * 8) as u64, &[[0; 4096]], 0, 7);
            }
            front.kick();
        }
        // More than once around: a guest may sort what belongs to one that sleeps.
        for _ in 0..3 {
            for (_, backend, woken) in &mut guests {
                assert_eq!(run(woken, backend), None);
            }
        }
        for (index, (front, ..)) in guests.iter_mut().enumerate() {
            let answers = front.responses();
            assert_eq!(answers.len(), round % 5);
            for (step, (_, buffer)) in answers.iter().enumerate() {
                assert_eq!(content(buffer, 0)[0], (index * 1000 + step * 8) as u8);
            }
        }
    }
    guests.clear();
    assert_eq!((share.shares(), world.mapped.get()), (1, 0));
}
