//! Extended state (x87, SSE, AVX and the rest) of vCPUs. It belongs to guests: the core uses no such register. It is switched
//! between vCPUs, always and at once; lazy switching by CR0.TS leaks registers on real processors and loses them on emulated
//! ones.

use core::arch::x86_64::{_fxrstor64, _fxsave64, _xgetbv, _xrstor64, _xsave64, _xsetbv};
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu;
use super::page::Block;
use crate::seam::OutOfHeap;

/// Components that are switched: x87, SSE, AVX, MPX, AVX-512, PKRU (SDM 1 section 13.1).
const KNOWN: u64 = 0x2ff;

/// Components of this host; 0 when it has no XSAVE.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);

/// Switches the extended state on. Returns the components, 0 without XSAVE.
pub fn init() -> u64 {
    let mut cr4 = 0x600; // OSFXSR, OSXMMEXCPT
    let has_xsave = cpu::cpuid(1, 0).ecx & 1 << 26 != 0;
    if has_xsave {
        cr4 |= 1 << 18;
    }
    // SAFETY: the bits are offered by CPUID, and the core uses none of the registers they enable; CR0.EM and TS go off, MP on.
    unsafe {
        let old: u64;
        core::arch::asm!("mov {}, cr4", out(reg) old, options(nomem, nostack));
        core::arch::asm!("mov cr4, {}", in(reg) old | cr4, options(nostack));
        let old: u64;
        core::arch::asm!("mov {}, cr0", out(reg) old, options(nomem, nostack));
        core::arch::asm!("mov cr0, {}", in(reg) old & !0xc | 2, options(nostack));
    }
    if !has_xsave {
        return 0;
    }
    let leaf = cpu::cpuid(0xd, 0);
    let components = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & KNOWN;
    COMPONENTS.store(components, Ordering::Relaxed);
    set_xcr0(components);
    components
}

#[inline]
fn set_xcr0(value: u64) {
    // SAFETY: CR4.OSXSAVE is set, and the value consists of components of this host with x87 among them.
    unsafe { xsetbv(value) };
}

#[target_feature(enable = "xsave")]
unsafe fn xsetbv(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { _xsetbv(0, value) };
}

#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    // SAFETY: the caller has found XSAVE.
    unsafe { _xgetbv(0) }
}

#[target_feature(enable = "xsave")]
unsafe fn xsave(area: *mut u8) {
    // SAFETY: the caller gives an area that is large and aligned enough.
    unsafe { _xsave64(area, u64::MAX) };
}

#[target_feature(enable = "xsave")]
unsafe fn xrstor(area: *const u8) {
    // SAFETY: the caller gives an area that `xsave` or `Xstate::reset` filled.
    unsafe { _xrstor64(area, u64::MAX) };
}

#[target_feature(enable = "fxsr")]
unsafe fn fxsave(area: *mut u8) {
    // SAFETY: the caller gives 512 aligned bytes.
    unsafe { _fxsave64(area) };
}

#[target_feature(enable = "fxsr")]
unsafe fn fxrstor(area: *const u8) {
    // SAFETY: the caller gives an area that `fxsave` or `Xstate::reset` filled.
    unsafe { _fxrstor64(area) };
}

/// One vCPU's extended state while another vCPU's is in the processor.
pub struct Xstate {
    area: Block,
    /// XCR0 as the guest left it when its state was taken out of the processor.
    xcr0: u64,
}

impl Xstate {
    /// The state after power-on.
    pub fn new() -> Result<Self, OutOfHeap> {
        let size = if COMPONENTS.load(Ordering::Relaxed) == 0 {
            512
        } else {
            // With XCR0 at its maximum, leaf 0xD gives the size of all components in ECX.
            cpu::cpuid(0xd, 0).ecx as usize
        };
        let mut state = Self { area: Block::new(size.max(576), 64)?, xcr0: 1 };
        state.reset();
        Ok(state)
    }

    /// Back to the state after power-on, in the area.
    pub fn reset(&mut self) {
        let bytes = self.area.bytes();
        bytes.fill(0);
        // FCW and MXCSR; an empty XSTATE_BV makes the other components initial.
        for (at, value) in [(0, 0x7f), (1, 3), (24, 0x80), (25, 0x1f)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
    }

    /// Takes the state out of the processor.
    pub fn save(&mut self) {
        let components = COMPONENTS.load(Ordering::Relaxed);
        // SAFETY: the area is 64-byte aligned and as large as leaf 0xD asks for (512 bytes without XSAVE). All components are
        // on while saving: a guest may have switched one off and left values in it.
        unsafe {
            if components == 0 {
                fxsave(self.area.pointer());
            } else {
                self.xcr0 = xgetbv();
                if self.xcr0 != components {
                    xsetbv(components);
                }
                xsave(self.area.pointer());
            }
        }
    }

    /// Puts the state into the processor.
    pub fn restore(&self) {
        let components = COMPONENTS.load(Ordering::Relaxed);
        // SAFETY: as in `save`; the area holds what `save` or `reset` left.
        unsafe {
            if components == 0 {
                fxrstor(self.area.pointer());
            } else {
                if xgetbv() != components {
                    xsetbv(components);
                }
                xrstor(self.area.pointer());
                if self.xcr0 != components {
                    xsetbv(self.xcr0);
                }
            }
        }
    }

    /// The guest's XCR0.
    pub fn xcr0(&self, is_loaded: bool) -> u64 {
        if is_loaded && COMPONENTS.load(Ordering::Relaxed) != 0 {
            // SAFETY: the processor has XSAVE, and CR4.OSXSAVE is set since `init`.
            unsafe { xgetbv() }
        } else {
            self.xcr0
        }
    }

    /// Notes the guest's XCR0, and loads it when this state is in the processor. Only components of the host count.
    pub fn set_xcr0(&mut self, value: u64, is_loaded: bool) {
        let components = COMPONENTS.load(Ordering::Relaxed);
        self.xcr0 = value & components | 1;
        if is_loaded && components != 0 {
            set_xcr0(self.xcr0);
        }
    }
}
