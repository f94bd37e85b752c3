//! The xenstore daemon: the store, the guests' ring pages, and clients inside dom0.
//!
//! One task for each introduced domain waits for its events; one more, the pump, starts these tasks and serves the
//! domains that have messages waiting because of what others did. Whoever touches the store through
//! [`StoreHandle::with`] sets the pump going.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::{Context, Poll};

use trunnion_backends::host::{StoreClient, StoreWatch};
use trunnion_guest::events::{self, Listener};
use trunnion_guest::executor::{Spawner, yield_now};
use trunnion_guest::hypercall;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::{DomainInfo, Operation};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_xenstore::local::{LocalClient, NO_TRANSACTION, WatchEvent};
use trunnion_xenstore::ring::{MemoryRing, RingPage};
use trunnion_xenstore::server::{Host, Store};
use zerocopy::FromZeros;

use super::charge::{Meter, charged};
use super::foreign::ForeignPage;
use crate::devices::interrupt::Signal;

/// Folders that are there before any domain, with their values: what no single domain's end removes.
const FIRST: [(&str, &str); 8] = [
    ("/tool", ""),
    ("/vm", ""),
    ("/libxl", ""),
    ("/local/domain/0/name", "Domain-0"),
    ("/local/domain/0/domid", "0"),
    ("/local/domain/0/backend/vbd", ""),
    ("/local/domain/0/backend/vif", ""),
    ("/local/domain/0/backend/console", ""),
];

/// How often a conflicting transaction is tried.
const ATTEMPTS: usize = 16;

/// The machine, as the store sees it.
struct Machine;

impl Host for Machine {
    fn exists(&self, domain: DomainId) -> bool {
        let mut info = DomainInfo::new_zeroed();
        info.domain = domain.0;
        domain == DomainId::DOM0
            || (hypercall::control(Operation::DomainInfo, &mut info).is_ok() && info.domain == domain.0)
    }

    fn connect(
        &mut self,
        domain: DomainId,
        frame: u64,
        port: Port,
    ) -> Result<(Box<dyn RingPage + Send>, Port), Errno> {
        let page = ForeignPage::map(domain, Gfn(frame))?;
        let local = events::bind_interdomain(domain, port)?;
        Ok((Box::new(MemoryRing(page)), local))
    }

    fn disconnect(&mut self, domain: DomainId, port: Port) {
        if let Err(error) = events::close(port) {
            log::error!("the store's port cannot be closed: {error} domain={domain} port={port}");
        }
    }
}

struct Inner {
    store: RefCell<Store>,
    touched: Signal,
}

/// The store, for everybody in dom0.
#[derive(Clone)]
pub struct StoreHandle(Rc<Inner>);

impl StoreHandle {
    /// A fresh store and its daemon.
    pub fn start(spawner: &Spawner) -> Self {
        let inner = Inner { store: RefCell::new(Store::new(Box::new(Machine))), touched: Signal::default() };
        let handle = Self(Rc::new(inner));
        let client = handle.client();
        for (path, value) in FIRST {
            if let Err(error) =
                client.with(|client, store| client.write(store, NO_TRANSACTION, path, value.as_bytes()))
            {
                log::error!("the store's first folders cannot be made: {error} path={path}");
            }
        }
        spawner.spawn(pump(handle.clone(), spawner.clone()));
        handle
    }

    /// Uses the store. Must not be nested.
    pub fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let result = act(&mut self.0.store.borrow_mut());
        self.0.touched.raise();
        result
    }

    /// A connection with dom0's rights.
    pub fn client(&self) -> Client {
        let client = self.with(|store| LocalClient::new(store, DomainId::DOM0));
        Client { store: self.clone(), client: RefCell::new(Some(client)) }
    }

    /// Moves bytes for a domain. True when there is more to do.
    fn answer(&self, domain: DomainId) -> bool {
        let (service, port) = {
            let mut store = self.0.store.borrow_mut();
            (store.service(domain), store.port(domain))
        };
        if let Some(port) = port.filter(|_| service.notify) {
            let _ = events::send(port);
        }
        service.more
    }

    /// The same, when what this domain wrote may be news for others.
    fn serve(&self, domain: DomainId) -> bool {
        let more = self.answer(domain);
        self.0.touched.raise();
        more
    }
}

