//! Domains: introduction, their rings, and what is left to do when they are gone.

use alloc::boxed::Box;
use alloc::vec::Vec;

use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_protocol::store::RingError;

use crate::connection::ConnectionId;
use crate::path::{INTRODUCE_DOMAIN, Path, RELEASE_DOMAIN};
use crate::perms::{Perms, Subject};
use crate::requests::{domain, number, single, strings};
use crate::ring::{Link, RingPage};
use crate::server::Store;
use crate::transaction::Change;
use crate::view::{Place, View};

/// Requests that one call of [`Store::service`] carries out.
const BATCH: usize = 16;

/// An introduced domain.
pub(crate) struct Guest {
    connection: ConnectionId,
    link: Link,
    port: Port,
    /// Its end has been told to watches of `@releaseDomain`.
    shut_down: bool,
    /// It broke the protocol; its ring is left alone until it asks for a fresh start.
    ignored: bool,
}

/// What [`Store::service`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Bytes moved: the domain's event channel is to be notified.
    pub notify: bool,
    /// Requests are left, to be carried out by another call without waiting for an event.
    pub more: bool,
}

impl Store {
    /// Connects a domain by its ring page. `port` is the local port that reaches it, or any number that the caller
    /// understands; see [`port`](Self::port). The ring starts empty. Doing it again replaces page and port, and drops
    /// what the connection held.
    pub fn introduce(&mut self, domain: DomainId, page: Box<dyn RingPage + Send>, port: Port) {
        let mut link = Link::new(page);
        link.reset();
        link.connected();
        if let Some(guest) = self.guests.get_mut(&domain) {
            (guest.link, guest.ignored) = (link, false);
            let old = core::mem::replace(&mut guest.port, port);
            if let Some(connection) = self.connections.get_mut(&guest.connection) {
                connection.reset();
            }
            if old != port {
                self.host.disconnect(domain, old);
            }
            return;
        }
        let connection = self.connect(domain);
        let guest = Guest { connection, link, port, shut_down: false, ignored: false };
        self.guests.insert(domain, guest);
        self.tell_special(INTRODUCE_DOMAIN);
    }

    /// True if the domain has a connection. Domain 0 always has.
    pub fn is_introduced(&self, domain: DomainId) -> bool {
        domain == DomainId::DOM0 || domain == DomainId::SELF || self.guests.contains_key(&domain)
    }

    /// The introduced domains, without 0.
    pub fn introduced(&self) -> Vec<DomainId> {
        self.guests.keys().copied().collect()
    }

    /// The port that an introduced domain is notified by.
    pub fn port(&self, domain: DomainId) -> Option<Port> {
        self.guests.get(&domain).map(|guest| guest.port)
    }

    /// The introduced domain that is reached by a port.
    pub fn domain_of(&self, port: Port) -> Option<DomainId> {
        self.guests.iter().find(|(_, guest)| guest.port == port).map(|(domain, _)| *domain)
    }

    /// A domain that has messages waiting because of what others did, and is to be [serviced](Self::service).
    pub fn next_ready(&mut self) -> Option<DomainId> {
        self.ready.pop_first()
    }

