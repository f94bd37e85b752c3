//! What every part of a world shares: chance, the faults that may strike, the record of what happened.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;

use super::random::Random;

/// Events that a failure prints.
const KEPT: usize = 50;

/// How often each fault strikes, in a thousand chances.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An event is noticed later than it could be.
    pub delayed: u32,
    /// A task is woken without an event.
    pub spurious: u32,
    /// An event comes twice.
    pub doubled: u32,
    /// An event is lost; the kick comes again later.
    pub lost: u32,
    /// The device fails a request.
    pub device: u32,
    /// The frame allocator has nothing.
    pub memory: u32,
    /// The clock jumps ahead by up to an hour.
    pub clock: u32,
    /// A guest dies at some moment.
    pub death: u32,
}

impl Faults {
    /// Nothing goes wrong.
    pub const fn none() -> Self {
        Self { delayed: 0, spurious: 0, doubled: 0, lost: 0, device: 0, memory: 0, clock: 0, death: 0 }
    }

    /// Everything goes wrong now and then.
    pub const fn harsh() -> Self {
        Self {
            delayed: 60,
            spurious: 20,
            doubled: 40,
            lost: 20,
            device: 30,
            memory: 10,
            clock: 2,
            death: 300,
        }
    }
}

/// How often each fault has struck.
#[derive(Clone, Copy, Debug, Default)]
pub struct Struck {
    /// Delayed events.
    pub delayed: u64,
    /// Wake-ups without an event.
    pub spurious: u64,
    /// Doubled events.
    pub doubled: u64,
    /// Lost events.
    pub lost: u64,
    /// Failed requests of the device.
    pub device: u64,
    /// Frame allocations that were told to fail.
    pub memory: u64,
    /// Jumps of the clock.
    pub clock: u64,
    /// Guests that died.
    pub deaths: u64,
    /// Requests that were in the device when their guest died.
    pub orphans: u64,
}

impl Struck {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.delayed
            + self.spurious
            + self.doubled
            + self.lost
            + self.device
            + self.memory
            + self.clock
            + self.deaths
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.delayed += other.delayed;
        self.spurious += other.spurious;
        self.doubled += other.doubled;
        self.lost += other.lost;
        self.device += other.device;
        self.memory += other.memory;
        self.clock += other.clock;
        self.deaths += other.deaths;
        self.orphans += other.orphans;
    }
}

/// What came of a back end that lies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tales {
    /// Connections of a front end to it.
    pub connections: u64,
    /// Attempts that led to none.
    pub unconnected: u64,
    /// Lies that a front end has seen through, each the end of a connection.
    pub seen: u64,
    /// Requests that were answered, and frames that were heard.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
}

impl Tales {
    /// Adds another world's.
    pub const fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.unconnected += other.unconnected;
        self.seen += other.seen;
        self.done += other.done;
        self.failed += other.failed;
    }
}

#[derive(Clone, Copy)]
struct Entry {
    step: u64,
    domain: u16,
    what: &'static str,
    values: [u64; 3],
}

/// The shared part of a world.
pub struct Shared {
    random: RefCell<Random>,
    /// What may go wrong.
    pub faults: Cell<Faults>,
    /// What went wrong.
    pub struck: Cell<Struck>,
    /// What came of lies.
    pub tales: Cell<Tales>,
    /// Steps so far.
    pub step: Cell<u64>,
    /// Requests that guests have had answered.
    pub answered: Cell<u64>,
    log: RefCell<VecDeque<Entry>>,
    complaint: RefCell<Option<String>>,
}

impl Shared {
    /// For a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: RefCell::new(Random::new(seed)),
            faults: Cell::new(Faults::none()),
            struck: Cell::default(),
            tales: Cell::default(),
            step: Cell::new(0),
            answered: Cell::new(0),
            log: RefCell::default(),
            complaint: RefCell::default(),
        }
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.random.borrow_mut().below(end)
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        self.random.borrow_mut().bits()
    }

    /// True so many times in a thousand.
    pub fn permille(&self, times: u32) -> bool {
        self.random.borrow_mut().permille(times)
    }

    /// Counts a fault.
    pub fn strike(&self, count: impl FnOnce(&mut Struck)) {
        let mut struck = self.struck.get();
        count(&mut struck);
        self.struck.set(struck);
    }

    /// Counts what came of lies.
    pub fn tell(&self, count: impl FnOnce(&mut Tales)) {
        let mut tales = self.tales.get();
        count(&mut tales);
        self.tales.set(tales);
    }

    /// Notes what happened.
    pub fn note(&self, domain: u16, what: &'static str, values: [u64; 3]) {
        let mut log = self.log.borrow_mut();
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back(Entry { step: self.step.get(), domain, what, values });
    }

    /// Something is wrong; the first complaint counts.
    pub fn complain(&self, text: String) {
        self.complaint.borrow_mut().get_or_insert(text);
    }

    /// The first complaint.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.borrow().clone()
    }

    /// The last events as text.
    pub fn story(&self) -> String {
        let mut text = String::new();
        for Entry { step, domain, what, values: [a, b, c] } in self.log.borrow().iter() {
            let _ = writeln!(text, "  step {step:>6}  domain {domain}  {what} {a:#x} {b:#x} {c:#x}");
        }
        text
    }
}
