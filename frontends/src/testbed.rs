//! Several guests, a hypervisor's events and grants, and a store, in one process: what a driver is tested on (feature
//! `testbed`, needs `std`).
//!
//! A [`World`] has [`Guest`]s, each of which is a [`Platform`](crate::platform::Platform). Their tasks ([`Guest::spawn`]) run on an executor whose order
//! is drawn from a seed: which task goes on, when an event arrives (late, or twice), how many bytes the store moves. One seed is one
//! run, repeatable to the last step, so a loop over seeds is a search for the order that breaks a driver. [`World::run`] fails
//! where tasks wait for ever: a lost wake-up shows.
//!
//! [`liar`] has back ends that break every rule, for tests of front ends.
//!
//! What is true to a hypervisor: references, who may map and for what, that a page in use is not revoked, that ports are bound
//! to one peer, that a domain which ends takes its ports and mappings along. What is not there: permissions in the store,
//! conflicts of transactions, several processors.
//!
//! ```
//! use trunnion_frontends::store::{Store, Transaction};
//! use trunnion_frontends::testbed::World;
//!
//! for seed in 0..20 {
//!     let world = World::new(seed);
//!     let guest = world.guest(5);
//!     guest.spawn({
//!         let guest = guest.clone();
//!         async move {
//!             let store = Store::new(&guest).unwrap();
//!             let name = store.read_text::<16>(Transaction::NONE, "domid").await.unwrap();
//!             assert_eq!(name.as_str(), "5");
//!         }
//!     });
//!     world.run().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
//! }
//! ```

mod guest;
mod hypervisor;
pub mod liar;
mod store;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::vec::Vec;
use std::{boxed::Box, format};

use trunnion_protocol::id::DomainId;
use trunnion_protocol::xenbus::State;

pub use guest::{Guest, GuestPages};
use hypervisor::Domain;
use store::Server;

/// The steps after which a world is taken to run in circles.
const STEPS_MAX: u32 = 1_000_000;

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Task {
    domain: DomainId,
    /// Taken out while it runs.
    work: Option<Pin<Box<dyn Future<Output = ()>>>>,
    woken: Arc<Woken>,
}

/// Tasks that wait for something that does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// How many tasks of each domain wait.
    pub waiting: Vec<(DomainId, usize)>,
    /// The last steps, oldest first.
    pub steps: Vec<String>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tasks wait for ever: {:?}; the last steps:", self.waiting)?;
        self.steps.iter().try_for_each(|step| write!(f, "\n  {step}"))
    }
}

impl std::error::Error for Stuck {}

/// What guests hold: see [`World::held`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Pages of guests' memory.
    pub pages: usize,
    /// Mappings of others' pages.
    pub mappings: usize,
    /// Ports, without those to the store.
    pub ports: usize,
}

struct Inner {
    random: Cell<u64>,
    domains: RefCell<BTreeMap<u16, Domain>>,
    server: RefCell<Server>,
    tasks: RefCell<Vec<Task>>,
    /// Events on their way: domain and port.
    events: RefCell<BTreeSet<(u16, u32)>>,
    steps: RefCell<Vec<String>>,
}

impl Inner {
    /// Below `end` (SplitMix64).
    fn below(&self, end: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end.max(1)
    }

    fn note(&self, step: String) {
        let mut steps = self.steps.borrow_mut();
        if steps.len() >= 50 {
            steps.remove(0);
        }
        steps.push(step);
    }
}

/// All guests, and what is between them.
#[derive(Clone)]
pub struct World(Rc<Inner>);

