//! What a guest sees of time: its clock structures and run state areas, kept up to date.
//!
//! Areas that a guest names by virtual address are translated once, when they are registered, and their pages are held;
//! guests do not move them. An area may cross into a second page.

use trunnion_protocol::shared_info::vcpu::TIME;

use crate::account::Account;
use crate::prelude::*;

/// Bytes of guest memory that the core writes later: one page, or the end of one and the start of the next.
#[derive(Clone, Copy)]
struct Area {
    first: Mfn,
    second: Option<Mfn>,
    offset: usize,
    width: Width,
}

/// Areas of one vCPU that follow its run state and its clock.
pub struct Areas {
    account: Account,
    runstate: Option<Area>,
    time: Option<Area>,
}

impl Default for Areas {
    fn default() -> Self {
        Self { account: Account::new(RunState::Offline, HostTime(0)), runstate: None, time: None }
    }
}

impl Area {
    /// The page that holds byte `at`, and where it is there.
    fn place<'h, M: Machine>(&self, host: &'h Host<M>, at: usize) -> Option<(&'h SharedPage, usize)> {
        let at = self.offset + at;
        let (frame, at) = if at < PAGE_SIZE { (self.first, at) } else { (self.second?, at - PAGE_SIZE) };
        Some((host.machine.page(frame)?, at))
    }

    fn write<M: Machine>(&self, host: &Host<M>, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        let room = PAGE_SIZE.saturating_sub(self.offset + at).min(bytes.len());
        let (here, there) = bytes.split_at(room);
        for (at, part) in [(at, here), (at + room, there)] {
            if !part.is_empty() {
                let (page, at) = self.place(host, at).ok_or(Errno::Fault)?;
                page.copy_in(at, part).map_err(|_| Errno::Fault)?;
            }
        }
        Ok(())
    }

    /// Areas begin at a multiple of four bytes, so the version is one word wherever the rest is.
    fn write_time<M: Machine>(&self, host: &Host<M>, time: &TimeInfo) {
        if let Some((page, at)) = self.place(host, 0)
            && let Some(version) = page.word_at(at)
        {
            let _ = publish::write_time(version, time, |body| self.write(host, 4, body));
        }
    }

    fn release<M: Machine>(self, host: &Host<M>) {
        host.frames.put(self.first);
        if let Some(second) = self.second {
            host.frames.put(second);
        }
    }
}

/// Wall clock and first times of a new domain.
pub fn new_domain<M: Machine>(host: &Host<M>, domain: &Arc<Domain<M>>) {
    write_wall_clock(host, domain);
    for vcpu in &domain.vcpus {
        vcpu.areas.lock().account = Account::new(RunState::Offline, host.now());
        let at = VcpuRef { domain: domain.clone(), index: vcpu.id.0 };
        update(host, &at);
    }
}

/// Writes the wall clock in the form that the domain uses now.
pub fn write_wall_clock<M: Machine>(host: &Host<M>, domain: &Domain<M>) {
    if let Some(page) = host.machine.page(domain.shared_info) {
        publish::write_wall_clock(page, domain.width(), host.machine.wall_clock_base());
    }
}

/// Writes a vCPU's clock. The host's own clock is the TSC at a rate that is measured once, so this stays true as long as the vCPU has its
/// clock there: another writing would only be another point of the same line.
pub fn update<M: Machine>(host: &Host<M>, at: &VcpuRef<M>) {
    let tsc_timestamp = host.machine.tsc().wrapping_add(at.domain.tsc_offset);
    let time = TimeInfo { tsc_timestamp, system_time: host.now().0, ..host.clock };
    let (first, offset) = at.info_place();
    let own = Area { first, second: None, offset: offset + TIME, width: Width::W64 };
    own.write_time(host, &time);
    let area = at.areas.lock().time;
    if let Some(area) = area {
        area.write_time(host, &time);
    }
}

/// The vCPU's run state changes.
pub fn run_state<M: Machine>(host: &Host<M>, at: &VcpuRef<M>, activity: Activity) {
    let state = match activity {
        Activity::Running => RunState::Running,
        Activity::Ready => RunState::Runnable,
        Activity::Blocked => RunState::Blocked,
        Activity::Down | Activity::Parked => RunState::Offline,
    };
    let now = host.now();
    let mut areas = at.areas.lock();
    // A vCPU that was woken was runnable for a while before it ran; the time it waited for its CPU is what guests call
    // stolen.
    if state == RunState::Running
        && let Some(woken) = at.state.ready_since()
        && areas.account.state == RunState::Blocked
    {
        areas.account.enter(RunState::Runnable, woken.min(now));
    }
    areas.account.enter(state, now);
    if let Some(area) = areas.runstate {
        let flagged = at.domain.runstate_flag.load(Ordering::Relaxed);
        let shown = areas.account.area();
        drop(areas);
        let _ = publish::write_runstate(area.width, &shown, flagged, |offset, bytes| {
            area.write(host, offset, bytes)
        });
    }
}

/// Its run state now.
pub fn run_state_now<M: Machine>(host: &Host<M>, vcpu: &Vcpu<M>) -> Runstate {
    vcpu.areas.lock().account.as_of(host.now())
}

impl<'a, M: Machine> Running<'a, M> {
    /// Registers an area of a vCPU of the caller's domain; address 0 takes it back.
    pub fn register_area(&mut self, at: &VcpuRef<M>, gva: Gva, form: Width, time: bool) -> Result<(), Errno> {
        let host = self.host;
        let size = if time { TimeInfo::size(form) } else { Runstate::size(form) };
        let area = if gva.is_null() { None } else { Some(self.hold_area(gva, size, form)?) };
        let old = {
            let mut areas = at.areas.lock();
            core::mem::replace(if time { &mut areas.time } else { &mut areas.runstate }, area)
        };
        if let Some(old) = old {
            old.release(host);
        }
        if time {
            update(host, at);
        } else if let Some(area) = area {
            let flagged = at.domain.runstate_flag.load(Ordering::Relaxed);
            let shown = at.areas.lock().account.area();
            publish::write_runstate(form, &shown, flagged, |offset, bytes| area.write(host, offset, bytes))?;
        }
        Ok(())
    }

    fn hold_area(&mut self, address: Gva, size: usize, width: Width) -> Result<Area, Errno> {
        let offset = address.page_offset();
        if !offset.is_multiple_of(4) {
            return Err(Errno::Inval);
        }
        let first = self.hold_page(address)?;
        let second = if offset + size > PAGE_SIZE {
            Some(self.hold_page(Gva(address.0.wrapping_add((PAGE_SIZE - offset) as u64)))?.into_raw())
        } else {
            None
        };
        Ok(Area { first: first.into_raw(), second, offset, width })
    }

    fn hold_page(&mut self, address: Gva) -> Result<Held<'a>, Errno> {
        let gpa = self.with_memory(|memory| memory.gpa(address, true))?;
        memory::writable(self.host, self.domain, gpa.frame()).ok_or(Errno::Fault)
    }
}

/// Gives the areas' pages up.
pub fn forget_areas<M: Machine>(host: &Host<M>, vcpu: &Vcpu<M>) {
    let (runstate, time) = {
        let mut areas = vcpu.areas.lock();
        (areas.runstate.take(), areas.time.take())
    };
    for area in [runstate, time].into_iter().flatten() {
        area.release(host);
    }
}
