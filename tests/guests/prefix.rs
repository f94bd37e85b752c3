//! Cases that come from outside, each executed twice: by the processor, and behind the forced-emulation prefix by the emulator of
//! the device model. Registers, flags, memory and faults are compared.
//!
//! It is the firmware of an emulated PC. The cases lie at `CASES`, and have the form of `devices/tests/native/cases.rs`; each runs
//! under page tables that have nothing but its code, the window, and the page of this guest that leads there and back.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[macro_use]
mod runtime;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod guest {
    #![allow(unsafe_code, reason = "the guest owns its machine: nothing else runs in the domain")]
    use crate::runtime::check;
    use core::arch::global_asm;

    /// Where the table of cases is: its number, then the cases. The firmware has one MiB.
    const CASES: u64 = 0xfff4_0000;
    const CASE: u64 = 176;
    const START: u64 = 0x1000_0800;
    /// Physical pages: of the window, three, and of the code.
    const WINDOW: u64 = 0x60_0000;
    const CODE: u64 = 0x60_4000;
    const TABLES: u64 = 0x61_0000;
    const WORDS: usize = 0x3000 / 8;
    /// Differences that are printed whole.
    const PRINTED: u32 = 8;
    const FORCED: &[u8; 5] = b"\x0f\x0bxen";
    const BREAKPOINT: u64 = 3;
    const UNDEFINED: u64 = 6;
    const STACK: u64 = 12;
    const PROTECTION: u64 = 13;
    const PAGE_FAULT: u64 = 14;
    /// All flags but RF.
    const FLAGS: u64 = 0x24_7fd5;

    #[repr(C)]
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Frame {
        gpr: [u64; 16],
        vector: u64,
        error: u64,
        rip: u64,
        cs: u64,
        flags: u64,
        cr2: u64,
        ds: u64,
        ss: u64,
    }

    unsafe extern "C" {
        static mut prefix_frame: Frame;
        static mut prefix_cr3: u64;
        static prefix_page: u8;
        static mut prefix_idt: [[u64; 2]; 256];
        static mut prefix_gdt: [u64; 16];
        static mut prefix_tss: [u32; 26];
        static prefix_stubs: u8;
        static prefix_stack: u8;
        fn prefix_go();
    }

    global_asm!(
        r#"
    .section .data.prefix, "awx"
    .balign 4096
    .global prefix_page, prefix_frame, prefix_cr3, prefix_idt, prefix_gdt, prefix_tss, prefix_stubs, prefix_stack, prefix_go
prefix_page:
prefix_go:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [prefix_saved_sp], rsp
    sgdt [prefix_saved_gdtr]
    sidt [prefix_saved_idtr]
    mov rax, cr3
    mov [prefix_saved_cr3], rax
    lgdt [prefix_gdtr]
    lidt [prefix_idtr]
    mov byte ptr [prefix_gdt + 0x40 + 5], 0x89
    mov eax, 0x40
    ltr ax
    mov rax, [prefix_cr3]
    mov cr3, rax
    mov eax, [prefix_frame + 16*8 + 48]
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset prefix_stack
    push qword ptr [prefix_frame + 16*8 + 56]
    push qword ptr [prefix_frame + 4*8]
    push qword ptr [prefix_frame + 16*8 + 32]
    push qword ptr [prefix_frame + 16*8 + 24]
    push qword ptr [prefix_frame + 16*8 + 16]
    mov rax, [prefix_frame]
    mov rcx, [prefix_frame + 8]
    mov rdx, [prefix_frame + 16]
    mov rbx, [prefix_frame + 24]
    mov rbp, [prefix_frame + 40]
    mov rsi, [prefix_frame + 48]
    mov rdi, [prefix_frame + 56]
    mov r8, [prefix_frame + 64]
    mov r9, [prefix_frame + 72]
    mov r10, [prefix_frame + 80]
    mov r11, [prefix_frame + 88]
    mov r12, [prefix_frame + 96]
    mov r13, [prefix_frame + 104]
    mov r14, [prefix_frame + 112]
    mov r15, [prefix_frame + 120]
    iretq

prefix_back:
    mov [prefix_frame], rax
    mov [prefix_frame + 8], rcx
    mov [prefix_frame + 16], rdx
    mov [prefix_frame + 24], rbx
    mov [prefix_frame + 40], rbp
    mov [prefix_frame + 48], rsi
    mov [prefix_frame + 56], rdi
    mov [prefix_frame + 64], r8
    mov [prefix_frame + 72], r9
    mov [prefix_frame + 80], r10
    mov [prefix_frame + 88], r11
    mov [prefix_frame + 96], r12
    mov [prefix_frame + 104], r13
    mov [prefix_frame + 112], r14
    mov [prefix_frame + 120], r15
    cld
    pop qword ptr [prefix_frame + 16*8]
    pop qword ptr [prefix_frame + 16*8 + 8]
    pop qword ptr [prefix_frame + 16*8 + 16]
    pop qword ptr [prefix_frame + 16*8 + 24]
    pop qword ptr [prefix_frame + 16*8 + 32]
    pop qword ptr [prefix_frame + 4*8]
    pop qword ptr [prefix_frame + 16*8 + 56]
    mov rax, cr2
    mov [prefix_frame + 16*8 + 40], rax
    xor eax, eax
    mov ax, ds
    mov [prefix_frame + 16*8 + 48], rax
    mov rax, [prefix_saved_cr3]
    mov cr3, rax
    lgdt [prefix_saved_gdtr]
    lidt [prefix_saved_idtr]
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [prefix_saved_sp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    lea rax, [rip + prefix_end]
    push 8
    push rax
    .byte 0x48, 0xcb                     // far return with 64-bit operands
prefix_end:
    ret

    .balign 16
prefix_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17)
    .else
    push 0
    .endif
    push vector
    jmp prefix_back
    .set vector, vector + 1
    .endr
    .balign 16
prefix_frame: .skip 24*8
prefix_saved_sp: .quad 0
prefix_saved_cr3: .quad 0
prefix_cr3: .quad 0
prefix_saved_gdtr: .skip 16
prefix_saved_idtr: .skip 16
    .balign 8
prefix_gdtr: .word 127
    .quad prefix_gdt
    .balign 8
prefix_idtr: .word 511
    .quad prefix_idt
    .balign 16
prefix_gdt: .skip 128
prefix_tss: .skip 104
    .balign 16
prefix_idt: .skip 512
    .skip 1024
    .balign 16
prefix_stack: .quad 0
    .balign 4096
    .text
"#
    );

