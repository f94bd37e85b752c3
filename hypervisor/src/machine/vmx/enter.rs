//! Into the guest and back (SDM 3, chapters 26 and 27).

use core::arch::naked_asm;
use trunnion_protocol::address::Mfn;

use super::context::VmxContext;
use super::control as field;
use super::features::Vmx;
use super::instruction::{self, vmwrite};
use super::{exit, format};
use crate::machine::cpu::percpu::PerCpu;
use crate::seam::Exit;

/// Runs the guest of the current VMCS with the registers at `gpr` until it leaves: 0. The entry itself failed: 1.
///
/// # Safety
/// `gpr` points to sixteen registers; the current VMCS is this vCPU's and its host half is this CPU's.
#[unsafe(naked)]
unsafe extern "C" fn run(gpr: *mut u64, launched: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov eax, 0x6c14", // HOST_RSP
        "vmwrite rax, rsp",
        "test rsi, rsi",
        "mov rax, [rdi]",
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
        "jnz 2f",
        "vmlaunch",
        "jmp 3f",
        "2: vmresume",
        "3: pop rdi",
        "mov eax, 1",
        "jmp 4f",
        ".global vmx_exit",
        "vmx_exit:",
        "push rdi",
        "mov rdi, [rsp+8]",
        "mov [rdi], rax",
        "mov [rdi+8], rcx",
        "mov [rdi+16], rdx",
        "mov [rdi+24], rbx",
        "mov [rdi+40], rbp",
        "mov [rdi+48], rsi",
        "pop rax",
        "mov [rdi+56], rax",
        "mov [rdi+64], r8",
        "mov [rdi+72], r9",
        "mov [rdi+80], r10",
        "mov [rdi+88], r11",
        "mov [rdi+96], r12",
        "mov [rdi+104], r13",
        "mov [rdi+112], r14",
        "mov [rdi+120], r15",
        "pop rdi",
        "xor eax, eax",
        "4: pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

unsafe extern "C" {
    static vmx_exit: u8;
}

/// Where an exit continues.
pub(super) fn exit_address() -> u64 {
    &raw const vmx_exit as u64
}

/// New tables, or tables that lost translations: nothing of the old ones may be left.
#[cold]
fn retag(vmx: &Vmx, cpu: &PerCpu, context: &mut VmxContext, root: Mfn, epoch: u64) {
    let pointer = format::pointer(root.address().0, vmx.accessed_dirty);
    vmwrite(field::EPT_POINTER, pointer);
    if vmx.invept_single {
        instruction::invept(1, pointer);
    } else {
        instruction::invept(2, 0);
    }
    if context.has_vpid && context.generation != cpu.switch.generation.get() {
        let (tag, flush) = cpu.switch.new_tag();
        vmwrite(field::VPID, tag.into());
        if flush {
            instruction::invvpid_all();
        }
    }
    context.generation = cpu.switch.generation.get();
    context.epoch = epoch;
    context.root = root.address().0;
}

pub(super) fn enter(vmx: &Vmx, cpu: &PerCpu, context: &mut VmxContext, root: Mfn, epoch: u64) -> Exit {
    if context.generation != cpu.switch.generation.get() || context.epoch != epoch {
        retag(vmx, cpu, context, root, epoch);
    }
    // SAFETY: the registers are this context's, which the caller has for itself, and `switch_in` made its VMCS current. The guest
    // reaches no memory but through the EPT, which the core keeps.
    let failed = unsafe { run(context.gpr.as_mut_ptr(), context.is_launched.get().into()) };
    if failed != 0 {
        return exit::refused(context, instruction::vmread(field::INSTRUCTION_ERROR));
    }
    context.is_launched.set(true);
    exit::decode(cpu, context)
}
