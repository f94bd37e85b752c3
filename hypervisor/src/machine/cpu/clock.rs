//! The host's clock: the TSC, measured against the PIT. CPUID's word on the frequency is not taken: emulators give wrong
//! ones.

use crate::machine::prelude::*;

/// The PIT's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// PIT ticks that a measurement takes: 10 ms.
const WINDOW: u64 = PIT_HZ / 100;
const COMMAND: u16 = 0x43;
const CHANNEL_2: u16 = 0x42;
const GATE: u16 = 0x61;

static HZ: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds for 2^32 TSC ticks.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// The TSC and another counter at one moment. An emulator may stop between two instructions, so the closest pair of several
/// is taken.
pub fn moment<T: Default>(read: impl Fn() -> T) -> (u64, T) {
    let mut best = (u64::MAX, 0, T::default());
    for _ in 0..8 {
        let before = tsc();
        let count = read();
        let took = tsc().wrapping_sub(before);
        if took < best.0 {
            best = (took, before, count);
        }
    }
    (best.1, best.2)
}

/// The TSC and the PIT's count.
fn pair() -> (u64, u16) {
    moment(|| {
        out8(COMMAND, 0x80);
        u16::from_le_bytes([in8(CHANNEL_2), in8(CHANNEL_2)])
    })
}

/// Measures the TSC and starts the clock: time 0 is the TSC's 0, which is power-on.
pub fn init() -> u64 {
    let gate = in8(GATE);
    out8(GATE, gate & !3 | 1);
    // Channel 2, both bytes, mode 2: counts down and starts over.
    out8(COMMAND, 0xb4);
    out8(CHANNEL_2, 0xff);
    out8(CHANNEL_2, 0xff);
    let (tsc_begin, begin) = pair();
    let mut passed = 0;
    let mut last = begin;
    let (mut tsc_end, mut count);
    loop {
        (tsc_end, count) = pair();
        passed += u64::from(last.wrapping_sub(count));
        // The counter starts over at 65535, not at 65536.
        passed -= u64::from(count > last && passed > 0);
        last = count;
        if passed >= WINDOW {
            break;
        }
    }
    out8(GATE, gate & !3);
    let hz = (u128::from(tsc_end.wrapping_sub(tsc_begin)) * u128::from(PIT_HZ) / u128::from(passed)) as u64;
    let hz = rounded(hz).max(1_000_000);
    HZ.store(hz, Ordering::Relaxed);
    SCALE.store(((1_000_000_000u128 << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    hz
}

/// A measured frequency, put to a multiple of 10 MHz when it is within the measurement's error of one: counted instructions
/// make such clocks, and their figures should repeat.
pub fn rounded(hz: u64) -> u64 {
    let whole = (hz + 5_000_000) / 10_000_000 * 10_000_000;
    if hz.abs_diff(whole) * 4000 < hz { whole } else { hz }
}

/// TSC ticks a second.
pub fn frequency() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// Nanoseconds since power-on; 0 until `init`.
pub fn now() -> u64 {
    ((u128::from(tsc()) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}