    /// Moves bytes between a domain's ring and the store: to be called at each event of the domain, when
    /// [`next_ready`](Self::next_ready) names it, and again while it leaves more to do.
    pub fn service(&mut self, domain: DomainId) -> Service {
        self.ready.remove(&domain);
        let mut service = Service::default();
        let Some(guest) = self.guests.get_mut(&domain) else { return service };
        let id = guest.connection;
        if guest.link.wants_reset() {
            guest.link.reset();
            guest.ignored = false;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.reset();
            }
            guest.link.connected();
            service.notify = true;
        }
        if let Err(error) = self.exchange(domain, id, &mut service) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.reset();
            }
            if let Some(guest) = self.guests.get_mut(&domain) {
                guest.link.fail(error);
                guest.ignored = true;
            }
            service.more = false;
        }
        service
    }

    fn exchange(
        &mut self,
        domain: DomainId,
        id: ConnectionId,
        service: &mut Service,
    ) -> Result<(), RingError> {
        for _ in 0..BATCH {
            self.flush(domain, id, service)?;
            if self.is_stalled(id) {
                return Ok(());
            }
            let Some(guest) = self.guests.get_mut(&domain).filter(|guest| !guest.ignored) else {
                return Ok(());
            };
            let Some((header, payload)) = guest.link.receive(&mut service.notify)? else { return Ok(()) };
            self.handle(id, &header, &payload);
        }
        self.flush(domain, id, service)?;
        let stalled = self.is_stalled(id);
        service.more = !stalled && self.guests.get(&domain).is_some_and(|guest| guest.link.has_input());
        Ok(())
    }

    fn flush(&mut self, domain: DomainId, id: ConnectionId, service: &mut Service) -> Result<(), RingError> {
        let Some(guest) = self.guests.get_mut(&domain).filter(|guest| !guest.ignored) else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        guest.link.send(|| connection.pop(), &mut service.notify)?;
        self.ready.remove(&domain);
        Ok(())
    }

    /// A domain shut down or crashed and still exists: watches of `@releaseDomain` are told, once until RESUME.
    pub fn shut_down(&mut self, domain: DomainId) {
        if let Some(guest) = self.guests.get_mut(&domain)
            && !core::mem::replace(&mut guest.shut_down, true)
        {
            self.tell_special(RELEASE_DOMAIN);
        }
    }

    /// A domain is gone, introduced or not: its connection ends, the nodes it owns are removed, permissions that name
    /// it give nothing to a later domain of the same number.
    pub fn remove_domain(&mut self, domain: DomainId) {
        if domain == DomainId::DOM0 {
            return;
        }
        let guest = self.guests.remove(&domain);
        if let Some(guest) = &guest {
            self.disconnect(guest.connection);
            self.host.disconnect(domain, guest.port);
        }
        self.ready.remove(&domain);
        for connection in self.connections.values_mut() {
            if connection.subject.target == Some(domain) {
                connection.subject.target = None;
            }
            for transaction in connection.transactions.values_mut() {
                transaction.invalidate();
            }
        }
        self.remove_owned(domain);
        if guest.is_some() && !planted!(self, SilentDeath) {
            self.tell_special(RELEASE_DOMAIN);
        }
    }

    /// Asks the host which domains still exist, and removes the others. True if some were.
    pub fn sweep(&mut self) -> bool {
        let mut known: Vec<DomainId> = self.guests.keys().copied().chain(self.tree.owners()).collect();
        known.sort_unstable();
        known.dedup();
        known.retain(|domain| !self.host.exists(*domain));
        for domain in &known {
            self.remove_domain(*domain);
        }
        !known.is_empty()
    }

    fn remove_owned(&mut self, domain: DomainId) {
        let root = Path::root();
        let all = self.tree.below(&root);
        let mut changes = Vec::new();
        let quotas = self.quotas;
        for (path, node) in all {
            if node.perms.names(domain) && !planted!(self, LastingRights) {
                // Not a change that anybody is told of: nothing is different for those who exist.
                let generation = node.generation;
                self.tree.change(&path, generation, |node| node.perms = node.perms.without(domain));
            }
            if node.perms.owner() != domain || path.is_root() || self.tree.get(&path).is_none() {
                continue;
            }
            let subject = Subject { domain: DomainId::DOM0, target: None };
            let place = Place::Main(&mut self.tree);
            let generation = &mut self.generation;
            let mut view = View {
                place,
                subject,
                quotas: &quotas,
                generation,
                held: 0,
                #[cfg(feature = "planted")]
                planted: None,
                changes: Vec::new(),
            };
            view.remove_now(&path, &path.parent(), &[]);
            changes.append(&mut view.changes);
        }
        // These stay, whoever owns them.
        for path in [root, Path::special(INTRODUCE_DOMAIN), Path::special(RELEASE_DOMAIN)] {
            let Some(node) = self.tree.get(&path) else { continue };
            let (owned, generation) = (node.perms.owner() == domain, node.generation);
            self.tree.change(&path, generation, |node| {
                node.perms = if owned { Perms::owned_by(DomainId::DOM0) } else { node.perms.without(domain) };
            });
        }
        self.tell(changes);
    }

    fn tell_special(&mut self, name: &'static str) {
        let path = Path::special(name);
        let readable = self.tree.get(&path).map(|node| node.perms.clone()).into_iter().collect();
        self.tell(alloc::vec![Change { path, exact: true, readable }]);
    }

    /// `domid|frame|port|`
    pub(crate) fn introduce_request(&mut self, payload: &[u8]) -> Result<(), Errno> {
        let strings = strings(payload);
        let &[id, frame, port, ..] = &*strings else { return Err(Errno::Inval) };
        let (id, frame) = (domain(id), number(frame) as u64);
        let port = u32::try_from(number(port)).ok().filter(|&port| port != 0).ok_or(Errno::Inval)?;
        if id == DomainId::DOM0 || !id.is_guest() {
            return Err(Errno::Inval);
        }
        let (page, local) = self.host.connect(id, frame, Port(port))?;
        self.introduce(id, page, local);
        Ok(())
    }

    /// The introduced domain, not 0, that a request names.
    fn named(&self, payload: &[u8]) -> Result<DomainId, Errno> {
        let id = domain(single(payload)?);
        if id == DomainId::DOM0 {
            return Err(Errno::Inval);
        }
        if self.guests.contains_key(&id) { Ok(id) } else { Err(Errno::NoEnt) }
    }

    /// `domid|`
    pub(crate) fn release_request(&mut self, payload: &[u8]) -> Result<(), Errno> {
        let id = self.named(payload)?;
        self.remove_domain(id);
        Ok(())
    }

    /// `domid|`
    pub(crate) fn resume_request(&mut self, payload: &[u8]) -> Result<(), Errno> {
        let id = self.named(payload)?;
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.shut_down = false;
        }
        Ok(())
    }

    /// `domid|target|`
    pub(crate) fn set_target(&mut self, payload: &[u8]) -> Result<(), Errno> {
        let strings = strings(payload);
        let &[id, target, ..] = &*strings else { return Err(Errno::Inval) };
        let target = domain(target);
        let guest = self.guests.get(&domain(id)).ok_or(Errno::NoEnt)?;
        if !self.guests.contains_key(&target) {
            return Err(Errno::NoEnt);
        }
        if let Some(connection) = self.connections.get_mut(&guest.connection) {
            connection.subject.target = Some(target);
        }
        Ok(())
    }
}
