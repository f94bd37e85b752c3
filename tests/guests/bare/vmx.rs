//! VMX (SDM 3, chapters 25 to 32 and appendices A and B): one VMCS with EPT.

use super::loops::{EXITS, HOLE, NOWHERE, SWITCHES, exit_vmcall, exit_window, switch};
use super::{Page, RBX, Registers, cr0, cr3, cr4, each, end, gdt, rdmsr, row, set_cr0, set_cr4, tsc, wrmsr};
use crate::say;
use core::arch::{asm, naked_asm};

/// Exit reasons (appendix C).
const EXCEPTION: u64 = 0;
const WINDOW: u64 = 7;
const CPUID: u64 = 10;
const HLT: u64 = 12;
const VMCALL: u64 = 18;
const PORT: u64 = 30;
const RDMSR: u64 = 31;
const EPT: u64 = 48;

/// Fields (appendix B).
const PROCESSOR: u64 = 0x4002;
const REASON: u64 = 0x4402;
const RIP: u64 = 0x681e;
const RFLAGS: u64 = 0x6820;
const INTERRUPTIBILITY: u64 = 0x4824;

static mut ON: Page = Page::new();
static mut VMCS: Page = Page::new();
static mut OTHER: Page = Page::new();
static mut ROOT: Page = Page::new();
static mut THIRD: Page = Page::new();
static mut SECOND: [Page; 4] = [const { Page::new() }; 4];
static mut STACK: Page = Page::new();
/// Roots that VMFUNC chooses from.
static mut ROOTS: Page = Page::new();

fn write(field: u64, value: u64) {
    // SAFETY: a VMCS of this program is current.
    unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) value, options(nostack)) }
}

fn read(field: u64) -> u64 {
    let value: u64;
    // SAFETY: a VMCS of this program is current.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field, options(nostack)) }
    value
}

macro_rules! pointed {
    ($name:ident, $instruction:literal) => {
        fn $name(address: u64) -> bool {
            let good: u8;
            // SAFETY: the page is this program's, and used for nothing else.
            unsafe {
                asm!(concat!($instruction, " [{}]"), "seta {}", in(reg) &raw const address, lateout(reg_byte) good, options(nostack));
            }
            good != 0
        }
    };
}
pointed!(vmxon, "vmxon");
pointed!(vmclear, "vmclear");
pointed!(vmptrld, "vmptrld");

