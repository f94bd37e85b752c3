//! The hypervisor's part: ports, grants, parameters.

use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::vec::Vec;

use trunnion_protocol::address::{Gfn, PAGE_SHIFT};
use trunnion_protocol::errno::{Errno, GrantStatus};
use trunnion_protocol::grant::{self, Access};
use trunnion_protocol::hypercall::{Hypercall, event, grant as grant_call, hvm, memory, sched};
use trunnion_protocol::id::{DomainId, GrantRef, Port};
use trunnion_protocol::layout::{Layout, Width};

use super::Inner;
use super::guest::{Memory, Page};

/// A port's other end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Open for a domain to join.
    Open(DomainId),
    /// Joined.
    Peer(DomainId, Port),
    /// To the store.
    Store,
}

/// A page of another domain that this one maps.
struct Mapped {
    gfn: u64,
    page: Page,
    from: DomainId,
    reference: GrantRef,
    access: Access,
}

pub(super) struct Domain {
    pub(super) memory: Memory,
    next: u64,
    pub(super) pages_left: Option<usize>,
    pub(super) wakers: BTreeMap<u32, Waker>,
    pub(super) params: BTreeMap<u32, u64>,
    pub(super) ports: BTreeMap<u32, End>,
    /// Frames of the grant table: where in guest-physical space, and the page.
    table: BTreeMap<u64, (u64, Page)>,
    pub(super) mappings: BTreeMap<u32, MappedSlot>,
    handles: u32,
    pub(super) dead: bool,
}

/// A mapping; its content is this module's.
pub(super) struct MappedSlot(Mapped);

impl Domain {
    pub(super) fn new() -> Self {
        Self {
            memory: Memory::default(),
            next: 0x100,
            pages_left: None,
            wakers: BTreeMap::new(),
            params: BTreeMap::new(),
            ports: BTreeMap::new(),
            table: BTreeMap::new(),
            mappings: BTreeMap::new(),
            handles: 0,
            dead: false,
        }
    }

    /// Frame numbers that nobody has yet.
    pub(super) fn space(&mut self, count: usize) -> u64 {
        let first = self.next;
        self.next += count as u64;
        first
    }

    pub(super) fn page(&self, gfn: Gfn) -> Option<Page> {
        let memory = self.memory.borrow().get(&gfn.0).cloned();
        let table = || self.table.values().find(|(at, _)| *at == gfn.0).map(|(_, page)| page.clone());
        let mapped =
            || self.mappings.values().find(|slot| slot.0.gfn == gfn.0).map(|slot| slot.0.page.clone());
        memory.or_else(table).or_else(mapped)
    }

    pub(super) fn open(&mut self, end: End) -> Port {
        let port = (1..u32::MAX).find(|port| !self.ports.contains_key(port)).unwrap_or(u32::MAX);
        self.ports.insert(port, end);
        Port(port)
    }

    /// Changes the access word of a grant.
    fn change<T>(
        &self,
        reference: GrantRef,
        change: impl FnOnce(u32) -> Result<(u32, T), GrantStatus>,
    ) -> Result<(T, u32), GrantStatus> {
        let (frame, offset) = grant::place(reference);
        let page = self.table.get(&u64::from(frame)).and_then(|(_, page)| page.get());
        let page = page.ok_or(GrantStatus::BadGntref)?;
        let word = page.word_at(offset).ok_or(GrantStatus::BadGntref)?;
        let (next, value) = change(word.load(Ordering::SeqCst))?;
        word.store(next, Ordering::SeqCst);
        let frame = page.word_at(offset + 4).map_or(0, |word| word.load(Ordering::SeqCst));
        Ok((value, frame))
    }
}

