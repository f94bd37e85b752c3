# A boot sector that walks at random over ports and device addresses, with every width, and then switches the machine off. `seed` and
# `count` are set by the test. What resets the machine, switches it off or moves the devices is not written to.
.code16
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    # A data segment of 4 GiB, kept in FS when real mode comes back.
    lgdtw 0x7c00 + gdtr
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $8, %bx
    movw %bx, %fs
    andb $0xfe, %al
    movl %eax, %cr0
    movl 0x7c00 + seed, %ebp
    movl 0x7c00 + count, %edi
    # EDI accesses: EDX says which, the upper half of EAX how, and EAX is what is written.
again:
    call random
    movl %eax, %edx
    call random
    movl %eax, %ecx
    shrl $8, %ecx
    btl $31, %edx
    jc memory
    btl $30, %edx
    jnc 1f
    andw $0x7ff, %dx
1:  btl $29, %edx
    jc output
    testb $2, %cl
    jnz 1f
    inb %dx, %al
    jmp next
1:  testb $1, %cl
    jnz 1f
    inw %dx, %ax
    jmp next
1:  inl %dx, %eax
    jmp next
    # Not to the keyboard controller and port 0x92, PCI configuration and the reset register, power management.
output:
    movw %dx, %bx
    subw $0x5c, %bx
    cmpw $0x97 - 0x5c, %bx
    jb next
    subw $0xcf0 - 0x5c, %bx
    cmpw $0x10, %bx
    jb next
    subw $0x5fc - 0xcf0, %bx
    cmpw $0x44, %bx
    jb next
    testb $2, %cl
    jnz 1f
    outb %al, %dx
    jmp next
1:  testb $1, %cl
    jnz 1f
    outw %ax, %dx
    jmp next
1:  outl %eax, %dx
    jmp next
    # The screen, the I/O APIC, the event timer or the network card, anywhere in 128 KiB or in the first registers.
memory:
    movl %edx, %esi
    shrl $27, %esi
    andl $0xc, %esi
    movl 0x7c00 + bases(%si), %esi
    movl %edx, %ebx
    andl $0x1ffff, %ebx
    testb $4, %cl
    jz 1f
    andl $0xff, %ebx
1:  addl %ebx, %esi
    btl $26, %edx
    jc store
    testb $2, %cl
    jnz 1f
    movb %fs:(%esi), %al
    jmp next
1:  testb $1, %cl
    jnz 1f
    addw %fs:(%esi), %ax
    jmp next
1:  movl %fs:(%esi), %eax
    jmp next
store:
    testb $2, %cl
    jnz 1f
    movb %al, %fs:(%esi)
    jmp next
1:  testb $1, %cl
    jnz 1f
    xorw %ax, %fs:(%esi)
    jmp next
1:  movl %eax, %fs:(%esi)
next:
    decl %edi
    jnz again
    movw $0x604, %dx
    movw $0x2001, %ax
    outw %ax, %dx
    hlt
    # The next number, in EAX.
random:
    imull $1664525, %ebp, %ebp
    addl $1013904223, %ebp
    movl %ebp, %eax
    roll $11, %eax
    ret
gdtr: .word 15
    .long 0x7c00 + gdt
bases: .long 0xa0000, 0xfec00000, 0xfed00000, 0xfebc0000
gdt: .quad 0, 0x00cf92000000ffff
.org 0x1b0
seed: .long 1
count: .long 100
