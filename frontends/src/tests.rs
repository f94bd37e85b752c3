//! The front ends against the other halves.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use trunnion_protocol::blkif::{Operation, Response, Status};
use trunnion_protocol::console::{IN_PROD, OUT_CONS};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::DomainId;
use trunnion_protocol::store::Header;
use trunnion_protocol::xenbus::State;

use crate::block::{BlockError, Disk, SLOTS};
use crate::blocking::block_on;
use crate::console::Console;
use crate::error::Error;
use crate::fake::{Fake, FakeDisk, FakeStore, FakeTerminal};
use crate::grant::{Access, GrantTable};
use crate::page::Buffer;
use crate::planted::{Bug, found_by};
use crate::store::{Store, Transaction};
use crate::xenbus::{Device, devices};

const NONE: Transaction = Transaction::NONE;

/// An executor that polls a task only when it was woken: a lost wake-up hangs it.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn run_all(fake: &Fake, tasks: Vec<Task<'_>>) {
    let mut tasks: Vec<_> =
        tasks.into_iter().map(|task| (Some(task), Arc::new(Woken(AtomicBool::new(true))))).collect();
    for _ in 0..100_000 {
        let mut ran = false;
        for (task, woken) in &mut tasks {
            let Some(future) = task else { continue };
            if woken.0.swap(false, Ordering::SeqCst) {
                ran = true;
                let waker = Waker::from(woken.clone());
                if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *task = None;
                }
            }
        }
        if tasks.iter().all(|(task, _)| task.is_none()) {
            return;
        }
        fake.run();
        let woken = tasks.iter().any(|(task, woken)| task.is_some() && woken.0.load(Ordering::SeqCst));
        assert!(
            ran || woken,
            "a wake-up was lost: {} tasks wait",
            tasks.iter().filter(|task| task.0.is_some()).count()
        );
    }
    panic!("the tasks do not end");
}

#[test]
fn every_planted_mistake_is_found() {
    let tests: [(&str, fn()); 10] = [
        ("a_task_that_is_dropped", a_task_that_is_dropped_hands_the_port_over),
        ("store_values_and_lists", store_values_and_lists),
        ("many_tasks_share_the_store", many_tasks_share_the_store),
        ("grants_keep_pages_until_they_are_free", grants_keep_pages_until_they_are_free),
        ("a_disk_from_handshake_to_end", a_disk_from_handshake_to_end),
        ("many_requests_in_flight_in_any_order", many_requests_in_flight_in_any_order),
        ("errors_of_the_device_are_told", errors_of_the_device_are_told),
        ("a_dropped_request", a_dropped_request_keeps_its_pages_until_the_answer),
        ("a_page_that_stays_mapped", a_page_that_stays_mapped_does_not_come_back),
        ("lies_of_the_back_end", lies_of_the_back_end_end_the_disk),
    ];
    for bug in Bug::ALL {
        let found: Vec<_> =
            tests.iter().filter(|(_, test)| found_by(bug, *test)).map(|(name, _)| name).collect();
        println!("{bug:?} is found by {found:?}");
        assert!(!found.is_empty(), "nothing finds {bug:?}");
    }
}

#[test]
fn store_values_and_lists() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    let store = Store::new(&fake).unwrap();
    for piece in [1, 7, 1024] {
        peer.borrow_mut().piece = piece;
        block_on(&fake, async {
            let value = vec![b'x'; 3000];
            store.write(NONE, "data/long", &value).await.unwrap();
            store.write(NONE, "data/number", b"42\0").await.unwrap();
            let mut into = [0; 4096];
            assert_eq!(store.read(NONE, "data/long", &mut into).await.unwrap(), value);
            assert_eq!(store.read(NONE, "data/long", &mut into[..10]).await, Err(Error::TooLong));
            assert_eq!(store.read_number(NONE, "data/number").await, Ok(Some(42)));
            assert_eq!(store.read_number(NONE, "data/none").await, Ok(None));
            assert_eq!(store.read_number(NONE, "data/long").await, Err(Error::TooLong));
            assert_eq!(
                store.list(NONE, "data", &mut into).await.unwrap().collect::<Vec<_>>(),
                ["long", "number"]
            );
            store.remove(NONE, "data/long").await.unwrap();
            assert_eq!(store.read(NONE, "data/long", &mut into).await, Err(Error::Store(Errno::NoEnt)));
        });
    }
}