/// Wakes who waits for a port.
pub(super) fn deliver(world: &Rc<Inner>, domain: u16, port: u32) {
    let waker = world.domains.borrow().get(&domain).and_then(|domain| domain.wakers.get(&port).cloned());
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn raise(world: &Inner, domain: DomainId, port: Port) {
    world.events.borrow_mut().insert((domain.0, port.0));
}

/// A port goes; its other end is open for the same domain again.
fn close(domains: &mut BTreeMap<u16, Domain>, domain: DomainId, port: u32) -> Option<End> {
    let own = domains.get_mut(&domain.0)?;
    own.wakers.remove(&port);
    let end = own.ports.remove(&port)?;
    if let End::Peer(peer, other) = end
        && let Some(peer) = domains.get_mut(&peer.0)
        && let Some(theirs) = peer.ports.get_mut(&other.0)
    {
        *theirs = End::Open(domain);
    }
    Some(end)
}

/// Undoes a mapping in the granting domain's table.
fn unpin(domains: &BTreeMap<u16, Domain>, mapped: &Mapped) {
    let same = |slot: &&MappedSlot| slot.0.from == mapped.from && slot.0.reference == mapped.reference;
    let others: Vec<Access> = domains
        .values()
        .flat_map(|domain| domain.mappings.values())
        .filter(same)
        .map(|slot| slot.0.access)
        .collect();
    let writers = others.iter().filter(|access| **access == Access::ReadWrite).count() as u32;
    if let Some(granter) = domains.get(&mapped.from.0) {
        let users = others.len() as u32;
        let _ = granter.change(mapped.reference, |word| Ok((grant::unpin(word, writers, users), ())));
    }
}

/// Takes away what a dead domain held.
pub(super) fn bury(world: &Rc<Inner>, id: DomainId) {
    let mut domains = world.domains.borrow_mut();
    let Some(domain) = domains.get_mut(&id.0) else { return };
    let ports: Vec<u32> = domain.ports.keys().copied().collect();
    let mappings = core::mem::take(&mut domain.mappings);
    domain.memory.borrow_mut().clear();
    for port in ports {
        close(&mut domains, id, port);
    }
    for slot in mappings.values() {
        unpin(&domains, &slot.0);
    }
}

/// Makes a hypercall whose structure is in `bytes`.
pub(super) fn call(
    world: &Rc<Inner>,
    id: DomainId,
    hypercall: Hypercall,
    operation: u64,
    bytes: &mut [u8],
) -> Result<u64, Errno> {
    let mut domains = world.domains.borrow_mut();
    if domains.get(&id.0).is_none_or(|domain| domain.dead) {
        return Err(Errno::Srch);
    }
    match hypercall {
        Hypercall::EventChannelOp => {
            let operation = event::Op::from_number(operation as u32).ok_or(Errno::NoSys)?;
            event_call(world, &mut domains, id, operation, bytes)
        }
        Hypercall::GrantTableOp => {
            let operation = grant_call::Op::from_number(operation as u32).ok_or(Errno::NoSys)?;
            grant_call(&mut domains, id, operation, bytes)
        }
        Hypercall::HvmOp if operation == u64::from(hvm::Op::GetParam.number()) => {
            let mut argument: hvm::ParamArgument = decode(bytes)?;
            let params = domains.get(&id.0).map(|domain| &domain.params).ok_or(Errno::Srch)?;
            argument.value = params.get(&argument.index).copied().unwrap_or(0);
            encode(&argument, bytes)
        }
        Hypercall::MemoryOp if operation == u64::from(memory::Op::AddToPhysmap.number()) => {
            let argument: memory::AddToPhysmap = decode(bytes)?;
            if argument.space != memory::Space::GrantTable.number() {
                return Err(Errno::Inval);
            }
            let domain = domains.get_mut(&id.0).ok_or(Errno::Srch)?;
            domain.table.entry(argument.index).or_insert_with(|| (0, Page::zeroed())).0 = argument.gfn.0;
            Ok(0)
        }
        Hypercall::SchedOp if operation == u64::from(sched::Op::Shutdown.number()) => {
            world.note(format!("domain {id} shuts down"));
            Ok(0)
        }
        _ => Err(Errno::NoSys),
    }
}

fn decode<T: Layout>(bytes: &[u8]) -> Result<T, Errno> {
    T::decode(Width::W64, bytes).ok_or(Errno::Fault)
}

fn encode<T: Layout>(value: &T, bytes: &mut [u8]) -> Result<u64, Errno> {
    value.encode(Width::W64, bytes).ok_or(Errno::Fault).map(|()| 0)
}

fn event_call(
    world: &Inner,
    domains: &mut BTreeMap<u16, Domain>,
    id: DomainId,
    operation: event::Op,
    bytes: &mut [u8],
) -> Result<u64, Errno> {
    match operation {
        event::Op::AllocUnbound => {
            let mut argument: event::AllocUnbound = decode(bytes)?;
            let own = domains.get_mut(&id.0).ok_or(Errno::Srch)?;
            argument.port = own.open(End::Open(argument.remote));
            encode(&argument, bytes)
        }
        event::Op::BindInterdomain => {
            let mut argument: event::BindInterdomain = decode(bytes)?;
            let remote = domains.get(&argument.remote.0).filter(|remote| !remote.dead).ok_or(Errno::Srch)?;
            if remote.ports.get(&argument.remote_port.0) != Some(&End::Open(id)) {
                return Err(Errno::Inval);
            }
            let own = domains.get_mut(&id.0).ok_or(Errno::Srch)?;
            argument.local_port = own.open(End::Peer(argument.remote, argument.remote_port));
            if let Some(remote) = domains.get_mut(&argument.remote.0) {
                remote.ports.insert(argument.remote_port.0, End::Peer(id, argument.local_port));
            }
            raise(world, id, argument.local_port);
            encode(&argument, bytes)
        }
        event::Op::Close => {
            let argument: event::PortArgument = decode(bytes)?;
            close(domains, id, argument.port.0).map(|_| 0).ok_or(Errno::Inval)
        }
        event::Op::Send => {
            let argument: event::PortArgument = decode(bytes)?;
            match domains.get(&id.0).and_then(|own| own.ports.get(&argument.port.0)) {
                Some(End::Peer(peer, port)) => raise(world, *peer, *port),
                Some(End::Store) => world.server.borrow_mut().kick(id),
                Some(End::Open(_)) => {}
                None => return Err(Errno::Inval),
            }
            Ok(0)
        }
        _ => Err(Errno::NoSys),
    }
}

fn grant_call(
    domains: &mut BTreeMap<u16, Domain>,
    id: DomainId,
    operation: grant_call::Op,
    bytes: &mut [u8],
) -> Result<u64, Errno> {
    match operation {
        grant_call::Op::QuerySize => {
            let mut argument: grant_call::QuerySize = decode(bytes)?;
            (argument.frames, argument.limit) = (1, 64);
            encode(&argument, bytes)
        }
        grant_call::Op::SetVersion => Ok(0),
        grant_call::Op::Map => {
            let mut argument: grant_call::Map = decode(bytes)?;
            argument.status = match map(domains, id, &mut argument) {
                Ok(()) => GrantStatus::Okay,
                Err(status) => status,
            }
            .number();
            encode(&argument, bytes)
        }
        grant_call::Op::Unmap => {
            let mut argument: grant_call::Unmap = decode(bytes)?;
            let own = domains.get_mut(&id.0).ok_or(Errno::Srch)?;
            argument.status = match own.mappings.remove(&argument.handle) {
                Some(slot) => {
                    unpin(domains, &slot.0);
                    GrantStatus::Okay
                }
                None => GrantStatus::BadHandle,
            }
            .number();
            encode(&argument, bytes)
        }
        _ => Err(Errno::NoSys),
    }
}

fn map(
    domains: &mut BTreeMap<u16, Domain>,
    id: DomainId,
    argument: &mut grant_call::Map,
) -> Result<(), GrantStatus> {
    let (from, reference) = (argument.domain, argument.reference);
    let readonly = argument.flags & grant_call::MAP_READONLY != 0;
    let access = if readonly { Access::ReadOnly } else { Access::ReadWrite };
    let granter = domains.get(&from.0).filter(|granter| !granter.dead).ok_or(GrantStatus::BadDomain)?;
    let ((), frame) = granter.change(reference, |word| Ok((grant::pin(word, id, access)?, ())))?;
    let page = granter.page(Gfn(u64::from(frame)));
    let gfn = argument.address.0 >> PAGE_SHIFT;
    let own = domains.get_mut(&id.0).ok_or(GrantStatus::GeneralError)?;
    own.handles += 1;
    argument.handle = own.handles;
    match page {
        Some(page) => {
            let mapped = Mapped { gfn, page, from, reference, access };
            own.mappings.insert(argument.handle, MappedSlot(mapped));
            Ok(())
        }
        None => {
            // Nothing is mapped, so nothing is pinned.
            let nothing = Mapped { gfn, page: Page::zeroed(), from, reference, access };
            unpin(domains, &nothing);
            Err(GrantStatus::GeneralError)
        }
    }
}
