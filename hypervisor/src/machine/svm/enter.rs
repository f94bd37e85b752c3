//! Into the guest and back (APM 2, 15.5 and 15.6).

use super::context::SvmContext;
use super::control as field;
use super::{exit, inject};
use crate::machine::prelude::*;
use crate::machine::run::registers;

/// Runs the guest of `block` with the registers at `gpr` until it leaves. The host's IF is on only between VMRUN's check and
/// the guest, which is what makes a physical interrupt leave the guest; the global interrupt flag keeps everything, NMIs
/// included, off until the host's segments are back.
///
/// # Safety
/// `gpr` points to sixteen registers, `block` and `host` are addresses of a control block and of the page that VMSAVE filled
/// for this CPU; the state in the block is this vCPU's alone.
unsafe fn run(gpr: *mut u64, block: u64, host: u64) {
    // SAFETY: what the guest leaves in registers is either restored here or said to be lost; VMRUN keeps RSP, RAX and the
    // flags of the host. The caller vouches for the addresses.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdx",
            "push rdi",
            registers!(load guest from rdi),
            "clgi",
            "sti",
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "cli",
            "mov rax, [rsp+8]",
            "vmload rax",
            "stgi",
            "pop rax",
            "mov [rax+56], rdi",
            registers!(save guest to "rax"),
            "pop rdx",
            "pop rbp",
            "pop rbx",
            inout("rax") block => _, inout("rdi") gpr => _, inout("rdx") host => _,
            out("rcx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}

/// Gives the guest a tag that no stale translation carries.
#[cold]
fn retag(cpu: &PerCpu, context: &mut SvmContext, root: Mfn, epoch: u64) {
    let (tag, flush) = cpu.switch.new_tag();
    context.set(field::ASID, tag);
    context.set(field::NESTED_CR3, root.address().0);
    // 1 flushes all guests' translations and the host's.
    context.set(field::TLB_CONTROL, u32::from(flush));
    // A flush is asked for once: the next entry takes another tag, and asks for none.
    context.generation = if flush { 0 } else { cpu.switch.generation.get() };
    context.epoch = epoch;
}

pub(super) fn enter(cpu: &PerCpu, context: &mut SvmContext, root: Mfn, epoch: u64) -> Exit {
    if context.generation != cpu.switch.generation.get() || context.epoch != epoch {
        retag(cpu, context, root, epoch);
    }
    // SAFETY: the registers and the block are this context's, which the caller has for itself; the host page was filled when
    // SVM was switched on for this CPU. The guest reaches no memory but through the nested tables, which the core keeps.
    unsafe { run(context.gpr.as_mut_ptr(), context.block.address(), cpu.switch.host_page.get()) };
    inject::reinject(context);
    exit::decode(context)
}
