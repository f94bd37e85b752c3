//! A small world around a back end: guest memory with grants, ports, a store, and an executor that polls only what was
//! woken, so that a lost wake-up shows.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod front;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use trunnion_backends::device::GuestPage;
use trunnion_backends::host::{
    CopyPage, EventPort, Events, GrantCopier, GrantCopy, GrantMapper, StoreClient, StoreWatch, Wanted,
};
use trunnion_protocol::address::{Gfn, MachineAddress, PAGE_SIZE};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::shared::SharedPage;

pub const GUEST: DomainId = DomainId(7);

/// One grant: the page, whether it may be written, and how often it is mapped.
pub struct Granted {
    pub page: Rc<SharedPage>,
    pub writable: bool,
    pub maps: Rc<Cell<u32>>,
}

#[derive(Default)]
pub struct World {
    pub grants: RefCell<BTreeMap<u32, Granted>>,
    /// Mapped pages altogether.
    pub mapped: Cell<u32>,
    pub map_calls: Cell<u32>,
    pub unmap_calls: Cell<u32>,
    pub ports: RefCell<BTreeMap<u32, Rc<Channel>>>,
    next_grant: Cell<u32>,
    /// The back end's own pages that copies may name.
    local: RefCell<BTreeMap<u64, (LocalPages, usize)>>,
    pub copy_calls: Cell<u32>,
}

/// Pages of the back end's own, in a row.
#[derive(Clone)]
pub struct LocalPages(Rc<Vec<SharedPage>>);

impl AsRef<[SharedPage]> for LocalPages {
    fn as_ref(&self) -> &[SharedPage] {
        &self.0
    }
}

/// An event channel between guest and back end.
#[derive(Default)]
pub struct Channel {
    pending: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    pub bound: Cell<bool>,
    /// Notifications that the guest got.
    pub notified: Cell<u32>,
}

impl Channel {
    pub fn kick(&self) {
        self.pending.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl World {
    pub fn new() -> Rc<Self> {
        let world = Rc::new(Self::default());
        world.next_grant.set(8);
        world
    }

    pub fn grant(&self, page: &Rc<SharedPage>, writable: bool) -> GrantRef {
        let reference = self.next_grant.get();
        self.next_grant.set(reference + 1);
        let granted = Granted { page: Rc::clone(page), writable, maps: Rc::default() };
        self.grants.borrow_mut().insert(reference, granted);
        GrantRef(reference)
    }

    /// Takes a grant back, which must not be mapped.
    pub fn revoke(&self, reference: GrantRef) {
        let granted = self.grants.borrow_mut().remove(&reference.0).expect("a grant is revoked once");
        assert_eq!(granted.maps.get(), 0, "grant {reference} is still mapped when its request is answered");
    }

    /// Looks at a page that a copy names.
    fn with_page(
        &self,
        page: CopyPage,
        is_written: bool,
        look: impl FnOnce(&SharedPage),
    ) -> Result<(), GrantStatus> {
        match page {
            CopyPage::Local(gfn) => {
                let local = self.local.borrow();
                let (pages, index) = local.get(&gfn.0).expect("a page of the back end's own");
                look(&pages.0[*index]);
            }
            CopyPage::Granted(domain, reference) => {
                assert_eq!(domain, GUEST);
                let grants = self.grants.borrow();
                let granted = grants.get(&reference.0).ok_or(GrantStatus::BadGntref)?;
                if is_written && !granted.writable {
                    return Err(GrantStatus::PermissionDenied);
                }
                look(&granted.page);
            }
        }
        Ok(())
    }

    pub fn open(&self, port: u32) -> Rc<Channel> {
        Rc::clone(self.ports.borrow_mut().entry(port).or_default())
    }
}

pub struct Mapped {
    page: Rc<SharedPage>,
    maps: Rc<Cell<u32>>,
    gfn: Gfn,
    unmapped: bool,
}

impl GuestPage for Mapped {
    fn shared(&self) -> &SharedPage {
        &self.page
    }
    fn gfn(&self) -> Gfn {
        self.gfn
    }
    fn bus_address(&self) -> MachineAddress {
        MachineAddress(self.gfn.0 << 12)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        assert!(self.unmapped || std::thread::panicking(), "a mapped page is dropped without being unmapped");
    }
}

/// What the back end sees.
#[derive(Clone)]
pub struct Host(pub Rc<World>);

impl GrantMapper for Host {
    type Page = Mapped;

    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Mapped, GrantStatus>>) {
        assert_eq!(domain, GUEST);
        self.0.map_calls.set(self.0.map_calls.get() + 1);
        for wanted in wanted {
            let grants = self.0.grants.borrow();
            results.push(match grants.get(&wanted.reference.0) {
                None => Err(GrantStatus::BadGntref),
                Some(granted) if wanted.access == Access::ReadWrite && !granted.writable => {
                    Err(GrantStatus::PermissionDenied)
                }
                Some(granted) => {
                    granted.maps.set(granted.maps.get() + 1);
                    self.0.mapped.set(self.0.mapped.get() + 1);
                    Ok(Mapped {
                        page: Rc::clone(&granted.page),
                        maps: Rc::clone(&granted.maps),
                        gfn: Gfn(u64::from(wanted.reference.0)),
                        unmapped: false,
                    })
                }
            });
        }
    }

    fn unmap(&self, pages: &mut Vec<Mapped>) {
        self.0.unmap_calls.set(self.0.unmap_calls.get() + 1);
        for mut page in pages.drain(..) {
            page.unmapped = true;
            page.maps.set(page.maps.get() - 1);
            self.0.mapped.set(self.0.mapped.get() - 1);
        }
    }
}

impl GrantCopier for Host {
    type Local = LocalPages;