#[test]
fn transactions_are_tried_again() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    let store = Store::new(&fake).unwrap();
    peer.borrow_mut().conflicts = 3;
    let attempts = AtomicU32::new(0);
    block_on(
        &fake,
        store.transact(async |transaction| {
            attempts.fetch_add(1, Ordering::SeqCst);
            store.write(transaction, "a", b"1").await
        }),
    )
    .unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    let failed = block_on(&fake, store.transact(async |_| Err::<(), _>(Error::Closed)));
    assert_eq!(failed, Err(Error::Closed));
}

#[test]
fn many_tasks_share_the_store() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    peer.borrow_mut().piece = 5;
    let store = &Store::new(&fake).unwrap();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for task in 0..20u32 {
        tasks.push(Box::pin(async move {
            for round in 0..10u32 {
                let (path, value) = (format!("task/{task}"), format!("{round}"));
                store.write(NONE, &path, value.as_bytes()).await.unwrap();
                assert_eq!(store.read_number(NONE, &path).await, Ok(Some(u64::from(round))));
            }
        }));
    }
    tasks.push(Box::pin(async move {
        let mut watch = store.watch("task/19").await.unwrap();
        while store.read_number(NONE, "task/19").await.unwrap() != Some(9) {
            watch.changed().await.unwrap();
        }
        watch.end().await.unwrap();
    }));
    run_all(&fake, tasks);
    assert_eq!(peer.borrow().watch_count(), 0);
}

#[test]
fn a_dropped_request_does_not_disturb_the_next() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    peer.borrow_mut().set("a", "right");
    peer.borrow_mut().set("b", "wrong");
    let store = Store::new(&fake).unwrap();
    for steps in 0..3 {
        let mut into = [0; 16];
        {
            let mut request = pin!(store.read(NONE, "b", &mut into));
            let mut context = Context::from_waker(Waker::noop());
            // It may be answered at once: then there is nothing to drop.
            let _ = request.as_mut().poll(&mut context);
            for _ in 0..steps {
                fake.run();
            }
        }
        assert_eq!(block_on(&fake, store.read(NONE, "a", &mut into)).unwrap(), b"right");
    }
}

#[test]
fn a_task_that_is_dropped_hands_the_port_over() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    let store = Store::new(&fake).unwrap();
    let mut watch = block_on(&fake, store.watch("x")).unwrap();
    block_on(&fake, watch.changed()).unwrap();
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let mut waiting = Box::pin(watch.changed());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // The store is silent while another task waits, which then goes away: the port had its waker.
    peer.borrow_mut().piece = 0;
    let mut into = [0; 16];
    let mut other = Box::pin(store.read(NONE, "y", &mut into));
    assert!(other.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(other);
    assert!(woken.0.swap(false, Ordering::SeqCst), "nobody took the port over");
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    peer.borrow_mut().piece = 1024;
    peer.borrow_mut().set("x", "1");
    fake.run();
    assert!(woken.0.load(Ordering::SeqCst));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn dropped_watches_are_ended_later() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    let store = Store::new(&fake).unwrap();
    for round in 0..100 {
        let watch = block_on(&fake, store.watch(&format!("path/{round}"))).unwrap();
        drop(watch);
        assert!(peer.borrow().watch_count() <= 2);
    }
    let watches: Vec<_> = (0..32).map_while(|_| block_on(&fake, store.watch("x")).ok()).collect();
    assert_eq!(watches.len(), 32);
    assert_eq!(block_on(&fake, store.watch("x")).err(), Some(Error::OutOfMemory));
}

