//! The whole state in and out.

use super::context::SvmContext;
use super::control::{self as field, Field, Place};
use crate::machine::cpu::debug;
use crate::machine::prelude::*;

/// Where the neutral state has a register.
type Register = fn(&mut VcpuState) -> &mut u64;

/// Registers that the block holds as they are.
const PLAIN: [(Field<u64>, Register); 19] = [
    (field::RAX, |s| &mut s.gpr[0]),
    (field::RSP, |s| &mut s.gpr[4]),
    (field::RIP, |s| &mut s.rip),
    (field::RFLAGS, |s| &mut s.rflags),
    (field::CR0, |s| &mut s.cr0),
    (field::CR2, |s| &mut s.cr2),
    (field::CR3, |s| &mut s.cr3),
    (field::CR4, |s| &mut s.cr4),
    (field::DR6, |s| &mut s.dr6),
    (field::DR7, |s| &mut s.dr7),
    (field::STAR, |s| &mut s.star),
    (field::LSTAR, |s| &mut s.lstar),
    (field::CSTAR, |s| &mut s.cstar),
    (field::SFMASK, |s| &mut s.sfmask),
    (field::KERNEL_GS_BASE, |s| &mut s.kernel_gs_base),
    (field::SYSENTER_CS, |s| &mut s.sysenter_cs),
    (field::SYSENTER_ESP, |s| &mut s.sysenter_esp),
    (field::SYSENTER_EIP, |s| &mut s.sysenter_eip),
    (field::PAT, |s| &mut s.pat),
];

/// Segments in the order of [`VcpuState::segments`].
const SEGMENTS: [Place; 8] =
    [Place::Es, Place::Cs, Place::Ss, Place::Ds, Place::Fs, Place::Gs, Place::Ldtr, Place::Tr];

pub(super) fn save(c: &SvmContext) -> VcpuState {
    let mut state = VcpuState { gpr: c.gpr, ..VcpuState::default() };
    for (field, register) in PLAIN {
        *register(&mut state) = c.get(field);
    }
    for (place, segment) in SEGMENTS.into_iter().zip(state.segments()) {
        *segment = Segment {
            selector: c.get(place.selector()),
            attributes: c.get(place.attributes()),
            limit: c.get(place.limit()),
            base: c.get(place.base()),
        };
    }
    for (place, table) in [(Place::Gdtr, &mut state.gdtr), (Place::Idtr, &mut state.idtr)] {
        *table = Table { base: c.get(place.base()), limit: c.get(place.limit()).into() };
    }
    // SYSRET can leave another level in SS.
    state.ss.attributes = state.ss.attributes & !0x60 | u16::from(c.cpl()) << 5;
    state.efer = c.efer();
    state.xcr0 = c.xcr0();
    state.dr = debug::read();
    state.tsc_aux = if c.has_tsc_aux { msr::read(msr::TSC_AUX) } else { 0 };
    state.interruptibility = c.get(field::SHADOW) & 1 | u64::from(c.nmi_blocked) << 2;
    state
}

/// Puts the registers of the block and the general ones in.
pub(super) fn update(c: &mut SvmContext, state: &VcpuState) {
    let mut s = *state;
    s.rflags |= 2;
    let paging = [c.get(field::CR0), c.get(field::CR3), c.get(field::CR4), c.efer()];
    if paging != [s.cr0, s.cr3, s.cr4, s.efer] {
        c.generation = 0;
    }
    c.gpr = s.gpr;
    for (field, register) in PLAIN {
        c.set(field, *register(&mut s));
    }
    for (place, segment) in SEGMENTS.into_iter().zip(s.segments()) {
        c.set(place.selector(), segment.selector);
        c.set(place.attributes(), segment.attributes);
        c.set(place.limit(), segment.limit);
        c.set(place.base(), segment.base);
    }
    for (place, table) in [(Place::Gdtr, s.gdtr), (Place::Idtr, s.idtr)] {
        c.set(place.base(), table.base);
        c.set(place.limit(), table.limit as u32);
    }
    c.set_efer(s.efer);
    c.set(field::SHADOW, u64::from(s.interruptibility & 3 != 0));
    c.set(field::CPL, if s.cr0 & 1 == 0 { 0 } else { (s.ss.attributes >> 5) as u8 & 3 });
}

pub(super) fn load(c: &mut SvmContext, s: &VcpuState) {
    update(c, s);
    c.set(field::INJECT, 0);
    c.set(field::EXIT_INTERRUPT, 0);
    c.set(field::VIRTUAL_INTERRUPT, field::V_MASKING);
    c.nmi_blocked = s.interruptibility & 4 != 0;
    c.debug = s.dr;
    c.tsc_aux = s.tsc_aux;
    c.generation = 0;
    c.xstate.reset(s.xcr0);
}
