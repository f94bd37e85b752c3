//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};

use super::{Granter, Pin};
use crate::prelude::*;

/// The copies of one call, which mostly name the same domains: those of sources and of destinations that were named last are
/// kept until its end.
pub struct Copies<'a, M: Machine> {
    host: &'a Host<M>,
    domain: &'a Domain<M>,
    granters: [Option<Granter<M>>; 2],
}

impl<'a, M: Machine> Copies<'a, M> {
    /// Copies for `domain`.
    pub const fn new(host: &'a Host<M>, domain: &'a Domain<M>) -> Self {
        Self { host, domain, granters: [None, None] }
    }

    /// Carries out one copy. When it returns, the entries are free again.
    #[inline]
    pub fn copy(&mut self, call: &Copy) -> Result<(), GrantStatus> {
        let Self { host, domain, granters: [sources, destinations] } = self;
        let length = usize::from(call.length);
        let (from, to) = (usize::from(call.source_offset), usize::from(call.destination_offset));
        if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
            return Err(GrantStatus::BadCopyArg);
        }
        let granted = call.flags & COPY_SOURCE_GRANT != 0;
        let (_source, source) =
            end(host, domain, sources, (granted, call.source, call.source_domain), Access::ReadOnly)?;
        let granted = call.flags & COPY_DESTINATION_GRANT != 0;
        let named = (granted, call.destination, call.destination_domain);
        let (_destination, destination) = end(host, domain, destinations, named, Access::ReadWrite)?;
        let source = host.machine.page(source.mfn()).ok_or(GrantStatus::BadPage)?;
        let page = host.machine.page(destination.mfn()).ok_or(GrantStatus::BadPage)?;
        page.copy_between(to, source, from, length).map_err(|_| GrantStatus::BadCopyArg)
    }
}

/// Where a copy begins or ends: at an entry of `id`'s table, which stays in use until the copy is done, or at the caller's own
/// frame.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "what it gives is many words, and most of them are known where it is called"
)]
fn end<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Domain<M>,
    last: &'h mut Option<Granter<M>>,
    (by_grant, number, id): (bool, u64, DomainId),
    access: Access,
) -> Result<(Option<Pin<'h, M>>, Held<'h>), GrantStatus> {
    if by_grant {
        let id = if id == DomainId::SELF { domain.id } else { id };
        // The upper half of the union is not part of a reference.
        let granter = Granter::alive(last, host, id)?;
        return granter
            .pin(host, GrantRef(number as u32), access, domain.id)
            .map(|(pin, held)| (Some(pin), held));
    }
    if id != DomainId::SELF && id != domain.id {
        return Err(GrantStatus::PermissionDenied);
    }
    if domain.direct
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

/// A page of the domain's own memory in a map that is one to one, with all rights: there is nothing to look up. Only one that
/// it has given back while others still use it is not in the map any more, and that is nobody else's yet.
fn one_to_one<'h, M: Machine>(host: &'h Host<M>, domain: &Domain<M>, mfn: Mfn) -> Option<Held<'h>> {
    let held = host.frames.hold(mfn)?;
    (held.kind() == FrameKind::Ram && held.owner() == domain.id).then_some(held)
}
