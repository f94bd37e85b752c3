//! The whole state in and out, what stays in the processor between exits, and single MSRs.

use core::arch::asm;
use trunnion_protocol::control::{Segment, Table, VcpuState};

use super::context::{SWITCHED, VmxContext};
use super::control::{self as field, attributes, rights};
use super::instruction::{vmread, vmwrite};
use crate::machine::cpu::{debug, msr};

fn place(msr: u32) -> Option<u32> {
    Some(match msr {
        msr::SYSENTER_CS => field::GUEST_SYSENTER_CS,
        msr::SYSENTER_ESP => field::GUEST_SYSENTER_ESP,
        msr::SYSENTER_EIP => field::GUEST_SYSENTER_EIP,
        msr::FS_BASE => field::GUEST_FS_BASE,
        msr::GS_BASE => field::GUEST_GS_BASE,
        msr::PAT => field::GUEST_PAT,
        _ => return None,
    })
}

fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// The place of an MSR among those that stay in the processor.
fn switched(context: &VmxContext, msr: u32) -> Option<usize> {
    SWITCHED.iter().position(|m| *m == msr && (msr != msr::TSC_AUX || context.has_tsc_aux))
}

pub(super) fn msr(context: &VmxContext, msr: u32) -> Option<u64> {
    if let Some(index) = switched(context, msr) {
        return if context.is_in { Some(msr::read(msr)) } else { context.switched.get(index).copied() };
    }
    place(msr).map(|field| context.get(field))
}

pub(super) fn set_msr(context: &mut VmxContext, msr: u32, value: u64) -> Option<()> {
    let legal = match msr {
        msr::LSTAR
        | msr::CSTAR
        | msr::KERNEL_GS_BASE
        | msr::FS_BASE
        | msr::GS_BASE
        | msr::SYSENTER_ESP
        | msr::SYSENTER_EIP => is_canonical(value),
        msr::PAT => value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
        msr::TSC_AUX | msr::SYSENTER_CS => value >> 32 == 0,
        _ => true,
    };
    if !legal {
        return None;
    }
    if let Some(index) = switched(context, msr) {
        if let Some(place) = context.switched.get_mut(index) {
            *place = value;
        }
        if context.is_in {
            // SAFETY: the register exists, the value is legal in it, and the host uses none of these.
            unsafe { msr::write(msr, value) };
        }
        return Some(());
    }
    let field = place(msr)?;
    context.set(field, value);
    Some(())
}

/// Loads what the VMCS has no room for.
pub(super) fn load_live(c: &mut VmxContext) {
    c.xstate.restore();
    debug::write(c.debug);
    // SAFETY: DR6 and CR2 are the guest's: the host reads neither.
    unsafe {
        asm!("mov dr6, {}", "mov cr2, {}", in(reg) c.dr6, in(reg) c.cr2, options(nostack));
    }
    for (msr, value) in SWITCHED.iter().zip(c.switched) {
        if *msr != msr::TSC_AUX || c.has_tsc_aux {
            // SAFETY: values of this vCPU, which were read from or checked for these registers.
            unsafe { msr::write(*msr, value) };
        }
    }
}

fn read_live() -> ([u64; 4], u64, u64) {
    let (dr6, cr2);
    // SAFETY: reads registers.
    unsafe { asm!("mov {}, dr6", "mov {}, cr2", out(reg) dr6, out(reg) cr2, options(nomem, nostack)) };
    (debug::read(), dr6, cr2)
}

/// Saves what the VMCS has no room for.
pub(super) fn save_live(c: &mut VmxContext) {
    c.xstate.save();
    (c.debug, c.dr6, c.cr2) = read_live();
    for (msr, value) in SWITCHED.iter().zip(&mut c.switched) {
        if *msr != msr::TSC_AUX || c.has_tsc_aux {
            *value = msr::read(*msr);
        }
    }
}

/// Segments in the VMCS's order: ES, CS, SS, DS, FS, GS, LDTR, TR.
fn segment(index: u32) -> Segment {
    Segment {
        selector: vmread(field::GUEST_ES + 2 * index) as u16,
        attributes: attributes(vmread(field::GUEST_ES_RIGHTS + 2 * index) as u32),
        limit: vmread(field::GUEST_ES_LIMIT + 2 * index) as u32,
        base: vmread(field::GUEST_ES_BASE + 2 * index),
    }
}

fn set_segment(index: u32, segment: &Segment) {
    vmwrite(field::GUEST_ES + 2 * index, segment.selector.into());
    vmwrite(field::GUEST_ES_RIGHTS + 2 * index, rights(segment.attributes).into());
    vmwrite(field::GUEST_ES_LIMIT + 2 * index, segment.limit.into());
    vmwrite(field::GUEST_ES_BASE + 2 * index, segment.base);
}