    /// Enters a page into four levels of tables at [`TABLES`].
    fn map(linear: u64, physical: u64, free: &mut u64) {
        let mut table = TABLES;
        for level in (1..4).rev() {
            let entry = (table + (linear >> (12 + 9 * level) & 0x1ff) * 8) as *mut u64;
            // SAFETY: RAM above the image, mapped one to one, that nothing else uses.
            unsafe {
                if entry.read() == 0 {
                    entry.write(*free | 3);
                    *free += 0x1000;
                }
                table = entry.read() & !0xfff;
            }
        }
        // SAFETY: as above.
        unsafe { ((table + (linear >> 12 & 0x1ff) * 8) as *mut u64).write(physical) };
    }

    /// Descriptors: code of 64 and 32 bits at 8 and 0x10, of 16 bits at 0x18, whose segment begins at the page of code, flat data at 0x20,
    /// data at the window at 0x28, which is also a stack of 16 bits at 0x30.
    const GDT: [u64; 7] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x108f_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x20cf_9300_0000_ffff,
        0x208f_9300_0000_ffff,
    ];

    fn prepare() {
        let mut free = TABLES + 0x1000;
        // SAFETY: the page of the assembly above, before anything runs on it.
        unsafe {
            let page = (&raw const prefix_page) as u64;
            for n in 0..2 {
                map(page + n * 0x1000, (page + n * 0x1000) | 3, &mut free);
            }
            let gdt = &raw mut prefix_gdt;
            (&mut (*gdt))[..GDT.len()].copy_from_slice(&GDT);
            let tss = (&raw const prefix_tss) as u64;
            (*gdt)[8] = 103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24) << 56;
            let stack = (&raw const prefix_stack) as u64;
            (*(&raw mut prefix_tss))[9] = stack as u32;
            for vector in 0..32 {
                let stub = (&raw const prefix_stubs) as u64 + vector as u64 * 16;
                let low = stub & 0xffff | 8 << 16 | 1 << 32 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
                (&raw mut prefix_idt).cast::<[u64; 2]>().add(vector).write([low, 0]);
            }
            prefix_cr3 = TABLES;
            // EFER.NXE.
            core::arch::asm!("rdmsr", "or eax, 0x800", "wrmsr", in("ecx") 0xc000_0080u32, out("eax") _, out("edx") _);
        }
        for page in 0..3u64 {
            // What is there is no code: bit 63.
            let rights = if page < 2 { 3 } else { 1 } | 1 << 63;
            map(0x2000_0000 + page * 0x1000, (WINDOW + page * 0x1000) | rights, &mut free);
        }
        map(START & !0xfff, CODE | 1, &mut free);
    }

    /// Reads a word of a case.
    fn word(case: u64, n: u64) -> u64 {
        // SAFETY: the firmware, mapped one to one.
        unsafe { ((case + n * 8) as *const u64).read() }
    }

    fn execute(case: u64, forced: bool) -> (Frame, u64) {
        let bits = word(case, 0);
        let mut frame = Frame { rip: START, flags: word(case, 19) & !0x200, ..Frame::default() };
        (frame.cs, frame.ds, frame.ss) = match bits {
            64 => (8, 0x20, 0x20),
            32 => (0x10, 0x20, 0x20),
            _ => (0x18, 0x28, 0x30),
        };
        if bits == 16 {
            frame.rip &= 0xffff;
        }
        for n in 0..16 {
            frame.gpr[n as usize] = word(case, 3 + n);
        }
        // SAFETY: RAM that nothing else uses; the assembly comes back here with the registers that it keeps.
        unsafe {
            let window = core::slice::from_raw_parts_mut(WINDOW as *mut u64, WORDS);
            for (n, place) in window.iter_mut().enumerate() {
                *place = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            let code = core::slice::from_raw_parts_mut(CODE as *mut u8, 0x1000);
            code.fill(0xcc);
            for n in 0..16usize {
                let byte = (word(case, 1 + n as u64 / 8) >> (8 * (n % 8))) as u8;
                // Behind the instruction only what ends a case.
                code[0x800 + n] = if n as u64 >= word(case, 21) { 0xcc } else { byte };
            }
            if forced {
                code[0x7fb..0x800].copy_from_slice(FORCED);
                frame.rip -= 5;
            }
            core::arch::asm!("mov cr2, {}", in(reg) 0u64);
            (&raw mut prefix_frame).write(frame);
            prefix_go();
            let mut after = (&raw const prefix_frame).read();
            if after.vector == BREAKPOINT {
                after.rip -= 1;
            }
            after.flags &= FLAGS;
            let sum = window
                .iter()
                .fold(0u64, |sum, word| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29));
            (after, sum)
        }
    }

    fn is_canonical(address: u64) -> bool {
        (address as i64) << 16 >> 16 == address as i64
    }

    pub(crate) fn run(_start_info: u32) {
        prepare();
        let count = word(CASES, 0);
        let (mut differ, mut faults) = (0, [0u64; 3]);
        for n in 0..count {
            let case = CASES + 16 + n * CASE;
            let (native, memory) = execute(case, false);
            let (mut forced, forced_memory) = execute(case, true);
            let (undefined, many) = (word(case, 20) & 0xffff_ffff, word(case, 20) >> 32 != 0);
            let mut open = many && native.vector != BREAKPOINT && forced.vector != BREAKPOINT;
            let mut wanted = native;
            if wanted.vector == PAGE_FAULT && forced.vector == PAGE_FAULT {
                // QEMU reads what it will write, and calls that a read; processors call it a write.
                wanted.error |= forced.error & 2;
                // Of two pages that fail it may name the second.
                if wanted.cr2 & 0xfff == 0 && wanted.cr2.wrapping_sub(forced.cr2) < 16 {
                    (wanted.cr2, wanted.error) = (forced.cr2, forced.error);
                }
            }
            // It knows no limits of segments, nor that of all 4 GiB.
            if word(case, 0) != 64
                && wanted.vector == PAGE_FAULT
                && wanted.cr2 >= 0xffff_fff0
                && matches!(forced.vector, STACK | PROTECTION)
            {
                (wanted.vector, wanted.error, wanted.cr2) = (forced.vector, 0, 0);
            }
            if word(case, 0) == 64 && wanted.vector == PROTECTION {
                // It does not tell the stack's addresses from others, and finds out where a branch leads after the branch.
                if forced.vector == STACK {
                    wanted.vector = STACK;
                }
                if !is_canonical(wanted.rip) && forced.vector == PROTECTION && forced.rip == START {
                    wanted.rip = forced.rip;
                    open = true;
                }
            }
            wanted.flags &= !undefined;
            forced.flags &= !undefined;
            faults[match native.vector {
                BREAKPOINT => 0,
                UNDEFINED => 1,
                _ => 2,
            }] += 1;
            if forced != wanted && !(open && forced.rip == wanted.rip) || memory != forced_memory && !open {
                differ += 1;
                if differ <= PRINTED {
                    let code = [word(case, 1), word(case, 2)];
                    say!(
                        "DIFFER {n} {} bits, code {:016x} {:016x} length {}",
                        word(case, 0),
                        code[0].swap_bytes(),
                        code[1].swap_bytes(),
                        word(case, 21)
                    );
                    for (name, frame, sum) in
                        [("processor", &wanted, memory), ("emulator", &forced, forced_memory)]
                    {
                        say!(
                            "  {name} vector {} error {:x} rip {:x} cs {:x} flags {:x} cr2 {:x} ds {:x} ss {:x} memory {sum:x}",
                            frame.vector,
                            frame.error,
                            frame.rip,
                            frame.cs,
                            frame.flags,
                            frame.cr2,
                            frame.ds,
                            frame.ss
                        );
                        for row in 0..2 {
                            say!("    {:x?}", &frame.gpr[row * 8..row * 8 + 8]);
                        }
                    }
                    say!("  before");
                    for row in 0..2u64 {
                        say!(
                            "    {:x?}",
                            core::array::from_fn::<u64, 8, _>(|n| word(case, 3 + row * 8 + n as u64))
                        );
                    }
                }
            }
        }
        say!(
            "CASES {count}: {} complete, {} undefined, {} other faults; {differ} differ",
            faults[0],
            faults[1],
            faults[2]
        );
        check("there are cases", count > 0 && faults[0] > count / 3 && faults[2] > count / 20);
        check("the processor and the emulator agree", differ == 0);
    }
}
#[cfg(target_os = "none")]
use guest::run;
