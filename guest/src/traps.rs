//! Exceptions, which end the kernel with a report, and the upcall, which does nothing.
//!
//! The processor takes interrupts only inside [`wait`], so the upcall's handler has nothing to save: it clears the
//! interrupt flag in the saved flags, so that the wait ends with interrupts off and the event loop looks at the pending
//! bits. No end-of-interrupt: a callback vector does not go through the local APIC.
#![expect(unsafe_code, reason = "descriptor tables, and the instructions that wait")]

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::size_of;

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::Cr2;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::tss::TaskStateSegment;

/// The vector of event-channel upcalls. Any above the exceptions will do; Linux uses the same.
pub(crate) const UPCALL_VECTOR: u8 = 0xf3;

global_asm!(
    r#"
    .text
    .balign 16
    .global __upcall
__upcall:
    andl $0xfffffdff, 16(%rsp)
    # An emulator or hypervisor that lets the interrupt in between `sti` and `hlt` must not leave the processor halted with
    # interrupts off: that is the end of a virtual processor.
    pushq %rax
    leaq __wait_halt(%rip), %rax
    cmpq %rax, 8(%rsp)
    jne 1f
    incq 8(%rsp)                         # `hlt` is one byte
1:  popq %rax
    iretq

    .global __wait
__wait:
    sti
__wait_halt:
    hlt
    cli
    ret

    # One stub of 16 bytes for each exception: an error code if the processor gave none, the vector, the rest.
    .balign 16
    .global __exceptions
__exceptions:
    .set n, 0
    .rept 32
    .balign 16
    .if ((0x60227d00 >> n) & 1) == 0
    pushq $0
    .endif
    pushq $n
    jmp exception
    .set n, n + 1
    .endr
exception:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    cld
    andq $-16, %rsp
    call trunnion_guest_exception
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static __upcall: u8;
    static __exceptions: u8;
    static __gdt: UnsafeCell<[u64; 5]>;
}

/// What the stubs leave on the stack.
#[repr(C)]
struct Frame {
    /// R15 … R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[repr(C, align(16))]
struct Tables {
    gates: [[u64; 2]; 256],
    tss: TaskStateSegment,
    stack: [u8; 32768],
}

struct Fixed(UnsafeCell<Tables>);
// SAFETY: written once by `init`, before interrupts can come; afterwards only the processor uses it.
unsafe impl Sync for Fixed {}

static TABLES: Fixed =
    Fixed(UnsafeCell::new(Tables { gates: [[0; 2]; 256], tss: TaskStateSegment::new(), stack: [0; 32768] }));

/// An interrupt gate (SDM volume 3, 6.14.1).
const fn gate(handler: u64, stack: u64) -> [u64; 2] {
    let low = handler & 0xffff | 0x08 << 16 | stack << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills and loads the tables. Exceptions get a stack of their own: the kernel's may be what failed.
pub(crate) fn init() {
    let tables = TABLES.0.get();
    // SAFETY: this runs once, before anything else looks at the tables; the tables are static, and the task segment's
    // descriptor is inside the table that the entry code loaded.
    unsafe {
        for vector in 0..32 {
            (*tables).gates[vector] = gate(&raw const __exceptions as u64 + vector as u64 * 16, 1);
        }
        (*tables).gates[UPCALL_VECTOR as usize] = gate(&raw const __upcall as u64, 0);
        let stack_end = (&raw const (*tables).stack) as u64 + size_of::<[u8; 32768]>() as u64;
        (*tables).tss.interrupt_stack_table[0] = VirtAddr::new(stack_end);
        let base = &raw const (*tables).tss as u64;
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        let gdt = __gdt.get();
        (*gdt)[3] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        (*gdt)[4] = base >> 32;
        load_tss(SegmentSelector(0x18));
        lidt(&DescriptorTablePointer {
            limit: size_of::<[[u64; 2]; 256]>() as u16 - 1,
            base: VirtAddr::new(&raw const (*tables).gates as u64),
        });
    }
}

/// Waits for an upcall, and returns with interrupts off. One that came before makes it return at once: the interrupt is
/// delivered between `sti` and the end of `hlt`.
pub(crate) fn wait() {
    unsafe extern "C" {
        fn __wait();
    }
    // SAFETY: the only interrupt that comes is the upcall, whose handler changes nothing but the interrupt flag and where
    // the wait goes on.
    unsafe { __wait() };
}

const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "no FPU",
    "double fault",
    "9",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "15",
    "FPU error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualisation",
    "control protection",
    "22",
    "23",
    "24",
    "25",
    "26",
    "27",
    "28",
    "VMM communication",
    "security",
    "31",
];

#[unsafe(no_mangle)]
extern "C" fn trunnion_guest_exception(frame: &Frame) -> ! {
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"?");
    let [r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax] = frame.registers;
    let image = crate::entry::image().start;
    crate::console::emergency(format_args!(
        "exception: {name} vector={} error={:#x} rip={:#x} (image{:+#x}) cs={:#x} rflags={:#x} rsp={:#x} ss={:#x} cr2={:#x}\n  \
         rax={rax:x} rbx={rbx:x} rcx={rcx:x} rdx={rdx:x} rsi={rsi:x} rdi={rdi:x} rbp={rbp:x}\n  \
         r8={r8:x} r9={r9:x} r10={r10:x} r11={r11:x} r12={r12:x} r13={r13:x} r14={r14:x} r15={r15:x}\n",
        frame.vector,
        frame.error,
        frame.rip,
        frame.rip.wrapping_sub(image),
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss,
        Cr2::read_raw(),
    ));
    crate::kernel::crash()
}
