//! What an honest guest does: several tasks read, write and flush, and check every byte; then the disk is closed and
//! opened again, or left without a word as by a second kernel, and checked once more.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use trunnion_frontends::block::{BlockError, Disk};
use trunnion_frontends::error::Error;
use trunnion_frontends::grant::GrantTable;
use trunnion_frontends::page::Buffer;
use trunnion_frontends::store::{Store, Transaction};
use trunnion_frontends::xenbus::Device;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::sched::ShutdownReason;

use super::deceit;
use super::disk::SECTOR;
use super::kernel::Kernel;
use super::ledger::Ledger;
use super::nets::Nets;
use super::traffic::{self, Traffic};

/// Sectors that a task has to itself.
pub const REGION: usize = 96;
/// Guests that frames are for: some of them are not there.
const GUESTS: usize = 4;
/// Attempts of a step that ran out of memory.
const PATIENCE: u32 = 64;

/// Increments that the guest makes.
const INCREMENTS: u64 = 4;
/// The counter, below the domain's home.
pub const COUNTER: &str = "data/counter";

/// What a guest is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Tasks, each with its own sectors.
    pub tasks: usize,
    /// Operations of each task in each round.
    pub operations: u64,
    /// Times that the disk is connected.
    pub rounds: u64,
    /// vCPUs of the guest.
    pub vcpus: u32,
    /// The device's number.
    pub device: u32,
    /// Frames that it sends in each connection of its network port; without any it has no port.
    pub frames: u64,
    /// Connections of either device whose back end lies, if there is one.
    pub lies: u64,
}

impl Load {
    /// Sectors that the disk has to have.
    pub const fn sectors(&self) -> usize {
        self.tasks * REGION
    }
}

/// What is left of a guest for the world to see.
pub struct Outcome {
    /// What its disk may hold.
    pub ledger: RefCell<Ledger>,
    /// It did everything and found nothing wrong.
    pub finished: Cell<bool>,
    /// Requests that were answered with an error.
    pub failures: Cell<u64>,
    /// Requests without an answer.
    pub open: Cell<i64>,
    /// Increments of the counter in the store, by either side.
    pub increments: Cell<u64>,
}

impl Outcome {
    /// Before anything was done.
    pub fn new(sectors: usize) -> Rc<Self> {
        Rc::new(Self {
            ledger: RefCell::new(Ledger::new(sectors)),
            finished: Cell::new(false),
            failures: Cell::new(0),
            open: Cell::new(0),
            increments: Cell::new(0),
        })
    }
}

/// The guest's main task.
pub async fn run(kernel: Rc<Kernel>, load: Load, outcome: Rc<Outcome>, nets: Rc<Nets>, number: usize) {
    let id = kernel.id();
    match work(&kernel, load, &outcome, &nets, number).await {
        Ok(()) => {
            outcome.finished.set(true);
            let _ = trunnion_frontends::hypercall::shut_down(&*kernel, ShutdownReason::PowerOff);
        }
        Err(text) => {
            if !kernel.is_dead() {
                kernel.shared.complain(format!("guest {id}: {text}"));
            }
        }
    }
}

