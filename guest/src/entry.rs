//! From the PVH entry state to 64-bit Rust: identity page tables for 4 GiB, long mode, relocation, a stack.
//!
//! The code runs wherever it was loaded: 32-bit code finds itself by a call whose return address goes to the last word
//! of the start info (there is no other memory that is known to be usable), and reaches everything relative to that.
#![expect(
    unsafe_code,
    reason = "the first instructions of the kernel, and the symbols that the linker script defines"
)]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .boot32, "ax"
    .code32
    .global _start32
_start32:
    cli
    cld
    movl 52(%ebx), %edx
    leal 56(%ebx), %esp
    call 1f
1:  popl %ebp
    movl %edx, 52(%ebx)
    leal (boot_stack_top - 1b)(%ebp), %esp

    leal (boot_pml4 - 1b)(%ebp), %edi
    leal (boot_pdpt - 1b + 3)(%ebp), %eax
    movl %eax, (%edi)
    leal (boot_pdpt - 1b)(%ebp), %edi
    leal (boot_pd - 1b + 3)(%ebp), %eax
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $4096, %eax
    loop 2b
    leal (boot_pd - 1b)(%ebp), %edi
    movl $0x83, %eax                     # present, writable, 2 MiB
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 3b

    leal (boot_pml4 - 1b)(%ebp), %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                      # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx               # EFER
    rdmsr
    orl $0x900, %eax                     # NXE, LME
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax               # CD = NW = 0
    orl $0x80010021, %eax                # PG, WP, NE, PE
    movl %eax, %cr0

    leal (boot_gdt - 1b)(%ebp), %eax
    leal (boot_gdtr - 1b)(%ebp), %edi
    movl %eax, 2(%edi)
    lgdt (%edi)
    leal (start64 - 1b)(%ebp), %eax
    pushl $0x08
    pushl %eax
    lretl

    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    leaq boot_stack_top(%rip), %rsp

    # Every relocation is R_X86_64_RELATIVE: *(offset + delta) = addend + delta.
    leaq __image_start(%rip), %rdx
    subq __linked_at(%rip), %rdx
    leaq __rela_start(%rip), %rsi
    leaq __rela_end(%rip), %rcx
4:  cmpq %rcx, %rsi
    jae 6f
    cmpl $8, 8(%rsi)
    je 5f
    ud2
5:  movq (%rsi), %rdi
    movq 16(%rsi), %rax
    addq %rdx, %rax
    movq %rax, (%rdi, %rdx)
    addq $24, %rsi
    jmp 4b

6:  movl %ebx, %edi
    xorl %ebp, %ebp
    call trunnion_guest_start
7:  cli
    hlt
    jmp 7b

    .section .data.boot, "aw"
    .balign 16
    .global __gdt
__gdt:
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff             # 0x08: 64-bit code
    .quad 0x00cf93000000ffff             # 0x10: data
    .quad 0, 0                           # 0x18: task segment, unused
boot_gdtr:
    .word boot_gdtr - boot_gdt - 1
    .quad 0

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 16384
    .global __stack_guard
__stack_guard: .skip 4096
    .skip 262144
boot_stack_top:
    .text
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __read_only_end: u8;
    static __image_end: u8;
    static __stack_guard: u8;
}

/// Where the parts of the image lie, as addresses in the order of memory.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    /// First byte, of the code.
    pub(crate) start: u64,
    /// End of the code.
    pub(crate) text_end: u64,
    /// End of what is never written after the relocation.
    pub(crate) read_only_end: u64,
    /// End of everything.
    pub(crate) end: u64,
    /// The page below the stack.
    pub(crate) guard: u64,
}

/// The image's parts.
pub(crate) fn image() -> Image {
    Image {
        start: &raw const __image_start as u64,
        text_end: &raw const __text_end as u64,
        read_only_end: &raw const __read_only_end as u64,
        end: &raw const __image_end as u64,
        guard: &raw const __stack_guard as u64,
    }
}

/// Where the assembly ends, with the address of the start info.
#[unsafe(no_mangle)]
extern "C" fn trunnion_guest_start(start_info: u64) -> ! {
    crate::kernel::start(start_info)
}
