//! A host in memory that counts everything it gives out, and fails where it is told to.

use super::{Cause, DiskRefusal, DiskSource, Host, ModelParts, Stream};
use crate::config::Nic;
use crate::plan::{Group, Plan, PlannedDisk};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use trunnion_protocol::address::{Gfn, Gpa};
use trunnion_protocol::control::VcpuState;
use trunnion_protocol::errno::Errno;
use trunnion_protocol::hypercall::hvm::Param;
use trunnion_protocol::hypercall::memory::Region;
use trunnion_protocol::id::{DomainId, GrantRef, Port, VcpuId};

#[derive(Debug, Default)]
pub(crate) struct Guest {
    pub(crate) frames: BTreeMap<u64, u32>,
    pub(crate) limit: u64,
    pub(crate) memory: BTreeMap<u64, Vec<u8>>,
    pub(crate) ports: u32,
    pub(crate) params: BTreeMap<u32, u64>,
    pub(crate) grants: BTreeMap<u32, u64>,
    pub(crate) state: Option<VcpuState>,
    pub(crate) pauses: u32,
    pub(crate) name: String,
    /// Weight and cap.
    pub(crate) scheduling: (u32, u32),
}

/// The host. Everything a build takes is in one of these tables.
#[derive(Debug, Default)]
pub(crate) struct FakeHost {
    pub(crate) guests: RefCell<BTreeMap<u16, Guest>>,
    pub(crate) free_pages: Cell<u64>,
    /// Pieces of that order and above are out.
    pub(crate) largest_order: Cell<u32>,
    pub(crate) nodes: RefCell<BTreeMap<String, String>>,
    pub(crate) introduced: RefCell<BTreeSet<u16>>,
    pub(crate) consoles: RefCell<BTreeSet<u16>>,
    pub(crate) disks: RefCell<BTreeSet<(u16, u32)>>,
    pub(crate) nics: RefCell<BTreeSet<(u16, u32)>>,
    pub(crate) models: RefCell<BTreeSet<u16>>,
    /// Calls so far that could fail.
    pub(crate) calls: Cell<u32>,
    /// The call that fails.
    pub(crate) fail: Cell<Option<u32>>,
    /// What tools were told.
    pub(crate) events: RefCell<Vec<crate::control::Event>>,
    /// Domains that have shut down, and why.
    pub(crate) down: RefCell<BTreeMap<u16, u32>>,
    /// The clock.
    pub(crate) now: Cell<u64>,
    /// Frames that nobody will give back.
    pub(crate) leaked: Cell<u64>,
    pub(crate) off: Cell<bool>,
    /// What the tool has, by its numbers.
    pub(crate) files: RefCell<BTreeMap<u32, Vec<u8>>>,
    next: Cell<u16>,
}

impl FakeHost {
    pub(crate) fn new(free_pages: u64) -> Self {
        let host = Self::default();
        host.free_pages.set(free_pages);
        host.largest_order.set(18);
        host
    }

    fn may(&self) -> Result<(), Errno> {
        let call = self.calls.get();
        self.calls.set(call + 1);
        if self.fail.get() == Some(call) { Err(Errno::Io) } else { Ok(()) }
    }

    fn guest<R>(&self, domain: DomainId, act: impl FnOnce(&mut Guest) -> R) -> Result<R, Errno> {
        self.guests.borrow_mut().get_mut(&domain.0).map(act).ok_or(Errno::Srch)
    }

    /// Whether nothing is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.guests.borrow().is_empty()
            && self.nodes.borrow().is_empty()
            && self.introduced.borrow().is_empty()
            && self.consoles.borrow().is_empty()
            && self.disks.borrow().is_empty()
            && self.nics.borrow().is_empty()
            && self.models.borrow().is_empty()
    }
}