/// Tries a step again while memory is short, here or in the back end, which closes then.
pub async fn patiently<T>(
    kernel: &Kernel,
    mut step: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, String> {
    for _ in 0..PATIENCE {
        match step().await {
            Err(Error::OutOfMemory | Error::Closed | Error::Hypercall(Errno::NoMem | Errno::NoSpc)) => {
                kernel.sleep(10_000 + kernel.shared.below(1_000_000)).await;
            }
            other => return other.map_err(|error| format!("{error}")),
        }
    }
    Err("memory stays short".into())
}

/// One of the things that a guest does at the same time.
pub type Work<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

async fn work(
    kernel: &Rc<Kernel>,
    load: Load,
    outcome: &Rc<Outcome>,
    nets: &Nets,
    number: usize,
) -> Result<(), String> {
    let grants = patiently(kernel, async || GrantTable::new(&**kernel, 2)).await?;
    let store = Store::new(&**kernel).map_err(|error| format!("store: {error}"))?;
    let free = grants.free();
    secrets(kernel, &store).await?;
    count(kernel, &store, outcome).await?;
    let traffic = Traffic { number, guests: GUESTS, frames: load.frames, rounds: load.rounds };
    let mut halves: Vec<Work<'_>> = vec![Box::pin(blocks(kernel, &store, &grants, &load, outcome))];
    if load.frames != 0 {
        halves.push(Box::pin(traffic::run(kernel, &store, &grants, nets, traffic)));
    }
    if load.lies != 0 {
        halves.push(Box::pin(deceit::believe(kernel, &store, &grants, load.lies)));
    }
    join(halves).await?;
    for _ in 0..PATIENCE {
        if grants.free() == free {
            break;
        }
        kernel.sleep(if load.lies == 0 { 50_000 } else { 2_000_000 }).await;
    }
    if grants.free() != free {
        return Err(format!("{} of {free} grants are free in the end", grants.free()));
    }
    if grants.lost() != 0 {
        return Err(format!("{} grants are lost", grants.lost()));
    }
    Ok(())
}

/// The disk: connected, used by all tasks and left, several times.
async fn blocks(
    kernel: &Rc<Kernel>,
    store: &Store<'_, Kernel>,
    grants: &GrantTable<'_, Kernel>,
    load: &Load,
    outcome: &Rc<Outcome>,
) -> Result<(), String> {
    for round in 0..load.rounds {
        let name = format!("{}", load.device);
        let connect = async || Disk::connect(grants, Device::open(store, "vbd", &name).await?).await;
        let disk = patiently(kernel, connect).await?;
        if (disk.shape().sectors as usize) < load.sectors() {
            return Err(format!("the disk has {} sectors", disk.shape().sectors));
        }
        let mut tasks = Vec::new();
        for task in 0..load.tasks {
            tasks.push(Box::pin(region(kernel, &disk, load, task * REGION, outcome)));
        }
        join(tasks).await?;
        if round + 1 < load.rounds && kernel.shared.permille(300) {
            // As a second kernel finds it: nobody has closed anything.
            drop(disk);
        } else {
            disk.close().await.map(drop).map_err(|error| format!("close: {error}"))?;
        }
    }
    Ok(())
}

/// What is the toolstack's own stays hidden.
async fn secrets(kernel: &Kernel, store: &Store<'_, Kernel>) -> Result<(), String> {
    let mut value = [0; 64];
    match store.read(Transaction::NONE, &format!("/libxl/{}/type", kernel.id()), &mut value).await {
        Err(Error::Store(Errno::Acces)) => Ok(()),
        other => Err(format!("reading the toolstack's own node gives {other:?}")),
    }
}

/// Counts up a number in the store that dom0 counts up as well, in transactions.
async fn count(kernel: &Kernel, store: &Store<'_, Kernel>, outcome: &Outcome) -> Result<(), String> {
    for _ in 0..INCREMENTS {
        let increment = async |transaction: Transaction| {
            let now = store.read_number(transaction, COUNTER).await?.unwrap_or(0);
            store.write(transaction, COUNTER, format!("{}", now + 1).as_bytes()).await
        };
        store.transact(increment).await.map_err(|error| format!("counting: {error}"))?;
        outcome.increments.set(outcome.increments.get() + 1);
        kernel.sleep(1_000 + kernel.shared.below(50_000)).await;
    }
    Ok(())
}

/// A task's own waker: it says that the task is to be polled, and wakes all that are joined.
struct Child {
    woken: AtomicBool,
    parent: Mutex<Waker>,
}

impl Wake for Child {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.parent.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

/// Runs tasks to their ends. Each is polled only when it was woken itself.
pub async fn join<F: Future<Output = Result<(), String>> + ?Sized>(
    tasks: Vec<Pin<Box<F>>>,
) -> Result<(), String> {
    let child =
        || Arc::new(Child { woken: AtomicBool::new(true), parent: Mutex::new(Waker::noop().clone()) });
    let mut tasks: Vec<_> = tasks.into_iter().map(|task| (task, child())).collect();
    std::future::poll_fn(|context| {
        let mut at = 0;
        while let Some((task, child)) = tasks.get_mut(at) {
            child.parent.lock().unwrap_or_else(PoisonError::into_inner).clone_from(context.waker());
            if !child.woken.swap(false, Ordering::AcqRel) {
                at += 1;
                continue;
            }
            let waker = Waker::from(Arc::clone(child));
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(())) => drop(tasks.swap_remove(at)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if tasks.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

async fn region(
    kernel: &Rc<Kernel>,
    disk: &Disk<'_, '_, Kernel>,
    load: &Load,
    first: usize,
    outcome: &Rc<Outcome>,
) -> Result<(), String> {
    for _ in 0..load.operations {
        let most = (disk.most_bytes() / SECTOR).min(REGION);
        let most = if kernel.shared.permille(100) { most } else { most.min(20) };
        let count = 1 + kernel.shared.below(most as u64) as usize;
        let sector = first + kernel.shared.below((REGION - count + 1) as u64) as usize;
        match kernel.shared.below(9) {
            0..=2 => write(kernel, disk, sector, count, outcome).await?,
            3..=5 => read(kernel, disk, sector, count, outcome).await?,
            8 => hasty(kernel, disk, sector, count, outcome).await?,
            6 => flush(kernel, disk, first, outcome).await?,
            _ => kernel.sleep(1_000 + kernel.shared.below(200_000)).await,
        }
    }
    for sector in (first..first + REGION).step_by(REGION / 2) {
        read(kernel, disk, sector, REGION / 2, outcome).await?;
    }
    flush(kernel, disk, first, outcome).await?;
    if kernel.shared.permille(300) {
        // The last thing that this task ever asks for may come to nobody, while others wait for theirs.
        hasty(kernel, disk, first, 1, outcome).await?;
    }
    Ok(())
}

/// A buffer, unless memory is short.
fn buffer(kernel: &Kernel, count: usize) -> Option<Buffer<Kernel>> {
    Buffer::new(kernel, count * SECTOR).ok()
}

/// Counts an answer. True for success; a failure has to have a cause.
fn answered(kernel: &Kernel, outcome: &Outcome, result: Result<(), BlockError>) -> Result<bool, String> {
    outcome.open.set(outcome.open.get() - 1);
    kernel.shared.answered.set(kernel.shared.answered.get() + 1);
    match result {
        Ok(()) => Ok(true),
        Err(BlockError::Failed) => {
            outcome.failures.set(outcome.failures.get() + 1);
            Ok(false)
        }
        Err(BlockError::NoGrants) => Ok(false),
        Err(error) => Err(format!("request: {error}")),
    }
}

async fn write(
    kernel: &Kernel,
    disk: &Disk<'_, '_, Kernel>,
    sector: usize,
    count: usize,
    outcome: &Outcome,
) -> Result<(), String> {
    let Some(buffer) = buffer(kernel, count) else { return Ok(()) };
    let stamp = kernel.shared.bits() & !0xff | 1 << 63;
    for index in 0..count {
        let content = Ledger::content(stamp + index as u64);
        buffer.write(index * SECTOR, &content).map_err(|error| format!("{error}"))?;
    }
    outcome.ledger.borrow_mut().begin_write(sector, count, stamp);
    outcome.open.set(outcome.open.get() + 1);
    let (_, result) = disk.write(sector as u64, buffer).await;
    if answered(kernel, outcome, result)? {
        outcome.ledger.borrow_mut().end_write(sector, count, stamp);
    }
    Ok(())
}

async fn read(
    kernel: &Kernel,
    disk: &Disk<'_, '_, Kernel>,
    sector: usize,
    count: usize,
    outcome: &Outcome,
) -> Result<(), String> {
    let Some(buffer) = buffer(kernel, count) else { return Ok(()) };
    outcome.open.set(outcome.open.get() + 1);
    let (buffer, result) = disk.read(sector as u64, buffer).await;
    if answered(kernel, outcome, result)? {
        let mut bytes = vec![0; count * SECTOR];
        buffer.read(0, &mut bytes).map_err(|error| format!("{error}"))?;
        outcome.ledger.borrow_mut().check_read(sector, &bytes)?;
    }
    Ok(())
}

/// A read that is given up when it takes too long; what it has asked for comes to nobody.
async fn hasty(
    kernel: &Kernel,
    disk: &Disk<'_, '_, Kernel>,
    sector: usize,
    count: usize,
    outcome: &Outcome,
) -> Result<(), String> {
    let mut reading = Box::pin(read(kernel, disk, sector, count, outcome));
    let mut waiting = Box::pin(kernel.sleep(1_000 + kernel.shared.below(50_000)));
    let read = std::future::poll_fn(|context| match reading.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => waiting.as_mut().poll(context).map(|()| None),
    })
    .await;
    match read {
        Some(result) => result,
        None => {
            drop(reading);
            outcome.open.set(outcome.open.get() - 1);
            Ok(())
        }
    }
}

async fn flush(
    kernel: &Kernel,
    disk: &Disk<'_, '_, Kernel>,
    first: usize,
    outcome: &Outcome,
) -> Result<(), String> {
    let covered = outcome.ledger.borrow().begin_flush(first, REGION);
    outcome.open.set(outcome.open.get() + 1);
    let result = disk.flush().await;
    if answered(kernel, outcome, result)? {
        outcome.ledger.borrow_mut().end_flush(first, covered);
    }
    Ok(())
}
