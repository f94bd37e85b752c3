//! Extended state (x87, SSE, AVX and the rest) of vCPUs. It belongs to guests: the core uses no such register. It is switched
//! between vCPUs, always and at once; lazy switching by CR0.TS leaks registers on real processors and loses them on emulated
//! ones.

use x86_64::registers::xcontrol::XCr0;

use crate::machine::prelude::*;

/// Components that are switched: x87, SSE, AVX, MPX, AVX-512, PKRU (SDM 1 section 13.1).
const KNOWN: u64 = 0x2ff;

/// Components of this host; 0 when it has no XSAVE.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);

/// Switches the extended state on. Returns the components, 0 without XSAVE.
pub fn init() -> u64 {
    let mut cr4 = 0x600; // OSFXSR, OSXMMEXCPT
    let has_xsave = cpuid(1, 0).ecx & 1 << 26 != 0;
    if has_xsave {
        cr4 |= 1 << 18;
    }
    // SAFETY: the bits are offered by CPUID, and the core uses none of the registers they enable; CR0.EM and TS go off, MP on.
    unsafe {
        Cr4::write_raw(Cr4::read_raw() | cr4);
        Cr0::write_raw(Cr0::read_raw() & !0xc | 2);
    }
    if !has_xsave {
        return 0;
    }
    let leaf = cpuid(0xd, 0);
    let components = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & KNOWN;
    COMPONENTS.store(components, Ordering::Relaxed);
    set_xcr0(components);
    components
}

/// Those that this host has and that vCPUs may use; 0 without XSAVE.
fn components() -> u64 {
    COMPONENTS.load(Ordering::Relaxed)
}

fn set_xcr0(value: u64) {
    // SAFETY: CR4.OSXSAVE is set, and the value consists of components of this host with x87 among them.
    unsafe { XCr0::write_raw(value) };
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
        // With XCR0 at its maximum, leaf 0xD gives the size of all components in ECX.
        let size = if components() == 0 { 0 } else { cpuid(0xd, 0).ecx as usize };
        let mut state = Self { area: Block::new(size.max(576), 64)?, xcr0: 1 };
        state.reset(1);
        Ok(state)
    }

    /// Back to the state after power-on, in the area, but for XCR0. Only components of the host count.
    pub fn reset(&mut self, xcr0: u64) {
        self.xcr0 = xcr0 & components() | 1;
        let bytes = self.area.bytes();
        bytes.fill(0);
        // FCW and MXCSR; an empty XSTATE_BV makes the other components initial.
        for (at, value) in [(0, 0x7f), (1, 3), (24, 0x80), (25, 0x1f)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
    }

    /// Takes the state out of the processor. All components are on while saving: a guest may have switched one off and left
    /// values in it.
    pub fn save(&mut self) {
        let (area, components) = (self.area.pointer(), components());
        if components == 0 {
            // SAFETY: the area is aligned, and has the 512 bytes that the instruction writes.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack)) };
            return;
        }
        self.xcr0 = XCr0::read_raw();
        set_xcr0(components);
        // SAFETY: the area is 64-byte aligned and as large as leaf 0xD asks for.
        unsafe { asm!("xsave64 [{}]", in(reg) area, in("eax") !0, in("edx") !0, options(nostack)) };
    }

    /// Puts the state into the processor.
    pub fn restore(&self) {
        let (area, components) = (self.area.pointer(), components());
        if components == 0 {
            // SAFETY: the area holds what `save` or `reset` left; the core uses none of the registers.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack)) };
            return;
        }
        set_xcr0(components);
        // SAFETY: as above.
        unsafe { asm!("xrstor64 [{}]", in(reg) area, in("eax") !0, in("edx") !0, options(nostack)) };
        set_xcr0(self.xcr0);
    }

    /// XCR0 of the guest whose state is in the processor.
    pub fn xcr0() -> u64 {
        if components() == 0 { 1 } else { XCr0::read_raw() }
    }

    /// Sets it. Only components of the host count.
    pub fn set_xcr0(value: u64) {
        if components() != 0 {
            set_xcr0(value & components() | 1);
        }
    }
}
