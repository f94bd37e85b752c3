//! What the measured guest does: it notes the time in RBX, makes one exit, and does it again.

use core::arch::global_asm;

macro_rules! repeated {
    ($($name:ident: $($instruction:literal),*;)*) => {
        $(global_asm!(
            ".text", ".balign 16",
            concat!(stringify!($name), ":"),
            "2:", "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax",
            $($instruction,)*
            "jmp 2b"
        );)*
        unsafe extern "C" { $(pub fn $name();)* }
    };
}

repeated! {
    exit_vmcall: "vmcall";
    exit_vmmcall: "vmmcall";
    exit_cpuid: "xor eax, eax", "cpuid";
    exit_msr: "mov ecx, 0x1b", "rdmsr";
    exit_port: "out 0x80, al";
    exit_halt: "hlt";
    exit_memory: "mov rax, [r13]";
    exit_fault: "mov rax, [r12]";
    exit_window: "sti", "nop";
    switch: "mov r8d, 100", "3:", "xor eax, eax", "xor ecx, ecx", "vmfunc", "dec r8d", "jnz 3b", "vmcall";
}

/// Switches that the last of them makes before it leaves.
pub const SWITCHES: u64 = 100;
/// Guest-physical, and by the guest's own tables virtual, where second-level tables have nothing.
pub const HOLE: u64 = 0xe000_0000;
/// Where the guest's own tables have nothing.
pub const NOWHERE: u64 = 0x7fff_0000_0000;

/// An exit: its name, the guest's loop, and the length of the instruction that made it, to be skipped.
pub struct Exit {
    pub name: &'static str,
    pub code: unsafe extern "C" fn(),
    pub skip: u64,
}

/// The exits that both vendors have, the hypercall apart.
pub const EXITS: [Exit; 6] = [
    Exit { name: "exit-cpuid", code: exit_cpuid, skip: 2 },
    Exit { name: "exit-msr", code: exit_msr, skip: 2 },
    Exit { name: "exit-port", code: exit_port, skip: 2 },
    Exit { name: "exit-halt", code: exit_halt, skip: 1 },
    Exit { name: "exit-nested-fault", code: exit_memory, skip: 4 },
    Exit { name: "exit-page-fault", code: exit_fault, skip: 4 },
];
