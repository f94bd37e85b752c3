//! The network of dom0: the shipped back end of each port and the shipped bridge between them, as dom0's own service joins
//! them; and what is known of every frame on its way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use trunnion_backends::bridge::Bridge;
use trunnion_backends::host::{Clock, CopyPage, GrantCopier, GrantCopy};
use trunnion_backends::net::{Config, Place, Shared, Snapshot, Vif, serve};
use trunnion_dom0::devices::interrupt::Signal;
use trunnion_dom0::plan::{backend_nic, frontend_nic};
use trunnion_frontends::platform::Platform;
use trunnion_protocol::address::Gfn;
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy, Op};
use trunnion_protocol::id::DomainId;
use trunnion_protocol::layout::{Layout, Width};

use super::backend::{BATCH, Back, encode};
use super::kernel::Pages;
use super::store::Client;

impl GrantCopier for Back {
    type Local = Pages;

    fn local(&self, count: usize) -> Option<(Pages, Gfn)> {
        self.kernel.pages(count).ok().map(|(pages, gfns)| (pages, gfns.first()))
    }

    fn copy(&self, copies: &[GrantCopy], results: &mut Vec<Result<(), GrantStatus>>) {
        for copies in copies.chunks(BATCH) {
            let mut bytes = encode(copies.iter().map(described));
            let call =
                self.kernel.batch(Hypercall::GrantTableOp, Op::Copy.number(), &mut bytes, copies.len());
            results.extend(bytes.chunks_exact(Copy::SIZE64).map(|bytes| {
                let copy = Copy::decode(Width::W64, bytes).filter(|_| call.is_ok());
                let status = copy.and_then(|copy| GrantStatus::from_number(copy.status));
                status.unwrap_or(GrantStatus::GeneralError).result()
            }));
        }
    }
}

fn described(copy: &GrantCopy) -> Copy {
    let page = |page| match page {
        CopyPage::Granted(domain, reference) => (u64::from(reference.0), domain, true),
        CopyPage::Local(gfn) => (gfn.0, DomainId::SELF, false),
    };
    let (source, source_domain, from_grant) = page(copy.from);
    let (destination, destination_domain, to_grant) = page(copy.to);
    Copy {
        source,
        source_domain,
        source_offset: copy.from_offset,
        destination,
        destination_domain,
        destination_offset: copy.to_offset,
        length: copy.length,
        flags: if from_grant { COPY_SOURCE_GRANT } else { 0 }
            | if to_grant { COPY_DESTINATION_GRANT } else { 0 },
        status: 0,
    }
}

impl Clock for Back {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.kernel.now_ns())
    }

    fn sleep_until(&self, moment: Duration) -> Pin<Box<dyn Future<Output = ()>>> {
        let kernel = Rc::clone(&self.kernel);
        Box::pin(async move {
            let left = moment.saturating_sub(Duration::from_nanos(kernel.now_ns()));
            kernel.sleep(left.as_nanos() as u64).await;
        })
    }
}

/// What is known of the frames on their way: each has a number, and is heard at most once by each guest.
#[derive(Default)]
pub struct Wire {
    sent: RefCell<Vec<Sent>>,
    heard: RefCell<BTreeSet<(u64, usize)>>,
}

#[derive(Clone, Copy)]
struct Sent {
    to: [u8; 6],
    from: [u8; 6],
    length: usize,
}

/// Bytes before the content: two addresses, a type, the frame's number.
const HEADER: usize = 22;
/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The address of the guest of a number.
pub const fn address(number: usize) -> [u8; 6] {
    [0, 0x16, 0x3e, 0, 0, number as u8]
}

impl Wire {
    /// The bytes of a new frame.
    pub fn frame(&self, to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
        let sent = Sent { to, from, length: length.max(60) };
        let mut all = self.sent.borrow_mut();
        all.push(sent);
        sent.bytes(all.len() as u64 - 1)
    }

    /// A guest heard these bytes: they are those of a frame that was sent to it, for the first time.
    pub fn hear(&self, guest: usize, bytes: &[u8]) -> Result<(), String> {
        let number = bytes.get(14..HEADER).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let sent = number.and_then(|number| self.sent.borrow().get(number as usize).copied());
        let (Some(number), Some(sent)) = (number, sent) else {
            return Err(format!("{} bytes were heard that nobody has sent", bytes.len()));
        };
        if bytes != sent.bytes(number) {
            return Err(format!(
                "frame {number} of {} bytes was heard as {} others",
                sent.length,
                bytes.len()
            ));
        }
        if sent.from == address(guest) {
            return Err(format!("frame {number} came back to its sender"));
        }
        if !self.heard.borrow_mut().insert((number, guest)) {
            return Err(format!("frame {number} was heard twice"));
        }
        Ok(())
    }

