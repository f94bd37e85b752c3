//! Exceptions and interrupts of the host. An exception in the core is a bug: the screen it leaves is for whoever reads it.
//! An interrupt is only noted; the core takes it where it looks for work.

use core::arch::global_asm;

use super::tables::CODE;
use crate::machine::prelude::*;
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
    .irp r, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    push \r
    .endr
    mov rdi, rsp
    and rsp, -16
    call host_exception

    .balign 16
trap_interrupt:
    .irp r, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
    push \r
    .endr
    mov rdi, [rsp+72]
    mov rcx, rsp
    and rsp, -16
    push rcx
    push rcx
    cld
    call host_interrupt
    pop rsp
    .irp r, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
    pop \r
    .endr
    add rsp, 16
    iretq
"#
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Exceptions that get a stack of their own, by its number in the TSS: NMI (may hit anywhere), double fault, machine check.
const OWN_STACK: [(usize, u64); 3] = [(2, 1), (8, 2), (18, 3)];

/// A gate of the IDT (SDM 3, 6.14.1): two words.
pub(super) type Gate = [u64; 2];

/// The IDT: an interrupt gate for each vector's stub.
pub(super) fn table() -> [Gate; 256] {
    core::array::from_fn(|vector| {
        let at = &raw const trap_stubs as u64 + 16 * vector as u64;
        let stack = OWN_STACK.iter().find(|own| own.0 == vector).map_or(0, |own| own.1);
        let low = at & 0xffff | u64::from(CODE) << 16 | stack << 32 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        [low, at >> 32]
    })
}

#[unsafe(no_mangle)]
extern "C" fn host_interrupt(vector: u64) {
    // An NMI only makes a guest leave.
    if vector != 2 {
        irq::take(PerCpu::get(), vector as u8);
    }
}

/// What the stubs push, lowest address first.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const REGISTERS: [&str; 15] =
    ["r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx", "rax"];

/// Exceptions by vector (SDM 3, table 6-1).
const NAMES: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF",
    "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
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
    let &Frame { registers, error, rip, cs, rflags, rsp, ss, .. } = frame;
    let _ = write!(out, "\nhypervisor exception {name} error={error:#x} rip={rip:#x} cs={cs:#x} ss={ss:#x}");
    let _ = write!(out, " rflags={rflags:#x} rsp={rsp:#x} cr2={cr2:#x}");
    for (index, (name, value)) in REGISTERS.iter().zip(registers).enumerate() {
        let _ = write!(out, "{}{name}={value:#018x}", if index % 4 == 0 { "\n" } else { " " });
    }
    let text = 0x10_0000..&raw const text_end as u64;
    let _ = write!(out, "\ncode:");
    for address in rip.saturating_sub(16)..rip.saturating_add(16) {
        if text.contains(&address) {
            let mark = if address == rip { " >" } else { " " };
            // SAFETY: the image's text is mapped and readable for ever.
            let _ = write!(out, "{mark}{:02x}", unsafe { (address as *const u8).read() });
        }
    }
    let stack = &raw const boot_stack as u64..&raw const boot_stack_top as u64;
    let _ = write!(out, "\ncalls:");
    let mut shown = 0;
    let mut slot = rsp & !7;
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