impl World {
    /// A world without guests, whose order comes from a seed.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            random: Cell::new(seed ^ 0x6a09_e667_f3bc_c909),
            domains: RefCell::default(),
            server: RefCell::default(),
            tasks: RefCell::default(),
            events: RefCell::default(),
            steps: RefCell::default(),
        }))
    }

    /// A number below `end`, from the seed: for tests that want to be unpredictable too.
    pub fn below(&self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// A new guest, with its store connected.
    pub fn guest(&self, id: u16) -> Guest {
        Guest::new(&self.0, DomainId(id))
    }

    /// Makes a device of a class between two guests, as `xl device-attach FRONT class=CLASS backend=BACK` does.
    pub fn attach(&self, front: &Guest, back: &Guest, class: &str, id: u32) {
        let (f, b) = (front.id(), back.id());
        let front_path = format!("/local/domain/{f}/device/{class}/{id}");
        let back_path = format!("/local/domain/{b}/backend/{class}/{f}/{id}");
        for (key, value) in [
            ("frontend", front_path.clone()),
            ("frontend-id", f.to_string()),
            ("online", "1".into()),
            ("state", "1".into()),
        ] {
            self.set(&format!("{back_path}/{key}"), &value);
        }
        for (key, value) in [("backend", back_path), ("backend-id", b.to_string()), ("state", "1".into())] {
            self.set(&format!("{front_path}/{key}"), &value);
        }
    }

    /// Asks the back end of a device to let it go, as `xl device-detach` does first.
    pub fn detach(&self, front: &Guest, back: &Guest, class: &str, id: u32) {
        self.set(&format!("/local/domain/{}/backend/{class}/{}/{id}/online", back.id(), front.id()), "0");
    }

    /// Removes the nodes of a device, as `xl device-detach` does in the end, or at once with `--force`.
    pub fn remove(&self, front: &Guest, back: &Guest, class: &str, id: u32) {
        let (f, b) = (front.id(), back.id());
        let mut server = self.0.server.borrow_mut();
        server.remove(&format!("/local/domain/{f}/device/{class}/{id}"));
        server.remove(&format!("/local/domain/{b}/backend/{class}/{f}/{id}"));
    }

    /// The states of the front end and the back end of a device.
    pub fn states(&self, front: &Guest, back: &Guest, class: &str, id: u32) -> (State, State) {
        let (f, b) = (front.id(), back.id());
        let state = |path: String| State::parse(self.get(&path).unwrap_or_default().as_bytes());
        (
            state(format!("/local/domain/{f}/device/{class}/{id}/state")),
            state(format!("/local/domain/{b}/backend/{class}/{f}/{id}/state")),
        )
    }

    /// A value of the store.
    pub fn get(&self, path: &str) -> Option<String> {
        let server = self.0.server.borrow();
        server.values.get(path).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Sets a value of the store, as the toolstack would.
    pub fn set(&self, path: &str, value: &str) {
        self.0.server.borrow_mut().set(path, value.as_bytes());
    }

    /// Ends a guest at once, whatever it is doing: its tasks are gone, its ports closed, its mappings undone. Its pages stay
    /// as long as others map them.
    pub fn destroy(&self, guest: &Guest) {
        self.0.note(format!("domain {} is destroyed", guest.id()));
        if let Some(domain) = self.0.domains.borrow_mut().get_mut(&guest.id().0) {
            domain.dead = true;
        }
        // What they hold is dropped with them, and the hypervisor answers them no more.
        let mut gone = Vec::new();
        for task in self.0.tasks.borrow_mut().iter_mut().filter(|task| task.domain == guest.id()) {
            gone.extend(task.work.take());
        }
        drop(gone);
        self.0.tasks.borrow_mut().retain(|task| task.domain != guest.id());
        hypervisor::bury(&self.0, guest.id());
        self.0.server.borrow_mut().close(guest.id());
    }

    /// What all guests hold: a driver that closes well leaves it as it was.
    pub fn held(&self) -> Held {
        let domains = self.0.domains.borrow();
        domains.values().fold(Held::default(), |sum, domain| Held {
            pages: sum.pages + domain.memory.borrow().len(),
            mappings: sum.mappings + domain.mappings.len(),
            ports: sum.ports + domain.ports.len().saturating_sub(1),
        })
    }

    /// Does one thing: runs a task that was woken, delivers an event, or moves bytes of the store. False if there is nothing.
    pub fn step(&self) -> bool {
        let ready: Vec<usize> = {
            let tasks = self.0.tasks.borrow();
            let ready = |task: &Task| task.work.is_some() && task.woken.0.load(Ordering::SeqCst);
            tasks.iter().enumerate().filter(|(_, task)| ready(task)).map(|(index, _)| index).collect()
        };
        let events: Vec<(u16, u32)> = self.0.events.borrow().iter().copied().collect();
        let busy = self.0.server.borrow().busy();
        let choices = ready.len() + events.len() + busy.len();
        let choice = self.0.below(choices as u64) as usize;
        if let Some(&index) = ready.get(choice) {
            self.poll(index);
        } else if let Some(&(domain, port)) = events.get(choice - ready.len().min(choice)) {
            // Some come once more, without a cause: drivers have to bear that.
            if self.0.below(16) != 0 {
                self.0.events.borrow_mut().remove(&(domain, port));
            }
            self.0.note(format!("domain {domain} gets an event on port {port}"));
            hypervisor::deliver(&self.0, domain, port);
        } else if let Some(&domain) = busy.get(choice - (ready.len() + events.len()).min(choice)) {
            store::serve(&self.0, domain);
        } else {
            return false;
        }
        true
    }

    fn poll(&self, index: usize) {
        let taken = self.0.tasks.borrow_mut().get_mut(index).and_then(|task| {
            task.woken.0.store(false, Ordering::SeqCst);
            Some((task.domain, task.work.take()?, Arc::clone(&task.woken)))
        });
        let Some((domain, mut work, woken)) = taken else { return };
        self.0.note(format!("a task of domain {domain} runs"));
        let waker = Waker::from(Arc::clone(&woken));
        let ended = work.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        let dead = self.0.domains.borrow().get(&domain.0).is_none_or(|domain| domain.dead);
        let mut tasks = self.0.tasks.borrow_mut();
        let place = tasks.iter_mut().find(|task| Arc::ptr_eq(&task.woken, &woken));
        match place {
            Some(task) if !ended && !dead => task.work = Some(work),
            _ => tasks.retain(|task| !Arc::ptr_eq(&task.woken, &woken)),
        }
    }

    /// Runs until every task has ended.
    pub fn run(&self) -> Result<(), Stuck> {
        self.run_while(|world| !world.0.tasks.borrow().is_empty())
    }

    /// Runs until a condition holds.
    pub fn run_until(&self, mut done: impl FnMut(&Self) -> bool) -> Result<(), Stuck> {
        self.run_while(|world| !done(world))
    }

    /// Runs until there is nothing to do; tasks may wait.
    pub fn settle(&self) {
        let _ = self.run_while(|_| true);
    }

    fn run_while(&self, mut going: impl FnMut(&Self) -> bool) -> Result<(), Stuck> {
        for _ in 0..STEPS_MAX {
            if !going(self) {
                return Ok(());
            }
            if !self.step() {
                break;
            }
        }
        if !going(self) {
            return Ok(());
        }
        let mut waiting = BTreeMap::new();
        for task in self.0.tasks.borrow().iter() {
            *waiting.entry(task.domain).or_insert(0) += 1;
        }
        Err(Stuck { waiting: waiting.into_iter().collect(), steps: self.0.steps.borrow().clone() })
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Guest {
    /// Starts a task of this guest.
    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.world.tasks.borrow_mut().push(Task { domain: self.id(), work: Some(Box::pin(work)), woken });
    }

    /// Runs a future of this guest to its end, and everything else beside it.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        crate::blocking::block_on(self, work)
    }
}

/// A guest rests: something else happens meanwhile.
fn relax(world: &Rc<Inner>) {
    World(Rc::clone(world)).step();
}
