//! Other domains' memory in dom0, and the grants that a domain is born with.

use trunnion_protocol::address::{Gfn, Gva, Mfn};
use trunnion_protocol::control::{FOREIGN_MAX, MapForeign, SeedGrant, UnmapForeign};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, GrantRef};

use super::find;
use crate::authority::Control;
use crate::domain::Domain;
use crate::granting;
use crate::host::Host;
use crate::hypercall::Reply;
use crate::life;
use crate::memory;
use crate::seam::Machine;
use crate::second_level::{Kind, Rights, Stale};
use crate::vcpu::Running;

pub(super) fn map<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let wanted: MapForeign = running.get_plain(at)?;
    let domain = find(running, wanted.domain)?;
    if wanted.count == 0 || wanted.count > FOREIGN_MAX {
        return Err(Errno::Inval.into());
    }
    if !life::is_alive(&domain) {
        return Err(Errno::Srch.into());
    }
    let write = wanted.flags & 1 != 0;
    let mut frames = [0u64; FOREIGN_MAX as usize];
    let frames = frames.get_mut(..wanted.count as usize).ok_or(Errno::Inval)?;
    let mut done = 0;
    let mut result = Ok(());
    for (index, frame) in frames.iter_mut().enumerate() {
        result = map_one(running, &domain, Gfn(wanted.gfn.wrapping_add(index as u64)), write)
            .map(|mfn| *frame = mfn.0);
        if result.is_err() {
            break;
        }
        done = index + 1;
    }
    if result.is_ok() {
        let bytes = zerocopy::IntoBytes::as_bytes(&*frames);
        result = running.write(Gva(wanted.frames), bytes);
    }
    if let Err(errno) = result {
        give_back(running.host, running.domain, frames.iter().take(done).map(|&frame| Mfn(frame)), write)?;
        return Err(errno.into());
    }
    Ok(0)
}

fn map_one<M: Machine>(
    running: &Running<'_, M>,
    domain: &Domain<M>,
    gfn: Gfn,
    write: bool,
) -> Result<Mfn, Errno> {
    let (held, leaf) = memory::lookup(running.host, domain, gfn).ok_or(Errno::NoEnt)?;
    if !matches!(leaf.kind, Kind::Ram | Kind::Special) || (write && !leaf.rights.contains(Rights::WRITE)) {
        return Err(Errno::NoEnt);
    }
    let mfn = held.mfn();
    let mut own = running.domain.memory.lock();
    memory::map_direct(running.host, running.domain, &mut own, held, write)?;
    Ok(mfn)
}

/// Takes mappings back: one flush for all, then their references go.
fn give_back<M: Machine>(
    host: &Host<M>,
    dom0: &Domain<M>,
    frames: impl Iterator<Item = Mfn> + Clone,
    write: bool,
) -> Result<(), Errno> {
    let mut memory = dom0.memory.lock();
    let mut stale = Stale::NONE;
    let mut done = 0;
    let mut result = Ok(());
    for mfn in frames.clone() {
        match memory::unmap_direct(host, dom0, &mut memory, mfn, write) {
            Ok(more) => stale = stale.join(&host.machine, &more),
            Err(errno) => {
                result = Err(errno);
                break;
            }
        }
        done += 1;
    }
    memory::flush(host, dom0, stale);
    drop(memory);
    for mfn in frames.take(done) {
        host.frames.put(mfn);
    }
    life::reap(host);
    result
}

pub(super) fn unmap<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let wanted: UnmapForeign = running.get_plain(at)?;
    if wanted.count == 0 || wanted.count > FOREIGN_MAX {
        return Err(Errno::Inval.into());
    }
    let mut frames = [0u64; FOREIGN_MAX as usize];
    let frames = frames.get_mut(..wanted.count as usize).ok_or(Errno::Inval)?;
    running.read(Gva(wanted.frames), zerocopy::IntoBytes::as_mut_bytes(frames))?;
    give_back(running.host, running.domain, frames.iter().map(|&frame| Mfn(frame)), wanted.flags & 1 != 0)?;
    Ok(0)
}

pub(super) fn seed_grant<M: Machine>(_: &Control, running: &mut Running<'_, M>, at: Gva) -> Reply {
    let wanted: SeedGrant = running.get_plain(at)?;
    let domain = find(running, wanted.domain)?;
    if wanted.reference >= GrantRef::RESERVED {
        return Err(Errno::Inval.into());
    }
    let frame = u32::try_from(wanted.gfn).map_err(|_| Errno::Inval)?;
    granting::seed(running.host, &domain, GrantRef(wanted.reference), DomainId(wanted.to), frame)?;
    Ok(0)
}
