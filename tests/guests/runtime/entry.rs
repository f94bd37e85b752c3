//! The way from the PVH entry to Rust: two hypercalls from 32-bit code with paging off, then long mode with the lowest
//! 4 GiB mapped one to one, and the trap stubs.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                       // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long tiny_start, 0

    .section .text.tiny_start, "ax"
    .code32
    .global tiny_start
tiny_start:
    cli
    cld
    mov esp, offset tiny_stack_top
    mov ebp, ebx                         // start info
    // The vendor's hypercall instruction: "Auth" and "Hygo" take vmmcall.
    xor eax, eax
    cpuid
    xor edi, edi
    cmp ebx, 0x68747541
    je 1f
    cmp ebx, 0x6f677948
    jne 2f
1:  inc edi
2:  mov [tiny_is_amd], edi
    // xen_version(version, null) and xen_version(get_features, &block), 32-bit convention.
    mov eax, 17
    xor ebx, ebx
    xor ecx, ecx
    call tiny_call32
    mov [tiny_version32], eax
    mov eax, 17
    mov ebx, 6
    mov ecx, offset tiny_features32
    call tiny_call32
    mov [tiny_result32], eax

    mov eax, offset tiny_pdpt + 3
    mov [tiny_pml4], eax
    mov edi, offset tiny_pdpt
    mov eax, offset tiny_pd + 3
    mov ecx, 4
3:  mov [edi], eax
    add edi, 8
    add eax, 4096
    loop 3b
    mov edi, offset tiny_pd
    mov eax, 0x83                        // present, writable, 2 MiB
    mov ecx, 2048
4:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 4b
    mov eax, offset tiny_pml4
    mov cr3, eax
    mov eax, 0x620                       // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100                        // LME
    wrmsr
    mov eax, 0x80010033                  // PG, WP, NE, ET, MP, PE
    mov cr0, eax
    lgdt [tiny_gdtr]
    .byte 0xea                           // far jump
    .long tiny_start64
    .word 8

tiny_call32:
    cmp dword ptr [tiny_is_amd], 0
    je 5f
    vmmcall
    ret
5:  vmcall
    ret

    .code64
tiny_start64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset tiny_stack_top
    mov edi, ebp
    xor ebp, ebp
    call tiny_main
6:  hlt
    jmp 6b

    .balign 16
    .global tiny_stubs
tiny_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17)
    .else
    push 0
    .endif
    push vector
    jmp tiny_trap
    .set vector, vector + 1
    .endr

tiny_trap:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call tiny_dispatch
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

    // A second vCPU: copied to 0x8000, entered in real mode.
    .global tiny_ap, tiny_ap_end
    .code16
tiny_ap:
    cli
    mov ax, cs
    mov ds, ax
    mov eax, 0x620
    mov cr4, eax
    mov eax, offset tiny_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    .byte 0x66, 0x0f, 0x01, 0x16         // lgdt with a 32-bit base
    .word tiny_ap_gdtr - tiny_ap
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0x66, 0xea                     // far jump, 32-bit offset
    .long tiny_ap64
    .word 8
    .balign 4
tiny_ap_gdtr:
    .word 23
    .long tiny_gdt
tiny_ap_end:
    .code64
tiny_ap64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 4096
    lock xadd [tiny_ap_stack], rax       // a stack of its own for each
    mov rsp, rax
    call tiny_ap_main
7:  cli
    hlt
    jmp 7b

    .section .data.tiny, "aw"
    .balign 16
tiny_gdt:
    .quad 0
    .quad 0x00af9b000000ffff             // 0x08 64-bit code
    .quad 0x00cf93000000ffff             // 0x10 data
tiny_gdtr:
    .word 23
    .long tiny_gdt, 0
    .balign 8
    .global tiny_is_amd, tiny_version32, tiny_result32, tiny_features32
tiny_is_amd:     .long 0
tiny_version32:  .long 0
tiny_result32:   .long -1
tiny_features32: .long 0, 0
    .balign 8
tiny_ap_stack:   .quad tiny_ap_stacks + 4096

    .section .bss.tiny, "aw", @nobits
    .balign 4096
    .global tiny_pml4
tiny_pml4: .skip 4096
tiny_pdpt: .skip 4096
tiny_pd:   .skip 16384
    .skip 65536
tiny_stack_top:
tiny_ap_stacks: .skip 32768
    .text
"#
);
