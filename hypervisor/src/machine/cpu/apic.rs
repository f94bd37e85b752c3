//! The local APIC: by memory or, where the firmware left that on, by MSRs (SDM 3 chapter 10; APM 2 chapter 16).

use crate::machine::prelude::*;

/// The vector of the timer.
pub const TIMER: u8 = 0xf0;
/// The vector of spurious interrupts.
pub const SPURIOUS: u8 = 0xff;

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;

static X2: AtomicBool = AtomicBool::new(false);
/// Where the registers are in memory.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Timer ticks for 2^32 nanoseconds.
static TICKS: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2.load(Ordering::Relaxed) {
        msr::read(msr::X2APIC + register / 16) as u32
    } else {
        let address = BASE.load(Ordering::Relaxed) + register as u64;
        // SAFETY: the page is mapped uncached for ever and holds this register.
        unsafe { (address as *const u32).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if X2.load(Ordering::Relaxed) {
        // SAFETY: the registers of this file exist in x2APIC mode and take these values.
        unsafe { msr::write(msr::X2APIC + register / 16, value as u64) }
    } else {
        let address = BASE.load(Ordering::Relaxed) + register as u64;
        // SAFETY: as in `read`.
        unsafe { (address as *mut u32).write_volatile(value) }
    }
}

/// The page of the registers, before it is mapped; the APIC is switched on if the firmware left it off.
pub fn page() -> u64 {
    let mut base = msr::read(msr::APIC_BASE);
    if base & 1 << 11 == 0 {
        base |= 1 << 11;
        // SAFETY: switching the local APIC on at its own address.
        unsafe { msr::write(msr::APIC_BASE, base) };
    }
    X2.store(base & 1 << 10 != 0, Ordering::Relaxed);
    base & 0x000f_ffff_ffff_f000
}

/// Sets it up on the running CPU: everything masked but what the core asks for.
pub fn init(page: u64) {
    BASE.store(page, Ordering::Relaxed);
    write(SPURIOUS_VECTOR, 0x100 | SPURIOUS as u32);
    write(TASK_PRIORITY, 0);
    for register in [LVT_LINT0, LVT_LINT1, LVT_ERROR] {
        write(register, MASKED);
    }
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, MASKED | TIMER as u32);
    write(INITIAL_COUNT, 0);
}

/// This APIC's id.
pub fn id() -> u32 {
    if X2.load(Ordering::Relaxed) { read(ID) } else { read(ID) >> 24 }
}

/// Whether the registers are MSRs.
pub fn is_x2() -> bool {
    X2.load(Ordering::Relaxed)
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Measures the timer against the TSC, of which `tsc_hz` is known.
pub fn calibrate(tsc_hz: u64) -> u64 {
    let pair = || super::clock::moment(|| read(CURRENT_COUNT));
    write(INITIAL_COUNT, u32::MAX);
    // An emulator translates the code at its first turns, which takes longer than what is measured.
    for _ in 0..4 {
        pair();
    }
    let (tsc_begin, begin) = pair();
    while tsc().wrapping_sub(tsc_begin) < tsc_hz / 500 {}
    let (tsc_end, end) = pair();
    write(INITIAL_COUNT, 0);
    let elapsed = u128::from(tsc_end.wrapping_sub(tsc_begin).max(1));
    let hz = (u128::from(begin.wrapping_sub(end)) * u128::from(tsc_hz) / elapsed) as u64;
    let hz = super::clock::rounded(hz).max(1);
    TICKS.store(((u128::from(hz) << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
    write(LVT_TIMER, TIMER as u32);
    hz
}

/// Arms the timer for `nanoseconds` from now; `None` stops it. A longer time than the counter holds fires early.
pub fn arm(nanoseconds: Option<u64>) {
    let count = match nanoseconds {
        None => 0,
        Some(ns) => {
            let ticks = (u128::from(ns) * u128::from(TICKS.load(Ordering::Relaxed))) >> 32;
            u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
        }
    };
    write(INITIAL_COUNT, count);
}