/// Enters the guest until it leaves: 0; or 1 when it cannot be entered.
#[unsafe(naked)]
extern "C" fn enter(registers: *mut Registers, launched: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov eax, 0x6c14",
        "vmwrite rax, rsp",
        "test rsi, rsi",
        "mov rax, [rdi]",
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
        "jnz 2f",
        "vmlaunch",
        "jmp 3f",
        "2: vmresume",
        "3: pop rdi",
        "mov eax, 1",
        "jmp 4f",
        ".global bare_left",
        "bare_left:",
        "push rdi",
        "mov rdi, [rsp+8]",
        "mov [rdi], rax",
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
        "xor eax, eax",
        "4: pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

unsafe extern "C" {
    fn bare_left();
}

/// Wanted bits of a control, with those that have to be and without those that cannot be (appendix A).
fn control(msr: u32, wanted: u64) -> u64 {
    let allowed = rdmsr(msr);
    (wanted | allowed & 0xffff_ffff) & allowed >> 32
}

fn fail(why: &str) -> ! {
    say!("FAILED {why}");
    end(3)
}

fn on() {
    let feature = rdmsr(0x3a);
    if feature & 1 == 0 {
        wrmsr(0x3a, feature | 5);
    } else if feature & 4 == 0 {
        fail("the firmware keeps VMX off");
    }
    if rdmsr(0x482) >> 63 == 0 || rdmsr(0x48b) >> 33 & 1 == 0 {
        fail("the processor has no EPT");
    }
    set_cr0(cr0() | rdmsr(0x486));
    set_cr4(cr4() | 1 << 13 | rdmsr(0x488));
    let revision = rdmsr(0x480) & 0x7fff_ffff;
    // SAFETY: nothing else refers to these pages yet.
    unsafe {
        for page in [&raw mut ON, &raw mut VMCS, &raw mut OTHER] {
            (*page).0[0] = revision;
        }
        ROOT.0[0] = &raw const THIRD as u64 | 7;
        for (index, page) in (0u64..).zip((&raw mut SECOND).as_mut().into_iter().flatten()) {
            THIRD.0[index as usize] = &raw const *page as u64 | 7;
            for (entry, to) in (0u64..).zip(&mut page.0) {
                let at = (index * 512 + entry) << 21;
                *to = if at == HOLE { 0 } else { at | 0xb7 };
            }
        }
    }
    if !vmxon(&raw const ON as u64) {
        fail("VMXON");
    }
}

/// Whether guests can switch their second-level tables by VMFUNC (A.11).
fn has_vmfunc() -> bool {
    rdmsr(0x48b) >> 45 & 1 != 0 && rdmsr(0x491) & 1 != 0
}

/// Bits of the processor's controls: the window, HLT, all ports, the second word.
const WINDOW_CONTROL: u64 = 1 << 2;
const CONTROLS: u64 = 1 << 7 | 1 << 24 | 1 << 31;

fn prepare() {
    vmclear(&raw const VMCS as u64);
    if !vmptrld(&raw const VMCS as u64) {
        fail("VMPTRLD");
    }
    // The controls that say all of what they allow lie 12 further on.
    let more = if rdmsr(0x480) >> 55 & 1 != 0 { 12 } else { 0 };
    write(0x4000, control(0x481 + more, 0));
    write(PROCESSOR, control(0x482 + more, CONTROLS));
    write(0x401e, control(0x48b, 1 << 1 | u64::from(has_vmfunc()) << 13));
    write(0x400c, control(0x483 + more, 1 << 9 | 1 << 20 | 1 << 21));
    write(0x4012, control(0x484 + more, 1 << 15 | 1 << 9));
    let root = &raw const ROOT as u64 | 6 | 3 << 3;
    write(0x201a, root);
    if has_vmfunc() {
        // SAFETY: nothing else refers to the page.
        unsafe { ROOTS.0[0] = root };
        write(0x2018, 1);
        write(0x2024, &raw const ROOTS as u64);
    }
    write(0x2800, u64::MAX);
    write(0x4004, 1 << 14);
    for (index, selector) in (0u64..).zip([0x10u64, 8, 0x10, 0x10, 0, 0, 0x18]) {
        write(0xc00 + 2 * index, selector);
    }
    let efer = rdmsr(0xc000_0080);
    for (field, value) in [
        (0x6c00, cr0()),
        (0x6c02, cr3()),
        (0x6c04, cr4()),
        (0x6c0c, gdt()),
        (0x2c02, efer),
        (0x6c16, bare_left as *const () as u64),
        (0x6800, cr0()),
        (0x6802, cr3()),
        (0x6804, cr4()),
        (0x6004, 0x30),
        (0x2806, efer),
        (0x681a, 0x400),
        (RFLAGS, 2),
        (0x681c, &raw const STACK as u64 + 4080),
        (0x4820, 0x1_0000),
        (0x80e, 0x18),
        (0x480e, 103),
        (0x4822, 0x8b),
        (0x4810, 39),
        (0x6816, gdt()),
    ] {
        write(field, value);
    }
    for index in 0..6u64 {
        let (selector, rights) = if index == 1 { (8, 0xa09b) } else { (0x10, 0xc093) };
        write(0x800 + 2 * index, selector);
        write(0x4800 + 2 * index, 0xffff_ffff);
        write(0x4814 + 2 * index, rights);
    }
}

/// Runs the guest until its next exit: the times of entry, by the guest's clock, and of the exit.
fn once(registers: &mut Registers, launched: bool, reason: u64) -> (u64, u64) {
    let start = tsc();
    let refused = enter(registers, u64::from(launched));
    let now = tsc();
    let was = read(REASON);
    if refused != 0 || was != reason {
        say!("FAILED exit {was:#x} and not {reason:#x}, error {}, at {:#x}", read(0x4400), read(RIP));
        end(3);
    }
    (registers.0[RBX] - start, now - registers.0[RBX])
}

fn begin(code: unsafe extern "C" fn()) -> Registers {
    write(RIP, code as *const () as u64);
    let mut registers = Registers::default();
    registers.0[11] = NOWHERE;
    registers.0[12] = HOLE;
    registers
}

pub fn measure() {
    on();
    prepare();
    say!("VENDOR vmx");
    let skip = |length: u64| write(RIP, read(RIP) + length);
    let mut registers = begin(exit_vmcall);
    row("vmlaunch", || {
        vmclear(&raw const VMCS as u64);
        vmptrld(&raw const VMCS as u64);
        let (entry, _) = once(&mut registers, false, VMCALL);
        skip(3);
        entry
    });
    row("vmresume", || {
        let (entry, _) = once(&mut registers, true, VMCALL);
        skip(3);
        entry
    });
    row("exit-hypercall", || {
        let (_, exit) = once(&mut registers, true, VMCALL);
        skip(3);
        exit
    });
    for (exit, reason) in EXITS.iter().zip([CPUID, RDMSR, PORT, HLT, EPT, EXCEPTION]) {
        let mut registers = begin(exit.code);
        row(exit.name, || {
            let (_, time) = once(&mut registers, true, reason);
            skip(exit.skip);
            time
        });
    }
    let controls = read(PROCESSOR);
    let mut registers = begin(exit_window);
    write(PROCESSOR, controls | WINDOW_CONTROL);
    row("exit-interrupt-window", || {
        write(RFLAGS, 2);
        write(INTERRUPTIBILITY, 0);
        write(RIP, exit_window as *const () as u64);
        once(&mut registers, true, WINDOW).1
    });
    write(PROCESSOR, controls);
    if has_vmfunc() {
        write(RFLAGS, 2);
        let mut registers = begin(switch);
        row("page-table-switch", || {
            let (_, time) = once(&mut registers, true, VMCALL);
            skip(3);
            time / SWITCHES
        });
    }
    instructions();
}

/// The instructions around entries and exits.
fn instructions() {
    const EACH: u64 = 100;
    row("vmread", || {
        each(EACH, || {
            for _ in 0..EACH {
                core::hint::black_box(read(RIP));
            }
        })
    });
    row("vmwrite", || {
        each(EACH, || {
            for _ in 0..EACH {
                write(RIP, 0);
            }
        })
    });
    let (current, other) = (&raw const VMCS as u64, &raw const OTHER as u64);
    row("vmclear", || each(1, || _ = vmclear(other)));
    row("vmptrld", || {
        let time = each(1, || _ = vmptrld(other));
        vmptrld(current);
        time
    });
    row("vmxoff", || {
        vmclear(current);
        // SAFETY: no VMCS is in use.
        let time = each(1, || unsafe { asm!("vmxoff", options(nostack)) });
        vmxon(&raw const ON as u64);
        time
    });
    row("vmxon", || {
        // SAFETY: as above.
        unsafe { asm!("vmxoff", options(nostack)) }
        each(1, || _ = vmxon(&raw const ON as u64))
    });
}