pub(super) fn save(c: &VmxContext) -> VcpuState {
    let (dr, dr6, cr2) = if c.is_in { read_live() } else { (c.debug, c.dr6, c.cr2) };
    let mut gpr = c.gpr;
    gpr[4] = c.get(field::GUEST_RSP);
    let switched = |msr: u32| msr_or_zero(c, msr);
    let (cr0, cr4) = (crate::seam::Context::cr0(c), crate::seam::Context::cr4(c));
    c.with(|| VcpuState {
        gpr,
        rip: vmread(field::GUEST_RIP),
        rflags: vmread(field::GUEST_RFLAGS),
        cr0,
        cr2,
        cr3: vmread(field::GUEST_CR3),
        cr4,
        xcr0: c.xstate.xcr0(c.is_in),
        dr6,
        dr7: vmread(field::GUEST_DR7),
        dr,
        efer: vmread(field::GUEST_EFER),
        es: segment(0),
        cs: segment(1),
        ss: segment(2),
        ds: segment(3),
        fs: segment(4),
        gs: segment(5),
        ldtr: segment(6),
        tr: segment(7),
        gdtr: Table { base: vmread(field::GUEST_GDTR_BASE), limit: vmread(field::GUEST_GDTR_LIMIT) },
        idtr: Table { base: vmread(field::GUEST_IDTR_BASE), limit: vmread(field::GUEST_IDTR_LIMIT) },
        star: 0,
        lstar: 0,
        cstar: 0,
        sfmask: 0,
        kernel_gs_base: 0,
        sysenter_cs: vmread(field::GUEST_SYSENTER_CS),
        sysenter_esp: vmread(field::GUEST_SYSENTER_ESP),
        sysenter_eip: vmread(field::GUEST_SYSENTER_EIP),
        pat: vmread(field::GUEST_PAT),
        tsc_aux: 0,
        interruptibility: {
            let held = vmread(field::INTERRUPTIBILITY);
            held & 3 | held >> 1 & 4
        },
    })
    .with_switched(switched)
}

trait WithSwitched {
    fn with_switched(self, msr: impl Fn(u32) -> u64) -> Self;
}

impl WithSwitched for VcpuState {
    fn with_switched(mut self, msr: impl Fn(u32) -> u64) -> Self {
        self.star = msr(msr::STAR);
        self.lstar = msr(msr::LSTAR);
        self.cstar = msr(msr::CSTAR);
        self.sfmask = msr(msr::SFMASK);
        self.kernel_gs_base = msr(msr::KERNEL_GS_BASE);
        self.tsc_aux = msr(msr::TSC_AUX);
        self
    }
}

fn msr_or_zero(c: &VmxContext, msr: u32) -> u64 {
    self::msr(c, msr).unwrap_or(0)
}

pub(super) fn load(c: &mut VmxContext, s: &VcpuState) {
    c.gpr = s.gpr;
    (c.debug, c.dr6, c.cr2) = (s.dr, s.dr6, s.cr2);
    c.switched = [s.star, s.lstar, s.cstar, s.sfmask, s.kernel_gs_base, s.tsc_aux];
    let (cr0, cr4) = (c.real_cr0(s.cr0), c.real_cr4(s.cr4));
    c.with(|| {
        for (place, value) in [
            (field::GUEST_RSP, s.gpr[4]),
            (field::GUEST_RIP, s.rip),
            (field::GUEST_RFLAGS, s.rflags | 2),
            (field::GUEST_CR0, cr0),
            (field::CR0_SHADOW, s.cr0),
            (field::GUEST_CR3, s.cr3),
            (field::GUEST_CR4, cr4),
            (field::CR4_SHADOW, s.cr4),
            (field::GUEST_DR7, s.dr7),
            (field::GUEST_GDTR_BASE, s.gdtr.base),
            (field::GUEST_GDTR_LIMIT, s.gdtr.limit),
            (field::GUEST_IDTR_BASE, s.idtr.base),
            (field::GUEST_IDTR_LIMIT, s.idtr.limit),
            (field::GUEST_SYSENTER_CS, s.sysenter_cs),
            (field::GUEST_SYSENTER_ESP, s.sysenter_esp),
            (field::GUEST_SYSENTER_EIP, s.sysenter_eip),
            (field::GUEST_PAT, s.pat),
            (field::INTERRUPTIBILITY, s.interruptibility & 3 | (s.interruptibility & 4) << 1),
            (field::ACTIVITY, 0),
            (field::PENDING_DEBUG, 0),
            (field::ENTRY_EVENT, 0),
        ] {
            vmwrite(place, value);
        }
        for (index, segment) in
            [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldtr, &s.tr].into_iter().enumerate()
        {
            set_segment(index as u32, segment);
        }
    });
    c.set_long_mode(s.efer, s.cr0);
    c.generation = 0;
    c.xstate.reset();
    c.xstate.set_xcr0(s.xcr0, false);
    if c.is_in {
        load_live(c);
    }
}

/// Under PAE paging the processor keeps the four directory pointers in registers, which MOV to a control register loads; a
/// move that the core carries out loads them here (SDM 3, 4.4.1).
pub(super) fn load_directory_pointers(c: &mut VmxContext) {
    let (cr0, cr4) = (c.get(field::GUEST_CR0), c.get(field::GUEST_CR4));
    if cr0 & 1 << 31 == 0 || cr4 & 1 << 5 == 0 || c.get(field::GUEST_EFER) & msr::EFER_LMA != 0 {
        return;
    }
    let table = c.get(field::GUEST_CR3) & 0xffff_ffe0;
    let Some(host) = second_level(c.root, table) else { return };
    for index in 0..4 {
        // SAFETY: the second-level table maps only frames that the core has references to for this guest, all of RAM is mapped
        // one to one, and an aligned word does not leave its page.
        let entry = unsafe { ((host + 8 * u64::from(index)) as *const u64).read_volatile() };
        c.set(field::GUEST_PDPTE0 + 2 * index, entry);
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
