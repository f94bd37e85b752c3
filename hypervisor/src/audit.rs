//! What is in use, recomputed from the tables themselves.

use crate::prelude::*;

/// Where an audit goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// The frame table, at this frame.
    Frames(u64),
    /// A domain's map: the domain, and the guest frame.
    Map(u16, u64),
}

/// Frames looked at in one step.
const FRAMES: u64 = 1024;
/// Pages of maps looked at in one step, a domain counting as a few.
const PAGES: u64 = 512;
/// What the rest of a domain's account costs, in pages.
const DOMAIN: u64 = 128;

/// A bounded part of the walk; adds what it finds. `None` at the end.
pub fn step<M: Machine>(host: &Host<M>, at: Position, audit: &mut Audit) -> Option<Position> {
    match at {
        Position::Frames(from) => {
            let end = host.frames.end_frame().0;
            let stop = from.saturating_add(FRAMES).min(end);
            for mfn in from..stop {
                let mfn = Mfn(mfn);
                match host.frames.kind(mfn) {
                    FrameKind::Free | FrameKind::Reserved | FrameKind::Bundle => {}
                    _ if host.frames.owner(mfn) == Some(DomainId::DOM0) => {}
                    _ => audit.frames += 1,
                }
            }
            Some(if stop < end { Position::Frames(stop) } else { Position::Map(0, 0) })
        }
        Position::Map(id, gfn) => {
            let mut budget = PAGES;
            let (mut id, mut gfn) = (DomainId(id), Gfn(gfn));
            while let Some(domain) = host.domain_from(id) {
                if domain.id != id {
                    (id, gfn) = (domain.id, Gfn(0));
                }
                if gfn.0 == 0 {
                    audit.ports += domain.ports.in_use();
                    audit.grants += granting::in_force(&domain);
                    budget = budget.saturating_sub(DOMAIN);
                }
                match domain.audit(host, gfn, &mut budget, audit) {
                    Some(gfn) => return Some(Position::Map(id.0, gfn.0)),
                    None => (id, gfn) = (DomainId(id.0.saturating_add(1)), Gfn(0)),
                }
                if budget == 0 {
                    return Some(Position::Map(id.0, 0));
                }
            }
            None
        }
    }
}

impl<M: Machine> Domain<M> {
    /// Looks at the domain's map from `from` on; gives where it stopped for want of budget.
    fn audit(&self, host: &Host<M>, from: Gfn, budget: &mut u64, audit: &mut Audit) -> Option<Gfn> {
        let memory = self.memory.lock();
        if !life::is_alive(self) {
            return None;
        }
        let mut at = from;
        while let Some((gfn, leaf)) = memory.tables.next(&host.machine, at) {
            // A large leaf may be looked at in parts.
            let skip = at.0.saturating_sub(gfn.0);
            let pages = if leaf.kind == Kind::Device { leaf.pages } else { leaf.pages.min(skip + PAGES) };
            if *budget == 0 {
                return Some(Gfn(gfn.0 + skip));
            }
            for page in skip..if leaf.kind == Kind::Device { skip } else { pages } {
                let mfn = Mfn(leaf.mfn.0 + page);
                let good = match leaf.kind {
                    Kind::Ram => {
                        let kind = host.frames.kind(mfn);
                        kind == FrameKind::Bundle && self.direct
                            || kind == FrameKind::Ram && host.frames.owner(mfn) == Some(self.id)
                    }
                    Kind::Special => host.frames.owner(mfn) == Some(self.id),
                    Kind::Grant => host.frames.references(mfn) > 0,
                    Kind::Device => true,
                };
                audit.mismatches += u64::from(!good);
            }
            *budget = budget.saturating_sub((pages - skip).clamp(1, PAGES));
            at = Gfn(gfn.0 + pages);
        }
        None
    }
}
