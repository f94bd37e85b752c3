//! The first instructions: one 32-bit entry for both loaders, long mode, an identity map of the first 4 GiB, a stack.
//!
//! On entry EAX holds multiboot2's magic with EBX its information, or EBX points to PVH's start info (multiboot2
//! specification 3.3; Xen `docs/misc/pvh.pandoc`). Everything else is undefined, also the cache bits of CR0.

use core::arch::global_asm;

/// Bytes of the boot stack, which stays the first CPU's stack.
pub const STACK_SIZE: usize = 64 << 10;

global_asm!(
    r#"
    .section .head.multiboot2, "a"
    .balign 8
multiboot2:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2   # magic, architecture i386, length
    .long 0x100000000 - (0xe85250d6 + (multiboot2_end - multiboot2))
    .word 6, 0                           # modules start on page boundaries
    .long 8
    .word 0, 0                           # end of tags
    .long 8
multiboot2_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                       # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long entry32, 0

    .section .text.entry, "ax"
    .code32
    .global entry32
entry32:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %eax, %ebp
    movl %ebx, %esi

    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                      # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax                     # EFER.LME
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax               # caches on: CD and NW off
    orl $0x80010021, %eax                # PG, WP, NE, PE
    movl %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $entry64

    .code64
entry64:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %ebp, %edi
    movl %esi, %esi
    xorl %ebp, %ebp
    movq $boot_stack_top, %rsp
    call boot_main
3:  cli
    hlt
    jmp 3b

    .section .rodata.boot, "a"
    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff             # 0x08: 64-bit code
    .quad 0x00cf93000000ffff             # 0x10: data
boot_gdtr:
    .word boot_gdtr - boot_gdt - 1
    .long boot_gdt, 0

    # 4 GiB one to one, 2 MiB a page. The processor sets flags in these, so they are data.
    .section .data.boot, "aw"
    .balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .skip 4088
boot_pdpt:
    .quad boot_pd + 0x0003, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
    .skip 4064
boot_pd:
    .set frame, 0x83
    .rept 2048
    .quad frame
    .set frame, frame + 0x200000
    .endr

    .section .bss.boot, "aw", @nobits
    .balign 16
    .global boot_stack, boot_stack_top
boot_stack:
    .skip {stack}
boot_stack_top:
    .text
"#,
    stack = const STACK_SIZE,
    options(att_syntax)
);
