//! The way from multiboot2 (GRUB) or PVH (QEMU) to Rust: long mode with the lowest 4 GiB mapped one to one, and no interrupts.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                       // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long tiny_start, 0

    .section .text.tiny_start, "ax"
    .balign 8
bare_header:                             // multiboot2: architecture i386, only the end tag
    .long 0xe85250d6, 0, bare_header_end - bare_header
    .long 0x100000000 - (0xe85250d6 + (bare_header_end - bare_header))
    .word 0, 0
    .long 8
bare_header_end:
    .code32
    .global tiny_start
tiny_start:
    cli
    cld
    mov esp, offset bare_stack_top
    mov eax, offset bare_pdpt + 3
    mov [bare_pml4], eax
    mov edi, offset bare_pdpt
    mov eax, offset bare_pd + 3
    mov ecx, 4
2:  mov [edi], eax
    add edi, 8
    add eax, 4096
    loop 2b
    mov edi, offset bare_pd
    mov eax, 0x83                        // present, writable, 2 MiB
    mov ecx, 2048
3:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 3b
    mov eax, offset bare_pml4
    mov cr3, eax
    mov eax, 0x620                       // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100                        // LME
    wrmsr
    mov eax, 0x80010033                  // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [bare_gdtr]
    .byte 0xea                           // far jump
    .long bare_start64
    .word 8

    .code64
bare_start64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov eax, 0x18
    ltr ax
    mov esp, offset bare_stack_top
    call {main}
4:  hlt
    jmp 4b

    .section .data.bare, "aw"
    .balign 16
    .global bare_gdt
bare_gdt:
    .quad 0
    .quad 0x00af9b000000ffff             // code, 64 bits
    .quad 0x00cf93000000ffff             // data
    .quad 0x0000890000000067, 0          // a task state at zero, which nothing uses
bare_gdtr:
    .word bare_gdtr - bare_gdt - 1
    .long bare_gdt, 0

    .section .bss.bare, "aw", @nobits
    .balign 4096
bare_pml4: .skip 4096
bare_pdpt: .skip 4096
bare_pd:   .skip 16384
    .skip 65536
bare_stack_top:
    .text
"#,
    main = sym super::main
);
