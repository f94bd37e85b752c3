//! The shipped store in dom0: the machine under it, its pump, and clients for the toolstack and the back ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll};

use trunnion_backends::host::{StoreClient, StoreWatch};
use trunnion_dom0::devices::interrupt::Signal;
use trunnion_guest::executor::yield_now;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::control::{DomainInfo, Operation};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, Port};
use trunnion_xenstore::local::{LocalClient, NO_TRANSACTION};
use trunnion_xenstore::ring::{MemoryRing, RingPage};
use trunnion_xenstore::server::{Host, Store};
use zerocopy::FromZeros;

use super::control::{ForeignPage, dom0};
use super::kernel::{Kernel, Listener};

const ATTEMPTS: usize = 16;

/// The machine, as the store sees it.
struct Machine;

impl Host for Machine {
    fn exists(&self, domain: DomainId) -> bool {
        let Some(kernel) = dom0() else { return false };
        let mut info = DomainInfo::new_zeroed();
        info.domain = domain.0;
        domain == DomainId::DOM0
            || (kernel.control(Operation::DomainInfo, &mut info).is_ok() && info.domain == domain.0)
    }

    fn connect(
        &mut self,
        domain: DomainId,
        frame: u64,
        port: Port,
    ) -> Result<(Box<dyn RingPage + Send>, Port), Errno> {
        let page = ForeignPage::map(domain, Gfn(frame))?;
        let local = dom0().ok_or(Errno::NoSys)?.bind_interdomain(domain, port)?;
        Ok((Box::new(MemoryRing(page)), local))
    }

    fn disconnect(&mut self, domain: DomainId, port: Port) {
        if let Some(kernel) = dom0()
            && let Err(error) = kernel.close(port)
            && !kernel.is_dead()
        {
            kernel
                .shared
                .complain(format!("the store's port {port} of domain {domain} cannot be closed: {error}"));
        }
    }
}

struct Inner {
    store: RefCell<Store>,
    touched: Signal,
    kernel: Rc<Kernel>,
}

/// The store, for everybody in dom0.
#[derive(Clone)]
pub struct StoreHandle(Rc<Inner>);

impl StoreHandle {
    /// A fresh store with its pump.
    pub fn start(kernel: &Rc<Kernel>) -> Self {
        let inner = Inner {
            store: RefCell::new(Store::new(Box::new(Machine))),
            touched: Signal::default(),
            kernel: Rc::clone(kernel),
        };
        let handle = Self(Rc::new(inner));
        kernel.spawner.spawn(pump(handle.clone()));
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

    /// All paths that there are.
    pub fn paths(&self) -> Vec<String> {
        let client = self.client();
        let mut found = Vec::new();
        let mut todo = vec![String::from("/")];
        while let Some(path) = todo.pop() {
            let names =
                client.with(|client, store| client.list(store, NO_TRANSACTION, &path)).unwrap_or_default();
            let base = if path == "/" { "" } else { &path };
            todo.extend(names.iter().map(|name| format!("{base}/{name}")));
            found.push(path);
        }
        found.sort();
        found
    }

    fn serve(&self, domain: DomainId) -> bool {
        let (service, port) = {
            let mut store = self.0.store.borrow_mut();
            (store.service(domain), store.port(domain))
        };
        if let Some(port) = port.filter(|_| service.notify) {
            self.0.kernel.send(port);
        }
        self.0.touched.raise();
        service.more
    }
}

async fn pump(handle: StoreHandle) {
    let mut listening: BTreeMap<DomainId, Port> = BTreeMap::new();
    loop {
        handle.0.touched.next().await;
        let introduced: Vec<_> = {
            let store = handle.0.store.borrow();
            let domains = store.introduced().into_iter();
            domains.filter_map(|domain| Some((domain, store.port(domain)?))).collect()
        };
        listening.retain(|domain, port| introduced.contains(&(*domain, *port)));
        for (domain, port) in introduced {
            if listening.insert(domain, port) != Some(port) {
                let listener = handle.0.kernel.listener(port);
                handle.0.kernel.spawner.spawn(listen(handle.clone(), domain, listener));
            }
        }
        loop {
            let ready = handle.0.store.borrow_mut().next_ready();
            let Some(domain) = ready else { break };
            let (service, port) = {
                let mut store = handle.0.store.borrow_mut();
                (store.service(domain), store.port(domain))
            };
            if let Some(port) = port.filter(|_| service.notify) {
                handle.0.kernel.send(port);
            }
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
        let mut client = self.0.client.borrow_mut();
        let Some(client) = client.as_mut() else { return Poll::Ready(()) };
        while let Poll::Ready(Some(_)) = client.poll_event(&mut self.0.store.0.store.borrow_mut(), context) {
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
                client.write(store, transaction, &format!("{directory}/{name}"), value.as_bytes())?;
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
