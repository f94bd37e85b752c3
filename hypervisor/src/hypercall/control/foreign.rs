//! Other domains' memory in dom0, and the grants that a domain is born with.

use crate::prelude::*;

/// Frames that are mapped or given back in one go. Argument 3 says how many are done.
const CHUNK: usize = 64;

/// The part of dom0's list of frames that one round works on.
#[derive(Clone, Copy)]
struct Part {
    list: u64,
    from: u64,
    count: usize,
}

impl Part {
    /// From entry `from` on, of `end`.
    fn new(list: u64, from: u64, end: u64) -> Self {
        Self { list, from, count: (end.saturating_sub(from) as usize).min(CHUNK) }
    }

    fn address(self) -> Gva {
        Gva(self.list.wrapping_add(self.from * 8))
    }

    /// Takes the mappings that it lists back.
    fn give_back<M: Machine>(self, running: &mut Running<'_, M>, write: bool) -> Result<(), Errno> {
        let mut frames = [0u64; CHUNK];
        let frames = frames.get_mut(..self.count).ok_or(Errno::Inval)?;
        running.read(self.address(), frames.as_mut_bytes())?;
        running.give_back(frames, write)
    }
}

/// Ends the call at `count`, or goes on behind the `more` frames that are done now.
fn go_on(done: &mut u64, more: usize, count: u32) -> Result<(), Stop> {
    *done += more as u64;
    if *done < u64::from(count) { Err(Stop::Again) } else { Ok(()) }
}

impl<M: Machine> Running<'_, M> {
    pub(super) fn map_foreign(&mut self, wanted: &MapForeign, arguments: &mut Arguments) -> Result<(), Stop> {
        if wanted.count == 0 || wanted.count > FOREIGN_MAX {
            return Err(Errno::Inval.into());
        }
        let write = wanted.flags & 1 != 0;
        let [_, _, done, ..] = &mut arguments.values;
        let part = Part::new(wanted.frames, *done, wanted.count.into());
        if let Err(errno) = self.map_some(wanted, part, write) {
            // All or none: what earlier rounds mapped is in dom0's own list.
            for from in (0..*done).step_by(CHUNK) {
                Part::new(wanted.frames, from, *done).give_back(self, write)?;
            }
            return Err(errno.into());
        }
        go_on(done, part.count, wanted.count)
    }

    pub(super) fn unmap_foreign(
        &mut self,
        wanted: &UnmapForeign,
        arguments: &mut Arguments,
    ) -> Result<(), Stop> {
        if wanted.count == 0 || wanted.count > FOREIGN_MAX {
            return Err(Errno::Inval.into());
        }
        let [_, _, done, ..] = &mut arguments.values;
        let part = Part::new(wanted.frames, *done, wanted.count.into());
        part.give_back(self, wanted.flags & 1 != 0)?;
        go_on(done, part.count, wanted.count)
    }

    /// Maps the next frames; on failure none of them.
    fn map_some(&mut self, wanted: &MapForeign, part: Part, write: bool) -> Result<(), Errno> {
        let domain = self.find(wanted.domain)?;
        if !life::is_alive(&domain) {
            return Err(Errno::Srch);
        }
        let mut frames = [0u64; CHUNK];
        let mut mapped = 0;
        let result = frames.iter_mut().take(part.count).zip(part.from..).try_for_each(|(frame, index)| {
            *frame = self.map_one(&domain, Gfn(wanted.gfn.wrapping_add(index)), write)?.0;
            mapped += 1;
            Ok(())
        });
        let frames = frames.get(..mapped).unwrap_or(&[]);
        let result = result.and_then(|()| self.write(part.address(), frames.as_bytes()));
        if result.is_err() {
            self.give_back(frames, write)?;
        }
        result
    }

    fn map_one(&self, domain: &Domain<M>, gfn: Gfn, write: bool) -> Result<Mfn, Errno> {
        let (held, leaf) = memory::lookup(self.host, domain, gfn).ok_or(Errno::NoEnt)?;
        if !matches!(leaf.kind, Kind::Ram | Kind::Special) || (write && !leaf.rights.contains(Rights::WRITE))
        {
            return Err(Errno::NoEnt);
        }
        let mfn = held.mfn();
        self.domain.map(self.host).map_direct(held, write)?;
        Ok(mfn)
    }

    /// Takes mappings back: one flush for all, then their references go.
    fn give_back(&self, frames: &[u64], write: bool) -> Result<(), Errno> {
        let (host, dom0) = (self.host, self.domain);
        let mut map = dom0.map(host);
        let mut stale = Stale::NONE;
        let mut done = 0;
        let result = frames.iter().try_for_each(|&frame| {
            let more = map.unmap_direct(Mfn(frame), write)?;
            stale = core::mem::take(&mut stale).join(&host.machine, &more);
            done += 1;
            Ok(())
        });
        memory::flush(host, dom0, stale, true);
        drop(map);
        for &frame in frames.iter().take(if planted::is(Bug::KeptReference) { 0 } else { done }) {
            host.frames.put(Mfn(frame));
        }
        life::reap(host);
        result
    }

    pub(super) fn seed_grant(&mut self, wanted: &SeedGrant) -> Result<(), Stop> {
        let domain = self.find(wanted.domain)?;
        if wanted.reference >= GrantRef::RESERVED {
            return Err(Errno::Inval.into());
        }
        let frame = u32::try_from(wanted.gfn).map_err(|_| Errno::Inval)?;
        Ok(domain.seed_grant(self.host, GrantRef(wanted.reference), DomainId(wanted.to), frame)?)
    }
}
