//! What each CPU keeps for itself, reached by GS.

use super::tables::Tables;
use crate::machine::prelude::*;

/// One CPU's own data. Its address is the GS base while host code runs there.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Its own address, so that one load by GS finds it.
    this: AtomicU64,
    /// Its number, from 0.
    pub index: AtomicU32,
    /// Its local APIC's id.
    pub apic_id: AtomicU32,
    /// Interrupts that arrived and were not yet handed to the core, a bit a vector.
    pending: [AtomicU64; 4],
    /// There may be some.
    noted: AtomicBool,
    /// Descriptor tables and the stacks of the traps that need one.
    pub tables: Tables,
    /// The vendor's and the guest switch's own data: touched by this CPU alone, interrupts off.
    pub switch: super::super::run::Switch,
}

// SAFETY: everything is atomic but `tables`, which its CPU alone builds before it is used, and `switch`, which its own CPU
// alone touches, and never from an interrupt handler.
unsafe impl Sync for PerCpu {}

/// The first CPU's data.
pub static FIRST: PerCpu = PerCpu::new();

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: AtomicU64::new(0),
            index: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            pending: [const { AtomicU64::new(0) }; 4],
            noted: AtomicBool::new(false),
            tables: Tables::new(),
            switch: super::super::run::Switch::new(),
        }
    }

    /// Makes this the running CPU's data.
    pub fn install(&'static self) {
        let address = core::ptr::from_ref(self) as u64;
        self.this.store(address, Ordering::Relaxed);
        // SAFETY: no host code uses GS but `get`, which wants exactly this address there.
        unsafe { super::msr::write(super::msr::GS_BASE, address) };
    }

    /// The running CPU's data.
    pub fn get() -> &'static Self {
        let address: u64;
        // SAFETY: `install` ran on this CPU before anything else, and the guest switch puts the base back.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) address, options(nostack, preserves_flags, readonly, pure));
        }
        // SAFETY: the word holds the address of a static of this type.
        unsafe { &*(address as *const Self) }
    }

    /// Notes an interrupt.
    pub fn note(&self, vector: u8) {
        if let Some(word) = self.pending.get(vector as usize / 64) {
            word.fetch_or(1 << (vector % 64), Ordering::Relaxed);
            self.noted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any interrupt is noted.
    pub fn has_noted(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// The highest vector that is noted, taken off the list.
    pub fn take(&self) -> Option<u8> {
        for (index, word) in self.pending.iter().enumerate().rev() {
            let bits = word.load(Ordering::Relaxed);
            if bits != 0 {
                let bit = bits.ilog2();
                word.fetch_and(!(1 << bit), Ordering::Relaxed);
                return Some((index * 64) as u8 + bit as u8);
            }
        }
        self.noted.store(false, Ordering::Relaxed);
        None
    }
}
