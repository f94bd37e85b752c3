//! What a guest reads the time from: the clock structure, the wall clock, run state areas.
//!
//! Each is guarded by a version word or an update flag, so that a guest that reads while it is written notices. The guest
//! may write these pages as well; nothing is ever read back from them but the version, whose value does not matter.

use core::sync::atomic::{AtomicU32, fence};

use trunnion_protocol::layout::Layout;
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::shared_info::{
    RUNSTATE_UPDATE_FLAG, RunState, Runstate, TIME_STABLE, TimeInfo, wall_clock, wall_clock_high,
};

use crate::prelude::*;

/// How a guest turns its counter into nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    multiplier: u32,
    shift: i8,
    flags: u8,
}

impl Scale {
    /// For a counter of `tsc_khz`. `stable`: it never changes its rate and agrees between CPUs.
    pub fn new(tsc_khz: u64, stable: bool) -> Self {
        // A frequency of 0 is no host's; whatever happens the multiplier is not 0, since guests divide by it.
        let (multiplier, shift) =
            TimeInfo::scale(tsc_khz.max(1).saturating_mul(1000)).unwrap_or((1 << 31, 1));
        Self { multiplier: multiplier.max(1), shift, flags: if stable { TIME_STABLE } else { 0 } }
    }

    /// The clock structure: system time was `now` when the guest's counter was `tsc`.
    pub const fn at(self, tsc: u64, now: HostTime) -> TimeInfo {
        TimeInfo {
            version: 0,
            tsc_timestamp: tsc,
            system_time: now.0,
            tsc_to_system_mul: self.multiplier,
            tsc_shift: self.shift,
            flags: self.flags,
        }
    }
}

