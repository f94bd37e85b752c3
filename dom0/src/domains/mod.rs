//! The toolstack: domains from the wish for one to its end.
//!
//! It answers [requests](crate::control::Request), starts what the bundle's manifest lists, hears from the hypervisor when a domain has ended, and does then what
//! the configuration says. A domain that ended is read dry first (its last console bytes are still in the ring), then its figures are taken, then it is undone.
//!
//! All of it runs in dom0's one executor. State is borrowed for moments only, never across an `await`.

mod answer;
mod blocks;
mod create;
mod device;
mod end;
mod figures;
mod nics;
mod platform;
mod store;
mod tune;

#[cfg(test)]
mod tests;

pub use platform::{Platform, no_pc};

use crate::build;
use crate::control::manifest::Create;
use crate::control::request::DomainName;
use crate::control::{Code, Event, Failure, Manifest, summary};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use trunnion_protocol::control::DomainInfo;
use trunnion_protocol::id::DomainId;

/// How far a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It runs, or could.
    Alive,
    /// Somebody is ending it.
    Ending,
    /// It ended and is kept for inspection.
    Kept,
}

/// A domain of the toolstack.
struct Entry {
    status: Status,
    /// None while somebody is ending it.
    domain: Option<build::Domain>,
    wish: Rc<Wish>,
    /// Its place in the list of figures.
    figure: usize,
}

/// What it takes to build a domain, and to build it again.
struct Wish {
    create: Create,
    /// It is one of the manifest's.
    listed: bool,
    /// The name that it was given later.
    renamed: RefCell<Option<String>>,
}

impl Wish {
    fn new(create: Create, listed: bool) -> Self {
        Self { create, listed, renamed: RefCell::default() }
    }
}

#[derive(Default)]
struct State {
    entries: BTreeMap<DomainId, Entry>,
    /// Names of domains that are being built, or wait for that.
    building: Vec<String>,
    /// A build is under way.
    busy: bool,
    figures: Vec<summary::Domain>,
    /// Disks that are on their way to a domain or away from it.
    moving: Vec<(DomainId, u32)>,
    /// Devices between guests.
    links: Vec<device::Link>,
    /// Domains of the manifest that wait for the one before.
    waiting: VecDeque<Create>,
    /// Domains of the manifest that have not ended for good.
    listed: usize,
    sequence: bool,
    baseline: figures::Baseline,
    seed: u64,
}

/// The toolstack.
pub struct Toolstack<P> {
    platform: P,
    bundle: &'static [u8],
    manifest: RefCell<Vec<Create>>,
    state: RefCell<State>,
}

impl<P: Platform> Toolstack<P> {
    /// A toolstack without domains. `bundle` is the archive that dom0 was started with.
    pub fn new(platform: P, bundle: &'static [u8]) -> Self {
        Self { platform, bundle, manifest: RefCell::default(), state: RefCell::default() }
    }

    /// What dom0 gave it.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Lays out what the store always has, takes the figures against which leaks are counted, and tells that dom0 is ready. Call once,
    /// when everything that dom0 keeps for itself is in place.
    pub fn ready(&self) {
        self.furnish();
        let baseline = figures::Baseline::take(&self.platform);
        let event = Event::Ready {
            hypervisor_ready_ns: baseline.hypervisor_ready_ns,
            dom0_ready_ns: baseline.dom0_ready_ns,
        };
        self.state.borrow_mut().baseline = baseline;
        self.platform.event(event);
    }

    /// Starts the manifest's domains: all in order, or the first of them when they run in sequence.
    pub async fn start(&self, manifest: Manifest) {
        {
            let mut state = self.state.borrow_mut();
            state.listed = manifest.domains.len();
            state.sequence = manifest.sequence;
            state.seed ^= manifest.unix_seconds;
            state.waiting.extend(manifest.domains.iter().cloned());
        }
        *self.manifest.borrow_mut() = manifest.domains;
        self.advance().await;
    }

    /// A domain of the manifest, by the `name` of its configuration.
    pub(crate) fn listed(&self, name: &str) -> Option<Create> {
        let is = |create: &&Create| {
            crate::config::parse(&create.text).is_ok_and(|accepted| accepted.config.name == name)
        };
        self.manifest.borrow().iter().find(is).cloned()
    }