    fn local(&self, count: usize) -> Option<(LocalPages, Gfn)> {
        let pages = LocalPages(Rc::new((0..count).map(|_| SharedPage::zeroed()).collect()));
        let mut local = self.0.local.borrow_mut();
        let first = local.keys().last().map_or(0x1000, |last| last + 7);
        local.extend((0..count).map(|index| (first + index as u64, (pages.clone(), index))));
        Some((pages, Gfn(first)))
    }

    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
        self.0.copy_calls.set(self.0.copy_calls.get() + 1);
        results.extend(copies.iter().map(|copy| {
            let (from, to) = (usize::from(copy.from_offset), usize::from(copy.to_offset));
            let mut bytes = vec![0; usize::from(copy.length)];
            let most = PAGE_SIZE - from.max(to);
            assert!((1..=most).contains(&bytes.len()), "{copy:?}");
            self.0.with_page(copy.from, false, |page| page.copy_out(from, &mut bytes).unwrap())?;
            self.0.with_page(copy.to, true, |page| page.copy_in(to, &bytes).unwrap())
        }));
    }
}

pub struct BoundPort(Rc<Channel>);

impl EventPort for BoundPort {
    fn notify(&self) {
        self.0.notified.set(self.0.notified.get() + 1);
    }
    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.pending.replace(false) {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for BoundPort {
    fn drop(&mut self) {
        self.0.bound.set(false);
    }
}

impl Events for Host {
    type Port = BoundPort;
    fn bind(&self, domain: DomainId, remote: Port) -> Result<BoundPort, Errno> {
        assert_eq!(domain, GUEST);
        let ports = self.0.ports.borrow();
        let channel = ports.get(&remote.0).ok_or(Errno::Inval)?;
        if channel.bound.replace(true) {
            return Err(Errno::Inval);
        }
        // A new binding is pending at once.
        channel.kick();
        Ok(BoundPort(Rc::clone(channel)))
    }
}

/// A store without permissions.
#[derive(Clone, Default)]
pub struct Store(Rc<StoreInside>);

#[derive(Default)]
struct StoreInside {
    nodes: RefCell<BTreeMap<String, Vec<u8>>>,
    watches: RefCell<Vec<Rc<WatchInside>>>,
}

struct WatchInside {
    path: String,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

pub struct Watch(Rc<WatchInside>);

impl Store {
    pub fn set(&self, path: &str, value: &str) {
        self.0.nodes.borrow_mut().insert(path.to_string(), value.as_bytes().to_vec());
        self.fire(path);
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let value = self.0.nodes.borrow().get(path).cloned()?;
        Some(String::from_utf8(value).expect("the back end writes text"))
    }

    pub fn remove(&self, directory: &str) {
        self.0.nodes.borrow_mut().retain(|path, _| !path.starts_with(directory));
        for watch in self.0.watches.borrow().iter().filter(|watch| watch.path.starts_with(directory)) {
            watch.fire();
        }
    }

    fn fire(&self, path: &str) {
        for watch in self.0.watches.borrow().iter().filter(|watch| path.starts_with(&watch.path)) {
            watch.fire();
        }
    }
}

impl WatchInside {
    fn fire(&self) {
        self.fired.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl StoreClient for Store {
    type Watch = Watch;
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Errno> {
        Ok(self.0.nodes.borrow().get(path).cloned())
    }
    async fn write_all(&self, directory: &str, values: &[(String, String)]) -> Result<(), Errno> {
        for (key, value) in values {
            self.set(&format!("{directory}/{key}"), value);
        }
        Ok(())
    }
    async fn watch(&self, path: &str) -> Result<Watch, Errno> {
        let inside = Rc::new(WatchInside {
            path: path.to_string(),
            fired: Cell::new(true),
            waker: RefCell::new(None),
        });
        self.0.watches.borrow_mut().push(Rc::clone(&inside));
        Ok(Watch(inside))
    }
}

impl StoreWatch for Watch {
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.fired.replace(false) {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A flag that says whether the task is to be polled.
pub struct Woken {
    flag: AtomicBool,
    pub polls: AtomicU32,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

impl Woken {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { flag: AtomicBool::new(true), polls: AtomicU32::new(0) })
    }

    /// Polls while it is woken; `None` when it sleeps.
    pub fn run<T>(self: &Arc<Self>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        let waker = Waker::from(Arc::clone(self));
        let mut context = Context::from_waker(&waker);
        for _ in 0..100_000 {
            if !self.flag.swap(false, Ordering::Relaxed) {
                return None;
            }
            self.polls.fetch_add(1, Ordering::Relaxed);
            if let Poll::Ready(value) = poll(&mut context) {
                self.flag.store(true, Ordering::Relaxed);
                return Some(value);
            }
        }
        panic!("the back end never sleeps");
    }

    pub fn run_future<T>(self: &Arc<Self>, future: &mut Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
        self.run(|context| future.as_mut().poll(context))
    }
}
