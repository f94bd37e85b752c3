//! Other domains' memory in dom0, and the grants that a domain is born with.

use trunnion_protocol::address::{Gfn, Gva, Mfn};
use trunnion_protocol::control::{FOREIGN_MAX, MapForeign, SeedGrant, UnmapForeign};
use trunnion_protocol::errno::Errno;
use trunnion_protocol::id::{DomainId, GrantRef};
use trunnion_protocol::planted::{self, Bug};

use zerocopy::IntoBytes;

use super::find;
use crate::authority::Control;
use crate::domain::Domain;
use crate::granting;
use crate::host::Host;
use crate::hypercall::{Arguments, Reply, Stop};
use crate::life;
use crate::memory;
use crate::seam::Machine;
use crate::second_level::{Kind, Rights, Stale};
use crate::vcpu::Running;

/// Frames that are mapped or given back in one go. Argument 3 says how many are done.
const CHUNK: usize = 64;

/// The frames of the list at `list` from `done` on, at most [`CHUNK`] of `count`.
fn chunk(done: u64, count: u32) -> usize {
    (u64::from(count).saturating_sub(done) as usize).min(CHUNK)
}

fn entry(list: u64, index: u64) -> Gva {
    Gva(list.wrapping_add(index * 8))
}

pub(super) fn map<M: Machine>(
    _: &Control,
    running: &mut Running<'_, M>,
    at: Gva,
    arguments: &mut Arguments,
) -> Reply {
    let wanted: MapForeign = running.get_plain(at)?;
    if wanted.count == 0 || wanted.count > FOREIGN_MAX {
        return Err(Errno::Inval.into());
    }
    let write = wanted.flags & 1 != 0;
    let [_, _, done, ..] = &mut arguments.values;
    match map_some(running, &wanted, *done, write) {
        Ok(()) => {
            *done += chunk(*done, wanted.count) as u64;
            if *done < u64::from(wanted.count) { Err(Stop::Again) } else { Ok(0) }
        }
        Err(errno) => {
            // All or none: what earlier rounds mapped is in dom0's own list.
            let mut from = 0;
            while from < *done {
                let count = chunk(from, *done as u32);
                let mut frames = [0u64; CHUNK];
                let frames = frames.get_mut(..count).ok_or(Errno::Inval)?;
                running.read(entry(wanted.frames, from), frames.as_mut_bytes())?;
                give_back(running.host, running.domain, frames.iter().map(|&frame| Mfn(frame)), write)?;
                from += count as u64;
            }
            Err(errno.into())
        }
    }
}

/// Maps the next frames; on failure none of them.
fn map_some<M: Machine>(
    running: &mut Running<'_, M>,
    wanted: &MapForeign,
    done: u64,
    write: bool,
) -> Result<(), Errno> {
    let domain = find(running, wanted.domain)?;
    if !life::is_alive(&domain) {
        return Err(Errno::Srch);
    }
    let mut frames = [0u64; CHUNK];
    let frames = frames.get_mut(..chunk(done, wanted.count)).ok_or(Errno::Inval)?;
    let mut mapped = 0;
    let mut result = Ok(());
    for (index, frame) in frames.iter_mut().enumerate() {
        let gfn = Gfn(wanted.gfn.wrapping_add(done).wrapping_add(index as u64));
        result = map_one(running, &domain, gfn, write).map(|mfn| *frame = mfn.0);
        if result.is_err() {
            break;
        }
        mapped = index + 1;
    }
    if result.is_ok() {
        result = running.write(entry(wanted.frames, done), frames.as_bytes());
    }
    if result.is_err() {
        give_back(running.host, running.domain, frames.iter().take(mapped).map(|&frame| Mfn(frame)), write)?;
    }
    result
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
    for mfn in frames.take(if planted::is(Bug::KeptReference) { 0 } else { done }) {
        host.frames.put(mfn);
    }
    life::reap(host);
    result
}

pub(super) fn unmap<M: Machine>(
    _: &Control,
    running: &mut Running<'_, M>,
    at: Gva,
    arguments: &mut Arguments,
) -> Reply {
    let wanted: UnmapForeign = running.get_plain(at)?;
    if wanted.count == 0 || wanted.count > FOREIGN_MAX {
        return Err(Errno::Inval.into());
    }
    let [_, _, done, ..] = &mut arguments.values;
    let mut frames = [0u64; CHUNK];
    let frames = frames.get_mut(..chunk(*done, wanted.count)).ok_or(Errno::Inval)?;
    running.read(entry(wanted.frames, *done), frames.as_mut_bytes())?;
    give_back(running.host, running.domain, frames.iter().map(|&frame| Mfn(frame)), wanted.flags & 1 != 0)?;
    *done += frames.len() as u64;
    if *done < u64::from(wanted.count) { Err(Stop::Again) } else { Ok(0) }
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
