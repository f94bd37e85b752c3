//! What has to hold after every step.

use std::collections::BTreeMap;

use trunnion_hypervisor::events::Channel;
use trunnion_hypervisor::fake::audit::audit;
use trunnion_hypervisor::frames::FrameKind;
use trunnion_protocol::address::{Gfn, Mfn, PAGE_SIZE};
use trunnion_protocol::grant::{ENTRIES_PER_FRAME, READING, WRITING};
use trunnion_protocol::id::{DomainId, GrantRef, Port};

use super::backend::Mapped;
use super::kernel::Kernel;
use super::machine::Host;

/// Every frame is free or somebody's, and the counters say the same.
pub fn frames(host: &Host) -> Result<(), String> {
    let mut free = 0;
    // A handful of owners, and thousands of frames after every step.
    let mut owned: Vec<(DomainId, u32)> = Vec::new();
    for mfn in (0..host.frames.end_frame().0).map(Mfn) {
        let (kind, references) = (host.frames.kind(mfn), host.frames.references(mfn));
        match kind {
            FrameKind::Free => free += 1,
            FrameKind::Reserved => {}
            _ => {
                let owner = host.frames.owner(mfn).unwrap_or(DomainId::INVALID);
                match owned.iter_mut().find(|(known, _)| *known == owner) {
                    Some((_, frames)) => *frames += 1,
                    None => owned.push((owner, 1)),
                }
            }
        }
        if matches!(kind, FrameKind::Free | FrameKind::Reserved) != (references == 0) {
            return Err(format!("frame {:#x} is {kind:?} with {references} references", mfn.0));
        }
    }
    if free != host.frames.free_frames() {
        return Err(format!("{free} frames are free, counted are {}", host.frames.free_frames()));
    }
    for (owner, frames) in owned {
        if host.frames.all_owned(owner) != frames {
            let counted = host.frames.all_owned(owner);
            return Err(format!("domain {owner} owns {frames} frames, counted are {counted}"));
        }
        if host.domain(owner).is_none() {
            return Err(format!("{frames} frames belong to domain {owner}, which is gone"));
        }
    }
    Ok(())
}

/// The core's own audit finds nothing.
pub fn tables(host: &Host) -> Result<(), String> {
    let audit = audit(host);
    if audit.mismatches == 0 {
        Ok(())
    } else {
        Err(format!("the audit finds {} mismatches", audit.mismatches))
    }
}

/// Both ends of every event channel name each other.
pub fn ports(host: &Host) -> Result<(), String> {
    let mut from = DomainId(0);
    while let Some(domain) = host.domain_from(from) {
        from = DomainId(domain.id.0 + 1);
        for port in (1..domain.ports.end()).map(Port) {
            let (Channel::Interdomain(remote, other), _) = domain.ports.get(port) else { continue };
            let back = host.domain(remote).map(|remote| remote.ports.get(other).0);
            if back != Some(Channel::Interdomain(domain.id, port)) {
                return Err(format!(
                    "port {port} of domain {} is joined to port {other} of domain {remote}, which is {back:?}",
                    domain.id
                ));
            }
        }
    }
    Ok(())
}

/// An entry that grants dom0 a page is marked exactly while dom0 maps it. Hostile guests write their entries as they like.
pub fn grants(host: &Host, mapped: &Mapped, hostile: &[DomainId]) -> Result<(), String> {
    let mapped = mapped.0.borrow();
    let mut from = DomainId(1);
    while let Some(domain) = host.domain_from(from) {
        from = DomainId(domain.id.0 + 1);
        if hostile.contains(&domain.id) {
            continue;
        }
        let table = domain.grants.table.lock();
        let mut marked = 0;
        for frame in 0..table.frames() {
            let Some((mfn, _)) = table.frame(frame) else { continue };
            let Some(page) = host.machine.memory().get(mfn.0 as usize) else { continue };
            // After every step: the page as a whole, and the few entries of it that are marked.
            let mut entries = [0; PAGE_SIZE];
            page.copy_out(0, &mut entries).map_err(|_| "a page cannot be read")?;
            for (index, entry) in (0..ENTRIES_PER_FRAME).zip(entries.as_chunks::<8>().0) {
                let marks =
                    u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) & (READING | WRITING);
                // The other guest of a pair keeps no books.
                let to = DomainId(u16::from_le_bytes([entry[2], entry[3]]));
                if marks == 0 || to != DomainId::DOM0 {
                    continue;
                }
                let reference = GrantRef(frame * ENTRIES_PER_FRAME + index);
                marked += 1;
                let (readers, writers) = mapped.get(&(domain.id, reference)).copied().unwrap_or_default();
                let good = match (readers, writers) {
                    (0, 0) => false,
                    (_, 0) => marks == READING,
                    _ => marks & WRITING != 0,
                };
                if !good {
                    return Err(format!(
                        "grant {reference} of domain {} is marked {marks:#x}, mapped by {readers} readers and {writers} writers",
                        domain.id
                    ));
                }
            }
        }
        let all = (domain.id, GrantRef(0))..=(domain.id, GrantRef(u32::MAX));
        let wanted = mapped.range(all).count();
        if wanted != marked && table.frames() != 0 {
            return Err(format!("domain {} has {marked} marked grants, and {wanted} are mapped", domain.id));
        }
    }
    Ok(())
}

/// A processor that was not told to forget a translation may still use it: all that dom0 could remember is still so.
pub fn translations(
    dom0: &Kernel,
    seen: &mut BTreeMap<u64, u64>,
    mapped_frames: impl Iterator<Item = u64>,
) -> Result<(), String> {
    let epoch = dom0.domain.epoch.load(std::sync::atomic::Ordering::SeqCst);
    seen.retain(|_, at| *at == epoch);
    for frame in seen.keys() {
        if dom0.frame(Gfn(*frame)).is_none() {
            return Err(format!("dom0's translation of frame {frame:#x} is gone, and was not flushed"));
        }
    }
    for frame in mapped_frames {
        seen.insert(frame, epoch);
    }
    Ok(())
}
