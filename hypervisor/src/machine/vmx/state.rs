//! The whole state in and out, and what stays in the processor between exits.

use super::context::VmxContext;
use super::control::{self as field, attributes, rights};
use super::instruction::{vmread, vmwrite};
use crate::machine::cpu::debug;
use crate::machine::prelude::*;

/// Where the neutral state has a register.
type Register = fn(&mut VcpuState) -> &mut u64;

/// Registers that the VMCS holds as they are.
const PLAIN: [(u32, Register); 13] = [
    (field::GUEST_RSP, |s| &mut s.gpr[4]),
    (field::GUEST_RIP, |s| &mut s.rip),
    (field::GUEST_RFLAGS, |s| &mut s.rflags),
    (field::GUEST_CR3, |s| &mut s.cr3),
    (field::GUEST_DR7, |s| &mut s.dr7),
    (field::GUEST_GDTR_BASE, |s| &mut s.gdtr.base),
    (field::GUEST_GDTR_LIMIT, |s| &mut s.gdtr.limit),
    (field::GUEST_IDTR_BASE, |s| &mut s.idtr.base),
    (field::GUEST_IDTR_LIMIT, |s| &mut s.idtr.limit),
    (field::GUEST_SYSENTER_CS, |s| &mut s.sysenter_cs),
    (field::GUEST_SYSENTER_ESP, |s| &mut s.sysenter_esp),
    (field::GUEST_SYSENTER_EIP, |s| &mut s.sysenter_eip),
    (field::GUEST_PAT, |s| &mut s.pat),
];

/// MSRs that stay in the processor while a vCPU is switched in.
const SWITCHED: [(u32, Register); 6] = [
    (msr::STAR, |s| &mut s.star),
    (msr::LSTAR, |s| &mut s.lstar),
    (msr::CSTAR, |s| &mut s.cstar),
    (msr::SFMASK, |s| &mut s.sfmask),
    (msr::KERNEL_GS_BASE, |s| &mut s.kernel_gs_base),
    (msr::TSC_AUX, |s| &mut s.tsc_aux),
];

/// Those of them that this processor has.
fn switched(c: &VmxContext) -> impl Iterator<Item = (u32, Register)> + use<> {
    let has_tsc_aux = c.has_tsc_aux;
    SWITCHED.into_iter().filter(move |(msr, _)| *msr != msr::TSC_AUX || has_tsc_aux)
}

/// Loads what the VMCS has no room for.
pub(super) fn load_live(c: &mut VmxContext) {
    c.xstate.restore();
    debug::write(c.outside.dr);
    // SAFETY: DR6 and CR2 are the guest's: the host reads neither.
    unsafe {
        asm!("mov dr6, {}", "mov cr2, {}", in(reg) c.outside.dr6, in(reg) c.outside.cr2, options(nostack));
    }
    for (msr, register) in switched(c) {
        // SAFETY: values of this vCPU, which were read from or checked for these registers.
        unsafe { msr::write(msr, *register(&mut c.outside)) };
    }
}

/// Reads what [`load_live`] has loaded.
fn read_live(c: &VmxContext, state: &mut VcpuState) {
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, dr6", "mov {}, cr2", out(reg) state.dr6, out(reg) state.cr2, options(nomem, nostack));
    }
    state.dr = debug::read();
    for (msr, register) in switched(c) {
        *register(state) = msr::read(msr);
    }
}

/// Saves what the VMCS has no room for.
pub(super) fn save_live(c: &mut VmxContext) {
    c.xstate.save();
    let mut state = c.outside;
    read_live(c, &mut state);
    c.outside = state;
}

pub(super) fn save(c: &VmxContext) -> VcpuState {
    let mut state = c.outside;
    read_live(c, &mut state);
    state.gpr = c.gpr;
    (state.cr0, state.cr4, state.xcr0) = (c.cr0(), c.cr4(), c.xcr0());
    for (field, register) in PLAIN {
        *register(&mut state) = vmread(field);
    }
    state.efer = vmread(field::GUEST_EFER);
    let held = vmread(field::INTERRUPTIBILITY);
    state.interruptibility = held & 3 | held >> 1 & 4;
    for (index, segment) in (0..).step_by(2).zip(state.segments()) {
        *segment = Segment {
            selector: vmread(field::GUEST_ES + index) as u16,
            attributes: attributes(vmread(field::GUEST_ES_RIGHTS + index) as u32),
            limit: vmread(field::GUEST_ES_LIMIT + index) as u32,
            base: vmread(field::GUEST_ES_BASE + index),
        };
    }
    state
}

