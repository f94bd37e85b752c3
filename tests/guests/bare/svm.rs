//! SVM (APM 2, chapter 15 and appendix B): one VMCB with nested paging.

use super::loops::{EXITS, HOLE, NOWHERE, exit_vmmcall, exit_window};
use super::{Page, RAX, RBX, Registers, cr0, cr3, cr4, each, end, gdt, rdmsr, row, tsc, wrmsr};
use crate::say;
use core::arch::{asm, naked_asm};

const EFER: u32 = 0xc000_0080;
const HOST_SAVE: u32 = 0xc001_0117;

/// Offsets in the VMCB.
const EXCEPTIONS: usize = 0x008;
const INTERCEPTS: usize = 0x00c;
const MORE_INTERCEPTS: usize = 0x010;
const PORTS: usize = 0x040;
const MSRS: usize = 0x048;
const SPACE: usize = 0x058;
const VIRTUAL_INTERRUPT: usize = 0x060;
const CODE: usize = 0x070;
const NESTED: usize = 0x090;
const NESTED_ROOT: usize = 0x0b0;
const STATE_RIP: usize = 0x578;
const STATE_RAX: usize = 0x5f8;

/// CPUID, HLT, IN and OUT, MSRs, shutdown; VMRUN, VMMCALL; #PF; the window of a virtual interrupt.
const WANTED: u32 = 1 << 18 | 1 << 24 | 1 << 27 | 1 << 28 | 1 << 31;
const WINDOW: u32 = 1 << 4;
/// A virtual interrupt of the highest priority, whatever the TPR.
const PENDING: u64 = 1 << 8 | 0xf << 16 | 1 << 20;

static mut VMCB: Page = Page::new();
static mut OTHER: Page = Page::new();
static mut SAVE: Page = Page::new();
static mut BITMAPS: [Page; 5] = [const { Page::new() }; 5];
static mut ROOT: Page = Page::new();
static mut THIRD: Page = Page::new();
static mut SECOND: [Page; 4] = [const { Page::new() }; 4];
static mut STACK: Page = Page::new();

fn write<T>(offset: usize, value: T) {
    // SAFETY: the offsets are the VMCB's, and the processor looks at it only in `enter`.
    unsafe { ((&raw mut VMCB as usize + offset) as *mut T).write_volatile(value) }
}

fn read<T>(offset: usize) -> T {
    // SAFETY: as above.
    unsafe { ((&raw const VMCB as usize + offset) as *const T).read_volatile() }
}