/// Writes a clock structure: its version word, and by `write` what follows it. The version in `time` is not used.
pub fn write_time<E>(
    version: &AtomicU32,
    time: &TimeInfo,
    write: impl FnOnce(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut bytes = TimeInfo::ZEROED;
    let _ = time.encode(Width::W64, &mut bytes);
    let (_, body) = bytes.split_at(4);
    let odd = version.load(Ordering::Relaxed) | 1;
    version.store(odd, Ordering::Relaxed);
    fence(Ordering::Release);
    let result = write(body);
    version.store(odd.wrapping_add(1), Ordering::Release);
    result
}

/// Writes the wall clock of a shared info page: Unix time in nanoseconds at system time 0.
pub fn write_wall_clock(page: &SharedPage, width: Width, unix_ns: u64) {
    let (seconds, nanoseconds) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    let at = wall_clock(width);
    let words = [at, at + 4, at + 8, wall_clock_high(width)].map(|offset| page.word_at(offset));
    if let [Some(version), Some(low), Some(nanos), Some(high)] = words {
        let odd = version.load(Ordering::Relaxed) | 1;
        version.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        low.store(seconds as u32, Ordering::Relaxed);
        nanos.store(nanoseconds as u32, Ordering::Relaxed);
        high.store((seconds >> 32) as u32, Ordering::Relaxed);
        version.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// What a vCPU did with its time so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    state: RunState,
    since: HostTime,
    spent: [u64; 4],
}

impl Account {
    /// From `now` on, in a state.
    pub const fn new(state: RunState, now: HostTime) -> Self {
        Self { state, since: now, spent: [0; 4] }
    }

    /// The state changes.
    pub fn enter(&mut self, state: RunState, now: HostTime) {
        if let Some(spent) = self.spent.get_mut(self.state.number() as usize) {
            *spent = spent.wrapping_add(now.0.saturating_sub(self.since.0));
        }
        self.state = state;
        self.since = now;
    }

    /// The state now.
    pub const fn state(&self) -> RunState {
        self.state
    }

    /// As of `now`, with the time in the present state counted.
    pub fn as_of(mut self, now: HostTime) -> Runstate {
        let since = self.since;
        self.enter(self.state, now);
        Runstate { state: self.state.number(), state_entry_time: since.0, time: self.spent }
    }

    /// As an area holds it: the time in the present state is not counted yet.
    pub const fn area(&self) -> Runstate {
        Runstate { state: self.state.number(), state_entry_time: self.since.0, time: self.spent }
    }
}

/// Writes a run state through `write`, which is given offsets in the area and bytes. With `flagged` (the domain asked for
/// it by `vm_assist`) the update flag is set in `state_entry_time` while the rest is written.
pub fn write_runstate<E>(
    width: Width,
    runstate: &Runstate,
    flagged: bool,
    mut write: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let entry = width.pick(8, 4);
    let shown =
        if flagged { runstate.state_entry_time | RUNSTATE_UPDATE_FLAG } else { runstate.state_entry_time };
    if flagged {
        write(entry, &shown.to_le_bytes())?;
        fence(Ordering::Release);
    }
    let mut bytes = Runstate::ZEROED;
    let _ = Runstate { state_entry_time: shown, ..*runstate }.encode(width, &mut bytes);
    write(0, bytes.get(..Runstate::size(width)).unwrap_or(&[]))?;
    if flagged {
        fence(Ordering::Release);
        write(entry, &runstate.state_entry_time.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trunnion_protocol::shared::OutOfPage;

    use super::*;

    #[test]
    fn a_guest_reads_the_time() {
        for khz in [0, 1, 33_000, 1_000_000, 2_999_999, 4_000_000, u64::MAX] {
            let scale = Scale::new(khz, true);
            assert_ne!(scale.multiplier, 0);
            if (33_000..1 << 32).contains(&khz) {
                let time = scale.at(1000, HostTime(77));
                assert!(time.at(1000 + khz).abs_diff(77 + 1_000_000) <= 1, "{khz} kHz");
            }
        }
        assert_eq!(Scale::new(1, true).flags, TIME_STABLE);
        assert_eq!(Scale::new(1, false).flags, 0);
    }

    #[test]
    fn versions_count_up_in_twos() {
        let page = SharedPage::zeroed();
        let time = Scale::new(1_000_000, false).at(5, HostTime(6));
        let write = |at| {
            let version = page.word_at(at).ok_or(OutOfPage)?;
            write_time(version, &time, |body| page.copy_in(at + 4, body))
        };
        write(32).unwrap();
        let read = |offset| {
            let bytes: [u8; 32] = page.load(offset).unwrap();
            TimeInfo::decode(Width::W64, &bytes).unwrap()
        };
        assert_eq!(read(32), TimeInfo { version: 2, ..time });
        write(32).unwrap();
        assert_eq!(read(32).version, 4);
        // A guest that leaves an odd version there is put right.
        page.store(32, &u32::MAX).unwrap();
        write(32).unwrap();
        assert_eq!(read(32).version, 0);
        assert_eq!(write(4096 - 28), Err(OutOfPage));
        assert_eq!(write(33), Err(OutOfPage));
        write_wall_clock(&page, Width::W64, (1 << 32) * 1_000_000_000 + 7);
        assert_eq!(page.load::<[u32; 4]>(3072), Ok([2, 0, 7, 1]));
        write_wall_clock(&page, Width::W32, 1_600_000_000_123_456_789);
        assert_eq!(page.load::<[u32; 3]>(2304), Ok([2, 1_600_000_000, 123_456_789]));
        assert_eq!(page.load::<u32>(2340), Ok(0));
    }

    #[test]
    fn time_is_accounted_once() {
        let mut account = Account::new(RunState::Offline, HostTime(100));
        account.enter(RunState::Running, HostTime(150));
        account.enter(RunState::Blocked, HostTime(170));
        account.enter(RunState::Running, HostTime(171));
        let now = account.as_of(HostTime(180));
        assert_eq!((now.state, now.state_entry_time, now.time), (0, 171, [29, 0, 1, 50]));
        assert_eq!(now.time.iter().sum::<u64>(), 80);
        assert_eq!(account.area().time, [20, 0, 1, 50]);
        assert_eq!(account.state(), RunState::Running);
    }

    #[test]
    fn run_state_areas_in_both_widths() {
        let runstate = Runstate { state: 2, state_entry_time: 0x1122, time: [1, 2, 3, 4] };
        for (width, entry, size) in [(Width::W64, 8, 48), (Width::W32, 4, 44)] {
            let mut area = [0u8; 48];
            let mut steps = Vec::new();
            write_runstate(width, &runstate, true, |offset, bytes| {
                area[offset..offset + bytes.len()].copy_from_slice(bytes);
                steps.push(u64::from_le_bytes(area[entry..entry + 8].try_into().unwrap()));
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(steps, [1 << 63 | 0x1122, 1 << 63 | 0x1122, 0x1122]);
            assert_eq!(Runstate::decode(width, &area[..size]), Some(runstate));
            let mut writes = 0;
            write_runstate(width, &runstate, false, |_, _| {
                writes += 1;
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(writes, 1);
        }
    }
}
