//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};

use super::{Pin, granter};
use crate::prelude::*;

/// The copies of one call, which mostly name the same domains: those of sources and of destinations that were named last are kept
/// until its end.
pub struct Copies<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Arc<Domain<M>>,
    granters: [Option<Arc<Domain<M>>>; 2],
}

impl<'a, M: Machine> Copies<'a, M> {
    /// Copies for `domain`.
    pub const fn new(host: &'a Host<M>, domain: &'a Arc<Domain<M>>) -> Self {
        Self { host, domain, granters: [None, None] }
    }

    /// Carries out one copy. When it returns, the entries are free again.
    pub fn copy(&mut self, call: &Copy) -> Result<(), GrantStatus> {
        let Self { host, domain, granters: [sources, destinations] } = self;
        let length = usize::from(call.length);
        let (from, to) = (usize::from(call.source_offset), usize::from(call.destination_offset));
        if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
            return Err(GrantStatus::BadCopyArg);
        }
        let source = (call.flags & COPY_SOURCE_GRANT != 0, call.source, call.source_domain);
        let (_source, source) = end(host, domain, sources, source, Access::ReadOnly)?;
        let destination =
            (call.flags & COPY_DESTINATION_GRANT != 0, call.destination, call.destination_domain);
        let (_destination, destination) = end(host, domain, destinations, destination, Access::ReadWrite)?;
        let source_page = host.machine.page(source.mfn()).ok_or(GrantStatus::BadPage)?;
        let page = host.machine.page(destination.mfn()).ok_or(GrantStatus::BadPage)?;
        page.copy_between(to, source_page, from, length).map_err(|_| GrantStatus::BadCopyArg)
    }
}

/// Where a copy begins or ends: at an entry of `id`'s table, which stays in use until the copy is done, or at the caller's own
/// frame.
fn end<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &'h Arc<Domain<M>>,
    last: &'h mut Option<Arc<Domain<M>>>,
    (by_grant, number, id): (bool, u64, DomainId),
    access: Access,
) -> Result<(Option<Pin<'h, M>>, Held<'h>), GrantStatus> {
    let own = id == DomainId::SELF || id == domain.id;
    if by_grant {
        let granter = if own { domain } else { named(host, last, id)? };
        // The upper half of the union is not part of a reference.
        let (pin, held) = Pin::of(host, granter, GrantRef(number as u32), access).begin(domain.id)?;
        return Ok((Some(pin), held));
    }
    if !own {
        return Err(GrantStatus::PermissionDenied);
    }
    if domain.id == DomainId::DOM0
        && let Some(held) = one_to_one(host, domain, Mfn(number))
    {
        return Ok((None, held));
    }
    let (frame, leaf) = memory::lookup(host, domain, Gfn(number)).ok_or(GrantStatus::BadPage)?;
    if access == Access::ReadWrite && !leaf.rights.contains(Rights::WRITE) {
        return Err(GrantStatus::PermissionDenied);
    }
    Ok((None, frame))
}

/// The domain that has granted something, from the last element or from the list.
fn named<'d, M: Machine>(
    host: &Host<M>,
    last: &'d mut Option<Arc<Domain<M>>>,
    id: DomainId,
) -> Result<&'d Arc<Domain<M>>, GrantStatus> {
    if !last.as_ref().is_some_and(|domain| domain.id == id && life::is_alive(domain)) {
        *last = Some(granter(host, id)?);
    }
    last.as_ref().ok_or(GrantStatus::BadDomain)
}

/// A page of dom0's own memory, which lies at its machine address with all rights: there is nothing to look up. Only one that it
/// has given back while others still use it is not in its map any more, and that is nobody else's yet.
fn one_to_one<'h, M: Machine>(host: &'h Host<M>, dom0: &Domain<M>, mfn: Mfn) -> Option<Held<'h>> {
    let held = host.frames.hold(mfn)?;
    (held.kind() == FrameKind::Ram && held.owner() == dom0.id).then_some(held)
}