/// Enters the guest until it leaves.
#[unsafe(naked)]
extern "C" fn enter(registers: *mut Registers, vmcb: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov rax, rsi",
        "mov rbx, [rdi+8]",
        "mov rcx, [rdi+16]",
        "mov rdx, [rdi+24]",
        "mov rsi, [rdi+32]",
        "mov rbp, [rdi+48]",
        "mov r8, [rdi+56]",
        "mov r9, [rdi+64]",
        "mov r10, [rdi+72]",
        "mov r11, [rdi+80]",
        "mov r12, [rdi+88]",
        "mov r13, [rdi+96]",
        "mov r14, [rdi+104]",
        "mov r15, [rdi+112]",
        "mov rdi, [rdi+40]",
        "clgi",
        "vmrun rax",
        "stgi",
        "push rdi",
        "mov rdi, [rsp+8]",
        "mov [rdi+8], rbx",
        "mov [rdi+16], rcx",
        "mov [rdi+24], rdx",
        "mov [rdi+32], rsi",
        "mov [rdi+48], rbp",
        "mov [rdi+56], r8",
        "mov [rdi+64], r9",
        "mov [rdi+72], r10",
        "mov [rdi+80], r11",
        "mov [rdi+88], r12",
        "mov [rdi+96], r13",
        "mov [rdi+104], r14",
        "mov [rdi+112], r15",
        "pop rax",
        "mov [rdi+40], rax",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

fn prepare() {
    wrmsr(EFER, rdmsr(EFER) | 1 << 12);
    wrmsr(HOST_SAVE, &raw const SAVE as u64);
    // SAFETY: nothing else refers to these pages yet.
    unsafe {
        for page in (&raw mut BITMAPS).as_mut().into_iter().flatten() {
            page.0.fill(u64::MAX);
        }
        ROOT.0[0] = &raw const THIRD as u64 | 7;
        for (index, page) in (0u64..).zip((&raw mut SECOND).as_mut().into_iter().flatten()) {
            THIRD.0[index as usize] = &raw const *page as u64 | 7;
            for (entry, to) in (0u64..).zip(&mut page.0) {
                let at = (index * 512 + entry) << 21;
                *to = if at == HOLE { 0 } else { at | 0x87 };
            }
        }
    }
    write(EXCEPTIONS, 1u32 << 14);
    write(INTERCEPTS, WANTED);
    write(MORE_INTERCEPTS, 3u32);
    write(PORTS, &raw const BITMAPS as u64);
    write(MSRS, &raw const BITMAPS as u64 + 3 * 4096);
    write(SPACE, 1u32);
    write(NESTED, 1u64);
    write(NESTED_ROOT, &raw const ROOT as u64);
    // ES, CS, SS, DS, FS, GS, TR: selector, attributes, limit.
    for (offset, selector, attributes) in [
        (0x400, 0x10u16, 0xc93u16),
        (0x410, 8, 0xa9b),
        (0x420, 0x10, 0xc93),
        (0x430, 0x10, 0xc93),
        (0x440, 0, 0xc93),
        (0x450, 0, 0xc93),
        (0x490, 0x18, 0x8b),
    ] {
        write(offset, selector);
        write(offset + 2, attributes);
        write(offset + 4, u32::MAX);
    }
    write(0x464, 39u32);
    write(0x468, gdt());
    write(0x4d0, rdmsr(EFER));
    write(0x548, cr4());
    write(0x550, cr3());
    write(0x558, cr0());
    write(0x560, 0x400u64);
    write(0x568, 0xffff_0ff0u64);
    write(0x570, 2u64);
    write(0x5d8, &raw const STACK as u64 + 4080);
    write(0x668, 0x0007_0406_0007_0406u64);
}

/// Runs the guest until its next exit: the times of entry, by the guest's clock, and of the exit.
fn once(registers: &mut Registers, code: u64) -> (u64, u64) {
    write(STATE_RAX, registers.0[RAX]);
    let start = tsc();
    enter(registers, &raw const VMCB as u64);
    let now = tsc();
    let was: u64 = read(CODE);
    if was != code {
        say!("FAILED exit {was:#x} and not {code:#x}, at {:#x}", read::<u64>(STATE_RIP));
        end(3);
    }
    (registers.0[RBX] - start, now - registers.0[RBX])
}

fn begin(code: unsafe extern "C" fn()) -> Registers {
    write(STATE_RIP, code as *const () as u64);
    let mut registers = Registers::default();
    registers.0[11] = NOWHERE;
    registers.0[12] = HOLE;
    registers
}

pub fn measure() {
    prepare();
    say!("VENDOR svm");
    let mut registers = begin(exit_vmmcall);
    let skip = |length: u64| write(STATE_RIP, read::<u64>(STATE_RIP) + length);
    row("vmrun", || {
        let (entry, _) = once(&mut registers, 0x81);
        skip(3);
        entry
    });
    row("exit-hypercall", || {
        let (_, exit) = once(&mut registers, 0x81);
        skip(3);
        exit
    });
    let codes = [0x72, 0x7c, 0x7b, 0x78, 0x400, 0x4e];
    for (exit, code) in EXITS.iter().zip(codes) {
        let mut registers = begin(exit.code);
        row(exit.name, || {
            let (_, time) = once(&mut registers, code);
            skip(exit.skip);
            time
        });
    }
    let mut registers = begin(exit_window);
    write(INTERCEPTS, WANTED | WINDOW);
    row("exit-interrupt-window", || {
        write(0x570, 2u64);
        write(STATE_RIP, exit_window as *const () as u64);
        write(VIRTUAL_INTERRUPT, PENDING);
        once(&mut registers, 0x64).1
    });
    macro_rules! plain {
        ($name:literal, $($instruction:literal),*) => {
            row($name, || each(100, || {
                // SAFETY: saves and loads this machine's own state, and closes the gate only to open it.
                unsafe { asm!("2:", $($instruction,)* "dec ecx", "jnz 2b", in("rax") &raw const OTHER as u64, inout("ecx") 100 => _) }
            }));
        };
    }
    plain!("loop", "nop");
    // Loading what was saved changes nothing.
    plain!("vmsave", "vmsave rax");
    plain!("vmload", "vmload rax");
    plain!("clgi-stgi", "clgi", "stgi");
}
