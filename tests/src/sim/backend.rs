//! What the shipped back ends ask of dom0's kernel: grants in batches, event channels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use trunnion_backends::device::GuestPage;
use trunnion_backends::host::{EventPort, Events, GrantMapper, Wanted};
use trunnion_protocol::address::{Gfn, Gpa, MachineAddress, PAGE_SHIFT};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::Access;
use trunnion_protocol::hypercall::Hypercall;
use trunnion_protocol::hypercall::grant::{MAP_HOST, MAP_READONLY, Map, Op, Unmap};
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;

use super::kernel::{Kernel, Listener};

/// Operations in one hypercall.
pub(super) const BATCH: usize = 64;

/// What dom0 has mapped by grants right now: (readers, writers) of each reference of each domain.
#[derive(Default)]
pub struct Mapped(pub RefCell<BTreeMap<(DomainId, GrantRef), (u32, u32)>>, RefCell<BTreeMap<u64, u32>>);

impl Mapped {
    /// The frames of all mappings.
    pub fn frames(&self) -> Vec<u64> {
        self.1.borrow().keys().copied().collect()
    }

    fn change(&self, domain: DomainId, reference: GrantRef, access: Access, frame: u64, add: bool) {
        let mut frames = self.1.borrow_mut();
        let uses = frames.entry(frame).or_default();
        *uses = if add { *uses + 1 } else { *uses - 1 };
        if *uses == 0 {
            frames.remove(&frame);
        }
        let mut all = self.0.borrow_mut();
        let entry = all.entry((domain, reference)).or_default();
        let count = if access == Access::ReadOnly { &mut entry.0 } else { &mut entry.1 };
        *count = if add { *count + 1 } else { *count - 1 };
        if *entry == (0, 0) {
            all.remove(&(domain, reference));
        }
    }
}

/// A granted page, at the address equal to its machine address.
pub struct Granted {
    memory: Arc<[SharedPage]>,
    address: MachineAddress,
    handle: u32,
    domain: DomainId,
    reference: GrantRef,
    access: Access,
}

impl Granted {
    /// Who granted it.
    pub const fn domain(&self) -> DomainId {
        self.domain
    }

    /// What it was mapped for.
    pub const fn access(&self) -> Access {
        self.access
    }
}

impl GuestPage for Granted {
    fn shared(&self) -> &SharedPage {
        &self.memory[(self.address.0 >> PAGE_SHIFT) as usize]
    }
    fn gfn(&self) -> Gfn {
        Gfn(self.address.0 >> PAGE_SHIFT)
    }
    fn bus_address(&self) -> MachineAddress {
        self.address
    }
}

/// The kernel under the back ends.
#[derive(Clone)]
pub struct Back {
    /// dom0.
    pub kernel: Rc<Kernel>,
    /// What is mapped.
    pub mapped: Rc<Mapped>,
}

/// Structures in a row, as a batch has them.
pub(super) fn encode<T: Layout>(operations: impl Iterator<Item = T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for operation in operations {
        let start = bytes.len();
        bytes.resize(start + T::SIZE64, 0);
        operation.encode(Width::W64, &mut bytes[start..]).expect("the room is the structure's size");
    }
    bytes
}

impl GrantMapper for Back {
    type Page = Granted;

    fn map(&self, domain: DomainId, wanted: &[Wanted], results: &mut Vec<Result<Granted, GrantStatus>>) {
        for wanted in wanted.chunks(BATCH) {
            let mut bytes = encode(wanted.iter().map(|wanted| Map {
                address: Gpa(0),
                flags: if wanted.access == Access::ReadOnly { MAP_HOST | MAP_READONLY } else { MAP_HOST },
                reference: wanted.reference,
                domain,
                ..Map::default()
            }));
            let call = self.kernel.batch(Hypercall::GrantTableOp, Op::Map.number(), &mut bytes, wanted.len());
            for (wanted, bytes) in wanted.iter().zip(bytes.chunks_exact(Map::SIZE64)) {
                let map = Map::decode(Width::W64, bytes).filter(|_| call.is_ok());
                let status = map.and_then(|map| GrantStatus::from_number(map.status));
                let result = status.unwrap_or(GrantStatus::GeneralError).result();
                results.push(result.and_then(|()| {
                    let Map { bus_address: address, handle, .. } = map.ok_or(GrantStatus::GeneralError)?;
                    let Wanted { reference, access } = *wanted;
                    if self.kernel.frame(Gfn(address.0 >> PAGE_SHIFT)).is_none() {
                        let text =
                            format!("grant {reference} of domain {domain} is mapped, and is not there");
                        self.kernel.shared.complain(text);
                    }
                    self.mapped.change(domain, reference, access, address.0 >> PAGE_SHIFT, true);
                    let memory = Arc::clone(self.kernel.host_memory());
                    Ok(Granted { memory, address, handle, domain, reference, access })
                }));
            }
        }
    }

    fn unmap(&self, pages: &mut Vec<Granted>) {
        for pages in pages.chunks(BATCH) {
            let mut bytes = encode(pages.iter().map(|page| Unmap {
                address: Gpa(page.address.0),
                handle: page.handle,
                ..Unmap::default()
            }));
            let call =
                self.kernel.batch(Hypercall::GrantTableOp, Op::Unmap.number(), &mut bytes, pages.len());
            for (page, bytes) in pages.iter().zip(bytes.chunks_exact(Unmap::SIZE64)) {
                let status = Unmap::decode(Width::W64, bytes).map_or(-1, |unmap| unmap.status);
                if (call.is_err() || status != 0) && !self.kernel.is_dead() {
                    let text =
                        format!("handle {} cannot be unmapped: {call:?}, status {status}", page.handle);
                    self.kernel.shared.complain(text);
                }
                self.mapped.change(
                    page.domain,
                    page.reference,
                    page.access,
                    page.address.0 >> PAGE_SHIFT,
                    false,
                );
            }
        }
        pages.clear();
    }
}

/// A bound port; closed when dropped.
pub struct BoundPort(Rc<Kernel>, Listener);

impl EventPort for BoundPort {
    fn notify(&self) {
        self.0.send(self.1.port());
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.1.poll_next(context) {
            Poll::Ready(true) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Drop for BoundPort {
    fn drop(&mut self) {
        let port: Port = self.1.port();
        if let Err(error) = self.0.close(port)
            && !self.0.is_dead()
        {
            self.0.shared.complain(format!("port {port} of dom0 cannot be closed: {error}"));
        }
    }
}

impl Events for Back {
    type Port = BoundPort;

    fn bind(&self, domain: DomainId, remote: Port) -> Result<BoundPort, Errno> {
        let port = self.kernel.bind_interdomain(domain, remote)?;
        Ok(BoundPort(Rc::clone(&self.kernel), self.kernel.listener(port)))
    }
}