#[test]
fn nonsense_from_the_store_is_an_error() {
    let fake = Fake::new();
    let peer = fake.add(FakeStore::new(&fake));
    let store = Store::new(&fake).unwrap();
    // Answers to nothing are passed over, and so are events of unknown watches.
    let stray = Header { kind: 2, req_id: 99, tx_id: 0, len: 3 };
    peer.borrow_mut().send_raw(&[&stray.to_bytes()[..], b"abc"].concat());
    let event = Header { kind: 15, req_id: 0, tx_id: 0, len: 4 };
    peer.borrow_mut().send_raw(&[&event.to_bytes()[..], b"a\0b\0"].concat());
    block_on(&fake, store.write(NONE, "a", b"1")).unwrap();
    let long = Header { kind: 2, req_id: 1, tx_id: 0, len: 4097 };
    peer.borrow_mut().send_raw(&long.to_bytes());
    fake.run();
    assert_eq!(block_on(&fake, store.write(NONE, "a", b"1")), Err(Error::Broken));
}

#[test]
fn console_in_both_directions() {
    let fake = Fake::new();
    let terminal = fake.add(FakeTerminal::new(&fake));
    let console = &Console::primary(&fake).unwrap();
    let text: Vec<u8> = (0..10_000u32).map(|index| b'a' + (index % 26) as u8).collect();
    terminal.borrow_mut().typed.clone_from(&text);
    let (reader, writer): (Task<'_>, Task<'_>) = (
        Box::pin(async {
            let mut read = Vec::new();
            while read.len() < text.len() {
                let mut into = [0; 77];
                let count = console.read(&mut into).await;
                read.extend_from_slice(&into[..count]);
            }
            assert_eq!(read, text);
        }),
        Box::pin(async {
            console.write(&text).await;
            console.flush().await;
        }),
    );
    run_all(&fake, vec![writer, reader]);
    assert_eq!(terminal.borrow().shown, text);
}

#[test]
fn console_indices_that_are_nonsense() {
    let fake = Fake::new();
    let terminal = fake.add(FakeTerminal::new(&fake));
    terminal.borrow_mut().piece = 0;
    let console = Console::primary(&fake).unwrap();
    terminal.borrow().word(IN_PROD).store(5000, Ordering::SeqCst);
    assert_eq!(console.try_read(&mut [0; 16]), 0);
    terminal.borrow().word(OUT_CONS).store(5000, Ordering::SeqCst);
    assert_eq!(console.try_write(b"text"), 0);
}

#[cfg(feature = "embedded-io")]
#[test]
fn console_as_embedded_streams() {
    use embedded_io::{ReadReady as _, Write as _};
    let fake = Fake::new();
    let terminal = fake.add(FakeTerminal::new(&fake));
    let mut console = Console::primary(&fake).unwrap();
    assert!(!console.read_ready().unwrap());
    terminal.borrow_mut().typed = b"typed".to_vec();
    let mut into = [0; 16];
    assert_eq!(embedded_io::Read::read(&mut console, &mut into), Ok(5));
    write!(console, "this and {}", 3 + 4).unwrap();
    embedded_io::Write::flush(&mut console).unwrap();
    assert_eq!(terminal.borrow().shown, b"this and 7");
}

#[test]
fn grants_keep_pages_until_they_are_free() {
    let fake = Fake::new();
    let table = GrantTable::new(&fake, 2).unwrap();
    let free = table.free();
    let held = fake.frames_held();
    let page = Buffer::new(&fake, 4096).unwrap();
    let grant = table.offer(page, DomainId(0), Access::ReadWrite).unwrap();
    fake.pin(DomainId(0), grant.reference(), Access::ReadWrite).unwrap();
    assert!(fake.pin(DomainId(1), grant.reference(), Access::ReadOnly).is_err());
    let reference = grant.reference();
    let grant = grant.revoke().unwrap_err().0;
    fake.unpin(reference);
    drop(grant.revoke().unwrap());
    assert_eq!((table.free(), fake.frames_held()), (free, held));
    // Dropped while mapped, the page stays until the peer lets go.
    let grant = table.offer(Buffer::new(&fake, 4096).unwrap(), DomainId(0), Access::ReadOnly).unwrap();
    let reference = grant.reference();
    assert!(fake.pin(DomainId(0), reference, Access::ReadWrite).is_err());
    fake.pin(DomainId(0), reference, Access::ReadOnly).unwrap();
    drop(grant);
    assert_eq!((table.free(), fake.frames_held()), (free - 1, held + 1));
    fake.unpin(reference);
    assert_eq!((table.free(), fake.frames_held()), (free, held));
}

