//! What is in use, recomputed from the tables themselves.

use trunnion_protocol::address::{Gfn, Mfn};
use trunnion_protocol::control::Audit;
use trunnion_protocol::id::DomainId;

use crate::frames::FrameKind;
use crate::granting;
use crate::host::Host;
use crate::seam::Machine;
use crate::second_level::Kind;

/// Walks every table of every domain.
pub fn audit<M: Machine>(host: &Host<M>) -> Audit {
    let mut audit = Audit::default();
    for mfn in 0..host.frames.end_frame().0 {
        let mfn = Mfn(mfn);
        match host.frames.kind(mfn) {
            FrameKind::Free | FrameKind::Reserved | FrameKind::Bundle => {}
            _ if host.frames.owner(mfn) == Some(DomainId::DOM0) => {}
            _ => audit.frames += 1,
        }
    }
    let mut from = DomainId(0);
    while let Some(domain) = host.domain_from(from) {
        from = DomainId(domain.id.0.saturating_add(1));
        audit.ports += domain.ports.in_use();
        audit.grants += granting::in_force(&domain);
        let memory = domain.memory.lock();
        if crate::life::is_alive(&domain) {
            let mut at = Gfn(0);
            while let Some((gfn, leaf)) = memory.tables.next(&host.machine, at) {
                at = Gfn(gfn.0 + leaf.pages);
                for page in 0..leaf.pages {
                    let mfn = Mfn(leaf.mfn.0 + page);
                    let good = match leaf.kind {
                        Kind::Ram => {
                            let kind = host.frames.kind(mfn);
                            kind == FrameKind::Bundle && memory.direct
                                || kind == FrameKind::Ram && host.frames.owner(mfn) == Some(domain.id)
                        }
                        Kind::Special => host.frames.owner(mfn) == Some(domain.id),
                        Kind::Foreign | Kind::Grant => host.frames.references(mfn) > 0,
                        Kind::Device => true,
                    };
                    audit.mismatches += u64::from(!good);
                }
            }
        }
    }
    audit
}
