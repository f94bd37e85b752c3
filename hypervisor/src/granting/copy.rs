//! Copies between pages, each of them a grant or the caller's own.

use trunnion_protocol::address::PAGE_SIZE;
use trunnion_protocol::errno::GrantStatus;
use trunnion_protocol::grant::Access;
use trunnion_protocol::hypercall::grant::{COPY_DESTINATION_GRANT, COPY_SOURCE_GRANT, Copy};
use trunnion_protocol::id::GrantRef;

use super::{granter, pin};
use crate::frames::Held;
use crate::memory;
use crate::prelude::*;
use crate::second_level::Rights;

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

/// Where a copy begins or ends, as the call says it.
struct Place {
    by_grant: bool,
    number: u64,
    domain: DomainId,
    access: Access,
}

fn end<'h, M: Machine>(
    host: &'h Host<M>,
    domain: &Arc<Domain<M>>,
    place: &Place,
) -> Result<End<'h, M>, GrantStatus> {
    let own = place.domain == DomainId::SELF || place.domain == domain.id;
    if place.by_grant {
        let granter = if own { domain.clone() } else { granter(host, place.domain)? };
        // The upper half of the union is not part of a reference.
        let reference = GrantRef(place.number as u32);
        let frame = pin(host, &granter, reference, domain.id, place.access)?;
        return Ok(End { host, frame, pin: Some((granter, reference, place.access)) });
    }
    if !own {
        return Err(GrantStatus::PermissionDenied);
    }
    let (frame, leaf) = memory::lookup(host, domain, Gfn(place.number)).ok_or(GrantStatus::BadPage)?;
    if place.access == Access::ReadWrite && !leaf.rights.contains(Rights::WRITE) {
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
    let source = end(
        host,
        domain,
        &Place {
            by_grant: call.flags & COPY_SOURCE_GRANT != 0,
            number: call.source,
            domain: call.source_domain,
            access: Access::ReadOnly,
        },
    )?;
    let destination = end(
        host,
        domain,
        &Place {
            by_grant: call.flags & COPY_DESTINATION_GRANT != 0,
            number: call.destination,
            domain: call.destination_domain,
            access: Access::ReadWrite,
        },
    )?;
    let source_page = host.machine.page(source.frame.mfn()).ok_or(GrantStatus::BadPage)?;
    let page = host.machine.page(destination.frame.mfn()).ok_or(GrantStatus::BadPage)?;
    page.copy_between(to, source_page, from, length).map_err(|_| GrantStatus::BadCopyArg)
}