impl Host for FakeHost {
    fn create(&self, plan: &Plan) -> Result<DomainId, Errno> {
        self.may()?;
        self.next.set(self.next.get() + 1);
        self.guests.borrow_mut().insert(
            self.next.get(),
            Guest { limit: plan.max_pages, pauses: 1, name: plan.name.clone(), ..Guest::default() },
        );
        Ok(DomainId(self.next.get()))
    }

    fn destroy(&self, domain: DomainId) -> Result<(), Errno> {
        let guest = self.guests.borrow_mut().remove(&domain.0).ok_or(Errno::Srch)?;
        // Devices and services leave before the memory goes.
        assert!(!self.consoles.borrow().contains(&domain.0) && !self.introduced.borrow().contains(&domain.0));
        assert!(!self.disks.borrow().iter().any(|(d, _)| *d == domain.0));
        assert!(!self.nics.borrow().iter().any(|(d, _)| *d == domain.0));
        let pages: u64 = guest.frames.values().map(|order| 1 << order).sum();
        self.free_pages.set(self.free_pages.get() + pages);
        Ok(())
    }

    fn set_scheduling(&self, domain: DomainId, weight: u32, cap: u32) -> Result<(), Errno> {
        self.may()?;
        self.guest(domain, |guest| guest.scheduling = (weight, cap))
    }

    fn populate(&self, domain: DomainId, order: u32, frames: &[Gfn]) -> Result<usize, Errno> {
        self.may()?;
        assert!(frames.len() <= super::host::POPULATE_MAX);
        if order > self.largest_order.get() {
            return Ok(0);
        }
        self.guest(domain, |guest| {
            let mut done = 0;
            let mut have: u64 = guest.frames.values().map(|order| 1 << order).sum();
            for frame in frames {
                assert_eq!(frame.0 % (1 << order), 0);
                if self.free_pages.get() < 1 << order || have + (1 << order) > guest.limit {
                    break;
                }
                self.free_pages.set(self.free_pages.get() - (1 << order));
                assert_eq!(guest.frames.insert(frame.0, order), None);
                have += 1 << order;
                done += 1;
            }
            done
        })
    }

    fn set_memory_map(&self, domain: DomainId, _: &[Region]) -> Result<(), Errno> {
        self.may()?;
        self.guest(domain, |_| ())
    }

    fn write(&self, domain: DomainId, address: Gpa, bytes: &[u8]) -> Result<(), Errno> {
        self.may()?;
        assert!(bytes.len() <= super::host::WRITE_MAX);
        self.guest(domain, |guest| {
            let last = Gpa(address.0 + bytes.len() as u64 - 1).frame().0;
            for frame in address.frame().0..=last {
                let (first, order) = guest.frames.range(..=frame).next_back().ok_or(Errno::Fault)?;
                if frame >= first + (1 << order) {
                    return Err(Errno::Fault);
                }
            }
            guest.memory.insert(address.0, bytes.to_vec());
            Ok(())
        })?
    }

    fn open_port(&self, domain: DomainId) -> Result<Port, Errno> {
        self.may()?;
        self.guest(domain, |guest| {
            guest.ports += 1;
            Port(guest.ports)
        })
    }

    fn set_param(&self, domain: DomainId, param: Param, value: u64) -> Result<(), Errno> {
        self.may()?;
        self.guest(domain, |guest| {
            guest.params.insert(param.number(), value);
        })
    }

    fn seed_grant(&self, domain: DomainId, reference: GrantRef, frame: Gfn) -> Result<(), Errno> {
        self.may()?;
        self.guest(domain, |guest| {
            guest.grants.insert(reference.0, frame.0);
        })
    }

    fn set_state(&self, domain: DomainId, _: VcpuId, state: &VcpuState) -> Result<(), Errno> {
        self.may()?;
        self.guest(domain, |guest| guest.state = Some(*state))
    }

    fn unpause(&self, domain: DomainId) -> Result<(), Errno> {
        self.guest(domain, |guest| {
            guest.pauses.checked_sub(1).map(|pauses| guest.pauses = pauses).ok_or(Errno::Inval)
        })?
    }