#[test]
fn grants_run_out() {
    let fake = Fake::new();
    let table = GrantTable::new(&fake, 1).unwrap();
    let mut grants = Vec::new();
    let error = loop {
        match table.offer(Buffer::new(&fake, 1).unwrap(), DomainId(0), Access::ReadOnly) {
            Ok(grant) => grants.push(grant),
            Err((error, _)) => break error,
        }
    };
    assert_eq!((error, grants.len()), (Error::OutOfMemory, 512 - 8));
    assert!(grants.iter().all(|grant| grant.reference().0 >= 8));
    grants.pop();
    assert!(table.offer(Buffer::new(&fake, 1).unwrap(), DomainId(0), Access::ReadOnly).is_ok());
}

/// Everything that a disk needs.
macro_rules! world {
    ($fake:ident, $peer:ident, $disk_peer:ident, $store:ident, $grants:ident, $indirect:expr) => {
        let $fake = Fake::new();
        let $peer = $fake.add(FakeStore::new(&$fake));
        let $disk_peer = $fake.add(FakeDisk::new($peer.clone(), $indirect));
        let $store = Store::new(&$fake).unwrap();
        let $grants = GrantTable::new(&$fake, 2).unwrap();
    };
}

fn filled(fake: &Fake, length: usize, with: u8) -> Buffer<Fake> {
    let buffer = Buffer::new(fake, length).unwrap();
    buffer.write(0, &vec![with; length]).unwrap();
    buffer
}

#[test]
fn a_disk_from_handshake_to_end() {
    for indirect in [0, 32] {
        world!(fake, peer, disk_peer, store, grants, indirect);
        let (free, held, ports) = (grants.free(), fake.frames_held(), fake.ports_open());
        block_on(&fake, async {
            let mut names = [0; 64];
            assert_eq!(devices(&store, "vbd", &mut names).await.unwrap().collect::<Vec<_>>(), ["51712"]);
            let device = Device::open(&store, "vbd", "51712").await.unwrap();
            let disk = Disk::connect(&grants, device).await.unwrap();
            assert_eq!(peer.borrow().get("device/vbd/51712/protocol"), Some("x86_64-abi"));
            assert_eq!((disk.shape().sectors, disk.shape().flush), (2048, true));
            assert_eq!(disk.most_bytes(), if indirect == 0 { 11 * 4096 } else { 32 * 4096 });
            for length in [512, 4096, 4096 + 512, disk.most_bytes()] {
                let (buffer, result) = disk.write(100, filled(&fake, length, length as u8 | 1)).await;
                assert_eq!(result, Ok(()));
                assert_eq!(buffer.len(), length);
                let (buffer, result) = disk.read(100, filled(&fake, length, 0)).await;
                assert_eq!(result, Ok(()));
                let mut bytes = vec![0; length];
                buffer.read(0, &mut bytes).unwrap();
                assert!(bytes.iter().all(|&byte| byte == length as u8 | 1));
            }
            disk.flush().await.unwrap();
            assert_eq!(disk_peer.borrow().seen.last(), Some(&Operation::Flush.number()));
            let device = disk.close().await.unwrap();
            assert_eq!(device.back_state().await, Ok(State::Closed));
        });
        assert_eq!(disk_peer.borrow().state(), State::Closed);
        assert_eq!((grants.free(), fake.frames_held(), fake.ports_open()), (free, held, ports));
        // Another kernel takes it over.
        block_on(&fake, async {
            let device = Device::open(&store, "vbd", "51712").await.unwrap();
            let disk = Disk::connect(&grants, device).await.unwrap();
            disk.read(0, filled(&fake, 512, 0)).await.1.unwrap();
            drop(disk);
            let device = Device::open(&store, "vbd", "51712").await.unwrap();
            let disk = Disk::connect(&grants, device).await.unwrap();
            disk.read(0, filled(&fake, 512, 0)).await.1.unwrap();
            disk.close().await.unwrap();
        });
        assert_eq!((grants.free(), fake.frames_held(), fake.ports_open()), (free, held, ports));
    }
}

