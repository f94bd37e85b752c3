# A boot sector that says on the screen that it is there, and on COM1 what people do to it: P and S for the buttons of power and sleep, N for
# a non-maskable interrupt, each key as its character, and first R.
.code16
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $0x7c00 + nmi, 8
    movw %ax, 10
    sti
    movw $0x7c00 + text, %si
1:  lodsb
    testb %al, %al
    jz 2f
    movb $0x0e, %ah
    movw $7, %bx
    int $0x10
    jmp 1b
2:  movb $'R', %al
    call say
again:
    # PM1 status: bit 8 is the power button, bit 9 the sleep button; ones clear it.
    movw $0x600, %dx
    inw %dx, %ax
    andw $0x300, %ax
    jz keys
    outw %ax, %dx
    movb $'P', %al
    testb $1, %ah
    jnz 1f
    movb $'S', %al
1:  call say
keys:
    movb $1, %ah
    int $0x16
    jz again
    xorb %ah, %ah
    int $0x16
    call say
    jmp again
nmi:
    pushw %ax
    movb $'N', %al
    call say
    popw %ax
    iretw
say:
    pushw %dx
    movb %al, %ah
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movw $0x3f8, %dx
    movb %ah, %al
    outb %al, %dx
    popw %dx
    ret
text:
    .asciz "THE BUTTONS ARE WATCHED"
