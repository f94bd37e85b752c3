//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};

use super::{granter, pin};
use crate::prelude::*;

/// One end of a copy: a held frame, and the pin on the entry it came by.
struct End<'h, M: Machine> {
    host: &'h Host<M>,
    frame: Held<'h>,
    pin: Option<(Arc<Domain<M>>, GrantRef, Access)>,
}

impl<M: Machine> Drop for End<'_, M> {
    fn drop(&mut self) {
        if let Some((granter, reference, access)) = self.pin.take() {
            granter.grants.table.lock().unpin(&self.host.machine, reference, access);
        }
    }
}

/// Where a copy begins or ends: at an entry of `id`'s table, or at the caller's own frame.
fn end<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Arc<Domain<M>>,
    by_grant: bool,
    number: u64,
    id: DomainId,
    access: Access,
) -> Result<End<'h, M>, GrantStatus> {
    let own = id == DomainId::SELF || id == domain.id;
    if by_grant {
        let granter = if own { domain.clone() } else { granter(host, id)? };
        // The upper half of the union is not part of a reference.
        let reference = GrantRef(number as u32);
        let frame = pin(host, &granter, reference, domain.id, access)?;
        return Ok(End { host, frame, pin: Some((granter, reference, access)) });
    }
    if !own {
        return Err(GrantStatus::PermissionDenied);
    }
    let (frame, leaf) = memory::lookup(host, domain, Gfn(number)).ok_or(GrantStatus::BadPage)?;
    if access == Access::ReadWrite && !leaf.rights.contains(Rights::WRITE) {
        return Err(GrantStatus::PermissionDenied);
    }
    Ok(End { host, frame, pin: None })
}

/// Carries out one copy for `domain`. When it returns, the entries are free again.
pub fn copy<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>, call: &Copy) -> Result<(), GrantStatus> {
    let length = usize::from(call.length);
    let (from, to) = (usize::from(call.source_offset), usize::from(call.destination_offset));
    if from + length > PAGE_SIZE || to + length > PAGE_SIZE {
        return Err(GrantStatus::BadCopyArg);
    }
    let end = |flag, number, id, access| end(host, domain, call.flags & flag != 0, number, id, access);
    let source = end(COPY_SOURCE_GRANT, call.source, call.source_domain, Access::ReadOnly)?;
    let destination =
        end(COPY_DESTINATION_GRANT, call.destination, call.destination_domain, Access::ReadWrite)?;
    let source_page = host.machine.page(source.frame.mfn()).ok_or(GrantStatus::BadPage)?;
    let page = host.machine.page(destination.frame.mfn()).ok_or(GrantStatus::BadPage)?;
    page.copy_between(to, source_page, from, length).map_err(|_| GrantStatus::BadCopyArg)
}
