//! The hypervisor's half of what a guest reads the time from: the clock structure, the wall clock, run state areas.
//!
//! Each is guarded by a version word or an update flag, so that a guest that reads while it is written notices. The guest
//! may write these pages as well; nothing is ever read back from them but the version, whose value does not matter.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use crate::layout::{Layout, Width};
use crate::shared::SharedPage;
use crate::shared_info::{
    RUNSTATE_UPDATE_FLAG, Runstate, TIME_STABLE, TimeInfo, wall_clock, wall_clock_high,
};

/// The clock structure of a counter of `tsc_khz`, with no moment in it yet. `stable`: the counter never changes its rate and
/// agrees between CPUs.
pub const fn clock(tsc_khz: u64, stable: bool) -> TimeInfo {
    // A frequency of 0 is no host's; whatever happens the multiplier is not 0, since guests divide by it.
    let hertz = if tsc_khz == 0 { 1000 } else { tsc_khz.saturating_mul(1000) };
    let (multiplier, tsc_shift) = match TimeInfo::scale(hertz) {
        Some((0, shift)) => (1, shift),
        Some(scale) => scale,
        None => (1 << 31, 1),
    };
    TimeInfo {
        version: 0,
        tsc_timestamp: 0,
        system_time: 0,
        tsc_to_system_mul: multiplier,
        tsc_shift,
        flags: if stable { TIME_STABLE } else { 0 },
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
    use super::*;
    use crate::shared::OutOfPage;

    #[test]
    fn a_guest_reads_the_time() {
        for khz in [0, 1, 33_000, 1_000_000, 2_999_999, 4_000_000, u64::MAX] {
            let clock = clock(khz, true);
            assert_ne!(clock.tsc_to_system_mul, 0);
            if (33_000..1 << 32).contains(&khz) {
                let time = TimeInfo { tsc_timestamp: 1000, system_time: 77, ..clock };
                assert!(time.at(1000 + khz).abs_diff(77 + 1_000_000) <= 1, "{khz} kHz");
            }
        }
        assert_eq!(clock(1, true).flags, TIME_STABLE);
        assert_eq!(clock(1, false).flags, 0);
    }

    #[test]
    fn versions_count_up_in_twos() {
        let page = SharedPage::zeroed();
        let time = TimeInfo { tsc_timestamp: 5, system_time: 6, ..clock(1_000_000, false) };
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
