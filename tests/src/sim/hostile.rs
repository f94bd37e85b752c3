//! A guest that does anything at all: any hypercall with any arguments, nonsense in every page it shares. It may only
//! harm itself.

use std::rc::Rc;

use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_guest::executor::yield_now;
use trunnion_protocol::address::{Gfn, PAGE_SIZE};
use trunnion_protocol::blkif::request::{Request, Segment, Transfer};
use trunnion_protocol::blkif::{Block, Operation, SEGMENTS};
use trunnion_protocol::grant::{Access, permit, place};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::misc::MulticallEntry;
use trunnion_protocol::hypercall::sched::ShutdownReason;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout as _, Width};
use trunnion_protocol::ring::FrontRing;

use super::kernel::Kernel;
use super::noise;

/// Hypercalls by number, the interesting ones more often.
const CALLS: [u32; 16] = [12, 13, 15, 17, 18, 20, 20, 20, 21, 24, 29, 32, 32, 34, 48, 40];
/// The call that carries others.
const MULTICALL: u32 = Hypercall::Multicall.number();
/// The reference of the ring's page.
const RING: u32 = 100;
/// A page of the guest's own memory, below what its kernel gives out.
pub(super) const OWN: u64 = 0x180;

/// The guest's main task.
pub async fn run(kernel: Rc<Kernel>, device: u32, port: bool, turns: u64) {
    // The table stays as it is to the end: nothing of it is given back.
    let table = GrantTable::new(&*kernel, 1).ok();
    let ring = handshake(&kernel, device).await;
    if let Some((port, ring)) = ring {
        sloppy(&kernel, port, ring).await;
    }
    if port {
        noise::run(&kernel).await;
    }
    for _ in 0..turns {
        if kernel.is_dead() {
            return;
        }
        act(&kernel);
        if kernel.shared.permille(300) {
            yield_now().await;
        }
    }
    drop(table);
    let _ = trunnion_frontends::hypercall::shut_down(&*kernel, ShutdownReason::PowerOff);
}

/// The guest's ring, in a page that stays its own.
type Ring = FrontRing<Block, Buffer<Kernel>>;

/// Gets as far as a connected ring, if it can.
async fn handshake(kernel: &Kernel, device: u32) -> Option<(Port, Ring)> {
    let store = Store::new(kernel).ok()?;
    let port = trunnion_frontends::hypercall::open_port(kernel, DomainId::DOM0).ok()?;
    let buffer = Buffer::new(kernel, PAGE_SIZE).ok()?;
    // A reference that the table does not know of.
    grant(kernel, RING, buffer.gfn(0)?.0);
    let ring = FrontRing::new(buffer, Width::W64)?;
    let front = format!("device/vbd/{device}");
    for (key, value) in [
        ("ring-ref", format!("{RING}")),
        ("event-channel", format!("{port}")),
        ("protocol", "x86_64-abi".to_owned()),
        ("state", "3".to_owned()),
    ] {
        store.write(Transaction::NONE, &format!("{front}/{key}"), value.as_bytes()).await.ok()?;
    }
    kernel.sleep(500_000).await;
    Some((port, ring))
}

/// Requests that follow the form of the ring, with references that mean something, nothing, or the same page twice.
async fn sloppy(kernel: &Kernel, port: Port, mut ring: Ring) {
    for id in 0..24 {
        let mut segments = [Segment::default(); SEGMENTS];
        let count = 1 + kernel.shared.below(SEGMENTS as u64) as u8;
        for segment in segments.iter_mut().take(count.into()) {
            let reference = RING + 1 + kernel.shared.below(16) as u32;
            if kernel.shared.permille(800) {
                grant(kernel, reference, OWN + u64::from(reference % 8));
            }
            *segment = Segment {
                reference: GrantRef(reference + if kernel.shared.permille(200) { 5000 } else { 0 }),
                first: 0,
                last: kernel.shared.below(9) as u8,
            };
        }
        let operation = if kernel.shared.permille(500) { Operation::Read } else { Operation::Write };
        let sector = kernel.shared.below(80);
        let request = Request::Transfer(Transfer { operation, handle: 0, id, sector, count, segments });
        if ring.put(&request).is_err() {
            break;
        }
        let _ = ring.publish();
        kernel.send(port);
        kernel.sleep(1_000 + kernel.shared.below(50_000)).await;
        while let Ok(Some(_)) = ring.take() {}
    }
    kernel.sleep(1_000_000).await;
    // The ring's page goes back to the guest, grant or not.
}