async fn pump(handle: StoreHandle, spawner: Spawner) {
    let mut listening: BTreeMap<DomainId, (Port, Rc<Meter>)> = BTreeMap::new();
    loop {
        handle.0.touched.next().await;
        let introduced: Vec<_> = {
            let store = handle.0.store.borrow();
            let domains = store.introduced().into_iter();
            domains.filter_map(|domain| Some((domain, store.port(domain)?))).collect()
        };
        listening.retain(|domain, (port, _)| introduced.contains(&(*domain, *port)));
        for (domain, port) in introduced {
            listening.entry(domain).or_insert_with(|| {
                let meter = Meter::new(domain);
                let task = listen(handle.clone(), domain, Listener::new(port));
                spawner.spawn(charged(Rc::clone(&meter), task));
                (port, meter)
            });
        }
        loop {
            let ready = handle.0.store.borrow_mut().next_ready();
            let Some(domain) = ready else { break };
            match listening.get(&domain) {
                Some((_, meter)) => meter.measure(|| handle.answer(domain)),
                None => handle.answer(domain),
            };
            yield_now().await;
        }
    }
}

async fn listen(handle: StoreHandle, domain: DomainId, listener: Listener) {
    loop {
        while handle.serve(domain) {
            yield_now().await;
        }
        if !listener.next().await {
            return;
        }
    }
}

/// A connection to the store inside dom0; closed when dropped.
pub struct Client {
    store: StoreHandle,
    client: RefCell<Option<LocalClient>>,
}

impl Client {
    /// Makes a request.
    pub fn with<R>(
        &self,
        act: impl FnOnce(&mut LocalClient, &mut Store) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let mut client = self.client.borrow_mut();
        let client = client.as_mut().ok_or(Errno::Io)?;
        self.store.with(|store| act(client, store))
    }

    /// A value as text; `None` when there is no such node.
    pub fn text(&self, path: &str) -> Result<Option<String>, Errno> {
        absent(self.with(|client, store| client.read_text(store, NO_TRANSACTION, path)))
    }

    /// The next event of this connection's watches.
    pub fn poll_event(&self, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        let mut client = self.client.borrow_mut();
        // Waiting changes nothing, so the pump is left alone.
        match client.as_mut() {
            Some(client) => client.poll_event(&mut self.store.0.store.borrow_mut(), context),
            None => Poll::Ready(None),
        }
    }

    /// The handle behind it.
    pub const fn handle(&self) -> &StoreHandle {
        &self.store
    }

    /// Does something in a transaction, again while it conflicts with others.
    pub fn transaction<R>(
        &self,
        mut act: impl FnMut(&mut LocalClient, &mut Store, u32) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        for _ in 0..ATTEMPTS {
            let outcome = self.with(|client, store| {
                let transaction = client.start(store)?;
                let result = act(client, store, transaction);
                client.end(store, transaction, result.is_ok()).and(result)
            });
            if !matches!(outcome, Err(Errno::Again)) {
                return outcome;
            }
        }
        Err(Errno::Again)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(client) = self.client.borrow_mut().take() {
            self.store.with(|store| client.close(store));
        }
    }
}

fn absent<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NoEnt) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A watch with a connection of its own.
pub struct Watch(Client);

impl StoreWatch for Watch {
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut changed = false;
        // All events that wait are one change.
        while let Poll::Ready(Some(_)) = self.0.poll_event(context) {
            changed = true;
        }
        if changed { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl StoreClient for Client {
    type Watch = Watch;

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Errno> {
        absent(self.with(|client, store| client.read(store, NO_TRANSACTION, path)))
    }

    async fn write_all(&self, directory: &str, values: &[(String, String)]) -> Result<(), Errno> {
        self.transaction(|client, store, transaction| {
            for (name, value) in values {
                let path = alloc::format!("{directory}/{name}");
                client.write(store, transaction, &path, value.as_bytes())?;
            }
            Ok(())
        })
    }

    async fn watch(&self, path: &str) -> Result<Watch, Errno> {
        let client = self.store.client();
        client.with(|client, store| client.watch(store, path, "w"))?;
        Ok(Watch(client))
    }
}