#[test]
fn requests_that_are_refused_at_once() {
    world!(fake, _peer, _disk_peer, store, grants, 0);
    block_on(&fake, async {
        let device = Device::open(&store, "vbd", "51712").await.unwrap();
        let disk = Disk::connect(&grants, device).await.unwrap();
        for (sector, length, error) in [
            (0, 100, BlockError::Misaligned),
            (0, 0, BlockError::Misaligned),
            (2048, 512, BlockError::OutOfRange),
            (u64::MAX, 512, BlockError::OutOfRange),
            (2047, 1024, BlockError::OutOfRange),
            (0, 12 * 4096, BlockError::TooLarge),
        ] {
            assert_eq!(disk.read(sector, Buffer::new(&fake, length).unwrap()).await.1, Err(error));
        }
    });
}

#[test]
fn many_requests_in_flight_in_any_order() {
    for reversed in [false, true] {
        world!(fake, _peer, disk_peer, store, grants, 32);
        disk_peer.borrow_mut().reversed = reversed;
        let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
        let disk = &block_on(&fake, Disk::connect(&grants, device)).unwrap();
        let fake = &fake;
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for task in 0..50u8 {
            tasks.push(Box::pin(async move {
                for round in 0..5u64 {
                    let sector = u64::from(task) * 32 + round;
                    disk.write(sector, filled(fake, 512, task)).await.1.unwrap();
                    let (buffer, result) = disk.read(sector, filled(fake, 512, 255)).await;
                    result.unwrap();
                    let mut bytes = [0; 512];
                    buffer.read(0, &mut bytes).unwrap();
                    assert_eq!(bytes, [task; 512]);
                }
            }));
        }
        run_all(fake, tasks);
    }
}

/// A back end's domain has ended, and the toolstack has removed the device before this half says that it is closed as well.
#[test]
fn a_device_that_is_removed_is_closed() {
    world!(fake, peer, _disk_peer, store, _grants, 0);
    let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
    let back = peer.borrow().get("device/vbd/51712/backend").unwrap().to_owned();
    for path in ["device/vbd/51712", &back] {
        peer.borrow_mut().remove(path);
    }
    assert_eq!(block_on(&fake, device.wait_back(|back| back != State::InitWait)), Ok(State::Unknown));
    for state in [State::Closing, State::Closed] {
        assert_eq!(block_on(&fake, device.set_state(state)), Ok(()));
    }
    assert_eq!(block_on(&fake, device.set_state(State::Connected)), Err(Error::Store(Errno::Acces)));
}

#[test]
fn errors_of_the_device_are_told() {
    world!(fake, _peer, disk_peer, store, grants, 0);
    block_on(&fake, async {
        let device = Device::open(&store, "vbd", "51712").await.unwrap();
        let disk = Disk::connect(&grants, device).await.unwrap();
        disk_peer.borrow_mut().status = Status::Error;
        assert_eq!(disk.write(0, filled(&fake, 512, 1)).await.1, Err(BlockError::Failed));
        assert_eq!(disk.flush().await, Err(BlockError::Failed));
        disk_peer.borrow_mut().status = Status::Unsupported;
        assert_eq!(disk.flush().await, Err(BlockError::Unsupported));
    });
}