/// Writes a grant entry by hand, where the kernel's table is.
pub(super) fn grant(kernel: &Kernel, reference: u32, frame: u64) {
    let (_, offset) = place(GrantRef(reference));
    let table = kernel.domain.grants.table.lock().frame(0).map(|(mfn, _)| mfn);
    let Some(page) = table.and_then(|mfn| kernel.host_memory().get(mfn.0 as usize)) else { return };
    let _ = page.store(offset + 4, &(frame as u32));
    let _ = page.store(offset, &permit(DomainId::DOM0, Access::ReadWrite));
}

fn value(kernel: &Kernel) -> u64 {
    let shared = &kernel.shared;
    match shared.below(8) {
        0 => shared.bits(),
        1 => 0,
        2 => shared.below(64),
        3 => u64::MAX,
        4 => shared.bits() & 0xffff_ffff,
        _ => OWN * PAGE_SIZE as u64 + shared.below(3 * PAGE_SIZE as u64),
    }
}

/// One bad deed.
fn act(kernel: &Kernel) {
    let shared = &kernel.shared;
    match shared.below(6) {
        0 => scribble(kernel, OWN + shared.below(3)),
        1 => {
            // Ring indices.
            if let Some(page) = kernel.page(Gfn(OWN)) {
                let _ = page.store(shared.below(4) as usize * 4, &(shared.bits() as u32));
            }
        }
        2 => grant(kernel, 8 + shared.below(500) as u32, OWN + shared.below(64)),
        3 => {
            // The store's ring: its page is known.
            scribble_some(kernel, 0xfeffc);
            let number = shared.below(8) as u32 + 1;
            kernel.send(Port(number));
        }
        _ => call(kernel),
    }
}

fn call(kernel: &Kernel) {
    let shared = &kernel.shared;
    let number = CALLS[shared.below(CALLS.len() as u64) as usize];
    let mut arguments = [0; 5].map(|_: u64| value(kernel));
    arguments[0] = shared.below(40);
    if shared.permille(500) {
        // Structures that are nearly right: small numbers.
        if let Some(page) = kernel.page(Gfn(OWN)) {
            for word in 0..16 {
                let _ = page.store(word * 4, &(shared.below(16) as u32));
            }
        }
        arguments[1] = OWN << 12;
        if number == 20 {
            arguments[2] = shared.below(4);
        }
    }
    if number == MULTICALL && shared.permille(950) {
        arguments[0] = OWN << 12;
        arguments[1] = list(kernel);
    }
    kernel.raw(number, arguments);
}

/// Writes some calls into the guest's own page, as `multicall` takes them, and returns how many it claims: often one too many. A count
/// without sense makes the hypervisor read all memory as calls, which takes long and rarely meets one.
fn list(kernel: &Kernel) -> u64 {
    let shared = &kernel.shared;
    let count = shared.below(8);
    if let Some(page) = kernel.page(Gfn(OWN)) {
        for place in 0..count as usize {
            let number = u64::from(CALLS[shared.below(CALLS.len() as u64) as usize]);
            let entry = MulticallEntry {
                number,
                result: shared.bits(),
                arguments: [
                    shared.below(40),
                    value(kernel),
                    shared.below(4),
                    value(kernel),
                    value(kernel),
                    0,
                ],
            };
            let mut bytes = [0; 64];
            if entry.encode(Width::W64, &mut bytes).is_some() {
                let _ = page.copy_in(place * bytes.len(), &bytes);
            }
        }
    }
    count + shared.below(2)
}

fn scribble(kernel: &Kernel, gfn: u64) {
    if let Some(page) = kernel.page(Gfn(gfn)) {
        for word in 0..PAGE_SIZE / 4 {
            let _ = page.store(word * 4, &(kernel.shared.bits() as u32));
        }
    }
}

fn scribble_some(kernel: &Kernel, gfn: u64) {
    if let Some(page) = kernel.page(Gfn(gfn)) {
        for _ in 0..4 {
            let word = kernel.shared.below(PAGE_SIZE as u64 / 4) as usize;
            let _ = page.store(word * 4, &(kernel.shared.bits() as u32));
        }
    }
}