    /// Frames that were heard, by all guests together.
    pub fn heard(&self) -> u64 {
        self.heard.borrow().len() as u64
    }
}

impl Sent {
    fn bytes(&self, number: u64) -> Vec<u8> {
        let mut bytes = [self.to, self.from].concat();
        bytes.extend([0x88, 0xb5]);
        bytes.extend(number.to_le_bytes());
        bytes.extend((HEADER..self.length).map(|at| (at as u64).wrapping_mul(number | 1) as u8));
        bytes
    }
}

#[derive(Default)]
struct Ended {
    done: Cell<bool>,
    signal: Signal,
}

struct Served {
    vif: Rc<Vif<Back>>,
    ended: Rc<Ended>,
}

/// One bridge, and the ports of all guests.
pub struct Nets {
    back: Back,
    bridge: Rc<Bridge>,
    shared: RefCell<Option<Rc<Shared<Back>>>>,
    vifs: RefCell<BTreeMap<(DomainId, u32), Served>>,
    /// What is on its way.
    pub wire: Rc<Wire>,
}

impl Nets {
    /// Without ports.
    pub fn new(back: &Back) -> Self {
        Self {
            back: back.clone(),
            bridge: Rc::new(Bridge::new("xenbr0")),
            shared: RefCell::default(),
            vifs: RefCell::default(),
            wire: Rc::default(),
        }
    }

    /// Starts the back end of a port.
    pub fn attach(
        &self,
        client: Client,
        domain: DomainId,
        number: u32,
        address: [u8; 6],
    ) -> Result<(), Errno> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_none() {
            *shared = Shared::new(&self.back).map(Rc::new);
        }
        let shared = shared.clone().ok_or(Errno::NoMem)?;
        let config = Config { domain, address, any_address: false, rate: None, queues: 1 };
        let vif = Rc::new(Vif::new(self.back.clone(), config, Rc::clone(&self.bridge), shared));
        let ended = Rc::new(Ended::default());
        let served = Served { vif: Rc::clone(&vif), ended: Rc::clone(&ended) };
        self.vifs.borrow_mut().insert((domain, number), served);
        let place = Place { back: backend_nic(domain, number), front: frontend_nic(domain, number) };
        self.back.kernel.spawner.spawn(async move {
            serve(&vif, &client, &place).await;
            drop(vif);
            ended.done.set(true);
            ended.signal.raise();
        });
        Ok(())
    }

    /// Waits until a back end whose folder is gone has let go of its guest.
    pub async fn end(&self, domain: DomainId, number: u32) {
        let ended = self.vifs.borrow().get(&(domain, number)).map(|served| Rc::clone(&served.ended));
        if let Some(ended) = ended {
            while !ended.done.get() {
                ended.signal.next().await;
            }
        }
        self.vifs.borrow_mut().remove(&(domain, number));
    }

    /// Whether a port has a back end.
    pub fn serves(&self, domain: DomainId, number: u32) -> bool {
        self.vifs.borrow().contains_key(&(domain, number))
    }

    /// Whether a port is joined to its guest's rings.
    pub fn is_connected(&self, domain: DomainId, number: u32) -> bool {
        self.vifs.borrow().get(&(domain, number)).is_some_and(|served| served.vif.is_connected())
    }

    /// What a port has done so far.
    pub fn counts(&self, domain: DomainId, number: u32) -> Snapshot {
        let vifs = self.vifs.borrow();
        vifs.get(&(domain, number)).map(|served| served.vif.statistics().snapshot()).unwrap_or_default()
    }

    /// Gives dom0's own pages back: nothing of the network is left.
    pub fn close(&self) -> Result<(), String> {
        *self.shared.borrow_mut() = None;
        match (self.bridge.ports(), self.vifs.borrow().len()) {
            (0, 0) => Ok(()),
            (ports, vifs) => Err(format!("{ports} ports are on the bridge in the end, {vifs} back ends run")),
        }
    }
}
