//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};

use super::{Pin, granter};
use crate::prelude::*;

/// Where a copy begins or ends: at an entry of `id`'s table, which stays in use until the copy is done, or at the caller's own
/// frame.
fn end<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Arc<Domain<M>>,
    (by_grant, number, id): (bool, u64, DomainId),
    access: Access,
) -> Result<(Option<Pin<'h, M>>, Held<'h>), GrantStatus> {
    let own = id == DomainId::SELF || id == domain.id;
    if by_grant {
        let granter = if own { domain.clone() } else { granter(host, id)? };
        // The upper half of the union is not part of a reference.
        let (pin, held) = Pin::of(host, granter, GrantRef(number as u32), access).begin(domain.id)?;
        return Ok((Some(pin), held));
    }
    if !own {
        return Err(GrantStatus::PermissionDenied);
    }
    let (frame, leaf) = memory::lookup(host, domain, Gfn(number)).ok_or(GrantStatus::BadPage)?;
    if access == Access::ReadWrite && !leaf.rights.contains(Rights::WRITE) {
        return Err(GrantStatus::PermissionDenied);
    }
    Ok((None, frame))
}

/// Carries out one copy for `domain`. When it returns, the entries are free again.
pub fn copy<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, call: &Copy) -> Result<(), GrantStatus> {
    let length = usize::from(call.length);
    let (from, to) = (usize::from(call.source_offset), usize::from(call.destination_offset));
    if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
        return Err(GrantStatus::BadCopyArg);
    }
    let source = (call.flags & COPY_SOURCE_GRANT != 0, call.source, call.source_domain);
    let (_source, source) = end(host, domain, source, Access::ReadOnly)?;
    let destination = (call.flags & COPY_DESTINATION_GRANT != 0, call.destination, call.destination_domain);
    let (_destination, destination) = end(host, domain, destination, Access::ReadWrite)?;
    let source_page = host.machine.page(source.mfn()).ok_or(GrantStatus::BadPage)?;
    let page = host.machine.page(destination.mfn()).ok_or(GrantStatus::BadPage)?;
    page.copy_between(to, source_page, from, length).map_err(|_| GrantStatus::BadCopyArg)
}