#[test]
fn a_dropped_request_keeps_its_pages_until_the_answer() {
    world!(fake, _peer, disk_peer, store, grants, 0);
    let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
    let disk = block_on(&fake, Disk::connect(&grants, device)).unwrap();
    let (free, held) = (grants.free(), fake.frames_held());
    disk_peer.borrow_mut().holding = true;
    {
        let mut request = pin!(disk.read(0, Buffer::new(&fake, 4096).unwrap()));
        assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        fake.run();
    }
    assert_eq!((grants.free(), fake.frames_held()), (free - 1, held + 1));
    disk_peer.borrow_mut().holding = false;
    block_on(&fake, disk.flush()).unwrap();
    assert_eq!((grants.free(), fake.frames_held()), (free, held));
}

#[test]
fn a_page_that_stays_mapped_does_not_come_back() {
    world!(fake, _peer, disk_peer, store, grants, 0);
    let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
    let disk = block_on(&fake, Disk::connect(&grants, device)).unwrap();
    disk_peer.borrow_mut().keep_mapped = true;
    let mut request = Box::pin(disk.read(0, Buffer::new(&fake, 4096).unwrap()));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        assert!(request.as_mut().poll(&mut context).is_pending());
        fake.run();
    }
    disk_peer.borrow_mut().let_go(&fake);
    assert!(matches!(request.as_mut().poll(&mut context), Poll::Ready((_, Ok(())))));
}

#[test]
fn lies_of_the_back_end_end_the_disk() {
    for lie in [
        Response { id: 12345, operation: 0, status: 0 },
        Response { id: 1 << 32, operation: 1, status: 0 },
        Response { id: u64::MAX, operation: 0, status: 0 },
        // The right place, of an earlier request.
        Response { id: 77 << 32, operation: 0, status: 0 },
    ] {
        world!(fake, _peer, disk_peer, store, grants, 0);
        let (free, held) = (grants.free(), fake.frames_held());
        let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
        let disk = block_on(&fake, Disk::connect(&grants, device)).unwrap();
        disk_peer.borrow_mut().lies.push(lie);
        assert_eq!(block_on(&fake, disk.read(0, filled(&fake, 512, 0))).1, Err(BlockError::Closed));
        assert_eq!(block_on(&fake, disk.flush()), Err(BlockError::Closed));
        assert!(disk.fault().is_some());
        block_on(&fake, disk.close()).unwrap();
        assert_eq!((grants.free(), fake.frames_held()), (free, held));
    }
}

#[test]
fn a_back_end_that_closes_in_the_middle() {
    world!(fake, _peer, disk_peer, store, grants, 0);
    let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
    let disk = &block_on(&fake, Disk::connect(&grants, device)).unwrap();
    disk_peer.borrow_mut().holding = true;
    let fake_ref = &fake;
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for _ in 0..SLOTS + 8 {
        tasks.push(Box::pin(async move {
            assert_eq!(disk.read(0, filled(fake_ref, 512, 0)).await.1, Err(BlockError::Closed));
        }));
    }
    tasks.push(Box::pin(async move { disk.unplugged().await.unwrap() }));
    fake.run();
    disk_peer.borrow_mut().set_state(State::Closing);
    run_all(&fake, tasks);
}

#[test]
fn memory_that_runs_out_leaves_nothing_behind() {
    for left in 0..40 {
        world!(fake, _peer, _disk_peer, store, grants, 32);
        let (free, held, ports) = (grants.free(), fake.frames_held(), fake.ports_open());
        fake.frames_left.set(Some(left));
        let device = block_on(&fake, Device::open(&store, "vbd", "51712")).unwrap();
        let disk = block_on(&fake, Disk::connect(&grants, device));
        assert_eq!(disk.is_err(), left < 33, "{left}");
        if let Ok(disk) = disk {
            block_on(&fake, disk.close()).unwrap();
        }
        assert_eq!((grants.free(), fake.frames_held(), fake.ports_open()), (free, held, ports));
    }
}
