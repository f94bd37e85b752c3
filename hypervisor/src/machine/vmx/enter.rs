//! Into the guest and back (SDM 3, chapters 26 and 27).

use core::arch::naked_asm;

use super::context::VmxContext;
use super::control as field;
use super::features::Vmx;
use super::instruction::{self, vmwrite};
use super::{exit, paging};
use crate::machine::prelude::*;
use crate::machine::run::registers;

/// Runs the guest of the current VMCS with the registers at `gpr` until it leaves: 0. The entry itself failed: 1.
///
/// # Safety
/// `gpr` points to sixteen registers; the current VMCS is this vCPU's and its host half is this CPU's.
#[unsafe(naked)]
unsafe extern "C" fn run(gpr: *mut u64, launched: u64) -> u64 {
    naked_asm!(
        registers!(push host),
        "push rdi",
        "mov eax, 0x6c14", // HOST_RSP
        "vmwrite rax, rsp",
        "test rsi, rsi",
        "mov rax, [rdi]",
        registers!(load guest from rdi),
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
        registers!(save guest to "rdi"),
        "pop rax",
        "mov [rdi+56], rax",
        "pop rdi",
        "xor eax, eax",
        "4:",
        registers!(pop host),
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
    let pointer = paging::pointer(root.address().0, vmx.accessed_dirty);
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
    let failed = unsafe { run(context.gpr.as_mut_ptr(), context.is_launched.into()) };
    if failed != 0 {
        return Exit::EntryRefused(instruction::vmread(field::INSTRUCTION_ERROR));
    }
    context.is_launched = true;
    exit::decode(cpu, context)
}
