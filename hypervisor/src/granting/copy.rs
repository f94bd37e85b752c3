//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};

use super::{Granter, Pin};
use crate::prelude::*;

/// The copies of one call, which mostly name the same domain: the one that was named last is kept until its end.
pub struct Copies<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Domain<M>,
    granter: Option<Granter<M>>,
}

/// Where a copy begins or ends.
#[derive(Clone, Copy)]
struct End {
    is_grant: bool,
    /// Of a grant or of a frame, by flag. The upper half of the union is not part of a grant's.
    number: u64,
    domain: DomainId,
    access: Access,
    /// First byte.
    offset: usize,
}

impl End {
    const fn of(call: &Copy) -> [Self; 2] {
        let source = Self {
            is_grant: call.flags & COPY_SOURCE_GRANT != 0,
            number: call.source,
            domain: call.source_domain,
            access: Access::ReadOnly,
            offset: call.source_offset as usize,
        };
        let destination = Self {
            is_grant: call.flags & COPY_DESTINATION_GRANT != 0,
            number: call.destination,
            domain: call.destination_domain,
            access: Access::ReadWrite,
            offset: call.destination_offset as usize,
        };
        [source, destination]
    }
}

impl<'a, M: Machine> Copies<'a, M> {
    /// Copies for `domain`.
    pub const fn new(host: &'a Host<M>, domain: &'a Domain<M>) -> Self {
        Self { host, domain, granter: None }
    }

    /// Carries out one copy. When it returns, the entries are free again.
    #[inline]
    pub fn copy(&mut self, call: &Copy) -> Result<(), GrantStatus> {
        let [source, destination] = End::of(call);
        let length = usize::from(call.length);
        if source.offset + length > PAGE_SIZE || destination.offset + length > PAGE_SIZE {
            return Err(GrantStatus::BadCopyArg);
        }
        if source.is_grant == destination.is_grant {
            return self.copy_alike(source, destination, length);
        }
        let (granted, own) = if source.is_grant { (source, destination) } else { (destination, source) };
        let held = self.own(own)?;
        let Self { host, domain, granter } = self;
        let granter = Granter::alive(granter, host, named(domain, granted.domain))?;
        let reference = GrantRef(granted.number as u32);
        granter.lend(host, reference, granted.access, domain.id, |page| {
            let (here, there) = ((page.mfn(), granted.offset), (held.mfn(), own.offset));
            let (from, to) = if granted.access == Access::ReadOnly { (here, there) } else { (there, here) };
            copy_bytes(host, from, to, length)
        })
    }

    /// Copies between two grants, or two pages of the caller's own.
    #[cold]
    fn copy_alike(&mut self, source: End, destination: End, length: usize) -> Result<(), GrantStatus> {
        if !source.is_grant {
            let (from, to) = (self.own(source)?, self.own(destination)?);
            return copy_bytes(
                self.host,
                (from.mfn(), source.offset),
                (to.mfn(), destination.offset),
                length,
            );
        }
        let (mut sources, mut destinations) = (None, None);
        let (_source, from) = self.pin(&mut sources, source)?;
        let (_destination, to) = self.pin(&mut destinations, destination)?;
        copy_bytes(self.host, (from.mfn(), source.offset), (to.mfn(), destination.offset), length)
    }

    fn pin<'g>(
        &self,
        granter: &'g mut Option<Granter<M>>,
        end: End,
    ) -> Result<(Pin<'g, M>, Held<'g>), GrantStatus>
    where
        'a: 'g,
    {
        let Self { host, domain, .. } = *self;
        let granter = Granter::alive(granter, host, named(domain, end.domain))?;
        granter.pin(host, GrantRef(end.number as u32), end.access, domain.id)
    }

    /// A page of the caller's own.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "calls would be as long as what they do")]
    fn own(&self, end: End) -> Result<Held<'a>, GrantStatus> {
        let Self { host, domain, .. } = *self;
        if end.domain != DomainId::SELF && end.domain != domain.id {
            return Err(GrantStatus::PermissionDenied);
        }
        // Where the map is one to one and gives all rights, there is nothing to look up. Only a page that the domain has given back
        // while others still use it is not in the map any more, and that is nobody else's yet.
        if domain.direct
            && let Some(held) = host.frames.hold(Mfn(end.number))
            && held.is_memory_of(domain.id)
        {
            return Ok(held);
        }
        self.find(end)
    }

    #[cold]
    fn find(&self, end: End) -> Result<Held<'a>, GrantStatus> {
        let (frame, leaf) =
            memory::lookup(self.host, self.domain, Gfn(end.number)).ok_or(GrantStatus::BadPage)?;
        if end.access == Access::ReadWrite && !leaf.rights.contains(Rights::WRITE) {
            return Err(GrantStatus::PermissionDenied);
        }
        Ok(frame)
    }
}

fn named<M: Machine>(domain: &Domain<M>, id: DomainId) -> DomainId {
    if id == DomainId::SELF { domain.id } else { id }
}

#[inline]
fn copy_bytes<M: Machine>(
    host: &Host<M>,
    (source, from): (Mfn, usize),
    (destination, to): (Mfn, usize),
    length: usize,
) -> Result<(), GrantStatus> {
    let source = host.machine.page(source).ok_or(GrantStatus::BadPage)?;
    let page = host.machine.page(destination).ok_or(GrantStatus::BadPage)?;
    page.copy_between(to, source, from, length).map_err(|_| GrantStatus::BadCopyArg)
}
