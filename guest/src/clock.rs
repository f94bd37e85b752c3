//! Time: the hypervisor's clock (`vcpu_time_info`), the wall clock, and timers for tasks.

use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::Mutex;
use trunnion_protocol::layout::{Layout, Width};
use trunnion_protocol::shared::SharedPage;
use trunnion_protocol::shared_info::{TimeInfo, vcpu, vcpu_info, wall_clock, wall_clock_high};

/// Without a hypervisor the time-stamp counter is taken for nanoseconds, which is right within a factor of a few.
fn ticks() -> u64 {
    x86_64_tsc()
}

/// System time: since the host was powered on, on Trunnion. Never goes backwards.
pub fn now() -> Duration {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let time = match crate::events::shared_info() {
        Some(page) => read(page).unwrap_or_default(),
        None => ticks(),
    };
    // A hypervisor without a stable counter may step back by a little; callers never see it.
    Duration::from_nanos(LAST.fetch_max(time, Ordering::Relaxed).max(time))
}

/// When the kernel came out of its last rest.
static AWAKE: AtomicU64 = AtomicU64::new(0);

/// Since when the kernel has had something to do, without a rest.
pub fn awake_since() -> Duration {
    Duration::from_nanos(AWAKE.load(Ordering::Relaxed))
}

#[cfg(target_os = "none")]
/// Notes that a rest is over.
pub(crate) fn awake() {
    AWAKE.store(now().as_nanos() as u64, Ordering::Relaxed);
}

/// One consistent reading. The writer holds the version odd while it writes.
fn read(page: &SharedPage) -> Option<u64> {
    let offset = vcpu_info(0)? + vcpu::TIME;
    let version = page.word_at(offset)?;
    loop {
        let before = version.load(Ordering::Acquire);
        let bytes: [u8; 32] = page.load(offset).ok()?;
        let ticks = ticks();
        fence(Ordering::Acquire);
        if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
            return Some(TimeInfo::decode(Width::W64, &bytes)?.at(ticks));
        }
        core::hint::spin_loop();
    }
}

/// The wall clock: Unix time now; zero when the hypervisor has none.
pub fn unix_time() -> Duration {
    crate::events::shared_info().and_then(boot_time).map_or(Duration::ZERO, |boot| boot + now())
}

fn boot_time(page: &SharedPage) -> Option<Duration> {
    let offset = wall_clock(Width::W64);
    let version = page.word_at(offset)?;
    loop {
        let before = version.load(Ordering::Acquire);
        let seconds: u32 = page.load(offset + 4).ok()?;
        let nanoseconds: u32 = page.load(offset + 8).ok()?;
        let high: u32 = page.load(wall_clock_high(Width::W64)).ok()?;
        fence(Ordering::Acquire);
        if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
            return Some(Duration::new(
                u64::from(high) << 32 | u64::from(seconds),
                nanoseconds % 1_000_000_000,
            ));
        }
        core::hint::spin_loop();
    }
}

fn x86_64_tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the instruction has no safe form")]
    // SAFETY: reading the time-stamp counter has no effect on memory.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Who waits until when. The number tells apart waiters with the same deadline.
static TIMERS: Mutex<BTreeMap<(Duration, u64), Waker>> = Mutex::new(BTreeMap::new());

#[cfg(target_os = "none")]
/// Wakes whoever's time has come; returns the next deadline.
pub(crate) fn fire() -> Option<Duration> {
    loop {
        let mut timers = TIMERS.lock();
        let entry = timers.first_entry()?;
        let deadline = entry.key().0;
        if deadline > now() {
            return Some(deadline);
        }
        let waker = entry.remove();
        drop(timers);
        waker.wake();
    }
}

/// Completes at a moment of system time.
#[derive(Debug)]
pub struct Sleep {
    deadline: Duration,
    number: Option<u64>,
}

/// Completes when system time reaches `deadline`.
pub const fn sleep_until(deadline: Duration) -> Sleep {
    Sleep { deadline, number: None }
}

/// Completes after `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now().saturating_add(duration))
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if now() >= self.deadline {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| NUMBER.fetch_add(1, Ordering::Relaxed));
        TIMERS.lock().insert((self.deadline, number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            TIMERS.lock().remove(&(self.deadline, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_follow_the_page() {
        let page = SharedPage::zeroed();
        let (tsc_to_system_mul, tsc_shift) = TimeInfo::scale(1_000_000_000).unwrap();
        let time =
            TimeInfo { version: 2, system_time: 5_000, tsc_to_system_mul, tsc_shift, ..TimeInfo::default() };
        let mut bytes = [0; 32];
        time.encode(Width::W64, &mut bytes).unwrap();
        page.copy_in(vcpu::TIME, &bytes).unwrap();
        let (first, second) = (read(&page).unwrap(), read(&page).unwrap());
        assert!(5_000 < first && first <= second);
        page.store(wall_clock(Width::W64) + 4, &1_000_000u32).unwrap();
        page.store(wall_clock_high(Width::W64), &1u32).unwrap();
        assert_eq!(boot_time(&page), Some(Duration::from_secs((1 << 32) + 1_000_000)));
    }
}
