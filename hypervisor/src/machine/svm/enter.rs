//! Into the guest and back (APM 2, 15.5 and 15.6).

use core::arch::naked_asm;
use trunnion_protocol::address::Mfn;

use super::context::SvmContext;
use super::control as field;
use super::features::Svm;
use super::{exit, inject};
use crate::machine::cpu::percpu::PerCpu;
use crate::seam::Exit;

/// Runs the guest of `block` with the registers at `gpr` until it leaves. The host's IF is on only between VMRUN's check and
/// the guest, which is what makes a physical interrupt leave the guest; the global interrupt flag keeps everything, NMIs
/// included, off until the host's segments are back.
///
/// # Safety
/// `gpr` points to sixteen registers, `block` and `host` are addresses of a control block and of the page that VMSAVE filled
/// for this CPU; the state in the block is this vCPU's alone.
#[unsafe(naked)]
unsafe extern "C" fn run(gpr: *mut u64, block: u64, host: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "push rsi",
        "push rdi",
        "mov rax, rsi",
        "mov rcx, [rdi+8]",
        "mov rdx, [rdi+16]",
        "mov rbx, [rdi+24]",
        "mov rbp, [rdi+40]",
        "mov rsi, [rdi+48]",
        "mov r8, [rdi+64]",
        "mov r9, [rdi+72]",
        "mov r10, [rdi+80]",
        "mov r11, [rdi+88]",
        "mov r12, [rdi+96]",
        "mov r13, [rdi+104]",
        "mov r14, [rdi+112]",
        "mov r15, [rdi+120]",
        "mov rdi, [rdi+56]",
        "clgi",
        "sti",
        "vmload rax",
        "vmrun rax",
        "vmsave rax",
        "cli",
        "mov rax, [rsp+16]",
        "vmload rax",
        "stgi",
        "mov rax, [rsp]",
        "mov [rax+8], rcx",
        "mov [rax+16], rdx",
        "mov [rax+24], rbx",
        "mov [rax+40], rbp",
        "mov [rax+48], rsi",
        "mov [rax+56], rdi",
        "mov [rax+64], r8",
        "mov [rax+72], r9",
        "mov [rax+80], r10",
        "mov [rax+88], r11",
        "mov [rax+96], r12",
        "mov [rax+104], r13",
        "mov [rax+112], r14",
        "mov [rax+120], r15",
        "add rsp, 24",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Gives the guest a tag that no stale translation carries.
#[cold]
fn retag(svm: &Svm, cpu: &PerCpu, context: &mut SvmContext, root: Mfn, epoch: u64) {
    let (tag, flush) = cpu.switch.new_tag();
    context.set(field::ASID, tag);
    context.set(field::NESTED_CR3, root.address().0);
    // 1 flushes all guests' translations and the host's.
    context.set(field::TLB_CONTROL, u32::from(flush));
    let _ = svm;
    context.generation = cpu.switch.generation.get();
    context.epoch = epoch;
}

pub(super) fn enter(svm: &Svm, cpu: &PerCpu, context: &mut SvmContext, root: Mfn, epoch: u64) -> Exit {
    if context.generation != cpu.switch.generation.get() || context.epoch != epoch {
        retag(svm, cpu, context, root, epoch);
    }
    // SAFETY: the registers and the block are this context's, which the caller has for itself; the host page was filled when
    // SVM was switched on for this CPU. The guest reaches no memory but through the nested tables, which the core keeps.
    unsafe { run(context.gpr.as_mut_ptr(), context.block.address(), cpu.switch.host_page.get()) };
    context.set(field::TLB_CONTROL, 0);
    inject::reinject(context);
    exit::decode(svm, cpu, context)
}
