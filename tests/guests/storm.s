# A boot sector that has every timer of the PC interrupt as fast as it can be set, and leaves a level for ever, on all of which it
# only says that they have ended. It says ! on COM1 first, and never stops.
.code16
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
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
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
    # Every vector leads to one place.
    xorw %di, %di
    movw $256, %cx
1:  movl $0x7c00 + interrupt, %eax
    stosl
    loop 1b
    # Ports: the 8259s, which end by themselves, the interval timer with a count of 2, the clock at 8192 Hz.
    movw $0x7c00 + ports, %si
    movw $(ports_end - ports) / 2, %cx
    xorw %dx, %dx
1:  lodsw
    movb %al, %dl
    movb %ah, %al
    outb %al, %dx
    loop 1b
    # Memory: the event timer, the I/O APIC, the local APIC with its timer.
    movw $0x7c00 + places, %si
    movw $(places_end - places) / 8, %cx
1:  lodsl
    movl %eax, %ebx
    lodsl
    movl %eax, %fs:(%ebx)
    loop 1b
    sti
1:  hlt
    jmp 1b
interrupt:
    pushw %ax
    # The clock tells again when its register C has been read.
    movb $0x0c, %al
    outb %al, $0x70
    inb $0x71, %al
    movl $0xfee000b0, %ebx
    movl $0, %eax
    movl %eax, %fs:(%ebx)
    popw %ax
    iretw
gdtr: .word 15
    .long 0x7c00 + gdt
ports:
    .byte 0x20, 0x11, 0x21, 0x20, 0x21, 4, 0x21, 3
    .byte 0xa0, 0x11, 0xa1, 0x28, 0xa1, 2, 0xa1, 3
    .byte 0x21, 0xfa, 0xa1, 0xfe
    .byte 0x43, 0x34, 0x40, 2, 0x40, 0
    .byte 0x70, 0x0a, 0x71, 0x23, 0x70, 0x0b, 0x71, 0x42
ports_end:
.balign 8
gdt: .quad 0, 0x00cf92000000ffff
places:
    # Comparator 0: an edge each 10 ns to input 20. Comparator 1: a level to input 21 that nobody takes back.
    .long 0xfed00100, 20 << 9 | 0x4c, 0xfed00108, 1
    .long 0xfed00120, 21 << 9 | 6, 0xfed00128, 100
    .long 0xfed00010, 1
    .long 0xfec00000, 0x39, 0xfec00010, 0, 0xfec00000, 0x38, 0xfec00010, 0x50
    .long 0xfec00000, 0x3b, 0xfec00010, 0, 0xfec00000, 0x3a, 0xfec00010, 0x8051
    .long 0xfee000f0, 0x1ff, 0xfee00350, 0x700
    .long 0xfee003e0, 0xb, 0xfee00320, 0x20060, 0xfee00380, 1
places_end:
