# A boot sector that loads a floating-point number from the screen's memory, which no device model carries out, says on COM1 which exception it
# met where (U, and G when the address is right), and switches the machine off.
.code16
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $0x7c00 + undefined, 6 * 4
    movw %ax, 6 * 4 + 2
    movw $0xb800, %ax
    movw %ax, %es
    fninit
place:
    flds %es:0
    movb $'X', %al
    call say
    jmp off
undefined:
    movb $'U', %al
    call say
    popw %ax
    cmpw $0x7c00 + place, %ax
    jne off
    movb $'G', %al
    call say
off:
    movw $0x604, %dx
    movw $0x2001, %ax
    outw %ax, %dx
    hlt
say:
    movb %al, %ah
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movw $0x3f8, %dx
    movb %ah, %al
    outb %al, %dx
    ret