    /// Starts what waits: until one runs in sequence, else all.
    async fn advance(&self) {
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                if state.listed == 0 {
                    drop(state);
                    return self.platform.event(Event::AllEnded);
                }
                state.waiting.pop_front()
            };
            let Some(create) = next else { return };
            let file = create.file.clone();
            let wish = Rc::new(Wish::new(create, true));
            let result = self.build(&wish, false).await;
            let failed = result.is_err();
            if let Err((name, failure)) = result {
                log::error!("a domain could not be started file={file} reason={failure}");
                self.platform.event(Event::CreateFailed { name: name.unwrap_or(file), failure });
                self.state.borrow_mut().listed -= 1;
            }
            if !failed && self.state.borrow().sequence {
                return;
            }
        }
    }

    /// Handles ends of domains as they come, side by side: one whose console is read slowly keeps no other waiting. Never returns.
    pub async fn run(&self) {
        let mut ends: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        loop {
            let mut exception = pin!(self.platform.exception());
            poll_fn(|context| {
                ends.retain_mut(|end| end.as_mut().poll(context).is_pending());
                exception.as_mut().poll(context)
            })
            .await;
            for (id, info) in self.fallen() {
                ends.push(Box::pin(self.ended(id, info)));
            }
        }
    }

    /// All domains of the hypervisor, in order.
    fn domains(&self) -> Result<Vec<DomainInfo>, Failure> {
        let mut found = Vec::new();
        let mut from = DomainId::DOM0;
        while let Some(info) =
            self.platform.domain(from).map_err(|errno| hypervisor("listing domains", errno))?
        {
            found.push(info);
            from = DomainId(info.domain.saturating_add(1));
            if !from.is_guest() {
                break;
            }
        }
        Ok(found)
    }

    /// A domain's number.
    fn find(&self, name: &DomainName) -> Result<DomainId, Failure> {
        let state = self.state.borrow();
        let found = match name {
            DomainName::Id(id) => {
                Some(DomainId(*id)).filter(|id| id.0 == 0 || state.entries.contains_key(id))
            }
            DomainName::Name(name) if name == "Domain-0" => Some(DomainId::DOM0),
            DomainName::Name(name) => {
                state.entries.iter().find(|(_, entry)| entry.name() == *name).map(|(id, _)| *id)
            }
        };
        found.ok_or_else(|| match name {
            DomainName::Name(name) if state.building.contains(name) => {
                Failure::new(Code::State, format!("domain `{name}` is still being built"))
            }
            _ => Failure::new(Code::NoSuchDomain, format!("there is no domain `{name}`")),
        })
    }

    /// The number of a domain other than dom0.
    fn find_guest(&self, name: &DomainName) -> Result<DomainId, Failure> {
        match self.find(name)? {
            DomainId::DOM0 => {
                Err(Failure::new(Code::State, "this cannot be done to dom0; `poweroff` ends the platform"))
            }
            id => Ok(id),
        }
    }

    /// Fails unless the domain is there and nobody is ending it.
    fn check_alive(&self, id: DomainId) -> Result<(), Failure> {
        match self.state.borrow().entries.get(&id).map(|entry| entry.status) {
            Some(Status::Alive) => Ok(()),
            Some(Status::Kept) => {
                Err(Failure::new(Code::State, "the domain has ended; it is kept for inspection"))
            }
            Some(Status::Ending) => Err(Failure::new(Code::State, "the domain is ending")),
            None => Err(Failure::new(Code::NoSuchDomain, format!("there is no domain {id}"))),
        }
    }
}

impl Entry {
    fn name(&self) -> &str {
        self.domain.as_ref().map_or("", |domain| &domain.plan.name)
    }
}

/// A refusal of the hypervisor.
fn hypervisor(what: &str, errno: trunnion_protocol::errno::Errno) -> Failure {
    Failure::new(Code::Hypervisor, format!("{what} failed: the hypervisor said {}", errno.name()))
}

/// A padded name of the control interface.
fn padded(name: &[u8]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).to_string()
}
