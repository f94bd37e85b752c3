//! Exceptions and interrupts of the host. An exception in the core is a bug: the screen it leaves is for whoever reads it.
//! An interrupt is only noted; the core takes it where it looks for work.

use core::arch::global_asm;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

use super::percpu::PerCpu;
use crate::machine::{crash, irq, serial};

global_asm!(
    r#"
    .macro stub number
    .balign 16
    .if (\number == 8) || (\number >= 10 && \number <= 14) || (\number == 17) || (\number == 21) || (\number == 29) || (\number == 30)
    .else
    push 0
    .endif
    push \number
    .if \number < 32
    jmp trap_exception
    .else
    jmp trap_interrupt
    .endif
    .endm
    .altmacro
    .text
    .balign 16
trap_stubs:
    .set number, 0
    .rept 256
    stub %number
    .set number, number + 1
    .endr
    .noaltmacro

    .balign 16
trap_exception:
    cmp byte ptr [rsp], 2
    je trap_interrupt
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    and rsp, -16
    call host_exception

    .balign 16
trap_interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    mov rdi, [rsp+72]
    mov rcx, rsp
    and rsp, -16
    push rcx
    push rcx
    cld
    call host_interrupt
    pop rsp
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Exceptions that get a stack of their own: NMI (may hit anywhere), double fault, machine check.
const OWN_STACK: [(usize, u16); 3] = [(2, 0), (8, 1), (18, 2)];

pub(super) fn table() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let base = &raw const trap_stubs as u64;
    let at = |vector: usize| VirtAddr::new(base + 16 * vector as u64);
    // SAFETY: each address is a stub that ends in `iretq` or never returns, and the stack indices are set up in the TSS.
    unsafe {
        idt.divide_error.set_handler_addr(at(0));
        idt.debug.set_handler_addr(at(1));
        idt.non_maskable_interrupt.set_handler_addr(at(2)).set_stack_index(OWN_STACK[0].1);
        idt.breakpoint.set_handler_addr(at(3));
        idt.overflow.set_handler_addr(at(4));
        idt.bound_range_exceeded.set_handler_addr(at(5));
        idt.invalid_opcode.set_handler_addr(at(6));
        idt.device_not_available.set_handler_addr(at(7));
        idt.double_fault.set_handler_addr(at(8)).set_stack_index(OWN_STACK[1].1);
        idt.invalid_tss.set_handler_addr(at(10));
        idt.segment_not_present.set_handler_addr(at(11));
        idt.stack_segment_fault.set_handler_addr(at(12));
        idt.general_protection_fault.set_handler_addr(at(13));
        idt.page_fault.set_handler_addr(at(14));
        idt.x87_floating_point.set_handler_addr(at(16));
        idt.alignment_check.set_handler_addr(at(17));
        idt.machine_check.set_handler_addr(at(18)).set_stack_index(OWN_STACK[2].1);
        idt.simd_floating_point.set_handler_addr(at(19));
        idt.virtualization.set_handler_addr(at(20));
        for vector in 32..=255u8 {
            idt[vector].set_handler_addr(at(vector as usize));
        }
    }
    idt
}

#[unsafe(no_mangle)]
extern "C" fn host_interrupt(vector: u64) {
    let cpu = PerCpu::get();
    if vector == 2 {
        cpu.nmi_count.fetch_add(1, Ordering::Relaxed);
    } else {
        irq::take(cpu, vector as u8);
    }
}

/// What the stubs push, lowest address first.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const NAMES: [&str; 22] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM device not available",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "15",
    "#MF x87 fault",
    "#AC alignment check",
    "#MC machine check",
    "#XM SIMD fault",
    "#VE virtualization",
    "#CP control protection",
];

unsafe extern "C" {
    static text_end: u8;
    static boot_stack: u8;
    static boot_stack_top: u8;
}

#[unsafe(no_mangle)]
extern "C" fn host_exception(frame: &Frame) -> ! {
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"reserved");
    let cr2 = x86_64::registers::control::Cr2::read_raw();
    serial::force_unlock();
    let mut out = serial::Console;
    let f = frame;
    let _ = writeln!(
        out,
        "\nhypervisor exception {name} error={:#x} rip={:#x} cs={:#x} rflags={:#x} rsp={:#x} cr2={cr2:#x}",
        f.error, f.rip, f.cs, f.rflags, f.rsp
    );
    let _ = writeln!(out, "rax={:#018x} rbx={:#018x} rcx={:#018x} rdx={:#018x}", f.rax, f.rbx, f.rcx, f.rdx);
    let _ = writeln!(out, "rsi={:#018x} rdi={:#018x} rbp={:#018x} ss={:#x}", f.rsi, f.rdi, f.rbp, f.ss);
    let _ = writeln!(out, "r8 ={:#018x} r9 ={:#018x} r10={:#018x} r11={:#018x}", f.r8, f.r9, f.r10, f.r11);
    let _ = writeln!(out, "r12={:#018x} r13={:#018x} r14={:#018x} r15={:#018x}", f.r12, f.r13, f.r14, f.r15);
    let text = 0x10_0000..&raw const text_end as u64;
    let _ = write!(out, "code:");
    for address in f.rip.saturating_sub(16)..f.rip.saturating_add(16) {
        if text.contains(&address) {
            let mark = if address == f.rip { " >" } else { " " };
            // SAFETY: the image's text is mapped and readable for ever.
            let _ = write!(out, "{mark}{:02x}", unsafe { (address as *const u8).read() });
        }
    }
    let stack = &raw const boot_stack as u64..&raw const boot_stack_top as u64;
    let _ = write!(out, "\ncalls:");
    let mut shown = 0;
    let mut slot = f.rsp & !7;
    // Without frame pointers, words that point into the text are the best guess at return addresses.
    while stack.contains(&slot) && shown < 24 {
        // SAFETY: inside the boot stack, aligned.
        let word = unsafe { (slot as *const u64).read() };
        if text.contains(&word) {
            let _ = write!(out, " {word:#x}");
            shown += 1;
        }
        slot += 8;
    }
    let _ = writeln!(out);
    crash::end()
}