/// Puts the registers of the VMCS and the general ones in.
pub(super) fn update(c: &mut VmxContext, state: &VcpuState) {
    let mut s = *state;
    s.rflags |= 2;
    let paging = [c.cr0(), c.cr3(), c.cr4(), c.efer() & !msr::EFER_LMA];
    if paging != [s.cr0, s.cr3, s.cr4, s.efer & !msr::EFER_LMA] {
        c.generation = 0;
    }
    c.gpr = s.gpr;
    let (cr0, cr4) = (c.cr0_fixed.adjust(s.cr0), c.cr4_fixed.adjust(s.cr4));
    for (field, register) in PLAIN {
        vmwrite(field, *register(&mut s));
    }
    for (field, value) in [
        (field::GUEST_CR0, cr0),
        (field::CR0_SHADOW, s.cr0),
        (field::GUEST_CR4, cr4),
        (field::CR4_SHADOW, s.cr4),
        (field::INTERRUPTIBILITY, s.interruptibility & 3 | (s.interruptibility & 4) << 1),
    ] {
        vmwrite(field, value);
    }
    for (index, segment) in (0..).step_by(2).zip(s.segments()) {
        vmwrite(field::GUEST_ES + index, segment.selector.into());
        vmwrite(field::GUEST_ES_RIGHTS + index, rights(segment.attributes).into());
        vmwrite(field::GUEST_ES_LIMIT + index, segment.limit.into());
        vmwrite(field::GUEST_ES_BASE + index, segment.base);
    }
    c.set_long_mode(s.efer, s.cr0);
}

/// Puts a new state into the VMCS.
pub(super) fn enter(c: &mut VmxContext) {
    let state = c.outside;
    update(c, &state);
    for field in [field::ACTIVITY, field::PENDING_DEBUG, field::ENTRY_EVENT] {
        vmwrite(field, 0);
    }
    c.generation = 0;
    c.xstate.reset(state.xcr0);
    c.is_new = false;
}

/// Under PAE paging the processor keeps the four directory pointers in registers, which MOV to a control register loads; a
/// move that the core carries out loads them here (SDM 3, 4.4.1).
pub(super) fn load_directory_pointers(c: &mut VmxContext) {
    let (cr0, cr4) = (vmread(field::GUEST_CR0), vmread(field::GUEST_CR4));
    if cr0 & 1 << 31 == 0 || cr4 & 1 << 5 == 0 || vmread(field::GUEST_EFER) & msr::EFER_LMA != 0 {
        return;
    }
    let table = vmread(field::GUEST_CR3) & 0xffff_ffe0;
    let Some(host) = second_level(c.root, table) else { return };
    for index in 0..4 {
        // SAFETY: the second-level table maps only frames that the core has references to for this guest, all of RAM is mapped
        // one to one, and an aligned word does not leave its page.
        let entry = unsafe { ((host + 8 * u64::from(index)) as *const u64).read_volatile() };
        vmwrite(field::GUEST_PDPTE0 + 2 * index, entry);
    }
}

/// The machine address of a guest-physical one, by the second-level table at `root`; `None` where it maps no RAM.
fn second_level(root: u64, address: u64) -> Option<u64> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let mut table = root;
    for level in (1..=4u32).rev() {
        let shift = 3 + 9 * level;
        // SAFETY: the core keeps the tables below `root` in frames of its own, mapped one to one.
        let entry = unsafe { ((table + (address >> shift & 511) * 8) as *const u64).read_volatile() };
        if entry & 1 == 0 {
            return None;
        }
        if level == 1 || entry & 0x80 != 0 {
            let inside = (1u64 << shift) - 1;
            return (entry & 0x38 != 0).then_some(entry & FRAME & !inside | address & inside);
        }
        table = entry & FRAME;
    }
    None
}