    fn pause(&self, domain: DomainId) -> Result<(), Errno> {
        self.guest(domain, |guest| guest.pauses += 1)
    }

    async fn breathe(&self) {}

    async fn fetch(&self, stream: Stream, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.may()?;
        assert!(length <= super::host::WRITE_MAX);
        let files = self.files.borrow();
        let rest = files.get(&stream.file).and_then(|file| file.get(offset as usize..));
        rest.and_then(|rest| rest.get(..length)).map(<[u8]>::to_vec).ok_or(Errno::NoEnt)
    }

    async fn attach_console(&self, domain: DomainId, _: &str, _: Gfn, _: Port) -> Result<(), Errno> {
        self.may()?;
        self.consoles.borrow_mut().insert(domain.0);
        Ok(())
    }

    async fn detach_console(&self, domain: DomainId) {
        // The ring is in the domain's memory.
        assert!(self.guests.borrow().contains_key(&domain.0));
        assert!(self.consoles.borrow_mut().remove(&domain.0));
    }

    async fn write_nodes(&self, _: DomainId, group: &Group) -> Result<(), Errno> {
        self.may()?;
        for node in &group.nodes {
            self.nodes.borrow_mut().insert(node.path.clone(), node.value.clone());
        }
        Ok(())
    }

    async fn remove_node(&self, path: &str) -> Result<(), Errno> {
        let below = path.to_string() + "/";
        self.nodes.borrow_mut().retain(|node, _| node != path && !node.starts_with(&below));
        Ok(())
    }

    async fn introduce(&self, domain: DomainId, _: Gfn, _: Port) -> Result<(), Errno> {
        self.may()?;
        self.introduced.borrow_mut().insert(domain.0);
        Ok(())
    }

    async fn release(&self, domain: DomainId) {
        assert!(self.introduced.borrow_mut().remove(&domain.0));
    }

    async fn attach_disk(
        &self,
        domain: DomainId,
        disk: &PlannedDisk,
        source: Option<DiskSource<'_>>,
    ) -> Result<(), DiskRefusal> {
        self.may().map_err(DiskRefusal::Failed)?;
        if source.is_none() {
            return Err(DiskRefusal::Missing { target: disk.target.clone().unwrap_or_default() });
        }
        self.disks.borrow_mut().insert((domain.0, disk.vdev.number));
        Ok(())
    }

    async fn detach_disk(&self, domain: DomainId, disk: &PlannedDisk) {
        assert!(self.disks.borrow_mut().remove(&(domain.0, disk.vdev.number)));
    }

    async fn attach_nic(&self, domain: DomainId, number: u32, _: &Nic) -> Result<(), Errno> {
        self.may()?;
        // A back end takes its time: other requests come meanwhile.
        trunnion_guest::executor::yield_now().await;
        assert!(self.nics.borrow_mut().insert((domain.0, number)));
        Ok(())
    }

    async fn detach_nic(&self, domain: DomainId, number: u32) {
        assert!(self.nics.borrow_mut().remove(&(domain.0, number)));
    }

    async fn attach_model(
        &self,
        domain: DomainId,
        _: ModelParts<'_>,
        _: Option<DiskSource<'_>>,
    ) -> Result<(), Cause> {
        self.may()?;
        assert!(self.models.borrow_mut().insert(domain.0));
        Ok(())
    }

    async fn detach_model(&self, domain: DomainId) {
        // It maps the guest's memory.
        assert!(self.guests.borrow().contains_key(&domain.0));
    }

    fn forget_model(&self, domain: DomainId) {
        // The hypervisor writes to its pages as long as the domain is there.
        assert!(!self.guests.borrow().contains_key(&domain.0));
        self.models.borrow_mut().remove(&domain.0);
    }
}

/// Runs a future that never has to wait for anything outside.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..10_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("the future does not end");
}
