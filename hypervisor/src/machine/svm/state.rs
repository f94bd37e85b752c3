//! The whole state in and out, and single MSRs.

use trunnion_protocol::control::{Segment, Table, VcpuState};

use super::context::SvmContext;
use super::control::{self as field, Field, Place};
use crate::machine::cpu::{debug, msr};

/// The block's field of an MSR.
fn place(msr: u32) -> Option<Field<u64>> {
    Some(match msr {
        msr::STAR => field::STAR,
        msr::LSTAR => field::LSTAR,
        msr::CSTAR => field::CSTAR,
        msr::SFMASK => field::SFMASK,
        msr::KERNEL_GS_BASE => field::KERNEL_GS_BASE,
        msr::SYSENTER_CS => field::SYSENTER_CS,
        msr::SYSENTER_ESP => field::SYSENTER_ESP,
        msr::SYSENTER_EIP => field::SYSENTER_EIP,
        msr::FS_BASE => Place::Fs.base(),
        msr::GS_BASE => Place::Gs.base(),
        msr::PAT => field::PAT,
        _ => return None,
    })
}

/// Whether an address can be loaded where the processor wants it sign-extended from bit 47.
fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Whether each byte of a PAT value is a memory type.
pub(super) fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

pub(super) fn msr(context: &SvmContext, msr: u32) -> Option<u64> {
    match msr {
        msr::TSC_AUX if context.has_tsc_aux => {
            Some(if context.is_in { msr::read(msr::TSC_AUX) } else { context.tsc_aux })
        }
        _ => place(msr).map(|field| context.get(field)),
    }
}

pub(super) fn set_msr(context: &mut SvmContext, msr: u32, value: u64) -> Option<()> {
    let legal = match msr {
        msr::LSTAR
        | msr::CSTAR
        | msr::KERNEL_GS_BASE
        | msr::FS_BASE
        | msr::GS_BASE
        | msr::SYSENTER_ESP
        | msr::SYSENTER_EIP => is_canonical(value),
        msr::PAT => is_pat(value),
        msr::TSC_AUX => value >> 32 == 0,
        _ => true,
    };
    if !legal {
        return None;
    }
    if msr == msr::TSC_AUX && context.has_tsc_aux {
        context.tsc_aux = value;
        if context.is_in {
            // SAFETY: the register exists, its upper half is zero, and the host does not use it.
            unsafe { msr::write(msr::TSC_AUX, value) };
        }
        return Some(());
    }
    let field = place(msr)?;
    context.set(field, value);
    Some(())
}

fn segment(context: &SvmContext, place: Place) -> Segment {
    Segment {
        selector: context.get(place.selector()),
        attributes: context.get(place.attributes()),
        limit: context.get(place.limit()),
        base: context.get(place.base()),
    }
}

fn set_segment(context: &mut SvmContext, place: Place, segment: &Segment) {
    context.set(place.selector(), segment.selector);
    context.set(place.attributes(), segment.attributes);
    context.set(place.limit(), segment.limit);
    context.set(place.base(), segment.base);
}

pub(super) fn save(context: &SvmContext) -> VcpuState {
    let c = context;
    let mut gpr = c.gpr;
    gpr[0] = c.get(field::RAX);
    gpr[4] = c.get(field::RSP);
    let dr = if c.is_in { debug::read() } else { c.debug };
    let table = |place: Place| Table { base: c.get(place.base()), limit: c.get(place.limit()).into() };
    VcpuState {
        gpr,
        rip: c.get(field::RIP),
        rflags: c.get(field::RFLAGS),
        cr0: c.get(field::CR0),
        cr2: c.get(field::CR2),
        cr3: c.get(field::CR3),
        cr4: c.get(field::CR4),
        xcr0: c.xstate.xcr0(c.is_in),
        dr6: c.get(field::DR6),
        dr7: c.get(field::DR7),
        dr,
        efer: c.get(field::EFER) & !msr::EFER_SVME,
        cs: segment(c, Place::Cs),
        ds: segment(c, Place::Ds),
        es: segment(c, Place::Es),
        fs: segment(c, Place::Fs),
        gs: segment(c, Place::Gs),
        ss: segment(c, Place::Ss),
        tr: segment(c, Place::Tr),
        ldtr: segment(c, Place::Ldtr),
        gdtr: table(Place::Gdtr),
        idtr: table(Place::Idtr),
        star: c.get(field::STAR),
        lstar: c.get(field::LSTAR),
        cstar: c.get(field::CSTAR),
        sfmask: c.get(field::SFMASK),
        kernel_gs_base: c.get(field::KERNEL_GS_BASE),
        sysenter_cs: c.get(field::SYSENTER_CS),
        sysenter_esp: c.get(field::SYSENTER_ESP),
        sysenter_eip: c.get(field::SYSENTER_EIP),
        pat: c.get(field::PAT),
        tsc_aux: msr(c, msr::TSC_AUX).unwrap_or(0),
        interruptibility: c.get(field::SHADOW) & 1 | u64::from(c.nmi_blocked) << 2,
    }
}

pub(super) fn load(context: &mut SvmContext, state: &VcpuState) {
    let (c, s) = (context, state);
    c.gpr = s.gpr;
    for (place, value) in [
        (field::RAX, s.gpr[0]),
        (field::RSP, s.gpr[4]),
        (field::RIP, s.rip),
        (field::RFLAGS, s.rflags | 2),
        (field::CR0, s.cr0),
        (field::CR2, s.cr2),
        (field::CR3, s.cr3),
        (field::CR4, s.cr4),
        (field::DR6, s.dr6),
        (field::DR7, s.dr7),
        (field::EFER, s.efer | msr::EFER_SVME),
        (field::STAR, s.star),
        (field::LSTAR, s.lstar),
        (field::CSTAR, s.cstar),
        (field::SFMASK, s.sfmask),
        (field::KERNEL_GS_BASE, s.kernel_gs_base),
        (field::SYSENTER_CS, s.sysenter_cs),
        (field::SYSENTER_ESP, s.sysenter_esp),
        (field::SYSENTER_EIP, s.sysenter_eip),
        (field::PAT, s.pat),
        (field::SHADOW, u64::from(s.interruptibility & 3 != 0)),
        (field::INJECT, 0),
        (field::EXIT_INTERRUPT, 0),
        (field::VIRTUAL_INTERRUPT, field::V_MASKING),
    ] {
        c.set(place, value);
    }
    c.set(field::CPL, if s.cr0 & 1 == 0 { 0 } else { (s.ss.attributes >> 5) as u8 & 3 });
    for (place, segment) in [
        (Place::Cs, &s.cs),
        (Place::Ds, &s.ds),
        (Place::Es, &s.es),
        (Place::Fs, &s.fs),
        (Place::Gs, &s.gs),
        (Place::Ss, &s.ss),
        (Place::Tr, &s.tr),
        (Place::Ldtr, &s.ldtr),
    ] {
        set_segment(c, place, segment);
    }
    for (place, table) in [(Place::Gdtr, s.gdtr), (Place::Idtr, s.idtr)] {
        c.set(place.base(), table.base);
        c.set(place.limit(), table.limit as u32);
    }
    c.nmi_blocked = s.interruptibility & 4 != 0;
    c.debug = s.dr;
    c.tsc_aux = s.tsc_aux;
    c.generation = 0;
    c.xstate.reset();
    c.xstate.set_xcr0(s.xcr0, false);
    if c.is_in {
        crate::seam::Context::switch_in(c);
    }
}
